"""Sampling engines: they copy, they do not interpret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from jsspy.engines.base import Availability, Engine
from jsspy.engines.ebpf import EbpfEngine
from jsspy.engines.perf import PerfEngine
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.mode import Mode
from jsspy.target.process import Target

ENGINES: Final[Mapping[str, type[Engine]]] = {
    "ebpf": EbpfEngine,
    "perf": PerfEngine,
    "ptrace": PtraceEngine,
}
"""From the one that a target notices least to the one that it notices most."""


class Choice(NamedTuple):
    """Which engine to use, and why not the ones before it."""

    engine: type[Engine] | None
    """None: none works here."""
    rungs: dict[str, Availability]
    """What each engine said, up to the one that was chosen."""


def choose_engine(targets: Sequence[Target], mode: Mode = Mode.CPU) -> Choice:
    """Choose the least intrusive engine that works for all targets, by trying."""
    rungs: dict[str, Availability] = {}
    for name, engine in ENGINES.items():
        rung = Availability(available=False, reason=f"it cannot measure {mode.value} time")
        if mode in engine.modes:
            rung = Availability(available=True)
            for target in targets:
                rung = engine.probe(target)
                if not rung.available:
                    break
        rungs[name] = rung
        if rung.available:
            return Choice(engine, rungs)
    return Choice(None, rungs)


__all__ = ["ENGINES", "Choice", "choose_engine"]
