from __future__ import annotations

import os
from pathlib import Path

import pytest

from jsspy.linux.files import RootDirectory
from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.stack import Frame, FrameKind, Location, Stack
from jsspy.model.units import Pid, Tid
from jsspy.symbolize import sources
from jsspy.symbolize.original import Noted, ScriptLog
from jsspy.symbolize.sources import keep_sources


def js(url: str, line: int, *, script_id: int = 1, original: Location | None = None) -> Frame:
    return Frame("f", FrameKind.JS, location=Location(url, line, 1), script_id=script_id,
                 original=original)  # fmt: skip


def profile_of(*stacks: tuple[tuple[Frame, ...], int]) -> Profile:
    profile = Profile()
    thread = profile.intern_thread(ThreadInfo(Pid(1), Tid(1), "node"))
    for time, (frames, weight) in enumerate(stacks):
        profile.add_row(profile.intern_stack(Stack(frames)), thread, time, weight)
    return profile


@pytest.fixture
def log() -> ScriptLog:
    return ScriptLog(1)


def note(log: ScriptLog, url: str, *, ours: bool = True, script_id: int = 1) -> None:
    """Note a script whose process is gone: its text is that of the file."""
    log.scripts[url, script_id] = Noted("", None, RootDirectory(os.getpid()), ours)


def test_only_lines_that_ran_are_kept(log: ScriptLog, tmp_path: Path) -> None:
    path = tmp_path / "a.js"
    path.write_bytes("one\r\ntwo\x0bhalf\ntree\u2028four\rfive\nsix".encode())
    note(log, str(path))
    profile = profile_of(((js(str(path), 2), js(str(path), 4)), 1), ((js(str(path), 5),), 1))
    keep_sources(profile, [log])
    # What str.splitlines takes for the end of a line and JavaScript does not is visible.
    assert profile.sources == {str(path): "\ntwo\\x0bhalf\n\nfour\nfive"}


def test_files_of_other_users_are_not_read(log: ScriptLog, tmp_path: Path) -> None:
    path = tmp_path / "a.js"
    path.write_text("secret", encoding="utf-8")
    note(log, str(path), ours=False)
    mapped = js("/b.js", 1, original=Location(str(path), 1))
    profile = profile_of(((js(str(path), 1),), 1), ((mapped,), 1))
    note(log, "/b.js", ours=False)
    keep_sources(profile, [log])
    assert profile.sources == {}


def test_mapped_frames_have_the_line_of_the_original(log: ScriptLog, tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_text("const a: number\nlet b: string", encoding="utf-8")
    note(log, "/bundle.js")
    frame = js("/bundle.js", 1, original=Location(f"file://{path}", 2))
    profile = profile_of(((frame,), 1))
    keep_sources(profile, [log])
    assert profile.sources == {f"file://{path}": "\nlet b: string"}


def test_the_hottest_scripts_have_room_first(
    log: ScriptLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_TOTAL", 30)
    monkeypatch.setattr(sources, "MAX_LINE", 20)
    urls = [str(tmp_path / name) for name in ("a.js", "b.js", "c.js")]
    for url in urls:
        Path(url).write_text("x" * 1000, encoding="utf-8")
        note(log, url)
    cold, hot, gone = (js(url, 1) for url in urls)
    Path(urls[2]).unlink()
    profile = profile_of(((cold,), 1), ((gone, hot), 5))
    keep_sources(profile, [log])
    assert profile.sources == {urls[1]: "x" * 20}


def test_lines_that_are_not_there(log: ScriptLog, tmp_path: Path) -> None:
    path = str(tmp_path / "a.js")
    Path(path).write_text("one\ntwo", encoding="utf-8")
    note(log, path)
    profile = profile_of(((js(path, 1 << 40),), 1), ((js(path, 3),), 1))
    keep_sources(profile, [log])
    assert profile.sources == {}


def test_it_ends_in_time_and_says_so(log: ScriptLog, tmp_path: Path) -> None:
    urls = [str(tmp_path / name) for name in ("a.js", "b.js")]
    for url in urls:
        Path(url).write_text("x", encoding="utf-8")
        note(log, url)
    profile = profile_of(((js(urls[0], 1),), 2), ((js(urls[1], 1),), 1))
    times = iter([0, 0, sources.MAX_NS])
    keep_sources(profile, [log], lambda: next(times))
    assert list(profile.sources) == urls[:1]
    assert len(profile.meta.notes) == 1


def test_a_profile_without_scripts(log: ScriptLog) -> None:
    profile = profile_of(((Frame("main", FrameKind.NATIVE),), 1), ((), 1))
    keep_sources(profile, [log])
    assert profile.sources == {}
