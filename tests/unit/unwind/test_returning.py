"""Functions without rules, followed to their return."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import FaultError
from jsspy.unwind.cfi import R12, RBP, RBX
from jsspy.unwind.returning import Return, decode, find_return

BASE = 0x1000
RET = b"\xc3"
POP_RBX, POP_RBP, POP_R12 = b"\x5b", b"\x5d", b"\x41\x5c"
ADD_RSP_24 = b"\x48\x83\xc4\x18"
CALL = b"\xe8\0\0\0\0"
NOP = b"\x0f\x1f\x00"
ENDBR = b"\xf3\x0f\x1e\xfa"
JUMP_RAX = b"\xff\xe0"


def follow(*code: bytes, is_after_call: bool = False) -> Return | None:
    data = b"".join(code)

    def read(address: int, size: int) -> bytes:
        if not BASE <= address < BASE + len(data):
            raise FaultError(address, size)
        return (data + b"\xf4" * size)[address - BASE : address - BASE + size]

    return find_return(read, BASE, is_after_call=is_after_call)


def test_what_is_restored_on_the_way() -> None:
    assert follow(CALL, ADD_RSP_24, POP_RBX, POP_RBP, POP_R12, RET) == Return(
        48, ((RBX, 24), (RBP, 32), (R12, 40))
    )


def test_what_is_pushed_on_the_way_restores_nothing() -> None:
    assert follow(b"\x53", CALL, POP_RBX, POP_RBP, RET) == Return(8, ((RBP, 0),))


def test_restored_by_moves() -> None:
    """By `mov rbx, [rsp + 8]` and `mov rbp, [rsp + 16]`."""
    moves = b"\x48\x8b\x5c\x24\x08", b"\x48\x8b\x6c\x24\x10"
    assert follow(*moves, ADD_RSP_24, RET) == Return(24, ((RBX, 8), (RBP, 16)))


def test_both_sides_of_a_branch_must_agree() -> None:
    je = b"\x74\x02"
    assert follow(je, POP_RBX, RET, POP_RBP, RET) == Return(8, ((RBX, 0),))
    assert follow(je, POP_RBX, RET, POP_R12, POP_RBP, RET) is None


def test_a_jump_to_another_function() -> None:
    assert follow(POP_RBX, b"\xeb\x01", b"\xcc", POP_RBP, RET) == Return(16, ((RBX, 0), (RBP, 8)))
    # Computed: it returns for this one, if it is not a switch.
    assert follow(b"\x74\x03", POP_RBX, JUMP_RAX, POP_RBX, RET) == Return(8, ((RBX, 0),))
    assert follow(b"\x74\x02", JUMP_RAX, POP_RBX, RET) is None
    assert follow(JUMP_RAX) is None


@pytest.mark.parametrize("after", [NOP, ENDBR, b"\xcc", b"\xf4"])
def test_a_call_that_does_not_return(after: bytes) -> None:
    assert follow(CALL, after, POP_RBX, RET) is None
    assert follow(after, POP_RBX, RET, is_after_call=True) is None


def test_the_way_without_that_call_counts() -> None:
    assert follow(b"\x75\x02", POP_RBX, RET, CALL, NOP, POP_RBX, POP_RBP, RET) == Return(
        8, ((RBX, 0),)
    )


@pytest.mark.parametrize(
    "code",
    [
        b"\xc9",  # leave
        b"\x48\x89\xec",  # mov rsp, rbp
        b"\x48\x83\xe4\xf0",  # and rsp, -16
        b"\x48\x8d\x65\xe0",  # lea rsp, [rbp - 32]
        b"\x5c",  # pop rsp
        b"\x48\x29\xc4",  # sub rsp, rax
    ],
)
def test_anything_else_done_to_rsp(code: bytes) -> None:
    assert follow(code, RET) is None


def test_a_circle_ends() -> None:
    assert follow(b"\xeb\xfe") is None
    assert follow(b"\x53", b"\xeb\xfd") is None  # and pushes each time


@given(st.binary(min_size=1, max_size=300))
def test_any_code_ends(code: bytes) -> None:
    found = follow(code)
    assert found is None or found.offset >= 0


@given(st.binary(max_size=20))
def test_no_instruction_is_longer_than_its_bytes(code: bytes) -> None:
    found = decode(code) if code else None
    assert found is None or 0 < found.size <= len(code)
