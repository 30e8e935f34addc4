"""A frame whose code was thrown away while it runs is where it was."""

from __future__ import annotations

import pytest

import nodes
from jsspy.model.stack import FrameKind, Tier
from recorded import record

PROGRAM = nodes.TARGETS / "deoptimized.js"

CASES = [
    (version, compiler)
    for version in nodes.selected(("10.24.1", *nodes.MODERN))
    for compiler in ("turbofan", "maglev")
    if compiler == "turbofan" or int(version.split(".", maxsplit=1)[0]) >= 24
]
TIERS = {"turbofan": Tier.OPTIMIZED, "maglev": Tier.MAGLEV}


@pytest.mark.parametrize(("version", "compiler"), CASES)
def test_who_is_to_be_deoptimized_is_where_it_called(version: str, compiler: str) -> None:
    text = PROGRAM.read_text(encoding="utf-8").split("\n")
    (here,) = (number for number, line in enumerate(text, 1) if line.endswith("// here"))
    with nodes.running(version, PROGRAM, compiler, flags=("--allow-natives-syntax",)) as target:
        recording = record(target.pid, 5)
    for sample in recording.samples:
        frames = [frame for frame in sample.stack.frames if frame.kind is FrameKind.JS]
        names = [frame.name for frame in frames]
        outer = frames[names.index("outer")]
        assert outer.location is not None
        assert (outer.location.line, outer.tier) == (here, TIERS[compiler])
        assert "small" not in names
