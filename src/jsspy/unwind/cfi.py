"""Call frame information: from a native frame to its caller, by the rules of `.eh_frame`.

    leaf   rip, registers ──► rule for rip ──► CFA, saved registers, return address ──► caller

Compiled code does not keep frame pointers reliably (libc has none, OpenSSL's assembly uses rbp as
a data register), but for C++ exceptions every function of a shared object or executable comes with
a table that says, for each pc, where the *canonical frame address* is (CFA: the value of rsp just
before the call) and where relative to it the callee-saved registers were put.

    higher  | caller's frame  |
            +-----------------+ <- CFA, the caller's rsp after the return
            | return address  |    CFA - 8
            | saved rbp       |    CFA - 16   (as an example)
            | ...             |
    lower   +-----------------+ <- rsp

The pieces, all in the file:

- `.eh_frame_hdr`: a table of (function start, address of its FDE), sorted; it is searched in place.
- FDE: the range of one function and a byte program, "from this pc on, the CFA is rsp + 24".
- CIE: what FDEs share: scaling factors, pointer encodings, the program that runs first.

When a pc is first met, the program of its function is run up to it. Nearly all rows say "CFA is rsp
or rbp plus n, and these of rbx, rbp, r12..r15 lie right below the return address": such a row
becomes a `FastRule`, one slice of the stack to unpack. Anything else is a `_GeneralRule`, with
DWARF expressions (PLT stubs, OpenSSL, signal frames, realigned stacks) evaluated by a bounded
machine.

How it was checked: the rows of all functions of libc, libstdc++ and Node 20 equal what readelf
makes of them (`readelf -wF`), and the stacks of all threads of Node 20 and 26 under eleven loads
(396 stacks, 2612 frames) equal gdb's, up to V8's own code, which has no rules at all. Assembly
without rules gives `Step.NO_RULE`.

Source: DWARF 5, sections 2.5 and 6.4; LSB Core 5.0, chapter 10 (`.eh_frame`, `.eh_frame_hdr`);
x86-64 psABI, figure 3.36 (register numbers).
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from jsspy.errors import FaultError
from jsspy.model.capture import Registers
from jsspy.target.elf import PT_GNU_EH_FRAME, ElfFile

RBX, RBP, RSP, R12, R13, R14, R15, RIP = 3, 6, 7, 12, 13, 14, 15, 16

VOLATILE_KNOWN = 17
"""Index of a flag. Registers that a callee may change keep their values over a step where no rule
says otherwise, as in other unwinders: OpenSSL's AES-GCM finds its CFA through rax across calls that
are known not to touch it. Who leaves a frame by other means than CFI sets the flag to 0."""

CfiRegisters = list[int]
"""Registers of the current frame by DWARF number, then the flag; 0 is not known."""

MAX_FUNCTIONS = 1 << 20
"""Rows of `.eh_frame_hdr` that are used (8 MiB); Node 26 has 130 000."""

MAX_ENTRY = 1 << 16
"""Bytes of one FDE or CIE; the largest in Node 26 has 5 KiB."""

_USUAL_ENTRY = 256
"""Bytes that are read of an FDE or CIE before its length is known; nearly all are shorter."""

_USUAL_ENCODING = 0x1B
"""Pointers in FDEs: relative to where they stand, signed, 4 bytes."""

_FDE_HEAD = struct.Struct("<IiI")
"""Distance of the CIE, start, size; of that encoding."""

_DEF_CFA_OFFSET, _ADVANCE, _OFFSET, _RESTORE = 0x0E, 0x40, 0x80, 0xC0
"""DWARF instructions (7.24 of DWARF 5); the last three have an operand in their low bits."""

MAX_REMEMBERED = 64
"""Depth of DW_CFA_remember_state; compilers use 1."""

MAX_OPERATIONS = 1000
"""Operations of one expression, which may contain loops; the longest met has 30."""

MAX_CACHED = 1 << 15
"""Rules by pc, and functions, that are kept; beyond that both caches start anew."""

_CALLEE_SAVED = frozenset((RBX, RBP, R12, R13, R14, R15))
_VOLATILE = (0, 1, 2, 4, 5, 8, 9, 10, 11)
_MAX_FAST_WORDS = 24
_UNPACK = tuple(struct.Struct(f"<{n}Q").unpack_from for n in range(_MAX_FAST_WORDS + 1))
_MASK = (1 << 64) - 1


class Step(Enum):
    """What came of one step."""

    CALLER = "caller"
    """The registers are the caller's; rip is a return address: look up rip - 1."""
    INTERRUPTED = "interrupted"
    """The registers are those of code that a signal interrupted: rip itself was to run next."""
    END = "end"
    """This was the outermost frame."""
    NO_RULE = "no rule"
    """The file has no usable rule for this pc."""
    UNREADABLE = "unreadable"
    """A word that the rule needs is not in the copied stack, or a register is not known."""
    NO_PROGRESS = "no progress"
    """The caller's frame would not lie nearer to the root of the stack."""


