"""Thread descriptors and isolates in memory that is made up."""

from __future__ import annotations

from typing import NamedTuple, cast

import pytest

from builders import LAYOUT, OLD_LAYOUT, HeapBuilder
from jsspy.errors import FaultError
from jsspy.model.capture import Registers
from jsspy.model.units import Address, Tid
from jsspy.target.elf import ElfFile, Segment
from jsspy.target.maps import AddressSpace, Mapping
from jsspy.target.memory import Memory
from jsspy.target.process import Target, V8Binary
from jsspy.v8.isolates import (
    ThreadFinder,
    find_threads,
    is_isolate,
    isolate_from_registers,
    tls_size,
)
from jsspy.v8.layout import Layout

PID = 100
STACKS = 0x10000000
STACK_SIZE = 0x8000
MAIN_STACK = 0x70000000
DYNAMIC_LINKER_MEMORY = 0x60000000
KEY_ADDRESS = 0x2000000


class Program(NamedTuple):
    """Stands in for the ElfFile of a program: thread-local variables and a dynamic linker."""

    segments: tuple[Segment, ...]
    tls: Segment | None
    is_relocatable: bool = False


TLS = Segment(7, 4, 0, 0x1000, 0, 0x1A8, 8)
ELF = cast("ElfFile", Program((TLS, Segment(3, 4, 0, 0, 0, 0, 1)), TLS))
LIBRARY = cast("ElfFile", Program((TLS,), TLS, is_relocatable=True))


class Process:
    """Stands in for a Target: threads whose descriptors are in made-up memory."""

    def __init__(self, layout: Layout = LAYOUT) -> None:
        self.pid = PID
        self.builder = HeapBuilder(layout)
        self.memory: Memory = self.builder
        self.mappings: list[Mapping] = []
        self.now = 0.0
        self.descriptors: dict[int, int] = {}
        self._map(MAIN_STACK, 0x2000, "rw-p", "[stack]")
        self._map(DYNAMIC_LINKER_MEMORY, 0x3000, "rw-p")
        if layout.isolate_key_address is not None:
            self._map(layout.isolate_key_address & ~0xFFF, 0x1000, "rw-p", "node")
            self.builder.write_bytes(layout.isolate_key_address, (3).to_bytes(4, "little"))

    def _map(self, start: int, size: int, permissions: str, path: str = "") -> None:
        for page in range(start, start + size, 4096):
            self.builder.pages[page] = bytearray(4096)
        self.mappings.append(
            Mapping(Address(start), Address(start + size), permissions, 0, 0, path)
        )

    def isolate(self, stack: int = 0) -> int:
        """Return an isolate with maps among its roots, and a stack limit."""
        maps = [self.builder.map_of(kind) for kind in range(1, 8)]
        isolate = self.builder.allocate(0x4000) - 1
        for index, word in enumerate(maps):
            self.builder.write(isolate + 0x400 + 8 * index, word)
        self.builder.write(isolate + 0x10, stack)
        context = self.builder.layout.isolate.context
        assert context is not None
        self.builder.write(isolate + context + 0x50, isolate)
        return isolate

    def thread(self, tid: int, isolate: int, *, in_list_only: bool = False) -> int:
        """Add a thread made by the C library; returns its descriptor."""
        if tid == PID:
            descriptor = DYNAMIC_LINKER_MEMORY + 0x740
        else:
            stack = STACKS + (tid - PID) * 0x100000
            self._map(stack, STACK_SIZE, "rw-p")
            if not in_list_only:
                guard = Mapping(Address(stack - 4096), Address(stack), "---p", 0, 0, "")
                self.mappings.append(guard)
            descriptor = stack + STACK_SIZE - 0x940
        write = self.builder.write
        write(descriptor, descriptor)
        write(descriptor + 0x10, descriptor)
        write(descriptor + 0x2D0, tid)
        write(descriptor + 0x310 + 16 * 3 + 8, isolate)
        write(descriptor - 0x1A8 + 264, isolate)
        self.descriptors[tid] = descriptor
        return descriptor

    def musl_thread(self, tid: int, isolate: int) -> int:
        """Add a thread as musl makes it: its descriptor is aligned to 8 bytes, below its keys."""
        stack = STACKS + (tid - PID) * 0x100000
        self._map(stack, STACK_SIZE, "rw-p")
        self.mappings.append(Mapping(Address(stack - 4096), Address(stack), "---p", 0, 0, ""))
        keys = stack + STACK_SIZE - 0x400
        descriptor = keys - 0x1C8
        write = self.builder.write
        write(descriptor, descriptor)
        write(descriptor + 0x30, tid)
        write(descriptor + 0x80, keys)
        write(keys + 8 * 3, isolate)
        write(descriptor - 0x1A8 + 264, isolate)
        self.descriptors[tid] = descriptor
        others = list(self.descriptors.values())
        for here, following in zip(others, [*others[1:], others[0]], strict=True):
            write(here + 0x18, following)
            write(following + 0x10, here)
        return descriptor

    def link(self, head: int) -> None:
        """Link the descriptors as glibc does: those with stacks, and behind that head, main's."""
        made = [d + 0x2C0 for tid, d in self.descriptors.items() if tid != PID]
        ring = [head, *made]
        for here, following in zip(ring, [*ring[1:], head], strict=True):
            self.builder.write(here, following)
        main = self.descriptors[PID] + 0x2C0
        self.builder.write(head + 16, main)
        self.builder.write(main, head + 16)

    def threads(self) -> list[Tid]:
        return [Tid(tid) for tid in sorted(self.descriptors)]

    def namespace_tid(self, tid: Tid) -> int:
        return tid

    def address_space(self, *, refresh: bool = False) -> AddressSpace:
        del refresh
        return AddressSpace(self.mappings)

    def finder(self, elf: ElfFile = ELF) -> ThreadFinder:
        target = cast("Target", self)
        return ThreadFinder(target, V8Binary(elf, 0), self.builder.layout, lambda: self.now)


