"""What a recorder keeps of processes however many there are."""

from __future__ import annotations

import pytest

from jsspy import recorder as recorder_module
from jsspy.engines import ENGINES
from jsspy.errors import ProcessExited
from jsspy.model.units import Pid
from jsspy.recorder import MAX_NOTED, Recorder


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(ENGINES["ptrace"](99))


def test_what_is_the_same_of_many_processes_is_said_of_some(recorder: Recorder) -> None:
    for pid in range(1000, 1000 + MAX_NOTED + 25):
        recorder._note(Pid(pid), f" is left out: cannot attach to process {pid}")
    recorder._note(Pid(7), ": not certain of its V8")
    notes = recorder.profile.meta.notes
    assert len(notes) == MAX_NOTED + 1
    assert notes[0] == "process 1000 is left out: cannot attach to process 1000"
    assert notes[-2] == (
        "process 1009 is left out: cannot attach to process 1009 (and the same of 25 more)"
    )
    assert notes[-1] == "process 7: not certain of its V8"


def test_processes_that_are_gone_are_no_strangers(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = dict.fromkeys(range(1, 2000), b"image")
    monkeypatch.setattr(recorder_module, "read_image", lambda pid: images.get(pid, b""))

    def gone(pid: int) -> None:
        raise ProcessExited(f"process {pid} is gone")

    monkeypatch.setattr(recorder, "_open", gone)
    for pid in range(1, 2000):
        recorder.adopt(pid)
        images.pop(pid - 5, None)
    assert len(recorder._strangers) <= 64
    assert {1998, 1999} <= set(recorder._strangers)
