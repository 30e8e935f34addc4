"""The line that is hot, and in a bundle of one line the column, in every tier.

A program that certainly spends most of its time on one line runs twice in one process: from a file
with one statement per line, and from a bundle that has all of it on a single long line. Time by
line of the one must be time by column of the other.

V8's own profiler is asked where it is right about lines: it does not know where in a function the
interpreter is, and what its tables say of Maglev code is not true (see `jsspy.v8.deopt`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from pathlib import Path

import pytest

import nodes
from comparing import add_v8_profile, distance
from hotlines import Line, Lines, scripted
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.profile import Profile
from jsspy.model.stack import FrameKind, Tier
from jsspy.recorder import Recorder

pytestmark = pytest.mark.timeout(600)
"""What is measured is CPU time; on a machine with much else to do it takes its time."""

STATEMENTS = (
    "var table = [3, 1, 4, 1, 5, 9, 2, 6];",
    "function work(n) {",
    "var cold = 1, hot = 2;",
    "for (var i = 0; i < n; i++) {",
    "cold = (cold + i) | 0;",
    ", ".join(["hot = (table[hot & 7] = hot * 31 | 0) ^ i"] * 8) + ";",
    "}",
    "return cold ^ hot;",
    "}",
)
HOT = 5
"""Index of the statement with most of the work. It writes to the table, because Maglev code tells
its place only where it may be left, and that only changes when something was written."""

UNUSED = "".join(
    f"function unused{number}(a) {{ return a + {number}; }} " for number in range(2000)
)
"""In front of the bundle's one line: columns beyond 65,536."""

OLD_DRIVER = """
var end = Date.now() + 500, isReady = false;
(function again() {
  turn();
  if (!isReady && Date.now() > end) { isReady = true; console.log('ready'); }
  setImmediate(again);
})();
"""

RATE_HZ = 500
COUNT = 300
SAMPLES = 1000
"""Of the whole program, in which both files have about the same."""

LONGEST_NS = 60 * 10**9
SLACK = 0.15
"""4 standard deviations of the distance of two samplings of few lines, of 300 samples each."""


def flags_of(mode: str, version: str) -> tuple[str, ...]:
    """Return what makes V8 use one tier above the interpreter."""
    major = int(version.partition(".")[0])
    no_maglev = ("--no-maglev",) if major >= 24 else ()
    no_sparkplug = ("--no-sparkplug",) if major >= 16 else ()
    return {
        "default": (),
        "interpreted": ("--no-opt", *no_sparkplug, *no_maglev),
        "baseline": ("--no-opt", "--always-sparkplug", *no_maglev),
        "maglev": ("--maglev", "--no-turbofan"),
        "turbofan": no_maglev,
    }[mode]


TIERS = {
    "interpreted": Tier.INTERPRETED,
    "baseline": Tier.BASELINE,
    "maglev": Tier.MAGLEV,
    "turbofan": Tier.OPTIMIZED,
}
VERSIONS = {
    "interpreted": nodes.MODERN,
    "baseline": nodes.MODERN[2:],
    "maglev": nodes.MODERN[6:],
    "turbofan": nodes.MODERN,
}
CASES = [(version, mode) for mode in TIERS for version in nodes.selected(VERSIONS[mode])]


def write_program(directory: Path, driver: str) -> Path:
    """Write both files and a program that calls them in turn."""
    exported = "module.exports = work;"
    (directory / "lines.js").write_text("\n".join((*STATEMENTS, exported)), encoding="utf-8")
    # What CommonJS wraps around a file is on its first line.
    bundle = "'use strict';\n" + UNUSED + "".join(STATEMENTS) + exported
    (directory / "bundle.js").write_text(bundle, encoding="utf-8")
    program = directory / "main.js"
    program.write_text(
        "var lines = require('./lines.js'), bundle = require('./bundle.js');\n"
        "function turn() { lines(30000); bundle(30000); }\n" + driver,
        encoding="utf-8",
    )
    return program


