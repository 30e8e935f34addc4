"""Which threads run JavaScript, and where their Isolates are, without stopping any of them.

V8 finds the isolate of the current thread in a thread-local variable (V8 11 and later, Node 20) or
under a pthread key (before). Both hang off the thread pointer, fs_base, which ptrace would tell of
a stopped thread only. But fs_base is the address of the C library's thread descriptor, and that
can be recognized in memory: it holds its own address and its thread id.

    glibc (struct pthread)              musl (struct pthread)
    +0x00   its own address             +0x00   its own address
    +0x08   dtv                         +0x10   previous, next: a ring
    +0x10   its own address             +0x30   tid
    +0x2c0  next, previous in a list
    +0x2d0  tid                         +0x80   pointer to the data of pthread keys
    +0x310  data of pthread keys

A thread's descriptor lies at the upper end of its stack, below which there is a guard area. From
those found there the list leads to the others: glibc keeps one list of threads that it made stacks
for, and right behind its head that of the others, which has the main thread (before glibc 2.34 the
heads are apart; then the main thread is looked for in all anonymous memory).

Sources: nptl/descr.h, sysdeps/x86_64/nptl/tls.h and sysdeps/generic/ldsodefs.h at glibc 2.36;
src/internal/pthread_impl.h at musl 1.2.5.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from jsspy.errors import FaultError
from jsspy.model.capture import Registers, ThreadPlan
from jsspy.model.units import Address, Tid
from jsspy.target.elf import ElfFile
from jsspy.target.maps import Mapping
from jsspy.target.memory import Memory
from jsspy.target.process import Target, V8Binary
from jsspy.v8.heap import Heap
from jsspy.v8.layout import Layout

MAX_THREADS = 4096
"""Descriptors followed from one to the next."""

MAX_MODULES = 64
"""Modules with thread-local variables that are tried for V8 as a shared library."""

_PT_INTERP = 3

_TAIL_SIZE = 0x1000
"""Bytes at the end of a stack: glibc's descriptor has 0x900, thread-local variables come below."""

_MAIN_TAIL_SIZE = 0x8000
"""The main thread's descriptor is made by the dynamic linker among other small things."""

_MAX_KEYS = 32
"""Keys whose data is in glibc's descriptor itself; Node makes its first in the first dozen."""

_ISOLATE_WORDS = 1024
"""Of an isolate; the first roots, most of them maps, are among them in all versions."""

_MAPS_IN_ISOLATE = 4

_MIN_PAUSE_S = 0.01
"""How long after it was looked for in vain a thread's descriptor is looked for again; then twice
as long, and so on: some threads have none, and a look costs a millisecond."""

_SELF_WORDS = 16
"""Words from one before the context on, among which an isolate has its own address: it is the
first up to V8 11, and the 12th since."""

_GUARD_SIZE = 0x200
"""Bytes from the words of fast C calls on (or from the start) within which the stack limits are."""

_MAIN_STACK_SIZE = 64 << 20
"""How far below its end the main stack's limit may be; the mapping grows towards it."""


class _Library(NamedTuple):
    """Where a C library keeps things in its thread descriptor."""

    tid: int
    links: int
    """Address of the next descriptor's `links`, or of a list head (glibc); the next descriptor."""
    links_to_links: bool
    self_again: int
    """A second place that holds its own address; 0 where there is none."""
    back: int
    """Where the next descriptor has this one's address; 0 where `self_again` tells enough."""
    alignment: int
    """Of descriptors. musl aligns them as the program's thread-local variables are."""
    keys: int
    """The data of pthread keys (glibc), or a pointer to it."""
    keys_are_behind_pointer: bool
    key_size: int
    key_data: int
    """Where in the data of a key its value is."""


_GLIBC = _Library(0x2D0, 0x2C0, True, 0x10, 0, 64, 0x310, False, 16, 8)
_MUSL = _Library(0x30, 0x18, False, 0, 0x10, 8, 0x80, True, 8, 0)


class _Descriptor(NamedTuple):
    address: int
    """What fs_base is in this thread."""
    tid: int
    """As the thread itself sees it."""
    next: int


