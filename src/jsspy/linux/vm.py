"""Reading another process's memory: `/proc/PID/mem` and process_vm_readv(2).

One range is cheapest through pread on `/proc/PID/mem` (1.4 us for 64 bytes, against 2.4 us for
process_vm_readv through ctypes); many ranges go in one process_vm_readv (0.4 us each). Both need
the same permission, but sandboxes deny one or the other: each stands in for the other.

The two differ when the target replaces its program (exec). An open `/proc/PID/mem` stays with the
old address space and reads nothing more; process_vm_readv sees the new one. So a reader that holds
the file notices an exec: reads return 0 bytes instead of failing with EIO.
"""

from __future__ import annotations

import ctypes
import errno
import os
from _thread import _local  # threading.local, without the 2 ms that threading takes to load
from collections.abc import Sequence

from jsspy.errors import FaultError, ProcessExited
from jsspy.linux import libc

IOV_MAX = 1024
"""Ranges per process_vm_readv. Source: include/uapi/linux/uio.h, UIO_MAXIOV, at v6.12."""

MAX_READ_BYTES = 64 << 20
"""Cap of one read: nothing that a target holds and jsspy wants is larger."""

_BATCH_BYTES = 4 << 20
"""Bytes per process_vm_readv, if that is not one range: bounds the buffer that they go to."""

_KEPT_BYTES = 1 << 16
"""Size of the buffer that is kept; more is allocated for one read."""

_ADDRESS_END = 1 << 56
"""End of user addresses with 5-level page tables; beyond it pread would see a negative offset."""

_DENIED = (errno.EPERM, errno.EACCES, errno.ENOSYS)


def _allocate(size: int) -> tuple[memoryview, int]:
    """Return zeroed memory and its address."""
    buffer = (ctypes.c_char * size)()
    return memoryview(buffer).cast("B"), ctypes.addressof(buffer)


class _Scratch(_local):
    """What a gathering read needs while it lasts: of all readers of a thread, there may be many."""

    def __init__(self) -> None:
        self.view, self.view_address = _allocate(_KEPT_BYTES)
        self.vector = (ctypes.c_uint64 * (2 * IOV_MAX + 2))()
        self.words = memoryview(self.vector).cast("B").cast("Q")
        self.address = ctypes.addressof(self.vector)


_scratch = _Scratch()


