"""Self time and hot lines of a small program against V8's own CPU profiler, V8's default flags."""

from __future__ import annotations

from pathlib import Path

import pytest

import nodes
from comparing import COUNT, SLACK, compare

pytestmark = pytest.mark.timeout(600)
"""What is measured is CPU time; on a machine with much else to do it takes its time."""


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_self_time_and_hot_lines_are_those_of_v8(version: str, tmp_path: Path) -> None:
    with nodes.running(version, nodes.TARGETS / "steady.js") as target:
        found = compare(target, tmp_path)
    assert found.is_enough, f"no {COUNT} samples"
    assert found.by_function().excess <= SLACK, str(found.by_function())
    assert found.by_hot_line().excess <= SLACK, str(found.by_hot_line())
