"""Sampling engines: they copy, they do not interpret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from jsspy.engines.base import Engine
from jsspy.engines.ptrace import PtraceEngine

ENGINES: Final[Mapping[str, type[Engine]]] = {
    "ptrace": PtraceEngine,
}

__all__ = ["ENGINES"]
