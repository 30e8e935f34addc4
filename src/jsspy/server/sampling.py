"""What a sampler is told; a module of its own, so that the sampler loads nothing that serves."""

from __future__ import annotations

from dataclasses import dataclass

from jsspy.model.mode import NativeFrames

DEFAULT_RATE_HZ = 99


@dataclass(frozen=True, slots=True)
class Sampling:
    """What to sample. Exactly one of `pids`, `command` and `name` is set."""

    pids: tuple[int, ...] = ()
    command: tuple[str, ...] = ()
    """Is started by the sampler, whose child it then is, with our standard streams."""
    name: str | None = None
    """Every node process whose command line this regular expression is found in, also new ones."""
    rate_hz: float = DEFAULT_RATE_HZ
    engine: str = "auto"
    max_overhead: float | None = None
    """What it may cost, of one CPU: the rate adapts."""
    native: str = NativeFrames.FULL.value
    subprocesses: bool = False
    blocked_s: float | None = None
    """How long an event loop may take for one callback until we are told."""
