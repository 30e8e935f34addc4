from __future__ import annotations

import pytest

from jsspy.cli.live_text import WIDTHS, describe_loop, describe_vm, format_numbers, label
from jsspy.model.live import Row, State
from jsspy.model.phase import Phase
from jsspy.model.sample import VmState


def row(name: str, place: str = "") -> Row:
    return Row(1, name, place, 1.0, 12.345, 27 * 3600 * 10**9, 99_999_990_000_000, 0.0)


@pytest.mark.parametrize("width", range(3, 60))
def test_labels_fit(width: int) -> None:
    for name, place in (
        ("f", ""),
        ("aLongFunctionNameOfFortyCharactersOrMore", ""),
        ("f", "/a/rather/long/path/to/some/file.js:12345"),
        ("aLongFunctionNameOfFortyCharactersOrMore", "/a/rather/long/path/to/some/file.js:12345"),
        ("x" * 1000, "node"),
    ):
        text = label(row(name, place), width)
        assert len(text) <= width


def test_of_a_place_the_end_is_kept() -> None:
    assert label(row("work", "/srv/app/lib/deep/file.js:10"), 20) == "work …eep/file.js:10"
    assert label(row("work", "/app/a.js:10"), 40) == "work /app/a.js:10"


def test_numbers_fit_their_columns() -> None:
    for cell, width in zip(format_numbers(row("f")), WIDTHS.values(), strict=True):
        assert len(cell) <= width + 1, cell


def test_states() -> None:
    state = State(
        {VmState.JS: 0.61, VmState.GC: 0.1, VmState.IDLE: 0.09, VmState.PARSER: 0.001},
        {Phase.TIMERS: 0.75, Phase.OTHER: 0.25},
        0.2,
    )
    assert describe_vm(state) == "V8:  js 61 %  gc 10 %  idle 29 %"
    assert describe_loop(state) == "loop:  timers 75 %  other 25 %"
