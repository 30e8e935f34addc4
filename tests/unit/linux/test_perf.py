"""Records of perf events, made by hand."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.linux import libc, perf

ORDER = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "eflags", "cs", "ss"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)


def make_sample(
    stack: bytes = b"12345678", *, room: int = 16, chain: tuple[int, ...] | None = None
) -> bytes:
    """Return a sample record without its header; register n has the value 100 + n."""
    record = struct.pack("<IIQ", 5, 6, 123456789)
    if chain is not None:
        record += struct.pack(f"<Q{len(chain)}Q", len(chain), *chain)
    record += struct.pack("<Q", 2) + struct.pack("<20Q", *range(100, 120))
    return (
        record
        + struct.pack("<Q", room)
        + stack.ljust(room, b"\xff")
        + struct.pack("<Q", len(stack))
    )


class Memory:
    """Stands for the pages that a ring is mapped to."""

    def __init__(self, size: int, *, kernel: bool = False) -> None:
        self.ring: Any = perf.Ring.__new__(perf.Ring)
        self.ring.lost = 0
        self.ring._kernel = kernel
        self.ring.size_bytes = size
        self.ring._words = memoryview(bytearray(4096)).cast("Q")
        self.ring._data = memoryview(bytearray(size))
        self.head = 0

    def write(self, kind: int, body: bytes) -> None:
        record = struct.pack("<IHH", kind, 0, 8 + len(body)) + body
        for byte in record:
            self.ring._data[self.head % self.ring.size_bytes] = byte
            self.head += 1
        self.ring._words[1024 // 8] = self.head


def read_sample(record: bytes, *, kernel: bool = False) -> perf.Dump | None:
    memory = Memory(1 << 16, kernel=kernel)
    memory.write(9, record)
    dumps = memory.ring.read()
    assert memory.ring._words[1032 // 8] == memory.head
    return dumps[0] if dumps else None


def test_registers_time_and_stack() -> None:
    dump = read_sample(make_sample())
    assert dump is not None
    assert dump.time_ns == 123456789
    assert dump.stack == b"12345678"
    for number, name in enumerate(ORDER):
        assert getattr(dump.registers, name) == 100 + number
    assert dump.registers.fs_base == 0
    assert dump.kernel_chain == ()


@pytest.mark.parametrize("count", [2, 1000])
def test_the_kernel_chain_without_its_marks(count: int) -> None:
    kernel, user = (1 << 64) - 128, (1 << 64) - 512
    pcs = tuple(0xFFFFFFFF81000010 + 16 * index for index in range(count))
    dump = read_sample(make_sample(chain=(kernel, *pcs, user)), kernel=True)
    assert dump is not None
    assert dump.kernel_chain == pcs
    assert dump.registers.rax == 100
    assert dump.stack == b"12345678"


def test_a_thread_without_user_registers_gives_no_dump() -> None:
    assert read_sample(struct.pack("<IIQ", 5, 6, 1) + struct.pack("<QQ", 0, 0)) is None


def test_a_stack_that_is_larger_than_its_record_is_none() -> None:
    record = make_sample(room=1 << 20, stack=b"")[:256]
    dump = read_sample(record)
    assert dump is not None
    assert dump.stack == b""


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_are_a_dump_or_none(record: bytes, kernel: bool) -> None:
    dump = read_sample(record[: len(record) & ~7], kernel=kernel)
    assert dump is None or len(dump.stack) <= len(record)


def test_records_that_wrap_losses_and_unknown_kinds() -> None:
    memory = Memory(512)
    for seen in range(1, 21):
        memory.write(9, make_sample())
        memory.write(77, bytes(16))
        memory.write(2, struct.pack("<QQ", 1, 3))
        dumps = memory.ring.read()
        assert [dump.stack for dump in dumps] == [b"12345678"]
        assert memory.ring._words[1032 // 8] == memory.head
        assert memory.ring.lost == 3 * seen
    assert memory.ring.read() == []


@given(st.binary(min_size=64, max_size=64), st.integers(0, 200))
def test_a_ring_of_nonsense_is_read_to_its_end(data: bytes, head: int) -> None:
    memory = Memory(64)
    memory.ring._data[:] = data
    memory.ring._words[1024 // 8] = head & ~7
    memory.ring.read()
    assert memory.ring._words[1032 // 8] == head & ~7


@pytest.mark.parametrize("is_old", [False, True])
def test_clocks_end_with_the_program_where_the_kernel_can(
    monkeypatch: pytest.MonkeyPatch, *, is_old: bool
) -> None:
    remove_on_exec = 1 << 36
    tried: list[int] = []

    def perf_event_open(_: int, attributes: int, *__: int) -> int:
        tried.append(struct.unpack("<Q", ctypes.string_at(attributes + 40, 8))[0])
        return -1 if is_old and tried[-1] & remove_on_exec else 77

    monkeypatch.setattr(libc, "syscall", perf_event_open)
    monkeypatch.setattr(libc, "get_errno", lambda: errno.EINVAL)
    assert perf.open_clock(1, 1_000_000, kernel=True, enabled=False) == 77
    assert tried[0] & remove_on_exec
    assert tried[1:] == ([tried[0] ^ remove_on_exec] if is_old else [])
