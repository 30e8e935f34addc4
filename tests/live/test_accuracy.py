"""Self time by function against V8's own CPU profiler, in the same process, before and after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import nodes
import selftime
from jsspy.formats import load_profile

PROFILE_MS = 5000
RATE_HZ = 600
SLACK = 0.05
"""How much further from V8's profiles ours may be than they are from each other."""

NO_INLINING = {
    "12": ("--no-turbo-inlining",),
    "14": ("--no-turbo-inlining",),
    "16": ("--no-turbo-inlining",),
    "18": ("--no-turbo-inlining",),
    "20": ("--no-turbo-inlining", "--no-maglev-inlining"),
    "22": ("--no-turbo-inlining", "--no-maglev-inlining"),
    "24": ("--no-turbo-inlining", "--no-maglev-inlining"),
    "26": ("--no-turbo-inlining", "--no-maglev-inlining"),
}
"""V8's profiler charges inlined functions to their caller on some lines: compare without them."""


def v8_profile(target: nodes.NodeProcess, path: Path) -> None:
    """Have the target write its own CPU profile to `path`."""
    assert target.process.stdin is not None
    target.process.stdin.write(f"profile {PROFILE_MS} {path}\n")
    target.process.stdin.flush()
    assert target.line() == "profiled"


def record(pid: int, path: Path) -> None:
    """Record `pid` from outside for as long as the target profiles itself."""
    command = [sys.executable, "-m", "jsspy", "record", "--pid", str(pid), "--output", str(path)]
    options = ["--rate", str(RATE_HZ), "--duration", str(PROFILE_MS / 1000)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.quiet
@pytest.mark.parametrize(
    "version",
    [
        # On 14 every other run is 0.01 beyond the slack, for a reason that is not known yet.
        pytest.param(version, marks=pytest.mark.soak if version.startswith("14.") else ())
        for version in nodes.selected(nodes.MODERN)
    ],
)
def test_self_time_agrees_with_v8(version: str, tmp_path: Path) -> None:
    before, ours, after = tmp_path / "a.cpuprofile", tmp_path / "b.jsspy", tmp_path / "c.cpuprofile"
    flags = NO_INLINING[version.split(".", maxsplit=1)[0]]
    with nodes.running(version, nodes.TARGETS / "steady.js", flags=flags) as target:
        v8_profile(target, before)
        record(target.pid, ours)
        v8_profile(target, after)

    first, second = selftime.of_cpuprofile(before), selftime.of_cpuprofile(after)
    recorded = selftime.of_profile(load_profile(ours))
    for table in (first, second, recorded):
        # V8's profiler runs in the process it looks at, and is what most of its (program) is.
        del table[selftime.PROGRAM]
    allowed = selftime.distance(first, second) + SLACK
    assert selftime.distance(first, recorded) <= allowed, (first, recorded)
    assert selftime.distance(second, recorded) <= allowed, (second, recorded)
