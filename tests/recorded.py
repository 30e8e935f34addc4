"""Samples of a running process, resolved, or kept with all that resolving reads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import nodes
from jsspy.engines.base import Engine
from jsspy.engines.ptrace import PtraceEngine
from jsspy.errors import FaultError
from jsspy.model.mode import Mode, NativeFrames
from jsspy.model.sample import LossReason, RawSample, Sample
from jsspy.model.units import Address
from jsspy.resolve import Resolver
from jsspy.target.elf import ElfFile
from jsspy.target.maps import AddressSpace, Mapping
from jsspy.target.memory import PAGE_BYTES, Memory, RecordedMemory
from jsspy.target.process import Target, V8Binary
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
        with engine(99) as probed:
            availability = probed.probe(target)
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
    native: NativeFrames = NativeFrames.FULL,
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
        native: Which native frames stacks have.
    """
    target = Target.open(pid)
    try:
        v8 = target.find_v8()
        assert v8 is not None
        layout: Layout = load_layout(v8.elf)
        resolver = Resolver(target, v8, layout if known else None, native=native)
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
        assert len(samples) >= 0.99 * count, f"{len(samples)} of {count} samples"
        return Recording(samples, resolver)
    finally:
        target.close()


@cache
def _load_elf(path: str) -> ElfFile:
    return ElfFile.load(path)


class ImageTarget:
    """What a resolver asks of a target, out of an image."""

    def __init__(self, memory: Memory, mappings: Sequence[Mapping]) -> None:
        self.memory = memory
        self._space = AddressSpace(mappings)

    def address_space(self, *, refresh: bool = False) -> AddressSpace:
        """Return the mappings; they never change."""
        del refresh
        return self._space

    def elf(self, mapping: Mapping) -> ElfFile | None:
        """Return the file behind a mapping."""
        return _load_elf(mapping.path) if mapping.is_file else None


@dataclass
class Image:
    """Samples of a process, and of its memory the pages that naming them read."""

    raws: list[RawSample]
    pages: dict[int, bytes]
    reads: list[tuple[int, int]]
    """(address, size) of everything that was read, in that order."""
    mappings: Sequence[Mapping]
    binary: str
    """Path of the file with V8 in it."""
    bias: int
    layout: Layout

    def resolver(self, memory: Memory | None = None) -> Resolver:
        """Return a new resolver that reads the image, or other memory in its place."""
        target = ImageTarget(memory or RecordedMemory(self.pages), self.mappings)
        v8 = V8Binary(_load_elf(self.binary), self.bias)
        return Resolver(cast("Target", target), v8, self.layout)


class PageLog:
    """Memory that remembers the pages that were read; implements `Memory`."""

    def __init__(self, memory: Memory) -> None:
        self.pages: dict[int, bytes] = {}
        self.reads: list[tuple[int, int]] = []
        self._memory = memory
        self._copy = RecordedMemory(self.pages)

    def read(self, address: Address, size: int) -> bytes:
        """Return exactly `size` bytes; see `Memory`."""
        first = address - address % PAGE_BYTES
        for page in range(first, address + size, PAGE_BYTES):
            if page not in self.pages:
                self.pages[page] = self._memory.read(Address(page), PAGE_BYTES)
        self.reads.append((address, size))
        return self._copy.read(address, size)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of each (address, size); see `Memory`."""
        found: list[bytes | None] = []
        for address, size in ranges:
            try:
                found.append(self.read(Address(address), size))
            except FaultError:
                found.append(None)
        return found


def record_image(pid: int, count: int, *, rate_hz: float = 200) -> Image:
    """Take samples of a process, stop it for good, and keep what is needed to name them."""
    target = Target.open(pid)
    try:
        v8 = target.find_v8()
        assert v8 is not None
        layout = load_layout(v8.elf)
        raws: list[RawSample] = []
        with PtraceEngine(rate_hz) as engine:
            engine.set_target(target, make_plan(layout), find_threads(target, v8, layout))
            for batch in engine.samples():
                raws += batch
                if len(raws) >= count:
                    break
        os.kill(pid, signal.SIGSTOP)
        mappings = target.address_space(refresh=True).mappings
        binary = next(it for it in mappings if it.is_file and target.elf(it) is v8.elf)
        log = PageLog(target.memory)
        image = Image(raws, log.pages, log.reads, mappings, binary.path, v8.bias, layout)
        resolver = image.resolver(log)
        for raw in raws:
            resolver.resolve(raw)
        return image
    finally:
        target.close()
