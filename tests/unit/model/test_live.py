from __future__ import annotations

import copy
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.model import live
from jsspy.model.growth import GrowthTaker
from jsspy.model.live import Account, Column, LiveTable, Row, View
from jsspy.model.phase import Phase
from jsspy.model.profile import Profile, ProfileMeta, SamplingStats, ThreadInfo
from jsspy.model.sample import LossReason, ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Stack, Truncation
from jsspy.model.units import Pid, Tid

SECOND = 10**9
PERIOD = SECOND // 100


def js(name: str, url: str = "/app/a.js", line: int = 1, at: int | None = None) -> Frame:
    return Frame(
        name, FrameKind.JS, location=Location(url, at or line), definition=Location(url, line)
    )


NATIVE = Frame("write", FrameKind.NATIVE)
GLUE = Frame("(entry)", FrameKind.VM_FRAME)
MAIN = js("main", line=1)
WORK = js("work", line=10)
LEFT_PAD = js("pad", "/app/node_modules/left-pad/index.js", 5)


class Source:
    """Stands for the process that samples: makes updates, one second each."""

    def __init__(self) -> None:
        self.profile = Profile(ProfileMeta(start_ns=7 * SECOND, start_time_unix_ns=70 * SECOND))
        self.stats = SamplingStats()
        self.now = 7 * SECOND
        self._taker = GrowthTaker(self.profile)

    def second(
        self,
        table: LiveTable,
        *stacks: tuple[Frame, ...],
        idle: int = 0,
        lost: int = 0,
        tid: int = 1,
        vm: VmState = VmState.JS,
        state: ThreadState = ThreadState.RUNNING,
    ) -> None:
        """Let a second pass in which these stacks were taken."""
        profile = self.profile
        thread = profile.intern_thread(ThreadInfo(Pid(1), Tid(tid), f"thread{tid}"))
        for number, frames in enumerate(stacks):
            row = profile.intern_stack(Stack(frames))
            profile.add_row(row, thread, self.now + 1 + number, PERIOD, state, vm)
        self.now += SECOND
        self.stats.requested += len(stacks) + lost
        self.stats.idle += idle
        self.stats.lost[LossReason.LATE] = self.stats.lost.get(LossReason.LATE, 0) + lost
        account = Account(self.now, copy.deepcopy(self.stats), copy.deepcopy(profile.meta))
        table.add(self._taker.take(), account)


def row_of(table: LiveTable, name: str) -> Row:
    (row,) = [row for row in table.rows() if row.name == name]
    return row


def test_shares_are_of_the_window_and_times_since_the_start() -> None:
    table, source = LiveTable(window_ns=2 * SECOND), Source()
    source.second(table, *[(MAIN, WORK)] * 100)
    source.second(table, *[(MAIN, WORK)] * 50, *[(MAIN,)] * 50)
    source.second(table, *[(MAIN,)] * 100)
    work, main = row_of(table, "work"), row_of(table, "main")
    assert (work.own_share, work.total_share) == pytest.approx((0.25, 0.25))
    assert (main.own_share, main.total_share) == pytest.approx((0.75, 1.0))
    assert (work.own_ns, main.own_ns, main.total_ns) == (150 * PERIOD, 150 * PERIOD, 300 * PERIOD)
    for _ in range(3):
        source.second(table, idle=100)
    assert row_of(table, "work").total_share == 0
    assert row_of(table, "work").total_ns == 150 * PERIOD


def test_before_a_window_has_passed_shares_are_of_what_has() -> None:
    table, source = LiveTable(window_ns=60 * SECOND), Source()
    source.second(table, *[(MAIN,)] * 100)
    assert row_of(table, "main").total_share == pytest.approx(1.0)


def test_idle_counts_and_lost_does_not() -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    source.second(table, *[(MAIN,)] * 20, idle=20, lost=60)
    # Of 40 looks 20 found it running: half of a CPU, whatever the 60 would have seen.
    assert row_of(table, "main").total_share == pytest.approx(0.5)
    assert table.state().idle == pytest.approx(0.5)


def test_recursion_counts_once() -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    source.second(table, *[(MAIN, WORK, WORK, WORK)] * 100)
    assert row_of(table, "work").total_share == pytest.approx(1.0)
    assert row_of(table, "work").total_ns == SECOND


def test_glue_is_not_shown_and_own_time_is_its_callers() -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    source.second(table, *[(GLUE, MAIN, GLUE)] * 100)
    (row,) = table.rows()
    assert (row.name, row.own_ns) == ("main", SECOND)


