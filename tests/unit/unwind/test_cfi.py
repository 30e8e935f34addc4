"""CfiTable on hand-made `.eh_frame` sections, with stacks laid out by hand."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elf_builder import HDR_ADDRESS, TEXT_ADDRESS, build
from jsspy.model.capture import Registers
from jsspy.target.elf import ElfFile
from jsspy.unwind import cfi
from jsspy.unwind.cfi import RBP, RBX, RIP, RSP, CfiRegisters, CfiTable, Step, start_registers

EH_FRAME = TEXT_ADDRESS + 0x800
FUNCTION = TEXT_ADDRESS + 0x100
SIZE = 0x40
STACK = 0x7FFF_0000
CALLER = 0x1234_5678

DEF_CFA, DEF_CFA_REGISTER, DEF_CFA_OFFSET, DEF_CFA_EXPRESSION = 0x0C, 0x0D, 0x0E, 0x0F
UNDEFINED, SAME_VALUE, REGISTER, EXPRESSION, VAL_EXPRESSION = 0x07, 0x08, 0x09, 0x10, 0x16
REMEMBER, RESTORE_STATE, VAL_OFFSET = 0x0A, 0x0B, 0x14
AT_ENTRY = bytes([DEF_CFA, RSP, 8, 0x80 | RIP, 1])
"""CFA = rsp + 8, return address at CFA - 8: how every function begins."""


def advance(size: int) -> bytes:
    return bytes([0x40 | size])


def saved(register: int, slot: int) -> bytes:
    """The register lies `slot` words below the CFA."""
    return bytes([0x80 | register, slot])


def entry(body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("<I", len(body)) + body


def table(
    program: bytes,
    *,
    initial: bytes = AT_ENTRY,
    augmentation: bytes = b"zR\0",
    hdr: bytes | None = None,
) -> CfiTable:
    """Return the table of a file whose one function has this program."""
    # version, augmentation, code factor 1, data factor -8, return address in rip, pcrel sdata4
    cie = entry(struct.pack("<IB", 0, 1) + augmentation + bytes([1, 0x78, RIP, 1, 0x1B]) + initial)
    fde_address = EH_FRAME + len(cie)
    start = FUNCTION - (fde_address + 8)
    fde = entry(struct.pack("<IiI", len(cie) + 4, start, SIZE) + b"\0" + program)
    text = bytes(0x800) + cie + fde
    if hdr is None:
        hdr = struct.pack("<4BiI", 1, 0x1B, 3, 0x3B, 0, 1)
        hdr += struct.pack("<ii", FUNCTION - HDR_ADDRESS, fde_address - HDR_ADDRESS)
    return CfiTable(ElfFile("test", build(text=text, eh_frame_hdr=hdr)))


def stack(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words)


def registers(**values: int) -> CfiRegisters:
    return start_registers(Registers(**{"rip": FUNCTION, "rsp": STACK, **values}))


def test_start_registers_are_in_the_order_of_dwarf() -> None:
    names = [
        "rax",
        "rdx",
        "rcx",
        "rbx",
        "rsi",
        "rdi",
        "rbp",
        "rsp",
        "r8",
        "r9",
        "r10",
        "r11",
        "r12",
        "r13",
        "r14",
        "r15",
        "rip",
    ]
    state = start_registers(Registers(**{name: i + 1 for i, name in enumerate(names)}))
    assert state[:17] == list(range(1, 18))


def test_rows_follow_the_prologue() -> None:
    push_rbp = advance(1) + bytes([DEF_CFA_OFFSET, 16]) + saved(RBP, 2)
    use_rbp = advance(3) + bytes([DEF_CFA_REGISTER, RBP])
    push_rbx = advance(1) + saved(RBX, 3)
    rules = table(push_rbp + use_rbp + push_rbx)

    state = registers(rbp=7)
    assert rules.step(FUNCTION, state, stack(CALLER), STACK) is Step.CALLER
    assert (state[RIP], state[RSP], state[RBP]) == (CALLER, STACK + 8, 7)

    state = registers(rbp=7)
    assert rules.step(FUNCTION + 1, state, stack(70, CALLER), STACK) is Step.CALLER
    assert (state[RIP], state[RSP], state[RBP]) == (CALLER, STACK + 16, 70)

    state = registers(rbp=STACK + 24, rbx=3)
    frame = stack(0, 0, 30, 70, CALLER)
    assert rules.step(FUNCTION + SIZE - 1, state, frame, STACK) is Step.CALLER
    assert (state[RIP], state[RSP], state[RBP], state[RBX]) == (CALLER, STACK + 40, 70, 30)


def test_states_are_remembered_and_restored() -> None:
    early_return = bytes([REMEMBER, DEF_CFA_OFFSET, 8, 0xC0 | RBP])
    rules = table(
        advance(1)
        + bytes([DEF_CFA_OFFSET, 16])
        + saved(RBP, 2)
        + advance(4)
        + early_return
        + advance(1)
        + bytes([RESTORE_STATE])
    )
    for offset, frame, rbp in ((4, (70, CALLER), 70), (5, (CALLER,), 7), (6, (70, CALLER), 70)):
        state = registers(rbp=7)
        assert rules.step(FUNCTION + offset, state, stack(*frame), STACK) is Step.CALLER
        assert (state[RIP], state[RBP]) == (CALLER, rbp)


@pytest.mark.parametrize("address", [FUNCTION - 1, FUNCTION + SIZE, 0, 1 << 64])
def test_no_rule_outside_of_the_function(address: int) -> None:
    assert table(b"").step(address, registers(), stack(CALLER), STACK) is Step.NO_RULE


def test_state_is_kept_when_a_step_fails() -> None:
    rules = table(bytes([DEF_CFA_OFFSET, 16]) + saved(RBX, 2))
    for data, start, expected in (
        (stack(1), STACK, Step.UNREADABLE),
        (stack(*range(1, 20)), STACK + 64, Step.UNREADABLE),
        (b"", STACK, Step.UNREADABLE),
        (stack(1, 0), STACK, Step.END),
    ):
        state = registers(rbx=5)
        assert rules.step(FUNCTION, state, data, start) is expected
        assert state == registers(rbx=5)


def test_frame_pointer_below_the_stack_pointer_is_no_progress() -> None:
    rules = table(bytes([DEF_CFA, RBP, 16]))
    for rbp in (0, STACK - 16, STACK - 100):
        assert rules.step(FUNCTION, registers(rbp=rbp), stack(1, 2, 3), STACK) is Step.NO_PROGRESS
    assert rules.step(FUNCTION, registers(rbp=1 << 63), stack(1), STACK) is Step.UNREADABLE


def test_undefined_return_address_is_the_end() -> None:
    rules = table(bytes([UNDEFINED, RIP]))
    assert rules.step(FUNCTION, registers(), stack(CALLER), STACK) is Step.END


def test_plt_expression() -> None:
    # CFA = rsp + 8 + ((rip & 15) >= 11) * 8: how linkers describe PLT entries.
    code = bytes([0x77, 8, 0x80, 0, 0x3F, 0x1A, 0x3B, 0x2A, 0x33, 0x24, 0x22])
    rules = table(bytes([DEF_CFA_EXPRESSION, len(code)]) + code)
    state = registers()
    assert rules.step(FUNCTION, state, stack(CALLER), STACK) is Step.CALLER
    assert (state[RIP], state[RSP]) == (CALLER, STACK + 8)
    state = registers(rip=FUNCTION + 11)
    assert rules.step(FUNCTION + 11, state, stack(0, CALLER), STACK) is Step.CALLER
    assert (state[RIP], state[RSP]) == (CALLER, STACK + 16)


def test_cfa_kept_below_the_stack_pointer() -> None:
    # OpenSSL's SHA-512: CFA = *(rsp - 8) + 8, in the red zone.
    code = bytes([0x77, 0x78, 0x06, 0x23, 8])
    rules = table(bytes([DEF_CFA_EXPRESSION, len(code)]) + code)
    state = registers()
    words = stack(STACK + 8, 0, CALLER)
    assert rules.step(FUNCTION, state, words, STACK - 8) is Step.CALLER
    assert (state[RIP], state[RSP]) == (CALLER, STACK + 16)
    assert rules.step(FUNCTION, registers(), words[8:], STACK) is Step.UNREADABLE


def test_signal_frame_gives_all_registers_of_interrupted_code() -> None:
    # As glibc's __restore_rt: CFA and registers are words of the ucontext above rsp.
    program = bytes([DEF_CFA_EXPRESSION, 3, 0x77, 8, 0x06])
    program += bytes([EXPRESSION, RIP, 2, 0x77, 16, EXPRESSION, 0, 2, 0x77, 24])
    rules = table(program, augmentation=b"zRS\0")
    state = registers()
    words = stack(0, STACK + 0x1000, CALLER, 99)
    assert rules.step(FUNCTION, state, words, STACK) is Step.INTERRUPTED
    assert (state[RIP], state[RSP], state[0]) == (CALLER, STACK + 0x1000, 99)


def test_rules_between_registers() -> None:
    # Like vfork(): the return address was popped into rdi. And r12 holds the caller's rbx.
    program = bytes([DEF_CFA_OFFSET, 0, REGISTER, RIP, 5, REGISTER, RBX, 12, VAL_OFFSET, RBP, 1])
    state = registers(rdi=CALLER, r12=44)
    assert table(program).step(FUNCTION, state, stack(0), STACK) is Step.CALLER
    assert (state[RIP], state[RBX], state[RSP], state[RBP]) == (CALLER, 44, STACK, STACK - 8)


def test_cfa_of_a_volatile_register() -> None:
    rules = table(bytes([DEF_CFA, 10, 8]))
    state = registers(r10=STACK + 8)
    assert rules.step(FUNCTION, state, stack(0, CALLER), STACK) is Step.CALLER
    assert (state[RIP], state[RSP]) == (CALLER, STACK + 16)
    state = registers(r10=STACK + 8)
    state[cfi.VOLATILE_KNOWN] = 0
    assert rules.step(FUNCTION, state, stack(0, CALLER), STACK) is Step.UNREADABLE


def test_expression_that_never_ends() -> None:
    code = bytes([0x31, 0x2F]) + struct.pack("<h", -4)  # lit1, skip back to it
    rules = table(bytes([DEF_CFA_EXPRESSION, len(code)]) + code)
    assert rules.step(FUNCTION, registers(), stack(CALLER), STACK) is Step.NO_RULE


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (b"\x08\x07\x09\xff\x22", 6),  # const1u 7, const1s -1, plus
        (b"\x3a\x33\x1c", 7),  # 10 - 3
        (b"\x3a\x33\x1b\x33\x1e", 9),  # 10 / 3 * 3
        (b"\x09\xf6\x33\x1b\x20", 2),  # ~(-10 / 3)
        (b"\x3a\x33\x1d", 1),  # 10 % 3
        (b"\x35\x36\x37\x17\x1c\x1c", 8),  # rot: 7 - (5 - 6)
        (b"\x33\x34\x16\x1c", 1),  # swap: 4 - 3
        (b"\x35\x12\x22", 10),  # dup
        (b"\x35\x36\x14\x1c\x22", 6),  # over: 5 + (6 - 5)
        (b"\x35\x36\x15\x01\x1c\x22", 6),  # pick 1
        (b"\x35\x36\x13", 5),  # drop
        (b"\x31\x28\x01\x00\x35\x36", 6),  # bra over lit5
        (b"\x30\x28\x01\x00\x35\x36\x22", 11),  # bra not taken
        (b"\x10\x80\x01\x11\x7f\x22", 127),  # constu 128, consts -1
        (b"\x33\x1f\x19", 3),  # neg, abs
        (b"\x3f\x35\x21\x35\x27", 10),  # (15 | 5) ^ 5
        (b"\x0a\x34\x12\x38\x25", 0x12),  # 0x1234 >> 8
        (b"\x09\x80\x31\x26\x1f", 64),  # -(-128 >> 1)
        (b"\x31\x32\x2d\x32\x32\x29\x22", 2),  # (1 < 2) + (2 == 2)
        (b"\x09\xff\x30\x2b", 0),  # -1 > 0, signed
        (b"\x77\x00\x94\x02", 0x5678),  # deref_size 2 of the word at rsp
    ],
)
def test_operations(code: bytes, value: int) -> None:
    """The expression gives the caller's r15."""
    program = bytes([VAL_EXPRESSION, 15, len(code)]) + code
    state = registers()
    assert table(program).step(FUNCTION, state, stack(CALLER), STACK) is Step.CALLER
    assert state[15] == value


