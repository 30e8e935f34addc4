"""What the package exports, and that it costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import jsspy
import jsspy.server.library
from running import environment


def test_everything_exported_is_there() -> None:
    assert sorted(jsspy.__all__) == jsspy.__all__
    for name in jsspy.__all__:
        assert getattr(jsspy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = jsspy.nonsense  # type: ignore[attr-defined]  # that is what is tested
    stub = Path(jsspy.__file__).with_name("__init__.pyi").read_text(encoding="utf-8")
    assert all(name in stub for name in jsspy.__all__)


def test_importing_it_loads_nothing() -> None:
    program = "import sys, jsspy; print(sorted(m for m in sys.modules if 'jsspy' in m))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, check=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.stdout == "['jsspy']\n"


def test_exactly_one_target_is_named() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        jsspy.start_profiling()
    with pytest.raises(ValueError, match="exactly one"):
        jsspy.start_profiling(1, everyone=True)
