"""`--engine` and `--rate`: what samples, and how often."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from jsspy.cli import output
from jsspy.engines.base import Engine
from jsspy.engines.ptrace import PtraceEngine
from jsspy.errors import EngineUnavailable
from jsspy.target.process import Target

NAMES = ("ptrace", "ebpf", "perf", "auto")

DEFAULT_RATE_HZ = 99
"""Not 100: samples must not march in step with timers of 10 ms."""


def rate_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--rate` to a command."""
    return click.option(
        "-r",
        "--rate",
        "rate_hz",
        type=click.IntRange(1, 1000),
        default=DEFAULT_RATE_HZ,
        show_default=True,
        metavar="HZ",
        help="Samples per second and thread.",
    )(command)


def engine_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--engine` to a command."""
    return click.option(
        "--engine",
        "engine_name",
        type=click.Choice(NAMES),
        default="ptrace",
        show_default=True,
        help="How to sample: ptrace stops a thread for a moment; ebpf (root) and perf do not stop "
        "anything, and see CPU time only; auto takes the least intrusive that works.",
    )(command)


def make_engine(name: str, pid: int | None, rate_hz: float, *, idle: bool) -> Engine:
    """Return the engine that was asked for.

    Args:
        name: One of NAMES.
        pid: A process that is to be sampled; None if it is not started yet.
        rate_hz: Samples per second and thread.
        idle: Sleeping threads are to be sampled, too.

    Raises:
        EngineUnavailable: It does not work here, or not for what is asked of it.
        ProcessNotFound: There is no such process.
        PermissionDenied: The process cannot be looked at.
    """
    if name == "ptrace":
        return PtraceEngine(rate_hz, idle=idle)
    from jsspy.engines import ENGINES, choose_engine

    # What starts under us is ours, as we are.
    target = Target.open(os.getpid() if pid is None else pid)
    try:
        if name == "auto":
            choice = choose_engine(target, idle=idle)
            for refused, rung in choice.rungs.items():
                if not rung.available:
                    output.note(f"Not sampling with {refused}: {rung.reason}")
            chosen = choice.engine.name if choice.engine is not None else "ptrace"
            output.note(f"Sampling with {chosen}")
        else:
            if idle:
                raise EngineUnavailable(
                    name, "it sees CPU time only", hint="leave --engine or --idle out"
                )
            rung = ENGINES[name].probe(target)
            if not rung.available:
                raise EngineUnavailable(name, rung.reason, hint=rung.hint)
            chosen = name
    finally:
        target.close()
    if chosen == "ptrace":
        return PtraceEngine(rate_hz, idle=idle)
    from jsspy.engines.ebpf import EbpfEngine
    from jsspy.engines.perf import PerfEngine

    return EbpfEngine(rate_hz) if chosen == EbpfEngine.name else PerfEngine(rate_hz)
