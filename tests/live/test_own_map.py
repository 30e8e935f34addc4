"""The map of a process with --perf-basic-prof names its code where its V8 is not known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import nodes
from jsspy.engines.ptrace import PtraceEngine
from jsspy.errors import UnknownV8
from jsspy.model.names import display_name
from jsspy.model.profile import Profile
from jsspy.model.stack import FrameKind
from jsspy.recorder import Recorder, RecordingOptions
from jsspy.target.elf import ElfFile
from running import BUSY

FLAGS = ("--perf-basic-prof", "--interpreted-frames-native-stack")


@pytest.fixture
def unknown_v8(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(elf: ElfFile) -> None:
        del elf
        raise UnknownV8("99.9.9", ("everything",))

    monkeypatch.setattr("jsspy.session.load_layout", fail)


@pytest.fixture
def made() -> Iterator[list[Path]]:
    paths: list[Path] = []
    yield paths
    for path in paths:
        path.unlink(missing_ok=True)


def record(pid: int) -> Profile:
    with Recorder(PtraceEngine(200), RecordingOptions(source_maps=False)) as recorder:
        recorder.add(pid)
        for status in recorder.run(20_000_000_000, lambda: len(recorder.profile) >= 60):
            assert status.processes == 1
        return recorder.profile


def found(profile: Profile) -> int:
    """Return how many stacks have the program's own functions in the right order."""
    count = 0
    for row in profile.stack:
        names = [display_name(f) for f in profile.stack_frames(row) if f.kind is FrameKind.JS]
        count += any(
            name.endswith("program.js:3") and name.startswith("outerWork") for name in names
        )
    return count


@pytest.mark.parametrize("version", nodes.selected(("12.22.12", "20.20.2", "26.10.0")))
@pytest.mark.usefixtures("unknown_v8")
def test_names_come_from_its_own_map(version: str, made: list[Path]) -> None:
    with nodes.running(version, BUSY, flags=FLAGS) as target:
        made.append(Path(f"/tmp/perf-{target.pid}.map"))
        profile = record(target.pid)
    assert found(profile) >= 50
    assert profile.stats.js_frames_named == 0  # read from V8: none
    assert any("99.9.9" in note for note in profile.meta.notes)


@pytest.mark.usefixtures("unknown_v8")
@pytest.mark.parametrize("version", nodes.selected(("20.20.2",)))
def test_a_map_of_somebody_else_is_not_believed(version: str, made: list[Path]) -> None:
    with nodes.running(version, BUSY) as target:
        path = Path(f"/tmp/perf-{target.pid}.map")
        made.append(path)
        path.symlink_to("/dev/zero")
        assert found(record(target.pid)) == 0
        path.unlink()
        path.write_text("0 ffffffffffff JS:*outerWork /x/program.js:3:1\n", "utf-8")
        path.chmod(0o644)
        os.chown(path, 65534, 65534)
        assert found(record(target.pid)) == 0