@pytest.mark.parametrize(
    "program",
    [
        b"\x3f",  # unknown instruction
        bytes([RESTORE_STATE]),
        bytes([DEF_CFA]),
        bytes([REMEMBER]) * 100,
        b"\x02",
        bytes([DEF_CFA_EXPRESSION, 200]),
    ],
)
def test_malformed_programs_give_no_rule(program: bytes) -> None:
    # The last byte of an entry must not be padding, which is an instruction too.
    program = bytes(-(len(program) + 1) % 4) + program
    assert table(program).step(FUNCTION, registers(), stack(CALLER), STACK) is Step.NO_RULE


@pytest.mark.parametrize(
    "hdr",
    [
        struct.pack("<4BiI", 2, 0x1B, 3, 0x3B, 0, 1) + bytes(8),
        struct.pack("<4BiI", 1, 0x1B, 3, 0x1B, 0, 1) + bytes(8),
        struct.pack("<4BiI", 1, 0x1B, 3, 0x3B, 0, 0),
        struct.pack("<4BiI", 1, 0x1B, 3, 0x3B, 0, 0xFFFF_FFFF) + bytes(8),
        b"\1",
    ],
)
def test_unusable_header(hdr: bytes) -> None:
    rules = table(b"", hdr=hdr)
    assert rules.step(FUNCTION, registers(), stack(CALLER), STACK) is Step.NO_RULE