def record(pid: int) -> Profile:
    """Record a process until there are enough samples."""
    with Recorder(PtraceEngine(RATE_HZ)) as recorder:
        recorder.add(pid)
        profile = recorder.profile
        for _ in recorder.run(LONGEST_NS, should_stop=lambda: len(profile) >= SAMPLES):
            pass
    return profile


def statements_of(
    profile: Profile, tier: Tier | None
) -> tuple[Counter[int | None], Counter[int | None]]:
    """Return the samples by statement: of the file with lines, and of the bundle."""
    starts = list(accumulate((len(it) for it in STATEMENTS), initial=len(UNUSED) + 1))
    by_line, by_column = Counter[int | None](), Counter[int | None]()
    for row in profile.stack:
        frame = next((it for it in profile.iter_frames(row) if it.kind is FrameKind.JS), None)
        if frame is None or frame.name != "work" or frame.location is None:
            continue
        if tier is not None and frame.tier is not tier:
            continue
        _, line, column = frame.location
        if frame.location.url.endswith("lines.js"):
            by_line[None if line is None else line - 1] += 1
        else:
            assert line in (2, None)
            by_column[None if column is None else bisect_right(starts, column) - 1] += 1
    return by_line, by_column


def check(pid: int, tier: Tier | None) -> Profile:
    """Record, and compare lines, columns and the truth."""
    profile = record(pid)
    by_line, by_column = statements_of(profile, tier)
    assert min(by_line.total(), by_column.total()) >= COUNT, (by_line, by_column)
    for table in (by_line, by_column):
        assert set(table) <= {1, 2, 3, 4, 5, 7, None}, table
        assert table[None] <= 0.02 * table.total(), table
        assert table[HOT] >= 0.6 * table.total(), table
    assert distance(by_line, by_column) <= SLACK, (by_line, by_column)
    return profile


@pytest.mark.parametrize(("version", "mode"), CASES)
def test_the_hot_line_is_the_hot_column(version: str, mode: str, tmp_path: Path) -> None:
    profiled = nodes.TARGETS / "programs" / "profiled.js"
    program = write_program(tmp_path, f"require({str(profiled)!r}).repeat(turn, 400);")
    with nodes.running(version, program, flags=flags_of(mode, version)) as target:
        profile = check(target.pid, TIERS[mode])
        if mode in ("baseline", "turbofan"):
            theirs = Lines()
            add_v8_profile(target, tmp_path / "v8.cpuprofile", theirs)
            check_agreement(mode, scripted(theirs.weights), profile)


def check_agreement(mode: str, theirs: Counter[Line], profile: Profile) -> None:
    """Compare with what V8 says: up to V8 13 that is not which file an inlined line is of."""
    ours = Lines()
    ours.add_profile(profile, 0, 1 << 63, names_outer=False)
    tables = [Counter[int](), Counter[int]()]
    for table, lines in zip(tables, (theirs, scripted(ours.weights)), strict=True):
        for (file, line), count in lines.items():
            if file in {"lines.js", "bundle.js", "main.js"}:
                table[line] += count
    # It charges what builtins of baseline code do to the line that called the function.
    wanted = 2 if mode == "baseline" else HOT + 1
    assert wanted in [line for line, _ in tables[0].most_common(2)], tables
    assert distance(*tables) <= SLACK, tables


@pytest.mark.parametrize("version", nodes.selected(nodes.LEGACY))
def test_the_hot_line_is_the_hot_column_before_12(version: str, tmp_path: Path) -> None:
    """Not in optimized code: of that, V8 knew no places between calls."""
    has_ignition = int(version.partition(".")[0]) >= 8
    flags = ["--noopt" if has_ignition else "--nocrankshaft"]
    with nodes.running(version, write_program(tmp_path, OLD_DRIVER), flags=flags) as target:
        check(target.pid, None)
