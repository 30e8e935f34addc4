"""The screen of `jsspy top`, driven without a terminal; tests/live/test_top.py has a real one."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from jsspy.cli.live_maps import OriginalNames
from jsspy.cli.live_screen import HelpScreen, TopApp
from jsspy.cli.live_text import Update
from jsspy.cli.pipe import Receiver, Sender
from jsspy.cli.source_maps import SourceMaps
from jsspy.formats import load_profile
from jsspy.model.growth import GrowthTaker
from jsspy.model.live import Account, Column, LiveTable, View
from jsspy.model.profile import Profile, ProfileMeta, SamplingStats, ThreadInfo
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Stack
from jsspy.model.units import Pid, Tid
from jsspy.recorder import End
from jsspy.session import TargetInfo

SECOND = 10**9
NO_MAPS = OriginalNames(SourceMaps(wanted=False, directory=None))


def js(name: str, line: int, url: str = "/app/a.js") -> Frame:
    return Frame(name, FrameKind.JS, location=Location(url, line), definition=Location(url, line))


MAIN, ALPHA, BETA = js("main", 1), js("alpha", 10), js("beta", 20)
PAD = js("pad", 3, "/app/node_modules/left-pad/index.js")
WRITE = Frame("write", FrameKind.NATIVE)
HOT = [(MAIN, ALPHA)] * 60 + [(MAIN, BETA, PAD)] * 30 + [(MAIN, WRITE)] * 10


class Driven:
    """A screen, the sender that feeds it, and what can be read off it."""

    def __init__(self, size: tuple[int, int]) -> None:
        reading, writing = os.pipe()
        table = LiveTable(window_ns=5 * SECOND)
        self.app = TopApp(Receiver(reading), NO_MAPS, table, 99, 1.0, "node-1234")
        self.size = size
        self.pilot: Pilot[None]
        self._writing = writing
        self._reading = reading
        self._sender = Sender(writing)
        self._profile = Profile(ProfileMeta(start_ns=SECOND, period_ns=SECOND // 100))
        self._taker = GrowthTaker(self._profile)
        self._stats = SamplingStats()
        self._now = SECOND

    async def feed(self, *stacks: tuple[Frame, ...], tid: int = 1, end: End | None = None) -> None:
        """Let a second pass, and wait until the screen has seen it."""
        profile, stats = self._profile, self._stats
        thread = profile.intern_thread(ThreadInfo(Pid(1234), Tid(tid), f"thread{tid}"))
        for number, frames in enumerate(stacks):
            row = profile.intern_stack(Stack(frames))
            time = self._now + 1 + number
            profile.add_row(row, thread, time, SECOND // 100, ThreadState.RUNNING, VmState.JS)
        self._now += SECOND
        stats.requested += len(stacks)
        account = Account(self._now, copy.deepcopy(stats), copy.deepcopy(profile.meta))
        info = TargetInfo(Pid(1234), "node server.js", "22.0.0", "12.4")
        self._sender.send(Update(self._taker.take(), account, (info,), 1, end))
        while self._now != self.app.latest_ns:
            await self.pilot.pause(0.01)
        self.app.tick()
        await self.pilot.pause()

    def hang_up(self) -> None:
        os.close(self._writing)
        self._writing = -1

    def close(self) -> None:
        os.close(self._reading)
        if self._writing >= 0:
            os.close(self._writing)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    def names(self) -> list[str]:
        """Return the last column."""
        grid = self.app.grid
        return [str(grid.get_row_at(row)[-1]).strip() for row in range(grid.row_count)]

    # Asked by calls, so that mypy does not take answers for lasting.

    def sort(self) -> Column:
        return self.app.sort

    def view(self) -> View:
        return self.app.table.view

    def is_over(self) -> bool:
        return self.app._exit

    def is_helping(self) -> bool:
        return isinstance(self.app.screen, HelpScreen)

    def line(self, name: str) -> str:
        return str(self.app.query_one(f"#{name}", Static).render())


def drive(test: Callable[[Driven], Awaitable[None]], size: tuple[int, int] = (80, 24)) -> Driven:
    """Run a test on a screen; return what is left."""

    async def run() -> Driven:
        driven = Driven(size)
        try:
            async with driven.app.run_test(size=size) as driven.pilot:
                await test(driven)
        finally:
            driven.close()
        return driven

    return asyncio.run(run())


def test_rows_and_lines_of_text() -> None:
    async def test(screen: Driven) -> None:
        assert screen.line("who") == "waiting for V8"
        await screen.feed(*HOT)
        assert screen.names() == [
            "alpha /app/a.js:10",
            "pad …node_modules/left-pad/index.js:3",
            "write",
            "main /app/a.js:1",
            "beta /app/a.js:20",
        ]
        grid = screen.app.grid
        assert [str(cell).strip() for cell in grid.get_row_at(0)[:-1]] == [
            "60.0%", "60.0%", "0.60s", "0.60s", "0.0%",
        ]  # fmt: skip
        assert screen.line("who").startswith("pid 1234, Node.js 22.0.0,")
        assert screen.line("vm") == "V8:  js 100 %  idle 0 %"
        assert screen.line("account").startswith("100 samples, 0 truncated, 0 lost")
        assert screen.line("view") == "by function, last 5 s, all threads"

    drive(test)


@pytest.mark.parametrize("size", [(80, 24), (60, 15), (200, 50)])
def test_every_column_is_on_the_screen(size: tuple[int, int]) -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        grid = screen.app.grid
        width = sum(column.get_render_width(grid) for column in grid.columns.values())
        assert width <= size[0]
        assert grid.size.height >= size[1] - 7

    drive(test, size)


def test_sorting_by_key_and_by_mouse() -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        await screen.press("4")
        assert screen.sort() is Column.TOTAL
        assert screen.names()[0].startswith("main")
        await screen.press("4")
        assert screen.names()[-1].startswith("main")
        await screen.press("6")
        assert [name.split()[0] for name in screen.names()] == [
            "alpha", "beta", "main", "pad", "write",
        ]  # fmt: skip
        await screen.pilot.click(DataTable, offset=(9, 0))
        await screen.pilot.pause()
        assert screen.sort() is Column.TOTAL_SHARE
        assert screen.names()[0].startswith("main")

    drive(test)


def test_views() -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        await screen.press("p")
        assert screen.names() == ["(app)", "left-pad", "(native)"]
        await screen.press("i")
        assert "/app/a.js" in screen.names()
        await screen.press("l")
        assert screen.view() is View.LINE
        await screen.press("l")
        assert screen.view() is View.FUNCTION
        await screen.press("j")
        assert "write" not in screen.names()
        assert screen.line("view").endswith("JavaScript only")

    drive(test)


def test_filter() -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        await screen.press("slash", *"al")
        assert screen.names() == ["alpha /app/a.js:10"]
        # No regular expression: the one before stays, and nothing is raised.
        await screen.press("left_parenthesis")
        assert screen.names() == ["alpha /app/a.js:10"]
        assert screen.app.query_one(Input).has_class("wrong")
        await screen.press("backspace", "enter")
        assert screen.line("view").endswith("/al/")
        # Now keys are keys again, and what comes in is filtered.
        await screen.press("enter")
        assert [name.split()[0] for name in screen.names()] == ["main", "alpha", "(itself)"]
        await screen.press("escape")
        await screen.feed(*HOT)
        assert len(screen.names()) == 1
        await screen.press("escape")
        assert len(screen.names()) == 5
        await screen.press("slash", *"app", "slash", "a")
        assert len(screen.names()) == 3
        await screen.press("x")
        assert screen.names() == []
        await screen.press("escape")
        assert len(screen.names()) == 5
        assert not screen.app.query_one(Input).display

    drive(test)


def test_callers_and_callees() -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        await screen.press("6", "down", "enter")
        assert [name.split()[0] for name in screen.names()] == ["main", "beta", "(itself)", "pad"]
        grid = screen.app.grid
        roles = [str(grid.get_row_at(row)[2]).strip() for row in range(4)]
        assert roles == ["caller", "this", "callee", "callee"]
        assert grid.cursor_row == 1
        await screen.press("up", "enter")
        assert [name.split()[0] for name in screen.names()][:2] == ["main", "(itself)"]
        await screen.feed(*HOT)
        assert screen.names()[0].startswith("main")
        await screen.press("escape")
        assert screen.names()[1].startswith("beta")
        await screen.press("escape")
        assert len(screen.names()) == 5
        # With the mouse: the heading is line 0, so this is the first row.
        for _ in range(2):
            await screen.pilot.click(DataTable, offset=(50, 1))
            await screen.pilot.pause()
        assert [name.split()[0] for name in screen.names()] == ["main", "alpha", "(itself)"]

    drive(test)


def test_the_cursor_follows_its_row() -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        await screen.press("down")
        assert screen.names()[1].startswith("pad")
        await screen.feed(*[(MAIN, BETA)] * 100)
        at = screen.app.grid.cursor_row
        assert at != 1
        assert screen.names()[at].startswith("pad")

    drive(test)


def test_threads() -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*[(MAIN, ALPHA)] * 50)
        await screen.feed(*[(MAIN, BETA)] * 30, tid=2)
        await screen.press("t")
        assert [name.split()[0] for name in screen.names()] == ["thread1", "thread2"]
        await screen.press("down", "enter")
        assert {name.split()[0] for name in screen.names()} == {"main", "beta"}
        assert screen.line("view") == "by function, last 5 s, thread thread2 1234/2"
        await screen.press("escape")
        assert {name.split()[0] for name in screen.names()} == {"main", "alpha", "beta"}

    drive(test)


def test_freeze_keeps_the_picture_and_loses_nothing() -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        await screen.press("space")
        assert screen.line("view").endswith("FROZEN")
        await screen.feed(*[(MAIN, BETA)] * 100)
        assert screen.line("account").startswith("100 samples")
        await screen.press("4", "4")  # sorting still works, on the same data
        assert screen.line("account").startswith("100 samples")
        await screen.press("space")
        assert screen.line("account").startswith("200 samples")
        assert "FROZEN" not in screen.line("view")

    drive(test)


def test_reset() -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        await screen.press("r")
        assert screen.names() == []
        await screen.feed(*[(MAIN, BETA)] * 10)
        assert len(screen.names()) == 2
        assert screen.line("account").startswith("10 samples")

    drive(test)


def test_save_writes_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def test(screen: Driven) -> None:
        await screen.press("s")  # nothing to save yet
        await screen.feed(*HOT)
        await screen.press("s")

    drive(test)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("node-1234-")
    assert path.suffix == ".jsspy"
    profile = load_profile(path)
    assert len(profile) == 100
    assert profile.stats.requested == 100
    assert ALPHA in profile.frames


def test_save_where_nothing_can_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        await screen.press("s")
        (message,) = screen.app._notifications
        assert message.severity == "error"

    drive(test)


def test_help_closes_on_any_key() -> None:
    async def test(screen: Driven) -> None:
        await screen.press("question_mark")
        assert screen.is_helping()
        await screen.feed(*HOT)  # goes on below
        await screen.press("x")
        assert not screen.is_helping()
        assert len(screen.names()) == 5

    drive(test)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_quit(key: str) -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        await screen.press(key)
        assert screen.is_over()

    drive(test)


def test_the_last_picture_of_a_process_that_ended_stays() -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        await screen.feed(end=End.TARGET_ENDED)
        screen.hang_up()
        await screen.pilot.pause(0.1)
        assert "the process ended" in screen.line("who")
        assert len(screen.names()) == 5
        await screen.press("4")
        assert screen.names()[0].startswith("main")
        assert not screen.is_over()

    drive(test)


def test_it_closes_when_nobody_samples_any_more() -> None:
    async def test(screen: Driven) -> None:
        await screen.feed(*HOT)
        screen.hang_up()
        for _ in range(500):
            if screen.is_over():
                break
            await screen.pilot.pause(0.01)
        assert screen.is_over()

    drive(test)


def test_hostile_names_are_text() -> None:
    names = ["[bold]x[/bold]", "[@click=app.quit]q", "\\[", "[/]", "{{", "日本語", "a\x1b[31mb"]

    async def test(screen: Driven) -> None:
        await screen.feed(*[(js(name, 1),) for name in names])
        assert {name.rpartition(" ")[0] for name in screen.names()} == {
            *names[:-1], "a\\x1b[31mb",
        }  # fmt: skip
        await screen.press("enter")
        assert len(screen.names()) == 2

    drive(test, (120, 30))
