"""Sampling engines: they copy, they do not interpret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

    engine: Engine | None
    """None: none works here."""
    rungs: dict[str, Availability]
    """What each engine said, up to the one that was chosen."""


def choose_engine(
    targets: Sequence[Target],
    rate_hz: float,
    *,
    mode: Mode = Mode.CPU,
    names: Iterable[str] = ENGINES,
) -> Choice:
    """Choose the least intrusive engine that works for all targets, by trying.

    Args:
        targets: At least one.
        rate_hz: Samples per second and thread.
        mode: What to measure.
        names: Which engines to try, in this order.
    """
    rungs: dict[str, Availability] = {}
    for name in names:
        if mode not in ENGINES[name].modes:
            reason = f"it cannot measure {mode.value} time"
            able = [mode.value for mode in Mode if mode in ENGINES[name].modes]
            rungs[name] = Availability(
                available=False, reason=reason, hint=f"--mode {' or '.join(able)}"
            )
            continue
        engine = ENGINES[name](rate_hz, mode=mode)
        for target in targets:
            rungs[name] = engine.probe(target)
            if not rungs[name].available and target.is_alive():
                engine.close()
                break
        else:
            return Choice(engine, rungs)
    return Choice(None, rungs)


__all__ = ["ENGINES", "Choice", "choose_engine"]