@pytest.mark.parametrize("layout", [LAYOUT, OLD_LAYOUT], ids=["variable", "key"])
@pytest.mark.parametrize("linked", [True, False])
def test_every_thread_with_an_isolate_is_found(layout: Layout, linked: bool) -> None:
    process = Process(layout)
    main, worker = process.isolate(), process.isolate()
    process.thread(PID, main)
    process.thread(101, 0)
    descriptor = process.thread(102, worker, in_list_only=linked)
    if linked:
        process.link(DYNAMIC_LINKER_MEMORY + 0x2000)
    plans = find_threads(cast("Target", process), V8Binary(ELF, 0), layout)
    assert plans == [(PID, main, MAIN_STACK + 0x2000), (102, worker, descriptor)]


def test_what_is_known_is_checked_and_new_threads_are_found() -> None:
    process = Process()
    isolate = process.isolate()
    process.thread(PID, process.isolate())
    process.thread(101, isolate)
    finder = process.finder()
    assert [plan.tid for plan in finder.find()] == [PID, 101]
    # 101 ends; its stack and descriptor serve 103, which has not yet entered an isolate.
    descriptor = process.descriptors.pop(101)
    process.descriptors[103] = descriptor
    process.builder.write(descriptor + 0x2D0, 103)
    process.builder.write(descriptor - 0x1A8 + 264, 0)
    assert [plan.tid for plan in finder.find()] == [PID]
    process.builder.write(descriptor - 0x1A8 + 264, isolate)
    assert [plan.tid for plan in finder.find()] == [PID, 103]


def test_a_key_that_was_read_too_early_is_read_again() -> None:
    process = Process(OLD_LAYOUT)
    assert OLD_LAYOUT.isolate_key_address is not None
    process.thread(PID, process.isolate())
    # V8 has not made its key yet: its variable is 0, which is a key of somebody else's.
    process.builder.write_bytes(OLD_LAYOUT.isolate_key_address, bytes(4))
    finder = process.finder()
    assert finder.find() == []
    process.builder.write_bytes(OLD_LAYOUT.isolate_key_address, (3).to_bytes(4, "little"))
    assert [plan.tid for plan in finder.find()] == [PID]


def test_a_thread_that_was_seen_too_early_is_looked_for_again() -> None:
    process = Process()
    process.thread(PID, process.isolate())
    descriptor = process.thread(101, process.isolate())
    process.builder.write(descriptor + 0x2D0, 0)
    finder = process.finder()
    assert [plan.tid for plan in finder.find()] == [PID]
    process.builder.write(descriptor + 0x2D0, 101)
    # Not at every look: that would cost too much where a thread has none for good.
    assert [plan.tid for plan in finder.find()] == [PID]
    process.now += 0.02
    assert [plan.tid for plan in finder.find()] == [PID, 101]


