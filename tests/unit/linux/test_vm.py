"""Reading memory: our own, which is as good as another's."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from collections.abc import Iterator

import pytest

from jsspy.errors import FaultError, ProcessExited
from jsspy.linux import vm

PAGE = 4096


@pytest.fixture
def reader() -> Iterator[vm.Reader]:
    reader = vm.Reader(os.getpid())
    yield reader
    reader.close()


@pytest.fixture
def hole() -> Iterator[int]:
    """Address of two pages that are mapped, followed by one that is not."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = libc.mmap(None, 3 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    assert libc.munmap(address + 2 * PAGE, PAGE) == 0
    ctypes.memmove(address, bytes(range(256)) * (2 * PAGE // 256), 2 * PAGE)
    yield address
    assert libc.munmap(address, 2 * PAGE) == 0


@pytest.fixture(params=["gather", "file"])
def either(reader: vm.Reader, request: pytest.FixtureRequest) -> vm.Reader:
    """A reader that may use process_vm_readv, and one that was denied it."""
    reader.can_gather = request.param == "gather"
    return reader


def test_read_is_exact(reader: vm.Reader, hole: int) -> None:
    assert reader.read(hole + 5, 3) == b"\5\6\7"
    assert reader.read(hole, 0) == b""
    assert len(reader.read(hole, 2 * PAGE)) == 2 * PAGE
    for address, size in [
        (hole + 2 * PAGE, 1),
        (hole + 2 * PAGE - 4, 8),
        (0, 8),
        (-8, 8),
        (1 << 63, 8),
        ((1 << 64) - 8, 8),
        (1 << 70, 8),
        (hole, -1),
        (hole, vm.MAX_READ_BYTES + 1),
    ]:
        with pytest.raises(FaultError):
            reader.read(address, size)


def test_large_reads_need_more_than_the_buffer_that_is_kept(reader: vm.Reader, hole: int) -> None:
    whole = bytes(range(256)) * (2 * PAGE // 256)
    count = vm.IOV_MAX + 3
    assert count * 2 * PAGE > 2 * vm._BATCH_BYTES
    assert reader.read_many([(hole, 2 * PAGE)] * count) == [whole] * count
    assert reader.read_many([(hole, 4)]) == [whole[:4]]


def test_read_many_leaves_out_only_what_faults(either: vm.Reader, hole: int) -> None:
    end = hole + 2 * PAGE
    ranges = [
        (hole, 4),
        (end - 4, 8),  # copied in part, then it faults
        (hole + 4, 4),
        (0, 8),
        (1 << 63, 8),
        (-1, 8),
        (end - 4, 4),
        (hole, vm.MAX_READ_BYTES + 1),
        (hole + 1, 0),
        (end, 1),
    ]
    assert either.read_many(ranges) == [
        b"\0\1\2\3",
        None,
        b"\4\5\6\7",
        None,
        None,
        None,
        b"\xfc\xfd\xfe\xff",
        None,
        b"",
        None,
    ]
    assert either.read_many([]) == []


def test_read_many_takes_more_ranges_than_one_call_does(either: vm.Reader, hole: int) -> None:
    count = 2 * vm.IOV_MAX + 7
    ranges = [(0, 8) if index % 500 == 499 else (hole + index, 2) for index in range(count)]
    expected = [
        None if address == 0 else bytes([index % 256, (index + 1) % 256])
        for index, (address, _) in enumerate(ranges)
    ]
    assert either.read_many(ranges) == expected


def test_read_many_of_large_ranges(either: vm.Reader, hole: int) -> None:
    assert either.read_many([(hole, 2 * PAGE)] * 1500) == [bytes(range(256)) * 32] * 1500


def test_gather_fills_buffers_up_to_the_first_fault(either: vm.Reader, hole: int) -> None:
    gather = vm.Gather(4, 2)
    small, large = vm.Buffer(8), vm.Buffer(64)
    gather.local[0:4] = (
        memoryview((ctypes.c_uint64 * 4)(small.address, 4, large.address, 64)).cast("B").cast("Q")
    )
    for index, (address, size) in enumerate(
        [(hole + 1, 4), (hole + 100, 8), (hole + 200, 8), (0, 8)]
    ):
        gather.remote[2 * index] = address
        gather.remote[2 * index + 1] = size
    assert gather.read(either, 0, 2, 0, 4) == 20
    assert small.bytes[:5].tobytes() == b"\1\2\3\4\0"
    assert large.bytes[:17].tobytes() == bytes([*range(100, 108), *range(200, 208), 0])
    assert gather.read(either, 1, 1, 2, 1) == 8
    assert large.bytes[:8].tobytes() == bytes(range(200, 208))
    assert gather.read(either, 1, 1, 3, 1) == 0


def test_alive_until_the_process_ends() -> None:
    process = subprocess.Popen(["sleep", "60"])
    reader = vm.Reader(process.pid)
    try:
        seen = [reader.alive]
        process.kill()
        process.wait()
        seen.append(reader.alive)
        assert seen == [True, False]
        with pytest.raises(ProcessExited):
            reader.read(0x400000, 8)
        with pytest.raises(ProcessExited):
            reader.read_many([(0x400000, 8)])
    finally:
        process.kill()
        process.wait()
        reader.close()


def test_no_such_process() -> None:
    with pytest.raises(ProcessExited):
        vm.Reader(2**22 + 1)
