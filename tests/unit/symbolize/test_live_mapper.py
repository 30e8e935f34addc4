"""Frames of processes that go on being sampled, mapped by the files that their scripts are in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.sample import Sample, ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Stack
from jsspy.model.units import Pid, Tid
from jsspy.symbolize import original
from jsspy.symbolize.original import LiveMapper
from maps import encode

CODE = "function a(b){return b}\n//# sourceMappingURL=x.js.map\n"
MAP = {
    "version": 3,
    "sources": ["../src/x.ts"],
    "names": ["outer"],
    "mappings": encode([[(0, 0, 9, 0, None), (9, 0, 9, 9, 0), (14, 0, 11, 2, None)]]),
}
US, PARENT = os.getpid(), os.getppid()


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "dist").mkdir()
    path = tmp_path / "dist" / "x.js"
    path.write_text(CODE)
    path.with_name("x.js.map").write_text(json.dumps(MAP))
    return str(path)


def profile_of(script: str, *pids: int) -> Profile:
    frame = Frame(
        "a",
        FrameKind.JS,
        location=Location(script, 1, 15),
        definition=Location(script, 1, 11),
        script_id=7,
    )
    profile = Profile()
    stack = Stack((Frame("main", FrameKind.NATIVE), frame, frame), None)
    for pid in pids:
        thread = profile.intern_thread(ThreadInfo(Pid(pid), Tid(pid), "main", "node"))
        profile.add(
            Sample(Pid(pid), Tid(pid), 1, 1, ThreadState.RUNNING, VmState.JS, stack), thread
        )
    return profile


def test_frames_are_mapped_by_the_file(script: str) -> None:
    mapper = LiveMapper()
    mapper.follow({US: "22.1.0"})
    profile = profile_of(script, US)
    assert mapper.map_profile(profile)
    (frame,) = [one for one in profile.frames if one.kind is FrameKind.JS]
    assert frame.original == Location(str(Path(script).parents[1] / "src" / "x.ts"), 12, 3)
    assert frame.original_name == "outer"
    # What is mapped stays so, and is no change.
    assert not mapper.map_profile(profile)


def test_who_is_gone_too_old_or_never_named_is_left_alone(script: str) -> None:
    mapper = LiveMapper()
    assert not mapper.map_profile(profile_of(script, US))
    mapper.follow({US: "10.24.1", PARENT: ""})
    assert not mapper.map_profile(profile_of(script, US))
    mapper.follow({US: "v12.0.0"})
    assert mapper.map_profile(profile_of(script, US))
    mapper.follow({})
    assert not mapper.map_profile(profile_of(script, US))


def test_processes_that_differ_are_not_mixed_up(script: str) -> None:
    mapper = LiveMapper()
    mapper.follow({US: "22.1.0"})
    assert not mapper.map_profile(profile_of(script, US, PARENT))
    mapper.follow({US: "22.1.0", PARENT: "22.1.0"})
    if not os.access(f"/proc/{PARENT}/root", os.X_OK):
        pytest.skip("our parent is somebody else's")
    assert mapper.map_profile(profile_of(script, US, PARENT))


def test_maps_have_a_bound(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original, "MAX_LIVE_BYTES", 50)
    mapper = LiveMapper()
    mapper.follow({US: "22.1.0"})
    assert not mapper.map_profile(profile_of(script, US))
