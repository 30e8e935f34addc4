"""The program in the kernel, loaded, and what it and we tell each other.

`bpf/abi.h` describes the maps and records; the structures here are the same in Python.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from jsspy.errors import MalformedData
from jsspy.linux import bpf
from jsspy.model.capture import CapturePlan, Registers

OBJECT: Final = Path(__file__).with_name("walk.bpf.o")
"""Compiled from bpf/walk.bpf.c when the package is built."""

# abi.h
MAX_THREADS: Final = 4096
MAX_PLANS: Final = 256
MAX_COUNTED: Final = 16384
MAX_CODE_AREAS: Final = 4
MAX_ISOLATE_BYTES: Final = 256
RED_ZONE_BYTES: Final = 128
WINDOW_BYTES: Final = 72
WINDOW_BELOW: Final = 40
SCRATCH_BYTES: Final = 416_736
PLAN: Final = struct.Struct("<4Q3Q2I2I4i4i5III2iI8Q")
THREAD: Final = struct.Struct("<2QIIQ")
NAP: Final = struct.Struct("<2QIHH")
WAKE: Final = struct.Struct("<2Q2I")
HEADER: Final = struct.Struct(f"<Q6IQ21Q2Q{2 * MAX_ISOLATE_BYTES}s{RED_ZONE_BYTES}s")
PIECE: Final = struct.Struct("<2Q")
COMPLETE, TOO_DEEP, RED_ZONE, SWITCHED = 1, 2, 4, 8
NAP_PREEMPTED, NAP_DEAD, SWITCH_COOKIE = 0x8000, 0x80, 0x10000
_ABI: Final = struct.pack("<3I", HEADER.size, SCRATCH_BYTES, PLAN.size)
STEP_SEND: Final = 0
STAT_TICKS, STAT_RING_FULL, STAT_NO_USER, STAT_COUNT = 0, 1, 2, 3

_NO_MARKER: Final = (1 << 64) - 1


def encode_plan(plan: CapturePlan, code: Sequence[tuple[int, int]] = ()) -> bytes:
    """Return a plan as the program in the kernel reads it.

    Args:
        plan: The plan.
        code: Where code is, start and size, if stacks are to be counted.

    Raises:
        ValueError: It asks for more than a record has room for.
    """
    slots = plan.frame_slots or (plan.marker_slot, plan.follow_slot, 0, 0, 0)
    sizes = (plan.isolate_size, plan.isolate_size_2)
    if max(sizes) > MAX_ISOLATE_BYTES:
        raise ValueError(f"a window of the isolate has more than {MAX_ISOLATE_BYTES} bytes")
    markers = [*plan.entry_markers] or [_NO_MARKER]
    registers = [Registers._fields.index(name) for name in plan.follow_registers]
    return PLAN.pack(
        *_fill(markers, 4, markers[0]),
        *(plan.tag, plan.tag_mask, plan.detail_mask),
        *(plan.isolate_start, plan.isolate_start_2, *sizes),
        *_fill(list(plan.exit_slots), 4, -1),
        *_fill(list(plan.saved_exit_slots), 4, 0),
        *map(_window_index, slots),
        *(_window_index(plan.marker_slot), plan.follow_word),
        *_fill(registers, 2, -1),
        bool(code),
        *_fill([start for start, _ in code], MAX_CODE_AREAS, 0),
        *_fill([size for _, size in code], MAX_CODE_AREAS, 0),
    )


def _fill(values: list[int], count: int, filler: int) -> list[int]:
    if len(values) > count:
        raise ValueError(f"a plan has {len(values)} slots of a kind; {count} can be walked with")
    return values + [filler] * (count - len(values))


def _window_index(slot: int) -> int:
    if slot % 8 or not -WINDOW_BELOW <= slot <= WINDOW_BYTES - WINDOW_BELOW - 8:
        raise ValueError(f"slot {slot} of a frame is out of the window that is read")
    return (slot + WINDOW_BELOW) // 8


class Nap(NamedTuple):
    """What the program keeps of a thread that it has seen leave its CPU."""

    task: int
    since_ns: int
    switches: int
    state: int
    is_walked: int


class Kernel:
    """What is loaded into the kernel, once per engine.

    Args:
        ring_bytes: Room for records; a power of two.
        switches: Take stacks as threads leave their CPU, too.

    Raises:
        bpf.Refused: The kernel does not take it.
        MalformedData: The object file is none.
        OSError: The object file cannot be read.
    """

    def __init__(self, ring_bytes: int, *, switches: bool = False) -> None:
        code = bpf.Object(OBJECT)
        if code.data.get("abi") != _ABI:
            raise MalformedData(OBJECT.name, "it was built from other sources: pip install again")
        self._open: list[bpf.Map | bpf.Program | bpf.RawTracepoint] = []
        try:
            self.plans = self._map(bpf.MapType.ARRAY, PLAN.size, MAX_PLANS, "plans")
            self.threads = self._map(bpf.MapType.ARRAY, THREAD.size, MAX_THREADS, "threads")
            cpus = bpf.possible_cpus()
            scratch = self._map(bpf.MapType.ARRAY, SCRATCH_BYTES, cpus, "scratch")
            steps = self._map(bpf.MapType.PROG_ARRAY, 4, 1, "steps")
            ring = self._map(bpf.MapType.RINGBUF, 0, ring_bytes, "ring")
            self.stats = self._map(bpf.MapType.PERCPU_ARRAY, 8, STAT_COUNT, "stats")
            self._naps = self._map(bpf.MapType.ARRAY, NAP.size, MAX_THREADS, "naps")
            # Threads of ours, found by the task that the scheduler switches to.
            self._tasks = self._map(bpf.MapType.HASH, 4, MAX_THREADS, "tasks")
            self._counts = self._map(bpf.MapType.HASH, 8, MAX_COUNTED, "counts")
            maps = {
                "plans": self.plans.fd,
                "threads": self.threads.fd,
                "scratch": scratch.fd,
                "steps": steps.fd,
                "ring": ring.fd,
                "stats": self.stats.fd,
                "naps": self._naps.fd,
                "tasks": self._tasks.fd,
                "counts": self._counts.fd,
            }
            send = self._program(code, "send", maps)
            steps.update(STEP_SEND, struct.pack("<I", send.fd))
            self.program = self._program(code, "sample", maps)
            self.ring = bpf.Ring(ring, ring_bytes)
            if switches:
                kind = bpf.ProgramType.RAW_TRACEPOINT
                program = bpf.Program(kind, code.code("raw_tp/switched", maps), "jsspy_switched")
                self._open.append(program)
                self._open.append(bpf.RawTracepoint(program, "sched_switch"))
        except BaseException:
            self._close_all()
            raise

    def _map(self, kind: bpf.MapType, value_size: int, count: int, name: str) -> bpf.Map:
        made = bpf.Map(kind, value_size, count, f"jsspy_{name}")
        self._open.append(made)
        return made

    def _program(self, code: bpf.Object, name: str, maps: Mapping[str, int]) -> bpf.Program:
        kind = bpf.ProgramType.PERF_EVENT
        program = bpf.Program(kind, code.code(f"perf_event/{name}", maps), f"jsspy_{name}")
        self._open.append(program)
        return program

    def count(self, index: int) -> int:
        """Return a counter, summed over all CPUs."""
        values = self.stats.lookup(index)
        return sum(struct.unpack(f"<{len(values) // 8}Q", values))

    def take_count(self, key: int) -> int:
        """Return how often a stack came again since it was sent; it will be sent anew."""
        value = self._counts.take(key)
        return int.from_bytes(value, "little") if value is not None else 0

    def nap(self, index: int) -> Nap:
        """Return what is kept of a thread's naps; of none all is 0."""
        return Nap._make(NAP.unpack(self._naps.lookup(index)))

    def forget_naps(self, index: int) -> None:
        """Have an index free for another thread. Its events must be closed."""
        self._tasks.delete(self.nap(index).task)
        self._naps.update(index, bytes(NAP.size))

    def _close_all(self) -> None:
        for it in self._open:
            it.close()
        self._open.clear()

    def close(self) -> None:
        """Unload everything."""
        self.ring.close()
        self._close_all()
