"""Large programs with V8's default flags: self time and hot lines against V8's own CPU profiler.

The same process is profiled by V8 and by us in turn, a few seconds each, while it repeats the same
work. Two profiles by V8 differ, too: ours may be as far from V8's as those are from each other (of
as many samples), and `SLACK` more. Turns are added while that does not hold: what is left of
chance goes away with more of them, a fault of ours does not.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

import nodes
from hotlines import Line, Lines, by_function, only, scripted, thinned
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.profile import Profile
from jsspy.recorder import Recorder
from selftime import distance

pytestmark = pytest.mark.soak

PROGRAMS = nodes.TARGETS / "programs"
VERSIONS = tuple(version for version in nodes.MODERN if int(version.split(".")[0]) >= 16)

TURN_MS = 1500
LEAST_TURNS = 2
MOST_TURNS = 8
LEAST_SAMPLES = 300
RATE_HZ = 500
SLACK = 0.05
HOTTEST = 10
LEAST_SHARE = 0.01
"""Functions with less of V8's time are one row: a thousand of them are nothing but noise."""


def packages() -> Path:
    """Return the directory with the packages of tests/programs/package.json."""
    root = Path(os.environ.get("JSSPY_PROGRAMS", nodes.ROOT / ".cache" / "programs"))
    if not (root / "node_modules").exists():
        nodes.missing(f"no programs in {root}: run `make programs-installed`")
    return root / "node_modules"


def v8_profile(target: nodes.NodeProcess, path: Path) -> Path:
    """Have the target write its own CPU profile to `path`."""
    assert target.process.stdin is not None
    target.process.stdin.write(f"profile {TURN_MS} {path}\n")
    target.process.stdin.flush()
    assert target.line() == "profiled"
    return path


def record(recorder: Recorder, pid: int, duration_ms: int) -> Profile:
    """Record a process from outside."""
    with recorder:
        recorder.add(pid)
        for _ in recorder.run(duration_ns=duration_ms * 10**6):
            pass
    return recorder.profile


def new_recorder() -> Recorder:
    """Return a recorder; each is used once."""
    return Recorder(PtraceEngine(RATE_HZ))


def excess(*tables: Counter[Line]) -> float:
    """Return how much further ours is from V8's profiles than they are from each other."""
    first, second, ours = tables
    count = ours.total()
    return max(
        distance(first, ours) - distance(first, thinned(second, count)),
        distance(second, ours) - distance(second, thinned(first, count)),
    )


@pytest.mark.parametrize("program", ["compile", "bundle", "serve"])
@pytest.mark.parametrize("version", nodes.selected(VERSIONS))
def test_self_time_and_hot_lines_are_those_of_v8(
    version: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_PATH", str(packages()))
    monkeypatch.setenv("NODE_ENV", "production")
    first, second, ours = Lines(), Lines(), Lines()
    by_functions = by_lines = 1.0
    with nodes.running(version, PROGRAMS / f"{program}.js") as target:
        for turn in range(MOST_TURNS):
            first.add_cpuprofile(v8_profile(target, tmp_path / f"{turn}.first"))
            profile = record(new_recorder(), target.pid, TURN_MS)
            ours.add_profile(profile)
            second.add_cpuprofile(v8_profile(target, tmp_path / f"{turn}.second"))
            assert profile.stats.js_frames_named >= 0.999 * profile.stats.js_frames
            assert len(profile.truncated) <= 0.005 * len(profile), profile.stats.truncated
            tables = [scripted(it.weights) for it in (first, second, ours)]
            hottest = [line for line, _ in (tables[0] + tables[1]).most_common(HOTTEST)]
            by_lines = excess(*(only(table, hottest) for table in tables))
            tables = [
                scripted(by_function(first, second, ours)),
                scripted(by_function(second, first, ours)),
                scripted(by_function(ours, first, second)),
            ]
            theirs = tables[0] + tables[1]
            functions = [key for key in theirs if theirs[key] >= LEAST_SHARE * theirs.total()]
            by_functions = excess(*(only(table, functions) for table in tables))
            is_enough = turn + 1 >= LEAST_TURNS and ours.weights.total() >= LEAST_SAMPLES
            if is_enough and max(by_functions, by_lines) <= SLACK:
                break
    assert ours.weights.total() >= LEAST_SAMPLES
    assert by_functions <= SLACK
    assert by_lines <= SLACK, [
        (line, *(round(it.weights[line] / it.weights.total(), 3) for it in (first, second, ours)))
        for line in hottest
    ]


SPLIT = {"1 alpha": 1, "2 beta": 2, "2 gamma": 2, "3 gamma": 3}
"""What split.js says of its lines: the comment on them, and the parts of time."""


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_time_is_split_as_the_program_knows(version: str) -> None:
    """Inlined functions and their lines get what is theirs (V8's profiler gets this wrong)."""
    source = (PROGRAMS / "split.js").read_text(encoding="utf-8").split("\n")
    wanted = {
        (mark.split()[1], number): parts / sum(SPLIT.values())
        for mark, parts in SPLIT.items()
        for number, line in enumerate(source, 1)
        if line.endswith(f"// {mark}")
    }
    assert len(wanted) == len(SPLIT)
    counts, inlined = Counter[tuple[str, int | None]](), 0
    with nodes.running(version, PROGRAMS / "split.js") as target:
        for _ in range(MOST_TURNS):
            profile = record(new_recorder(), target.pid, TURN_MS)
            for row in profile.stack:
                leaf = next(profile.iter_frames(row))
                counts[leaf.name, leaf.location.line if leaf.location else None] += 1
                inlined += leaf.inlined
            shares = {place: counts[place] / counts.total() for place in wanted}
            wrong = {
                place: shares[place]
                for place in wanted
                if abs(shares[place] - wanted[place]) > SLACK
            }
            if counts.total() >= LEAST_SAMPLES and not wrong:
                break
    assert not wrong, counts
    assert sum(shares.values()) >= 1 - SLACK
    assert inlined >= 0.8 * counts.total()