def test_file_without_rules() -> None:
    rules = CfiTable(ElfFile("test", build()))
    assert len(rules) == 0
    assert rules.step(FUNCTION, registers(), stack(CALLER), STACK) is Step.NO_RULE


@given(program=st.binary(max_size=60), initial=st.binary(max_size=20), data=st.binary(max_size=64))
def test_any_program_ends_in_a_step(program: bytes, initial: bytes, data: bytes) -> None:
    rules = table(program, initial=AT_ENTRY + initial)
    for offset in (0, 1, SIZE - 1):
        state = registers(rbp=STACK + 16, r10=STACK + 32)
        result = rules.step(FUNCTION + offset, state, data, STACK)
        if result is Step.CALLER:
            assert state[RSP] >= STACK
        elif result is not Step.INTERRUPTED:
            assert state == registers(rbp=STACK + 16, r10=STACK + 32)


@given(code=st.binary(max_size=40))
def test_any_expression_ends_in_a_step(code: bytes) -> None:
    rules = table(bytes([DEF_CFA_EXPRESSION, len(code)]) + code)
    rules.step(FUNCTION, registers(rbp=STACK), stack(1, 2, 3, 4), STACK)


def test_caches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cfi, "MAX_CACHED", 4)
    rules = table(b"")
    for address in range(FUNCTION - 20, FUNCTION + 20):
        rules.step(address, registers(), stack(CALLER), STACK)
        assert len(rules._fast) + len(rules._other) <= 4
    assert rules.step(FUNCTION, registers(), stack(CALLER), STACK) is Step.CALLER