class Reader:
    """Reads the memory of one process.

    Raises:
        ProcessExited: The process is gone.
        PermissionDenied: Neither way of reading is allowed.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = -1
        try:
            self._fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as err:
            if err.errno not in _DENIED:
                raise libc.failure("read", pid, err.errno or 0) from err
        self.can_gather = True
        """Whether process_vm_readv is allowed, as far as we know."""
        if self._fd < 0:
            self._check_gather()

    def _check_gather(self) -> None:
        """Find out whether process_vm_readv is allowed: an empty read passes all its checks."""
        nothing = (ctypes.c_uint64 * 2)()
        address = ctypes.addressof(nothing)
        if libc.process_vm_readv(self.pid, address, 1, address, 1, 0) < 0:
            raise libc.failure("read", self.pid, libc.get_errno())

    @property
    def alive(self) -> bool:
        """Whether the address space that was opened still exists: not after exit or exec."""
        if self._fd < 0:
            return os.path.exists(f"/proc/{self.pid}/task")  # noqa: PTH110 - no Path per look
        try:
            return os.pread(self._fd, 1, 0) != b""
        except OSError as err:
            return err.errno == errno.EIO

    def read(self, address: int, size: int) -> bytes:
        """Return exactly `size` bytes at `address`.

        Raises:
            FaultError: Not all of them can be read.
            ProcessExited: The process ended or replaced its program.
        """
        if not (0 <= address < _ADDRESS_END and 0 <= size <= MAX_READ_BYTES):
            raise FaultError(address, size)
        if size == 0:
            return b""
        if self._fd < 0:
            data = self.read_many([(address, size)])[0]
            if data is None:
                raise FaultError(address, size)
            return data
        try:
            data = os.pread(self._fd, size, address)
        except OSError as err:
            if err.errno == errno.ESRCH:
                raise ProcessExited(f"process {self.pid} is gone") from None
            raise FaultError(address, size) from None
        if len(data) == size:
            return data
        if not data:
            raise ProcessExited(f"process {self.pid} ended or replaced its program")
        raise FaultError(address, size)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of each (address, size); None for those that cannot be read whole.

        Raises:
            ProcessExited: The process ended or, as far as it can be noticed, replaced its program.
        """
        result: list[bytes | None] = []
        first = 0
        while first < len(ranges):
            if not self.can_gather:
                result.append(self._read_or_none(*ranges[first]))
                first += 1
                continue
            result.extend(self._gather(ranges, first))
            first = len(result)
        return result

    def _read_or_none(self, address: int, size: int) -> bytes | None:
        try:
            return self.read(address, size)
        except FaultError:
            return None

    def _gather(self, ranges: Sequence[tuple[int, int]], first: int) -> list[bytes | None]:
        """Read what one call can take of `ranges[first:]`: at least one range.

        A range that faults ends the transfer (some of its bytes may have been copied): it is the
        last one of the result, as None.
        """
        scratch = _scratch
        words = scratch.words
        total = 0
        last = first
        while last < len(ranges) and last - first < IOV_MAX:
            address, size = ranges[last]
            if not (0 <= address < _ADDRESS_END and 0 <= size <= MAX_READ_BYTES):
                break
            if total and total + size > _BATCH_BYTES:
                break
            index = 2 * (last - first) + 2
            words[index] = address
            words[index + 1] = size
            total += size
            last += 1
        if last == first:
            return [None]
        view = scratch.view
        words[0] = scratch.view_address
        words[1] = total
        if total > _KEPT_BYTES:
            view, words[0] = _allocate(total)
        vector = scratch.address
        count = libc.process_vm_readv(self.pid, vector, 1, vector + 16, last - first, 0)
        if count < 0:
            self.gather_failed(libc.get_errno())
            if not self.can_gather:
                return []
            count = 0
        result: list[bytes | None] = []
        offset = 0
        for _, size in ranges[first:last]:
            if offset + size > count:
                result.append(None)
                break
            result.append(bytes(view[offset : offset + size]))
            offset += size
        return result

    def gather_failed(self, code: int) -> None:
        """Turn off process_vm_readv if it is denied and the file can stand in for it.

        Raises:
            PermissionDenied: It cannot.
            ProcessExited: The process is gone.
        """
        if code == errno.EFAULT:
            return
        if code not in _DENIED or self._fd < 0:
            raise libc.failure("read", self.pid, code)
        self.can_gather = False

    def read_prefix(self, address: int, size: int) -> bytes:
        """Return as many of `size` bytes as can be read through the file."""
        try:
            return os.pread(self._fd, size, address)
        except (OSError, OverflowError):
            return b""

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Gather:
    """Reads a few remote ranges into buffers laid out beforehand: the engine's hot path.

    `local` and `remote` are the iovec arrays as words: address, size, address, size, ...
    Everything is allocated here, so that a read while the target is stopped is one call.
    """

    def __init__(self, remote_count: int, local_count: int) -> None:
        self._local = (ctypes.c_uint64 * (2 * local_count))()
        self._remote = (ctypes.c_uint64 * (2 * remote_count))()
        self.local = memoryview(self._local).cast("B").cast("Q")
        self.remote = memoryview(self._remote).cast("B").cast("Q")
        self._local_address = ctypes.addressof(self._local)
        self._remote_address = ctypes.addressof(self._remote)

    def read(
        self,
        reader: Reader,
        local_first: int,
        local_count: int,
        remote_first: int,
        remote_count: int,
    ) -> int:
        """Read `remote_count` remote ranges, one after the other, into `local_count` local ones.

        Returns:
            The number of bytes read. Less than asked for means that the range which comes next
            cannot be read whole.

        Raises:
            PermissionDenied: Not allowed.
            ProcessExited: The process is gone.
        """
        if reader.can_gather:
            count = libc.process_vm_readv(
                reader.pid,
                self._local_address + 16 * local_first,
                local_count,
                self._remote_address + 16 * remote_first,
                remote_count,
                0,
            )
            if count >= 0:
                return int(count)
            reader.gather_failed(libc.get_errno())
            if reader.can_gather:
                return 0
        data = bytearray()
        for index in range(2 * remote_first, 2 * (remote_first + remote_count), 2):
            size = self.remote[index + 1]
            part = reader.read_prefix(self.remote[index], size)
            data += part
            if len(part) < size:
                break
        offset = 0
        for index in range(2 * local_first, 2 * (local_first + local_count), 2):
            part = bytes(data[offset : offset + self.local[index + 1]])
            ctypes.memmove(self.local[index], part, len(part))
            offset += len(part)
        return len(data)


class Buffer:
    """Memory of ours with an address, for `Gather`."""

    def __init__(self, size: int) -> None:
        self._memory = (ctypes.c_uint64 * ((size + 7) // 8))()
        self.address = ctypes.addressof(self._memory)
        self.bytes = memoryview(self._memory).cast("B")
        self.words = self.bytes.cast("Q")
