"""Samples of a running process, resolved."""

from __future__ import annotations

import time
from dataclasses import dataclass

import nodes
from jsspy.engines.base import Engine
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.mode import Mode
from jsspy.model.sample import LossReason, RawSample, Sample
from jsspy.resolve import Resolver
from jsspy.target.process import Target
from jsspy.v8.isolates import find_threads
from jsspy.v8.layout import Layout
from jsspy.v8.metadata import load_layout
from jsspy.v8.plan import make_plan

TIMEOUT_S = 30.0


@dataclass
class Recording:
    """Resolved samples of one process, and the resolver's account."""

    samples: list[Sample]
    resolver: Resolver


def require(engine: type[Engine], pid: int) -> None:
    """Skip the running test where an engine cannot sample a process; in CI that is a failure."""
    target = Target.open(pid)
    try:
        availability = engine.probe(target)
    finally:
        target.close()
    if not availability.available:
        nodes.missing(f"engine {engine.name}: {availability.reason}")


def record(
    pid: int,
    count: int,
    *,
    idle: bool = False,
    rate_hz: float = 300,
    known: bool = True,
    engine: Engine | None = None,
    at_once: bool = False,
) -> Recording:
    """Take and resolve at least `count` samples of a process.

    Args:
        pid: The process.
        count: How many.
        idle: Sample sleeping threads, too.
        rate_hz: How often.
        known: Use what is known of its V8.
        engine: With what; without one by ptrace, at `rate_hz`.
        at_once: Resolve samples as they come, and not after the last one. V8 before 7.1 moves
            functions; later versions only move sources while a program begins.
    """
    target = Target.open(pid)
    try:
        v8 = target.find_v8()
        assert v8 is not None
        layout: Layout = load_layout(v8.elf)
        resolver = Resolver(target, v8, layout if known else None)
        raws: list[RawSample] = []
        results: list[Sample | LossReason] = []
        deadline = time.monotonic() + TIMEOUT_S
        with engine or PtraceEngine(rate_hz, mode=Mode.WALL if idle else Mode.CPU) as sampling:
            sampling.set_target(target, make_plan(layout), find_threads(target, v8, layout))
            for batch in sampling.samples():
                raws += batch
                if at_once:
                    results += [resolver.resolve(raw) for raw in batch]
                if len(raws) >= count or time.monotonic() > deadline:
                    break
        results += [resolver.resolve(raw) for raw in raws[len(results) :]]
        samples = [result for result in results if isinstance(result, Sample)]
        assert len(samples) >= count, f"{len(samples)} of {count} samples"
        return Recording(samples, resolver)
    finally:
        target.close()