def start_registers(registers: Registers) -> CfiRegisters:
    """Return the state from which `CfiTable.step` starts: the leaf's registers."""
    r = registers
    return [
        *(r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp),
        *(r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15),
        r.rip,
        1,
    ]


class FastRule(NamedTuple):
    """CFA = a register + offset; callee-saved registers in one run of words below it."""

    base: int
    """Register that the CFA is relative to."""
    offset: int
    depth: int
    """Bytes below the CFA at which the run starts."""
    unpack: Callable[..., tuple[int, ...]]
    saved: tuple[tuple[int, int], ...]
    """(register, index of its word in the run); the last word is the return address."""


class ShortRule(NamedTuple):
    """The caller's rsp (the CFA), return address (right below it) and rbp."""

    from_rbp: bool
    """Relative to rbp, else to rsp."""
    offset: int
    addend: int | None
    """If not None: what is there is a word, and the CFA is this much above what it says."""
    rbp_word: int
    """Words below the CFA at which rbp is; 0: it has not changed."""


class _Place(Enum):
    """How a register of the caller is found (DWARF 5, 6.4.1)."""

    AT_CFA = "in memory at CFA + n"
    CFA = "CFA + n"
    REGISTER = "in register n"
    AT_EXPRESSION = "in memory at the expression's value"
    EXPRESSION = "the expression's value"
    UNDEFINED = "not recoverable"


_Where = tuple[_Place, int | bytes]


class _GeneralRule(NamedTuple):
    """A row that does not fit `FastRule`."""

    base: int
    """Register of the CFA, or -1: then `expression` computes it."""
    offset: int
    expression: bytes
    places: tuple[tuple[int, _Where], ...]
    """(register, where); those not named keep their values."""
    interrupted: bool


_Rule = FastRule | _GeneralRule

_KEPT_RSP = re.compile(
    rb"\x77([\x80-\xff]?[\x00-\x7f])\x06\x23([\x80-\xff]?[\x00-\x7f])", re.DOTALL
)


class _Malformed(Exception):
    """Bytes of a CIE, FDE or expression that cannot be what they should; stays in this module."""


class _Unreadable(Exception):
    """An expression needs a word that was not copied, or a register that is not known."""


class _Cie(NamedTuple):
    code_factor: int
    data_factor: int
    return_register: int
    pointer_encoding: int
    has_augmentation_data: bool
    signal_frame: bool
    program: bytes


class _Fde(NamedTuple):
    start: int
    end: int
    cie: _Cie
    code: _Reader
    first: int
    """Where in `code` the program begins."""


class _State:
    """The registers of the machine that runs CFA programs."""

    __slots__ = ("base", "expression", "offset", "places")

    def __init__(self) -> None:
        self.base = -1
        self.offset = 0
        self.expression = b""
        self.places: dict[int, _Where] = {}

    def copy(self) -> _State:
        other = _State()
        other.base, other.offset, other.expression = self.base, self.offset, self.expression
        other.places = self.places.copy()
        return other