def test_only_javascript() -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    source.second(table, *[(NATIVE, MAIN, WORK, NATIVE)] * 60, *[(NATIVE,)] * 40)
    assert row_of(table, "write").own_ns == SECOND
    table.only_js = True
    assert row_of(table, "work").own_ns == 60 * PERIOD
    assert row_of(table, "(no JavaScript)").own_ns == 40 * PERIOD
    assert len(table.rows()) == 3
    table.only_js = False
    assert row_of(table, "write").own_ns == SECOND


def test_garbage_collection_is_charged_to_all_of_the_stack() -> None:
    table, source = LiveTable(window_ns=2 * SECOND), Source()
    source.second(table, *[(MAIN, WORK)] * 100, vm=VmState.GC)
    source.second(table, *[(MAIN,)] * 100)
    assert row_of(table, "main").gc_share == pytest.approx(0.5)
    assert row_of(table, "work").gc_share == pytest.approx(0.5)
    assert table.state().vm == pytest.approx({VmState.GC: 0.5, VmState.JS: 0.5})


def test_views() -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    at_11, at_12 = js("work", line=10, at=11), js("work", line=10, at=12)
    source.second(table, *[(MAIN, at_11)] * 30, *[(MAIN, at_12, LEFT_PAD)] * 70)
    assert row_of(table, "work").total_ns == SECOND
    table.view = View.LINE
    places = {(row.name, row.place): row.total_ns for row in table.rows()}
    assert places == {
        ("main", "/app/a.js:1"): SECOND,
        ("work", "/app/a.js:11"): 30 * PERIOD,
        ("work", "/app/a.js:12"): 70 * PERIOD,
        ("pad", "/app/node_modules/left-pad/index.js:5"): 70 * PERIOD,
    }
    table.view = View.FILE
    own = {row.name: row.own_ns for row in table.rows()}
    assert own == {"/app/a.js": 30 * PERIOD, "/app/node_modules/left-pad/index.js": 70 * PERIOD}
    table.view = View.PACKAGE
    assert {row.name: row.own_ns for row in table.rows()} == {
        "(app)": 30 * PERIOD,
        "left-pad": 70 * PERIOD,
    }
    table.view = View.THREAD
    (row,) = table.rows()
    assert (row.name, row.place, row.own_ns) == ("thread1", "node 1/1", SECOND)
    assert table.thread_of(row.key) == 0
    table.view = View.FUNCTION
    # What comes in after a change of view is counted in that view.
    source.second(table, *[(MAIN, at_11)] * 10)
    assert row_of(table, "work").total_ns == SECOND + 10 * PERIOD
    assert table.thread_of(row_of(table, "work").key) is None


def test_kinds_of_one_file_or_package_are_one_row() -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    builtins = [Frame("map", FrameKind.BUILTIN), Frame("irregexp", FrameKind.REGEXP)]
    source.second(table, *[(MAIN, frame) for frame in builtins])
    table.view = View.PACKAGE
    assert row_of(table, "(builtin)").own_ns == 2 * PERIOD


def test_one_thread() -> None:
    table, source = LiveTable(window_ns=2 * SECOND), Source()
    source.second(table, *[(MAIN, WORK)] * 100)
    source.second(table, *[(MAIN,)] * 100, tid=2)
    table.thread = 1
    (row,) = table.rows()
    assert (row.name, row.own_ns) == ("main", SECOND)
    assert row.own_share == pytest.approx(0.5)
    source.second(table, *[(MAIN, WORK)] * 100)
    assert [row.total_ns for row in table.rows()] == [SECOND]
    assert table.neighbours(row.key).total_ns == SECOND
    table.thread = None
    assert row_of(table, "work").total_ns == 2 * SECOND


@pytest.mark.parametrize("column", Column)
def test_sorting(column: Column) -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    source.second(table, *[(MAIN, WORK)] * 100, vm=VmState.GC)
    source.second(table, *[(MAIN,)] * 20, *[(WORK,)] * 30, *[(WORK, LEFT_PAD)] * 10)
    descending = table.rows(column)

    def key(row: Row) -> float | str:
        numbers = {
            Column.OWN_SHARE: -row.own_share,
            Column.TOTAL_SHARE: -row.total_share,
            Column.OWN: -row.own_ns,
            Column.TOTAL: -row.total_ns,
            Column.GC: -row.gc_share,
        }
        return row.name if column is Column.NAME else numbers[column]

    keys = [key(row) for row in descending]
    assert keys == sorted(keys)
    ascending = [key(row) for row in table.rows(column, ascending=True)]
    assert ascending == keys[::-1]
    assert table.rows(column) == descending  # twice the same


