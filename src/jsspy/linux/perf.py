"""Perf events on one thread: the clock that samples, and the ring that it writes to.

Every event is the software clock of one task: it counts the CPU time of the thread and strikes
once per period, wherever the thread runs. It follows neither fork nor clone: threads that appear
later get events of their own. It ends with the program: what comes by exec is another one (before
Linux 5.13 it strikes there, too, until it is closed).

Records in a ring are read in the order in which they were written; those of a kind that we do not
know are skipped. Times are CLOCK_MONOTONIC.

Source: include/uapi/linux/perf_event.h, arch/x86/include/uapi/asm/perf_regs.h and
kernel/events/core.c (perf_output_sample), at v6.12.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import time
from operator import itemgetter
from typing import Final, NamedTuple

from jsspy.errors import JsspyError, ProcessExited
from jsspy.linux import libc
from jsspy.model.capture import Registers

_NR_PERF_EVENT_OPEN: Final = 298
_FD_CLOEXEC: Final = 8

_TYPE_SOFTWARE: Final = 1
_CPU_CLOCK: Final = 0
_CONTEXT_SWITCHES: Final = 3

_SAMPLE_TID: Final = 1 << 1
_SAMPLE_TIME: Final = 1 << 2
_SAMPLE_CALLCHAIN: Final = 1 << 5
_SAMPLE_REGS_USER: Final = 1 << 12
_SAMPLE_STACK_USER: Final = 1 << 13

_DISABLED: Final = 1 << 0
_EXCLUDE_KERNEL: Final = 1 << 5
_EXCLUDE_HYPERVISOR: Final = 1 << 6
_EXCLUDE_CALLCHAIN_USER: Final = 1 << 22
_USE_CLOCKID: Final = 1 << 25
_REMOVE_ON_EXEC: Final = 1 << 36
"""Linux 5.13; EINVAL before."""

_IOC_ENABLE: Final = 0x2400
_IOC_PERIOD: Final = 0x40082404

_RECORD_LOST: Final = 2
_RECORD_SAMPLE: Final = 9

_CONTEXT_FIRST: Final = -4095
"""From here on entries of a call chain are marks (`PERF_CONTEXT_*`)."""

_ATTRIBUTES: Final = struct.Struct("<IIQQQQQIIQQQQIiQIHH")
"""struct perf_event_attr up to sample_max_stack (Linux 4.7)."""

_REGISTER_BITS: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "eflags", "cs", "ss"),
    *("", "", "", ""),  # ds, es, fs, gs: not available
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
_REGISTER_MASK: Final = sum(1 << bit for bit, name in enumerate(_REGISTER_BITS) if name)
_REGISTER_ORDER: Final = itemgetter(
    *(
        [name for name in _REGISTER_BITS if name].index(field) if field in _REGISTER_BITS else -1
        for field in Registers._fields
    )
)
"""Picks the fields of `Registers` from those of the kernel, behind which stands a 0."""

_HEADER: Final = struct.Struct("<IHH")
_LOST: Final = struct.Struct("<8xQ")
_TIME_AND_COUNT: Final = struct.Struct("<8xQQ")
_USER: Final = struct.Struct(f"<Q{sum(map(bool, _REGISTER_BITS))}QQ")
"""The kind of registers (0: none), the registers, and the room for the stack."""
_FRONT_BYTES: Final = 512
"""As much as is before the stack, unless it was 30 calls deep in the kernel."""
_MAX_RECORD_BYTES: Final = 1 << 16

_HEAD: Final = 1024 // 8
_TAIL: Final = 1032 // 8
"""`data_head` and `data_tail` of struct perf_event_mmap_page, in words."""


class Refused(JsspyError):
    """The kernel did not open an event.

    Attributes:
        code: errno.
    """

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"cannot {what}: {os.strerror(code).lower()}")
        self.code = code


class Dump(NamedTuple):
    """One sample of a ring."""

    time_ns: int
    registers: Registers
    stack: bytes
    """From rsp on, as much as was asked for or as could be read."""
    kernel_chain: tuple[int, ...]


class Front(NamedTuple):
    """What comes before the stack in a sample record."""

    time_ns: int
    registers: Registers
    kernel_chain: tuple[int, ...]
    size: int
    """Of all this, in bytes."""
    stack_room: int


def open_clock(
    tid: int,
    period_ns: int,
    *,
    kernel: bool,
    dump_bytes: int = 0,
    wakeup_samples: int = 1,
    enabled: bool = True,
) -> int:
    """Open the clock of a thread; return its file descriptor.

    Args:
        tid: The thread, as we see it.
        period_ns: CPU time between two samples.
        kernel: Strike in the kernel, too, and note its call chain.
        dump_bytes: Bytes of stack that each sample carries; 0 if there is no ring to write to.
        wakeup_samples: How many in the ring make it readable.
        enabled: Start now.

    Raises:
        ProcessExited: The thread is gone.
        Refused: Not permitted, or not supported.
    """
    fd = _open(tid, _CPU_CLOCK, period_ns, kernel, dump_bytes, wakeup_samples)
    if enabled:
        enable(fd)
    return fd


def open_switches(tid: int) -> int:
    """Open an event that strikes as a thread leaves its CPU; return its file descriptor.

    It is not enabled yet, and it strikes in the kernel: who may not look there gets nothing.

    Raises:
        ProcessExited: The thread is gone.
        Refused: Not permitted, or not supported.
    """
    return _open(tid, _CONTEXT_SWITCHES, 1)


def _open(
    tid: int,
    counter: int,
    period: int,
    kernel: bool = True,
    dump_bytes: int = 0,
    wakeup_samples: int = 1,
) -> int:
    kinds = 0
    if dump_bytes:
        kinds = _SAMPLE_TID | _SAMPLE_TIME | _SAMPLE_REGS_USER | _SAMPLE_STACK_USER
        if kernel:
            kinds |= _SAMPLE_CALLCHAIN
    flags = _DISABLED | _EXCLUDE_HYPERVISOR | _USE_CLOCKID
    flags |= _EXCLUDE_CALLCHAIN_USER if kernel else _EXCLUDE_KERNEL
    for more in (_REMOVE_ON_EXEC, 0):
        attributes = ctypes.create_string_buffer(
            _ATTRIBUTES.pack(
                *(_TYPE_SOFTWARE, _ATTRIBUTES.size, counter, period, kinds, 0, flags | more),
                *(wakeup_samples, 0, 0, 0, 0, _REGISTER_MASK if dump_bytes else 0, dump_bytes),
                *(time.CLOCK_MONOTONIC, 0, 0, 0, 0),
            )
        )
        address = ctypes.addressof(attributes)
        fd = int(libc.syscall(_NR_PERF_EVENT_OPEN, address, tid, -1, -1, _FD_CLOEXEC))
        if fd >= 0:
            return fd
        code = libc.get_errno()
        if code == errno.ESRCH:
            raise ProcessExited(f"thread {tid} is gone")
        if code != errno.EINVAL:
            break
    raise Refused(f"open a perf event on thread {tid}", code)


def enable(fd: int) -> None:
    """Start an event; one whose thread has ended stays silent."""
    libc.ioctl(fd, _IOC_ENABLE, 0)


def set_period(fd: int, period_ns: int) -> None:
    """Change the CPU time between two samples of a clock."""
    value = ctypes.c_uint64(period_ns)
    libc.ioctl(fd, _IOC_PERIOD, ctypes.addressof(value))


def read_count(fd: int) -> int:
    """Return the CPU time in ns that a clock has counted."""
    return int.from_bytes(os.read(fd, 8), "little")


class Ring:
    """The ring of one event, which must have been opened with `dump_bytes`.

    Attributes:
        lost: Records for which there was no room so far.
        size_bytes: Of all records that it has room for.

    Raises:
        Refused: It cannot be mapped: the user's limit of locked memory is reached (EPERM).
    """

    def __init__(self, fd: int, data_bytes: int, *, kernel: bool) -> None:
        self.fd = fd
        self.lost = 0
        self._kernel = kernel
        self.size_bytes = data_bytes
        try:
            self._map = mmap.mmap(fd, mmap.PAGESIZE + data_bytes)
        except OSError as err:
            raise Refused("map the ring of a perf event", err.errno or 0) from err
        self._view = memoryview(self._map)
        self._words = self._view[: mmap.PAGESIZE].cast("Q")
        self._data = self._view[mmap.PAGESIZE :]

    def read(self) -> list[Dump]:
        """Return the samples that have arrived, and make room."""
        head, tail = self._words[_HEAD], self._words[_TAIL]
        dumps = []
        while tail < head:
            # Records are multiples of 8 bytes, so a header is never split.
            kind, _, length = _HEADER.unpack_from(self._data, tail % self.size_bytes)
            if length < _HEADER.size or length > head - tail:
                tail = head  # cannot be; do not loop over it
                break
            if kind == _RECORD_SAMPLE:
                dump = self._read_sample(tail + _HEADER.size, tail + length)
                if dump is not None:
                    dumps.append(dump)
            elif kind == _RECORD_LOST:
                self.lost += _LOST.unpack(self._copy(tail + _HEADER.size, _LOST.size))[0]
            tail += length
        self._words[_TAIL] = tail
        return dumps

    def _copy(self, at: int, size: int) -> bytes:
        """Return bytes from a place that may be behind the end of the ring, or reach over it."""
        at %= self.size_bytes
        part = bytes(self._data[at : at + size])
        return part if len(part) == size else part + bytes(self._data[: size - len(part)])

    def _read_sample(self, start: int, end: int) -> Dump | None:
        """Return the sample between two places; None if it has no user registers.

        A record has room for the largest stack, and most of that is not written to: only what is
        in use is copied.
        """
        front = None
        for size in (_FRONT_BYTES, _MAX_RECORD_BYTES):
            front = front or decode_front(
                self._copy(start, min(end - start, size)), kernel=self._kernel
            )
        if front is None:
            return None
        stack, room = start + front.size, front.stack_room
        if not 0 < room <= end - stack - 8:
            return Dump(front.time_ns, front.registers, b"", front.kernel_chain)
        used = int.from_bytes(self._copy(stack + room, 8), "little")
        return Dump(
            front.time_ns,
            front.registers,
            self._copy(stack, min(used, room)),
            front.kernel_chain,
        )

    def close(self) -> None:
        """Unmap it."""
        for view in (self._words, self._data, self._view):
            view.release()
        self._map.close()


def decode_front(record: bytes, *, kernel: bool) -> Front | None:
    """Decode what comes before the stack in a sample record; None if it has no user registers.

    Args:
        record: Thread ids, time, call chain (with `kernel`), user registers, size of the stack.
        kernel: The event was opened with it.
    """
    try:
        time_ns, count = _TIME_AND_COUNT.unpack_from(record)
        at = 16
        chain: tuple[int, ...] = ()
        if kernel:
            if count:
                words = struct.unpack_from(f"<{min(count, len(record) // 8)}q", record, at + 8)
                chain = tuple(w & (1 << 64) - 1 for w in words if not _CONTEXT_FIRST <= w < 0)
            at += 8 + 8 * count
        abi, *values, room = _USER.unpack_from(record, at)
    except (struct.error, OverflowError):
        return None
    if not abi:
        return None
    values.append(0)
    registers = Registers._make(_REGISTER_ORDER(values))
    return Front(time_ns, registers, chain, at + _USER.size, room)