def test_a_helper_inside_an_isolate_is_not_its_owner() -> None:
    process = Process()
    owner_stack = STACKS + 2 * 0x100000
    isolate = process.isolate(stack=owner_stack + 0x100)
    process.thread(PID, process.isolate())
    process.thread(101, isolate)
    process.thread(102, isolate)
    assert [(plan.tid, plan.isolate == isolate) for plan in process.finder().find()] == [
        (PID, False),
        (102, True),
    ]


def test_library_is_found_by_the_vector_of_modules() -> None:
    process = Process()
    isolate = process.isolate()
    descriptor = process.thread(PID, 0)
    vector = process.builder.allocate(16 * 6) - 1 + 16
    block = process.builder.allocate(0x200) - 1
    other = process.builder.allocate(0x200) - 1
    process.builder.write(vector - 16, 4)
    process.builder.write(vector + 16, other)
    process.builder.write(vector + 32, (1 << 64) - 1)
    process.builder.write(vector + 48, block)
    process.builder.write(block + 264, isolate)
    process.builder.write(descriptor + 8, vector)
    assert [plan.isolate for plan in process.finder(LIBRARY).find()] == [isolate]


@pytest.mark.parametrize("layout", [LAYOUT, OLD_LAYOUT])
def test_threads_of_musl_are_found_by_their_ring(layout: Layout) -> None:
    process = Process(layout)
    isolates = [process.isolate() for _ in range(2)]
    process.musl_thread(101, isolates[0])
    process.musl_thread(102, 0)
    descriptor = process.musl_thread(103, isolates[1])
    # What looks like a descriptor in the stack of another thread: nothing leads back to it.
    false = process.descriptors[102] - 0x368
    process.builder.write(false, false)
    process.builder.write(false + 0x18, descriptor)
    process.builder.write(false + 0x30, 101)
    found = process.finder().find()
    assert [(plan.tid, plan.isolate) for plan in found] == [(101, isolates[0]), (103, isolates[1])]
    assert found[1].stack_end == descriptor


def test_threads_without_an_isolate_are_given_on_request() -> None:
    process = Process()
    isolate = process.isolate()
    process.thread(PID, isolate)
    descriptor = process.thread(101, 0)
    found = process.finder().find(others=True)
    assert [(plan.tid, plan.isolate) for plan in found] == [(PID, isolate), (101, 0)]
    assert found[1].stack_end == descriptor


def test_before_there_is_an_isolate_no_thread_is_given() -> None:
    process = Process()
    process.thread(PID, 0)
    assert process.finder().find(others=True) == []


def test_cycles_in_lists_end() -> None:
    process = Process()
    process.thread(PID, process.isolate())
    first = process.thread(101, 0)
    second = process.thread(102, 0, in_list_only=True)
    process.builder.write(first + 0x2C0, second + 0x2C0)
    process.builder.write(second + 0x2C0, second + 0x2C0)
    assert [plan.tid for plan in process.finder().find()] == [PID]


def test_isolate_is_told_by_its_maps() -> None:
    process = Process()
    isolate = process.isolate()
    heap = process.builder.heap()
    assert is_isolate(heap, isolate)
    assert not is_isolate(heap, isolate + 4)
    assert not is_isolate(heap, isolate + 8)
    assert not is_isolate(heap, isolate - 8)
    assert not is_isolate(heap, 0)
    assert not is_isolate(heap, MAIN_STACK)
    assert isolate_from_registers(heap, Registers(r13=isolate + 128)) == isolate
    assert isolate_from_registers(heap, Registers(r13=0x1234)) == 0
    with pytest.raises(FaultError):
        heap.read_word(0x5000)


@pytest.mark.parametrize(
    ("size", "alignment", "address", "expected"),
    [(0x1A8, 8, 0x1000, 0x1A8), (0x1A4, 8, 0x1000, 0x1A8), (1, 64, 0, 64), (8, 0, 0, 8)],
)
def test_tls_size(size: int, alignment: int, address: int, expected: int) -> None:
    segment = Segment(7, 4, 0, address, 0, size, alignment)
    assert tls_size(cast("ElfFile", Program((segment,), segment))) == expected
