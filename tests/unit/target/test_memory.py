"""Recorded memory answers as a process does."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import FaultError
from jsspy.linux.vm import Buffer
from jsspy.model.units import Address, Pid
from jsspy.target.memory import PAGE_BYTES, ProcessMemory, RecordedMemory

BASE = 0x10000
DATA = bytes(index * 7 % 251 for index in range(3 * PAGE_BYTES))
PAGES = {
    BASE + index * PAGE_BYTES: DATA[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
    for index in range(3)
}


@given(st.integers(-100, 4 * PAGE_BYTES), st.integers(-5, 4 * PAGE_BYTES))
def test_read_gives_exactly_the_bytes_or_faults(offset: int, size: int) -> None:
    memory = RecordedMemory(PAGES)
    if size == 0 or (offset >= 0 and size > 0 and offset + size <= len(DATA)):
        assert memory.read(Address(BASE + offset), size) == DATA[offset : offset + size]
    else:
        with pytest.raises(FaultError):
            memory.read(Address(BASE + offset), size)
        assert memory.read_many([(BASE, 4), (BASE + offset, size)]) == [DATA[:4], None]


def test_pages_must_be_pages() -> None:
    with pytest.raises(ValueError, match="not a page"):
        RecordedMemory({5: bytes(PAGE_BYTES)})
    with pytest.raises(ValueError, match="not a page"):
        RecordedMemory({PAGE_BYTES: b"short"})


def test_process_memory() -> None:
    buffer = Buffer(64)
    buffer.bytes[:] = bytes(range(64))
    memory = ProcessMemory(Pid(os.getpid()))
    try:
        assert memory.alive
        assert memory.read(Address(buffer.address + 3), 2) == b"\3\4"
        assert memory.read_many([(buffer.address, 2), (0, 8)]) == [b"\0\1", None]
        with pytest.raises(FaultError) as caught:
            memory.read(Address(16), 8)
        assert (caught.value.address, caught.value.size) == (16, 8)
    finally:
        memory.close()
