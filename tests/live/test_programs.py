"""Large programs, and one that knows the truth, with V8's default flags.

A compiler, a bundler and a server under load are compared with V8's own CPU profiler. Where that is
wrong, `split.js` knows how its time is split.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import nodes
import npm
from comparing import COUNT, SLACK, compare
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.profile import Profile
from jsspy.recorder import Recorder

pytestmark = pytest.mark.timeout(600)
"""What is measured is CPU time; on a machine with much else to do it takes its time."""

PROGRAMS = nodes.TARGETS / "programs"
VERSIONS = tuple(version for version in nodes.MODERN if int(version.split(".")[0]) >= 16)

TURN_MS = 1500
MOST_TURNS = 8
RATE_HZ = 500
LEAST_SAMPLES = 500


@pytest.mark.parametrize("program", ["compile", "bundle", "serve"])
@pytest.mark.parametrize("version", nodes.selected(VERSIONS))
def test_self_time_and_hot_lines_are_those_of_v8(
    version: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_PATH", str(npm.packages()))
    monkeypatch.setenv("NODE_ENV", "production")
    with nodes.running(version, PROGRAMS / f"{program}.js") as target:
        found = compare(target, tmp_path)
    assert found.is_enough, f"no {COUNT} samples"
    # Where a busy machine has no time to name samples at once, functions may have moved meanwhile.
    assert found.js_frames_named >= 0.995 * found.js_frames
    assert found.truncated <= 0.01 * found.samples
    assert found.by_function().excess <= SLACK, str(found.by_function())
    assert found.by_hot_function().excess <= SLACK, str(found.by_hot_function())
    assert found.by_hot_line().excess <= SLACK, str(found.by_hot_line())


def record(pid: int) -> Profile:
    """Record a process from outside for a while."""
    with Recorder(PtraceEngine(RATE_HZ)) as recorder:
        recorder.add(pid)
        for _ in recorder.run(duration_ns=TURN_MS * 10**6):
            pass
    return recorder.profile


SPLIT = {"1 alpha": 1, "2 beta": 2, "2 gamma": 2, "3 gamma": 3}
"""What split.js says of its lines: the comment on them, and the parts of time."""


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_time_is_split_as_the_program_knows(version: str) -> None:
    """Functions and their lines get what is theirs, inlined or not (V8's profiler gets it wrong).

    Whether V8 inlines them is its choice, and not the same each time: see test_hot_lines.py.
    """
    source = (PROGRAMS / "split.js").read_text(encoding="utf-8").split("\n")
    wanted = {
        (mark.split()[1], number): parts / sum(SPLIT.values())
        for mark, parts in SPLIT.items()
        for number, line in enumerate(source, 1)
        if line.endswith(f"// {mark}")
    }
    assert len(wanted) == len(SPLIT)
    counts = Counter[tuple[str, int | None]]()
    with nodes.running(version, PROGRAMS / "split.js") as target:
        for _ in range(MOST_TURNS):
            profile = record(target.pid)
            for row in profile.stack:
                leaf = next(profile.iter_frames(row))
                counts[leaf.name, leaf.location.line if leaf.location else None] += 1
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
