"""Sampling engines: they copy, they do not interpret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from jsspy.engines.base import Availability, Engine
from jsspy.engines.ebpf import EbpfEngine
from jsspy.engines.perf import PerfEngine
from jsspy.engines.ptrace import PtraceEngine
from jsspy.target.process import Target

ENGINES: Final[Mapping[str, type[Engine]]] = {
    "ebpf": EbpfEngine,
    "perf": PerfEngine,
    "ptrace": PtraceEngine,
}
"""From the one that a target notices least to the one that it notices most."""

_SEES_SLEEPERS: Final = frozenset({"ptrace"})


class Choice(NamedTuple):
    """Which engine to use, and why not the ones before it."""

    engine: type[Engine] | None
    """None: none works here."""
    rungs: dict[str, Availability]
    """What each engine said, up to the one that was chosen."""


def choose_engine(target: Target, *, idle: bool = False) -> Choice:
    """Choose the least intrusive engine that works for a target, by trying.

    Args:
        target: The process.
        idle: Threads that sleep are to be sampled, too.
    """
    rungs: dict[str, Availability] = {}
    for name, engine in ENGINES.items():
        if idle and name not in _SEES_SLEEPERS:
            reason = "it sees CPU time only, and sleeping threads are to be sampled"
            rungs[name] = Availability(available=False, reason=reason)
            continue
        rungs[name] = engine.probe(target)
        if rungs[name].available:
            return Choice(engine, rungs)
    return Choice(None, rungs)


__all__ = ["ENGINES", "Choice", "choose_engine"]