class CfiTable:
    """The unwind rules of one file, read as they are needed."""

    def __init__(self, elf: ElfFile) -> None:
        self._elf = elf
        self._base = 0
        self._starts: Sequence[int] = ()
        """Function starts relative to `_base`, sorted."""
        self._entries: Sequence[int] = ()
        """Addresses of their FDEs relative to `_base`."""
        self._fast: dict[int, FastRule] = {}
        self._other: dict[int, _GeneralRule | None] = {}
        self._fdes: dict[int, _Fde | None] = {}
        self._cies: dict[int, _Cie] = {}
        self._initials: dict[_Cie, _State] = {}
        """The registers after the program of a CIE."""
        self._interned: dict[_Rule, _Rule] = {}
        self._load_header()

    def __len__(self) -> int:
        """Return the number of functions that have rules."""
        return len(self._starts)

    def step(
        self, address: int, registers: CfiRegisters, stack: bytes | memoryview, stack_start: int
    ) -> Step:
        """Replace a frame's registers by its caller's.

        Args:
            address: The pc to look up, as linked: rip in the leaf and in interrupted code,
                rip - 1 after a call.
            registers: Changed in place, if the result is `CALLER` or `INTERRUPTED`.
            stack: Bytes of the stack. They should begin 128 bytes below the leaf's rsp: functions
                that call nothing may keep data there, and OpenSSL's SHA-512 keeps its CFA there.
            stack_start: Address in the target of `stack[0]`.
        """
        rule = self._fast.get(address)
        if rule is None:
            return self._step_slowly(address, registers, stack, stack_start)
        base, offset, depth, unpack, saved = rule
        cfa = registers[base] + offset
        if cfa <= registers[7]:
            return Step.NO_PROGRESS
        at = cfa - depth - stack_start
        if at < 0:
            return Step.UNREADABLE
        try:
            words = unpack(stack, at)
        except (struct.error, OverflowError):
            return Step.UNREADABLE
        rip = words[-1]
        if not rip:
            return Step.END
        for register, index in saved:
            registers[register] = words[index]
        registers[7] = cfa
        registers[16] = rip
        return Step.CALLER

    def short_rule(self, address: int) -> ShortRule | None:
        """Return the rule for a pc, as linked, if rsp and rbp are all that it needs."""
        rule = self._fast.get(address) or self._find_rule(address)
        if isinstance(rule, FastRule):
            count = rule.depth // 8
            rbp_word = next((count - index for it, index in rule.saved if it == RBP), 0)
            if rule.base in (RSP, RBP):
                return ShortRule(rule.base == RBP, rule.offset, None, rbp_word)
        elif rule is not None and rule.base < 0 and not rule.interrupted:
            # Where OpenSSL aligns its stack: a word in the frame says where rsp was.
            where = _decode_kept_rsp(rule.expression)
            places = dict(rule.places)
            rbp = places.get(RBP, (_Place.AT_CFA, 0))
            if where and places.get(RIP) == (_Place.AT_CFA, -8) and rbp[0] is _Place.AT_CFA:
                return ShortRule(False, *where, -int(rbp[1]) // 8)
        return None

    def _step_slowly(
        self, address: int, registers: CfiRegisters, stack: bytes | memoryview, stack_start: int
    ) -> Step:
        """Step by a general rule, or by one that is not known yet."""
        if address not in self._other:
            rule = self._find_rule(address)
            if len(self._fast) + len(self._other) >= MAX_CACHED:
                self._fast.clear()
                self._other.clear()
            if isinstance(rule, FastRule):
                self._fast[address] = rule
                return self.step(address, registers, stack, stack_start)
            self._other[address] = rule
        general = self._other[address]
        if general is None:
            return Step.NO_RULE
        return _step_general(general, registers, stack, stack_start)

    def function_start(self, address: int) -> int | None:
        """Return where the function, or part of one, begins that the rules for a pc are of."""
        fde = self._find_fde(address)
        return None if fde is None else fde.start

    def _find_rule(self, address: int) -> _Rule | None:
        fde = self._find_fde(address)
        if fde is None:
            return None
        try:
            rule = _compile(self._run(fde, address), fde.cie)
        except (_Malformed, FaultError):
            return None
        return self._interned.setdefault(rule, rule)

    def _find_fde(self, address: int) -> _Fde | None:
        index = bisect_right(self._starts, address - self._base) - 1
        if index < 0:
            return None
        entry = self._base + self._entries[index]
        if entry not in self._fdes:
            if len(self._fdes) >= MAX_CACHED:
                self._fdes.clear()
                self._interned.clear()
            try:
                self._fdes[entry] = self._load_fde(entry)
            except (_Malformed, FaultError):
                self._fdes[entry] = None
        fde = self._fdes[entry]
        return fde if fde is not None and fde.start <= address < fde.end else None

    def _load_header(self) -> None:
        """Read `.eh_frame_hdr`; a file without one, or with one of another kind, has no rules."""
        segment = next((s for s in self._elf.segments if s.type == PT_GNU_EH_FRAME), None)
        if segment is None or segment.file_size < 12:
            return
        try:
            data = self._elf.read(segment.address, min(segment.file_size, 12 + 8 * MAX_FUNCTIONS))
        except FaultError:
            return
        # Version 1, 4-byte pointer to .eh_frame, count as udata4, table as datarel sdata4: what
        # every linker writes.
        if data[0] != 1 or data[1] & 15 not in {3, 11} or data[2:4] != b"\x03\x3b":
            return
        count = min(struct.unpack_from("<I", data, 8)[0], (len(data) - 12) // 8)
        pairs = memoryview(data)[12 : 12 + 8 * count].cast("i")
        self._base = segment.address
        self._starts = pairs[::2]
        self._entries = pairs[1::2]

    def _load_fde(self, address: int) -> _Fde:
        entry = self._read_entry(address)
        distance = entry.u32()
        if not distance:
            raise _Malformed  # a CIE
        cie = self._load_cie(address + 4 - distance)
        if cie.pointer_encoding == _USUAL_ENCODING and len(entry.data) >= _FDE_HEAD.size:
            _, start, size = _FDE_HEAD.unpack_from(entry.data)
            start += address + 8
            entry.at = _FDE_HEAD.size
        else:
            start = entry.pointer(cie.pointer_encoding)
            size = entry.pointer(cie.pointer_encoding & 15)
        if cie.has_augmentation_data:
            entry.take(entry.uleb())
        return _Fde(start, start + size, cie, entry, entry.at)

    def _run(self, fde: _Fde, address: int) -> _State:
        """Return the row of a function for a pc."""
        cie = fde.cie
        initial = self._initials.get(cie)
        if initial is None:
            first = _Program(cie, 0, _State())
            first.run(_Reader(cie.program, 0), 0)
            initial = self._initials[cie] = first.state
        program = _Program(cie, fde.start, initial)
        fde.code.at = fde.first
        program.run(fde.code, address)
        return program.state

    def _load_cie(self, address: int) -> _Cie:
        if address in self._cies:
            return self._cies[address]
        entry = self._read_entry(address)
        if entry.u32():
            raise _Malformed  # an FDE
        version = entry.u8()
        if version not in {1, 3}:
            raise _Malformed
        augmentation = entry.string()
        code_factor, data_factor = entry.uleb(), entry.sleb()
        return_register = entry.u8() if version == 1 else entry.uleb()
        encoding = 0
        if augmentation[:1] == b"z":
            end = entry.uleb() + entry.at
            for letter in augmentation[1:]:
                if letter == ord("R"):
                    encoding = entry.u8()
                elif letter == ord("L"):
                    entry.u8()
                elif letter == ord("P"):
                    entry.pointer(entry.u8() & 0x7F)
                elif letter != ord("S"):
                    raise _Malformed
            entry.at = end
        elif augmentation:
            raise _Malformed
        cie = self._cies[address] = _Cie(
            code_factor,
            data_factor,
            return_register,
            encoding,
            augmentation[:1] == b"z",
            b"S" in augmentation,
            entry.rest(),
        )
        return cie

    def _read_entry(self, address: int) -> _Reader:
        """Return the contents of the CIE or FDE at `address`, after its length."""
        try:
            data = self._elf.read(address, _USUAL_ENTRY)
        except FaultError:
            # At the end of the segment.
            data = self._elf.read(address, 4)
        (length,) = struct.unpack_from("<I", data)
        if not 4 <= length <= MAX_ENTRY:
            raise _Malformed
        if length > len(data) - 4:
            data = self._elf.read(address, 4 + length)
        return _Reader(data[4 : 4 + length], address + 4)


class _Reader:
    """Takes values off the front of some bytes.

    Raises:
        _Malformed: From every method, when the bytes end too early.
    """

    __slots__ = ("_address", "at", "data")

    def __init__(self, data: bytes, address: int) -> None:
        self.data = data
        self._address = address
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def take(self, size: int) -> bytes:
        data = self.data[self.at : self.at + size]
        if len(data) != size:
            raise _Malformed
        self.at += size
        return data

    def jump(self, distance: int) -> None:
        """Go on `distance` bytes from here."""
        self.at += distance
        if not 0 <= self.at <= len(self.data):
            raise _Malformed

    def rest(self) -> bytes:
        return self.data[self.at :]

    def integer(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def u8(self) -> int:
        try:
            byte = self.data[self.at]
        except IndexError:
            raise _Malformed from None
        self.at += 1
        return byte

    def u32(self) -> int:
        return self.integer(4)

    def uleb(self) -> int:
        value = self.u8()
        if value < 128:
            return value
        value &= 127
        shift = 7
        while shift < 70:
            byte = self.u8()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
        raise _Malformed

    def sleb(self) -> int:
        before = self.at
        value = self.uleb()
        bits = 7 * (self.at - before)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def string(self) -> bytes:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise _Malformed
        text = self.data[self.at : end]
        self.at = end + 1
        return text

    def pointer(self, encoding: int) -> int:
        """Take an encoded pointer (LSB Core 5.0, 10.5.1): absolute or relative to itself."""
        base = self._address + self.at
        match encoding & 15:
            case 0 | 4:
                value = self.integer(8)
            case 1:
                value = self.uleb()
            case 2:
                value = self.integer(2)
            case 3:
                value = self.integer(4)
            case 9:
                value = self.sleb()
            case 10:
                value = self.integer(2, signed=True)
            case 11:
                value = self.integer(4, signed=True)
            case 12:
                value = self.integer(8, signed=True)
            case _:
                raise _Malformed
        match encoding & 0xF0:
            case 0:
                return value
            case 0x10:
                return value + base & _MASK
            case _:
                raise _Malformed


class _Program:
    """Runs the instructions of a CIE or FDE."""

    def __init__(self, cie: _Cie, start: int, initial: _State) -> None:
        self._cie = cie
        self._initial = initial
        self._remembered: list[_State] = []
        self.state = initial.copy()
        self.location = start

    def run(self, code: _Reader, address: int) -> None:
        """Run what of `code` is for `address`; `state` is then that of its row."""
        cie, at_cfa, data = self._cie, _Place.AT_CFA, code.data
        at, end, state = code.at, len(code.data), self.state
        while at < end and self.location <= address:
            opcode = data[at]
            low = opcode & 63
            at += 1
            if opcode >= _RESTORE:
                self._restore(low)
            elif opcode >= _OFFSET or opcode == _DEF_CFA_OFFSET:
                if at < end and data[at] < 0x80:
                    operand = data[at]
                    at += 1
                else:
                    code.at = at
                    operand = code.uleb()
                    at = code.at
                if opcode >= _OFFSET:
                    state.places[low] = (at_cfa, operand * cie.data_factor)
                else:
                    state.offset = operand
            elif opcode >= _ADVANCE:
                self.location += low * cie.code_factor
            elif opcode:
                code.at = at
                self._run_extended(low, code)
                at, state = code.at, self.state

    def _run_extended(self, opcode: int, code: _Reader) -> None:
        """Run an instruction that is not one of the usual ones."""
        factor = self._cie.data_factor
        state = self.state
        match opcode:
            case 1:  # set_loc
                self.location = code.pointer(self._cie.pointer_encoding)
            case 2 | 3 | 4:  # advance_loc1, 2, 4
                self.location += code.integer(1 << opcode - 2) * self._cie.code_factor
            case 5:  # offset_extended
                self._set(code.uleb(), _Place.AT_CFA, code.uleb() * factor)
            case 6:  # restore_extended
                self._restore(code.uleb())
            case 7:  # undefined
                self._set(code.uleb(), _Place.UNDEFINED, 0)
            case 8:  # same_value
                state.places.pop(code.uleb(), None)
            case 9:  # register
                self._set(code.uleb(), _Place.REGISTER, code.uleb())
            case 10:  # remember_state
                if len(self._remembered) >= MAX_REMEMBERED:
                    raise _Malformed
                self._remembered.append(state.copy())
            case 11:  # restore_state
                if not self._remembered:
                    raise _Malformed
                self.state = self._remembered.pop()
            case 12:  # def_cfa
                state.base, state.offset = code.uleb(), code.uleb()
            case 13:  # def_cfa_register
                state.base = code.uleb()
            case 15:  # def_cfa_expression
                state.base, state.expression = -1, code.take(code.uleb())
            case 16:  # expression
                self._set(code.uleb(), _Place.AT_EXPRESSION, code.take(code.uleb()))
            case 17:  # offset_extended_sf
                self._set(code.uleb(), _Place.AT_CFA, code.sleb() * factor)
            case 18:  # def_cfa_sf
                state.base, state.offset = code.uleb(), code.sleb() * factor
            case 19:  # def_cfa_offset_sf
                state.offset = code.sleb() * factor
            case 20:  # val_offset
                self._set(code.uleb(), _Place.CFA, code.uleb() * factor)
            case 21:  # val_offset_sf
                self._set(code.uleb(), _Place.CFA, code.sleb() * factor)
            case 22:  # val_expression
                self._set(code.uleb(), _Place.EXPRESSION, code.take(code.uleb()))
            case 0x2E:  # GNU_args_size
                code.uleb()
            case _:
                raise _Malformed

    def _set(self, register: int, place: _Place, operand: int | bytes) -> None:
        self.state.places[register] = (place, operand)

    def _restore(self, register: int) -> None:
        where = self._initial.places.get(register)
        if where is None:
            self.state.places.pop(register, None)
        else:
            self.state.places[register] = where


def _compile(state: _State, cie: _Cie) -> _Rule:
    places = dict(state.places)
    if cie.return_register != RIP:
        raise _Malformed
    fast = None if cie.signal_frame else _compile_fast(state, places)
    if fast is not None:
        return fast
    return _GeneralRule(
        state.base,
        state.offset,
        state.expression,
        tuple(sorted(places.items(), key=lambda item: item[0])),
        cie.signal_frame,
    )


def _compile_fast(state: _State, places: dict[int, _Where]) -> FastRule | None:
    if state.base != RSP and state.base not in _CALLEE_SAVED:
        return None
    if places.get(RIP) != (_Place.AT_CFA, -8):
        return None
    saved: list[tuple[int, int]] = []
    lowest = -8
    for register, (place, offset) in places.items():
        if register == RIP or (place is _Place.UNDEFINED and register in _VOLATILE):
            continue
        if place is not _Place.AT_CFA or register not in _CALLEE_SAVED:
            return None
        assert isinstance(offset, int)  # noqa: S101 - what AT_CFA carries; narrows for mypy
        if offset % 8 or not -8 * _MAX_FAST_WORDS <= offset < -8:
            return None
        lowest = min(lowest, offset)
        saved.append((register, offset))
    count = -lowest // 8
    indexed = tuple(sorted([(register, count + offset // 8) for register, offset in saved]))
    return FastRule(state.base, state.offset, -lowest, _UNPACK[count], indexed)


def _step_general(
    rule: _GeneralRule, registers: CfiRegisters, stack: bytes | memoryview, stack_start: int
) -> Step:
    """Step by a rule of any form. See `CfiTable.step`."""
    if not registers[VOLATILE_KNOWN]:
        for register in _VOLATILE:
            registers[register] = 0
    try:
        if rule.base < 0:
            cfa = _evaluate(rule.expression, registers, stack, stack_start, None)
        elif rule.base <= RIP and registers[rule.base]:
            cfa = registers[rule.base] + rule.offset & _MASK
        else:
            return Step.UNREADABLE
        caller = registers.copy()
        caller[RSP] = cfa
        for register, where in rule.places:
            if register <= RIP:
                caller[register] = _find_register(where, cfa, registers, stack, stack_start)
            if register == RIP and where[0] is _Place.UNDEFINED:
                return Step.END
    except _Unreadable:
        return Step.UNREADABLE
    except _Malformed:
        return Step.NO_RULE
    if not caller[RIP]:
        return Step.END
    # A signal handler may run on a stack of its own, anywhere; other frames lie in order. Equal is
    # possible here: vfork() takes its return address off the stack.
    if caller[RSP] < registers[RSP] and not rule.interrupted:
        return Step.NO_PROGRESS
    caller[VOLATILE_KNOWN] |= rule.interrupted
    registers[:] = caller
    return Step.INTERRUPTED if rule.interrupted else Step.CALLER


def _decode_kept_rsp(expression: bytes) -> tuple[int, int] | None:
    """Decode "the word at rsp + n, plus m" (DW_OP_breg7 n, deref, plus_uconst m); else None."""
    match = _KEPT_RSP.fullmatch(expression)
    if match is None:
        return None
    reader = _Reader(match[1] + match[2], 0)
    return reader.sleb(), reader.uleb()


def _find_register(
    where: _Where, cfa: int, registers: CfiRegisters, stack: bytes | memoryview, stack_start: int
) -> int:
    """Return the caller's value of one register; 0 is not known."""
    match where:
        case (_Place.AT_CFA, int(offset)):
            return _read_word(cfa + offset, stack, stack_start)
        case (_Place.CFA, int(offset)):
            return cfa + offset & _MASK
        case (_Place.REGISTER, int(register)) if register <= RIP:
            return registers[register]
        case (_Place.AT_EXPRESSION, bytes(code)):
            address = _evaluate(code, registers, stack, stack_start, cfa)
            return _read_word(address, stack, stack_start)
        case (_Place.EXPRESSION, bytes(code)):
            return _evaluate(code, registers, stack, stack_start, cfa)
    return 0


def _read_word(address: int, stack: bytes | memoryview, stack_start: int, size: int = 8) -> int:
    at = address - stack_start
    if at < 0 or at + size > len(stack):
        raise _Unreadable
    return int.from_bytes(stack[at : at + size], "little")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _divide(a: int, b: int) -> int:
    """Divide as C does, towards zero."""
    a, b = _signed(a), _signed(b)
    if not b:
        raise _Malformed
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _modulo(a: int, b: int) -> int:
    if not b:
        raise _Malformed
    return a % b


_BINARY: dict[int, Callable[[int, int], int]] = {
    0x1A: lambda a, b: a & b,
    0x1B: _divide,
    0x1C: lambda a, b: a - b,
    0x1D: _modulo,
    0x1E: lambda a, b: a * b,
    0x21: lambda a, b: a | b,
    0x22: lambda a, b: a + b,
    0x24: lambda a, b: a << b if b < 64 else 0,
    0x25: lambda a, b: a >> b if b < 64 else 0,
    0x26: lambda a, b: _signed(a) >> min(b, 63),
    0x27: lambda a, b: a ^ b,
    0x29: lambda a, b: int(a == b),
    0x2A: lambda a, b: int(_signed(a) >= _signed(b)),
    0x2B: lambda a, b: int(_signed(a) > _signed(b)),
    0x2C: lambda a, b: int(_signed(a) <= _signed(b)),
    0x2D: lambda a, b: int(_signed(a) < _signed(b)),
    0x2E: lambda a, b: int(a != b),
}
"""DWARF 5, 2.5.1.4 and 2.5.1.5; b was on top."""

_UNARY: dict[int, Callable[[int], int]] = {
    0x19: lambda a: abs(_signed(a)),
    0x1F: lambda a: -a,
    0x20: lambda a: ~a,
}


def _evaluate(
    code: bytes,
    registers: CfiRegisters,
    stack: bytes | memoryview,
    stack_start: int,
    cfa: int | None,
) -> int:
    """Evaluate a DWARF expression.

    Args:
        code: The expression.
        registers: Of the frame that is being left.
        stack: Bytes of the stack, the only memory that expressions can read here.
        stack_start: Address of `stack[0]`.
        cfa: What is on the stack of values at the start, if anything.

    Raises:
        _Unreadable: It needs a word that was not copied, or a register that is not known.
        _Malformed: It is not an expression, or takes too many operations.
    """
    values: list[int] = [] if cfa is None else [cfa]
    reader = _Reader(code, 0)
    try:
        for _ in range(MAX_OPERATIONS):
            if not reader:
                return values[-1]
            opcode = reader.u8()
            if opcode in _BINARY:
                b = values.pop()
                values.append(_BINARY[opcode](values.pop(), b) & _MASK)
            elif opcode in _UNARY:
                values.append(_UNARY[opcode](values.pop()) & _MASK)
            elif 0x30 <= opcode <= 0x4F:  # lit0..lit31
                values.append(opcode - 0x30)
            elif 0x70 <= opcode <= 0x8F or opcode == 0x92:  # breg0..breg31, bregx
                register = reader.uleb() if opcode == 0x92 else opcode - 0x70
                if register > RIP or not registers[register]:
                    raise _Unreadable
                values.append(registers[register] + reader.sleb() & _MASK)
            else:
                _evaluate_other(opcode, reader, values, stack, stack_start)
    except IndexError:
        raise _Malformed from None  # took more values than there were
    raise _Malformed


def _evaluate_other(
    opcode: int, reader: _Reader, values: list[int], stack: bytes | memoryview, stack_start: int
) -> None:
    """Run the operations that move values, read memory, or jump."""
    match opcode:
        case 0x03:  # addr
            values.append(reader.integer(8))
        case 0x06:  # deref
            values.append(_read_word(values.pop(), stack, stack_start))
        case 0x08 | 0x0A | 0x0C | 0x0E:  # const1u, 2u, 4u, 8u
            values.append(reader.integer(1 << (opcode - 8) // 2))
        case 0x09 | 0x0B | 0x0D | 0x0F:  # const1s, 2s, 4s, 8s
            values.append(reader.integer(1 << (opcode - 9) // 2, signed=True) & _MASK)
        case 0x10:  # constu
            values.append(reader.uleb() & _MASK)
        case 0x11:  # consts
            values.append(reader.sleb() & _MASK)
        case 0x12:  # dup
            values.append(values[-1])
        case 0x13:  # drop
            values.pop()
        case 0x14:  # over
            values.append(values[-2])
        case 0x15:  # pick
            values.append(values[-1 - reader.u8()])
        case 0x16:  # swap
            values[-1], values[-2] = values[-2], values[-1]
        case 0x17:  # rot
            values[-3:] = [values[-1], values[-3], values[-2]]
        case 0x23:  # plus_uconst
            values.append(values.pop() + reader.uleb() & _MASK)
        case 0x28:  # bra
            distance = reader.integer(2, signed=True)
            if values.pop():
                reader.jump(distance)
        case 0x2F:  # skip
            reader.jump(reader.integer(2, signed=True))
        case 0x94:  # deref_size
            size = reader.u8()
            if size not in {1, 2, 4, 8}:
                raise _Malformed
            values.append(_read_word(values.pop(), stack, stack_start, size))
        case 0x96:  # nop
            pass
        case _:
            raise _Malformed