class ThreadFinder:
    """Finds the threads of one target that own an isolate; remembers what cannot change."""

    def __init__(
        self,
        target: Target,
        v8: V8Binary,
        layout: Layout,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._clock = clock
        self._v8 = v8
        self._layout = layout
        self._heap = Heap(target.memory, layout)
        self._library = _GLIBC
        self._descriptors: dict[Tid, int] = {}
        self._without: set[Tid] = set()
        """Threads whose descriptor was looked for in vain."""
        self._pause_s = _MIN_PAUSE_S
        self._next_look_s = 0.0
        """When they are looked for again: a thread may have been seen before it had one."""
        self._isolates: set[int] = set()
        self._key: int | None = None

    def find(self, *, others: bool = False) -> list[ThreadPlan]:
        """Return the threads that own an isolate now, ascending by thread id.

        Args:
            others: Return those that have none, too, if any has one.

        Raises:
            ProcessExited: The target is gone.
        """
        tids = self._target.threads()
        self._forget(tids)
        unknown = {tid for tid in tids if tid not in self._descriptors}
        if not unknown <= self._without:
            self._pause_s = _MIN_PAUSE_S
            self._find_descriptors(tids)
        elif unknown and self._clock() >= self._next_look_s:
            self._pause_s *= 2
            self._find_descriptors(tids)
        claims: dict[int, list[tuple[Tid, int]]] = {}
        for tid in tids:
            descriptor = self._descriptors.get(tid)
            isolate = 0 if descriptor is None else self._find_isolate(descriptor)
            if descriptor is not None and isolate:
                claims.setdefault(isolate, []).append((tid, descriptor))
        plans = []
        for isolate, claimants in claims.items():
            tid, descriptor = claimants[0]
            if len(claimants) > 1:
                # V8's helper threads enter an isolate for a while, to collect its garbage.
                owners = (one for one in claimants if self._is_owner(isolate, *one))
                tid, descriptor = next(owners, claimants[0])
            end = self._stack_end(tid, descriptor)
            plans.append(ThreadPlan(tid, Address(isolate), Address(end)))
        if plans and others:
            with_isolate = {plan.tid for plan in plans}
            plans += [
                ThreadPlan(tid, Address(0), Address(self._stack_end(tid, descriptor)))
                for tid, descriptor in self._descriptors.items()
                if tid not in with_isolate
            ]
        return sorted(plans)

    def _forget(self, tids: list[Tid]) -> None:
        """Drop threads that ended, also where another took their descriptor."""
        alive = set(tids)
        self._without &= alive
        known = list(self._descriptors.items())
        found = self._target.memory.read_many(
            [(descriptor + self._library.tid, 4) for _, descriptor in known]
        )
        for (tid, _), data in zip(known, found, strict=True):
            seen = -1 if data is None else int.from_bytes(data, "little")
            if tid not in alive or seen != self._target.namespace_tid(tid):
                del self._descriptors[tid]

    def _find_descriptors(self, tids: list[Tid]) -> None:
        """Find the descriptors of all threads: at the ends of stacks, by the list, anywhere."""
        memory = self._target.memory
        wanted = {self._target.namespace_tid(tid): tid for tid in tids}
        mappings = self._target.address_space(refresh=True).mappings
        for library in (_GLIBC, _MUSL):
            found = {d.tid: d for d in _iter_stack_descriptors(memory, mappings, library, wanted)}
            for descriptor in list(found.values())[:1]:
                for other in _iter_list(memory, descriptor, library):
                    found.setdefault(other.tid, other)
            if not wanted.keys() <= found.keys():
                areas = [m for m in mappings if _is_writable(m)]
                for other in _iter_descriptors(memory, areas, _MAIN_TAIL_SIZE, library, wanted):
                    found.setdefault(other.tid, other)
            found = {tid: descriptor for tid, descriptor in found.items() if tid in wanted}
            if found:
                self._library = library
                break
        self._descriptors = {wanted[tid]: d.address for tid, d in found.items()}
        self._without = set(tids) - self._descriptors.keys()
        self._next_look_s = self._clock() + self._pause_s

    def _find_isolate(self, descriptor: int) -> int:
        """Return the isolate of a thread; 0 if it has none."""
        for slot in self._iter_slots(descriptor):
            try:
                isolate = self._heap.read_word(slot)
            except FaultError:
                continue
            if isolate in self._isolates:
                return isolate
            if is_isolate(self._heap, isolate):
                self._isolates.add(isolate)
                return isolate
        return 0

    def _iter_slots(self, descriptor: int) -> Iterator[int]:
        """Yield where a thread may keep its isolate."""
        offset = self._layout.isolate_tls_offset
        if offset is None:
            key = self._read_key()
            if key is not None:
                yield from self._iter_key_slot(descriptor, key)
            return
        if is_executable(self._v8.elf):
            yield descriptor - tls_size(self._v8.elf) + offset
            return
        yield from _iter_module_slots(self._heap, descriptor, self._library, offset)

    def _iter_key_slot(self, descriptor: int, key: int) -> Iterator[int]:
        library = self._library
        data = descriptor + library.keys
        if library.keys_are_behind_pointer:
            try:
                data = self._heap.read_word(data)
            except FaultError:
                return
        yield data + library.key_size * key + library.key_data

    def _read_key(self) -> int | None:
        if self._key is None and self._layout.isolate_key_address is not None:
            address = self._layout.isolate_key_address + self._v8.bias
            try:
                key = int.from_bytes(self._target.memory.read(Address(address), 4), "little")
            except FaultError:
                return None
            if key >= _MAX_KEYS:
                return None
            if not self._isolates:
                # V8 may not have made its key yet, and 0 is a key like any other.
                return key
            self._key = key
        return self._key

    def _is_owner(self, isolate: int, tid: Tid, descriptor: int) -> bool:
        """Say whether an isolate has its stack limit, a word near its start, in this stack."""
        space = self._target.address_space()
        end = self._stack_end(tid, descriptor)
        stack = space.find(end - 1)
        size = (self._layout.isolate.fast_c_call_caller_fp or 0) + _GUARD_SIZE
        if stack is None:
            return False
        start = end - _MAIN_STACK_SIZE if stack.path == "[stack]" else stack.start
        try:
            data = self._target.memory.read(Address(isolate), size // 8 * 8)
        except FaultError:
            return False
        return any(start <= word < end for (word,) in struct.iter_unpack("<Q", data))

    def _stack_end(self, tid: Tid, descriptor: int) -> int:
        """Return where the stack ends: at the descriptor, or at the end of the main stack."""
        if int(tid) == self._target.pid:
            for mapping in self._target.address_space().mappings:
                if mapping.path == "[stack]":
                    return mapping.end
        return descriptor


def find_threads(target: Target, v8: V8Binary, layout: Layout) -> list[ThreadPlan]:
    """Return the threads that own an isolate. To ask again and again, keep a `ThreadFinder`.

    Raises:
        ProcessExited: The target is gone.
    """
    return ThreadFinder(target, v8, layout).find()


def isolate_from_registers(heap: Heap, registers: Registers) -> int:
    """Return the isolate that a thread works for, by its registers; 0 if they do not tell.

    Generated code keeps the isolate, plus a bias, in r13. It is believed only if it checks out, so
    this may be asked of any registers; where the pc is in generated code it always answers. The
    way out for C libraries whose thread descriptors are not known.
    """
    isolate = registers.r13 - heap.layout.isolate.root_register_bias
    return isolate if is_isolate(heap, isolate) else 0


def is_isolate(heap: Heap, address: int) -> bool:
    """Say whether an Isolate begins at an address: it names itself, and has maps among its roots.

    ThreadLocalTop, of which the context is a field, has a pointer to the isolate close by.
    Source: src/execution/thread-local-top.h at 7.8.279 and 13.6.233, isolate_.
    """
    if address <= 0 or address % 8:
        return False
    memory = heap.memory
    context = heap.layout.isolate.context
    try:
        if context is not None:
            near = memory.read(Address(address + context - 8), _SELF_WORDS * 8)
            if address not in struct.unpack(f"<{_SELF_WORDS}Q", near):
                return False
        data = memory.read(Address(address), 8 * _ISOLATE_WORDS)
    except FaultError:
        return False
    maps = 0
    for word in struct.unpack(f"<{_ISOLATE_WORDS}Q", data):
        if word & 3 == 1 and heap.instance_type(word) == heap.layout.types.map:
            maps += 1
            if maps == _MAPS_IN_ISOLATE:
                return True
    return False


def is_executable(elf: ElfFile) -> bool:
    """Say whether a file is a program rather than a library: it names its dynamic linker."""
    return any(segment.type == _PT_INTERP for segment in elf.segments) or not elf.is_relocatable


def tls_size(elf: ElfFile) -> int:
    """Return how far below the thread pointer the program's thread-local variables begin.

    Source: "ELF Handling For Thread-Local Storage", variant II; elf/dl-tls.c at glibc 2.36.
    """
    segment = elf.tls
    if segment is None:
        return 0
    alignment = max(segment.alignment, 1)
    size = segment.memory_size + segment.address % alignment
    return (size + alignment - 1) // alignment * alignment - segment.address % alignment


def _is_writable(mapping: Mapping) -> bool:
    return mapping.permissions.startswith("rw-p") and mapping.path in {"", "[heap]"}


def _iter_stack_descriptors(
    memory: Memory, mappings: tuple[Mapping, ...], library: _Library, wanted: dict[int, Tid]
) -> Iterator[_Descriptor]:
    """Yield descriptors at the ends of stacks: writable memory right above a guard area."""
    stacks = [
        mapping
        for guard, mapping in pairwise(mappings)
        if _is_writable(mapping)
        and guard.end == mapping.start
        and guard.permissions.startswith("---")
    ]
    return _iter_descriptors(memory, stacks, _TAIL_SIZE, library, wanted)


def _iter_descriptors(
    memory: Memory, areas: list[Mapping], size: int, library: _Library, wanted: dict[int, Tid]
) -> Iterator[_Descriptor]:
    """Yield the descriptors of wanted threads within the last `size` bytes of some mappings."""
    ranges = [(max(area.start, area.end - size), area.end) for area in areas]
    found = memory.read_many([(start, end - start) for start, end in ranges])
    for (start, _), data in zip(ranges, found, strict=True):
        if data is None:
            continue
        step = library.alignment
        firsts = struct.unpack_from(f"<{len(data) // 8}Q", data)[:: step // 8]
        for index, first in enumerate(firsts):
            if first == start + step * index:
                descriptor = _decode_descriptor(data[step * index :], first, library)
                if (
                    descriptor is not None
                    and descriptor.tid in wanted
                    and _is_linked(memory, descriptor, library)
                ):
                    yield descriptor


def _is_linked(memory: Memory, descriptor: _Descriptor, library: _Library) -> bool:
    """Say whether the next descriptor leads back to this one.

    A stack may hold its own address and, by chance, a thread id: what was read of /proc, say.
    """
    if not library.back:
        return True
    try:
        word = memory.read(Address(descriptor.next + library.back), 8)
    except FaultError:
        return False
    return int.from_bytes(word, "little") == descriptor.address


def _decode_descriptor(data: bytes, address: int, library: _Library) -> _Descriptor | None:
    """Return the descriptor that data begins with; None if it is none, or not all there."""
    again = library.self_again
    if len(data) < library.tid + 8 or data[again : again + 8] != data[:8]:
        return None
    if int.from_bytes(data[:8], "little") != address:
        return None
    link = int.from_bytes(data[library.links : library.links + 8], "little")
    tid = int.from_bytes(data[library.tid : library.tid + 4], "little")
    return _Descriptor(address, tid, link - library.links if library.links_to_links else link)


def _iter_list(memory: Memory, first: _Descriptor, library: _Library) -> Iterator[_Descriptor]:
    """Yield the descriptors that follow one in its list, and those of the list behind it."""
    descriptor = first
    lists = 1
    for _ in range(MAX_THREADS):
        address = descriptor.next
        if address == first.address:
            return
        following = _read_descriptor(memory, address, library)
        if following is None and library.links_to_links and lists == 1:
            # The head of the list of threads with stacks; the next head is right behind it.
            lists = 2
            behind = address + library.links + 16
            try:
                link = int.from_bytes(memory.read(Address(behind), 8), "little")
            except FaultError:
                return
            following = _read_descriptor(memory, link - library.links, library)
        if following is None:
            return
        yield following
        descriptor = following


def _read_descriptor(memory: Memory, address: int, library: _Library) -> _Descriptor | None:
    if address <= 0 or address % library.alignment:
        return None
    try:
        data = memory.read(Address(address), library.tid + 8)
    except FaultError:
        return None
    return _decode_descriptor(data, address, library)


def _iter_module_slots(
    heap: Heap, descriptor: int, library: _Library, offset: int
) -> Iterator[int]:
    """Yield where a variable at an offset in the thread-local block of some module may be.

    The vector at descriptor + 8 has one pointer per module: 16 bytes each and its length in front
    (glibc), or 8 bytes each and its length as the first (musl). What cannot be V8's is told by
    what the slot holds.
    """
    size = 16 if library.links_to_links else 8
    try:
        vector = heap.read_word(descriptor + 8)
        count = heap.read_word(vector - 16 if library.links_to_links else vector)
        blocks = heap.memory.read(Address(vector + size), size * min(count, MAX_MODULES))
    except FaultError:
        return
    for position in range(0, len(blocks), size):
        block = int.from_bytes(blocks[position : position + 8], "little")
        if block not in {0, (1 << 64) - 1}:
            yield block + offset
