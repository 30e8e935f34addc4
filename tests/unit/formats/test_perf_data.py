"""Stack dumps in perf.data files made by hand; any bytes end within bounds."""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import MalformedData
from jsspy.formats.perf_data import StackDump, read_dumps

IP, TID, TIME, CALLCHAIN, ID, CPU, PERIOD, RAW = 1, 2, 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 10
REGS, STACK, IDENTIFIER, READ = 1 << 12, 1 << 13, 1 << 16, 1 << 4
PERF = IP | TID | TIME | CALLCHAIN | PERIOD | REGS | STACK
"""What `perf record --call-graph dwarf` asks for."""
ALL_REGISTERS = 0xFF0FFF
KERNEL, USER = (1 << 64) - 128, (1 << 64) - 512
ATTRIBUTE_SIZE = 136


class Event(NamedTuple):
    sample_type: int = PERF
    mask: int = ALL_REGISTERS
    ids: tuple[int, ...] = ()


def perf_data(events: tuple[Event, ...], *records: bytes, kind: int = 9) -> bytes:
    """Return a file with these events, and records of one kind."""
    ids = b"".join(struct.pack(f"<{len(event.ids)}Q", *event.ids) for event in events)
    size = ATTRIBUTE_SIZE + 16
    attributes_at = 104 + len(ids)
    attributes = b""
    at = 104
    for event in events:
        attribute = bytearray(ATTRIBUTE_SIZE)
        struct.pack_into("<Q", attribute, 24, event.sample_type)
        struct.pack_into("<QI", attribute, 80, event.mask, 8192)
        attributes += bytes(attribute) + struct.pack("<2Q", at, 8 * len(event.ids))
        at += 8 * len(event.ids)
    data = b"".join(struct.pack("<IHH", kind, 2, 8 + len(it)) + it for it in records)
    header = struct.pack(
        "<8s8Q", b"PERFILE2", 104, size, attributes_at, len(attributes),
        attributes_at + len(attributes), len(data), 0, 0,
    )  # fmt: skip
    return header.ljust(104, b"\0") + ids + attributes + data


def sample(stack: bytes = b"stack..." * 4, *, room: int = 64, abi: int = 2) -> bytes:
    """Return a sample of PERF."""
    chain = (KERNEL, 0xFFFFFFFF81000001, 0xFFFFFFFF81000002, USER, 0x1234)
    record = struct.pack("<QIIQQ", 0x1234, 7, 8, 99, 10_000_000)
    record += struct.pack("<6Q", len(chain), *chain)
    record += struct.pack("<Q", abi)
    if abi:
        record += struct.pack("<20Q", *range(100, 120))
        record += struct.pack("<Q", room) + stack.ljust(room, b"?") + struct.pack("<Q", len(stack))
    return record


def dumps(data: bytes) -> list[StackDump]:
    return [dump for dump in read_dumps(io.BytesIO(data)) if dump is not None]


def test_a_sample_has_registers_stack_and_the_kernel_part_of_its_chain() -> None:
    (dump,) = dumps(perf_data((Event(),), sample()))
    assert (dump.pid, dump.tid, dump.time_ns) == (7, 8, 99)
    assert dump.stack == b"stack..." * 4
    assert dump.kernel_chain == (0xFFFFFFFF81000001, 0xFFFFFFFF81000002)
    registers = dump.registers
    # rax 100, rbx, rcx, rdx, rsi, rdi, rbp 106, rsp 107, rip 108, eflags, cs, ss, r8 112 … r15 119
    assert (registers.rax, registers.rbp, registers.rsp, registers.rip) == (100, 106, 107, 108)
    assert (registers.r8, registers.r15) == (112, 119)


def test_other_records_and_kernel_threads_are_passed_over() -> None:
    assert dumps(perf_data((Event(),), sample(abi=0), sample())) == dumps(
        perf_data((Event(),), sample())
    )
    assert dumps(perf_data((Event(),), sample(), kind=10)) == []


def test_ids_tell_events_apart() -> None:
    plain, dumping = (
        Event(IDENTIFIER | PERF & ~(REGS | STACK), 0, (5,)),
        Event(IDENTIFIER | PERF, ids=(6, 7)),
    )
    records = [struct.pack("<Q", key) + sample() for key in (5, 6, 7, 8)]
    assert len(dumps(perf_data((plain, dumping), *records))) == 2


def test_raw_data_is_skipped() -> None:
    whole = sample()
    split = 32 + 48
    raw = struct.pack("<I", 12) + b"x" * 12
    (dump,) = dumps(perf_data((Event(PERF | RAW),), whole[:split] + raw + whole[split:]))
    assert dump.stack == b"stack..." * 4


@pytest.mark.parametrize("sample_type", [PERF & ~STACK, PERF | READ, PERF & ~TIME])
def test_what_holds_no_dumps_is_left_alone(sample_type: int) -> None:
    assert dumps(perf_data((Event(sample_type),), sample())) == []


@pytest.mark.parametrize("data", [b"", b"PERFILE2" + b"\x10" + bytes(7), b"PERFFILE" * 20])
def test_what_is_no_file_of_perfs_has_none(data: bytes) -> None:
    assert dumps(data) == []


@given(st.integers(0, 1000))
def test_cut_off_files_end_with_an_error_or_less(size: int) -> None:
    data = perf_data((Event(),), sample(), sample())
    try:
        found = dumps(data[:size])
    except MalformedData:
        return
    assert len(found) <= 2


@given(st.binary(max_size=300), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_any_bytes_end(record: bytes, sample_type: int, mask: int) -> None:
    for event in (Event(), Event(sample_type, mask), Event(sample_type | PERF, mask)):
        try:
            found = dumps(perf_data((event,), record))
        except MalformedData:
            continue
        assert len(found) <= 1


@given(st.binary(max_size=400))
def test_any_header_ends(data: bytes) -> None:
    try:
        found = dumps(b"PERFILE2" + data)
    except MalformedData:
        return
    assert found == []