def test_filtering_looks_at_name_and_place() -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    source.second(table, *[(MAIN, WORK, LEFT_PAD)] * 10)
    assert [row.name for row in table.rows(pattern=re.compile("^wo"))] == ["work"]
    assert [row.name for row in table.rows(pattern=re.compile("left-pad"))] == ["pad"]
    assert table.rows(pattern=re.compile("nothing")) == []


def test_neighbours() -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    other = js("other", line=20)
    source.second(
        table, *[(MAIN, WORK)] * 10, *[(MAIN, WORK, LEFT_PAD)] * 20, *[(other, WORK, WORK)] * 40
    )
    found = table.neighbours(row_of(table, "work").key)
    assert (found.own_ns, found.total_ns) == (50 * PERIOD, 70 * PERIOD)
    assert [(edge.name, edge.weight) for edge in found.callers] == [
        ("other", 40 * PERIOD),
        ("work", 40 * PERIOD),
        ("main", 30 * PERIOD),
    ]
    assert [(edge.name, edge.weight) for edge in found.callees] == [
        ("work", 40 * PERIOD),
        ("pad", 20 * PERIOD),
    ]
    assert found.callees[1].share == pytest.approx(20 / 70)


def test_phases() -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    timers = (Frame("uv_run", FrameKind.NATIVE), Frame("uv__run_timers", FrameKind.NATIVE), MAIN)
    source.second(table, *[timers] * 30, *[(MAIN,)] * 10)
    assert table.state().phases == pytest.approx({Phase.TIMERS: 0.75, Phase.OTHER: 0.25})


def test_sleeping_samples_are_idle_time() -> None:
    table, source = LiveTable(window_ns=SECOND), Source()
    source.second(table, *[(MAIN,)] * 60, state=ThreadState.SLEEPING)
    assert table.state().idle == pytest.approx(1.0)
    assert table.state().vm == {}
    source.second(table, *[(MAIN,)] * 25)
    assert table.state().idle == pytest.approx(0.0)


def test_reset_begins_again() -> None:
    table, source = LiveTable(window_ns=5 * SECOND), Source()
    source.second(table, *[(MAIN, WORK)] * 100, lost=3)
    table.reset()
    assert table.rows() == []
    assert len(table.profile) == 0
    source.second(table, *[(MAIN,)] * 50, idle=50, lost=1)
    (row,) = table.rows()
    assert (row.name, row.own_ns) == ("main", 50 * PERIOD)
    assert row.own_share == pytest.approx(0.5, rel=0.02)
    profile = table.profile
    assert (profile.stats.requested, profile.stats.idle) == (51, 50)
    assert profile.stats.lost == {LossReason.LATE: 1}
    assert profile.meta.start_ns == 8 * SECOND
    assert profile.meta.start_time_unix_ns == 71 * SECOND
    assert profile.meta.duration_ns == SECOND
    profile.check()


def test_reset_before_anything_came() -> None:
    table = LiveTable(window_ns=SECOND)
    table.reset()
    assert table.rows() == []
    assert table.state().idle == 0


def test_the_account_adds_up_when_old_samples_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "MAX_SAMPLES", 100)
    table, source = LiveTable(window_ns=SECOND), Source()
    for _ in range(7):
        source.profile.truncated[59] = Truncation.STALE
        source.second(table, *[(MAIN, WORK)] * 60, lost=5)
        profile, stats = table.profile, table.profile.stats
        assert len(profile) <= 100
        assert stats.requested == len(profile) + sum(stats.lost.values())
        assert sum(stats.truncated.values()) == len(profile.truncated) > 0
        profile.check()
    # Times go on from the start all the same.
    assert row_of(table, "work").total_ns == 7 * 60 * PERIOD


STACKS = st.lists(
    st.lists(st.sampled_from([MAIN, WORK, LEFT_PAD, NATIVE, GLUE]), max_size=6).map(tuple),
    max_size=20,
)


@given(st.lists(STACKS, min_size=1, max_size=4), st.sampled_from(View), st.booleans())
def test_own_times_add_up_to_all(
    seconds: list[list[tuple[Frame, ...]]], view: View, only_js: bool
) -> None:
    early, late = LiveTable(window_ns=SECOND), LiveTable(window_ns=SECOND)
    early.view, early.only_js = view, only_js
    first, second = Source(), Source()
    for stacks in seconds:
        first.second(early, *stacks)
        second.second(late, *stacks)
    late.view, late.only_js = view, only_js
    rows = early.rows()
    assert sum(row.own_ns for row in rows) == PERIOD * sum(map(len, seconds))
    assert all(row.own_ns <= row.total_ns for row in rows)

    # A view that was chosen later shows the same.
    def plain(rows: list[Row]) -> set[Row]:
        return {row._replace(key=0) for row in rows}

    assert plain(late.rows()) == plain(rows)
