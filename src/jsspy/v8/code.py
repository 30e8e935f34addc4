"""Code objects: which one contains a pc, and where in which function that pc is.

V8 keeps machine code in pages of executable memory. In front of every piece of code stands a header
whose first word is a *map* that never changes: the Code map (V8 before 11), the InstructionStream
map (since). So the object that contains a pc is found without any help from a frame, by searching
for that word backwards from the pc:

    V8 before 11      Code ─► map, ..., deoptimization data, positions, size, flags, instructions
    V8 11 and later   InstructionStream ─► map, Code, ..., instructions
                      Code ─► map, deoptimization data, positions, instruction start, size, flags

This is right after on-stack replacement, a change of tier and deoptimization, when the function
already points at other code. Code moves and dies, so what was learned of an object is kept with
its *guards*: words that were read to learn it. An object whose guards read the same is the same.

How a code offset becomes positions depends on the tier:

    baseline            baseline table ─► bytecode offset ─► the function's source positions
    TurboFan            source position table ─► position and inlining id ─► one position per
                        inlined function
    Maglev              safepoints and deoptimization data (jsspy.v8.deopt) ─► bytecode offset in
                        every inlined function ─► their source positions; where that fails, as
                        TurboFan

Before V8 7.1 there were other tables, and code that is no longer made: see `jsspy.v8.legacy`.

All values are found in `Layout.code`. Not here: interpreted frames know their bytecode offset
themselves (`jsspy.v8.frames`); only its position is looked up here.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from jsspy.errors import FaultError, MalformedData
from jsspy.model.units import Address, TaggedPtr
from jsspy.v8.deopt import (
    SAFEPOINT_HEADER_SIZE,
    TranslationOpcodes,
    decode_safepoint_header,
    decode_safepoints,
    decode_translation,
    find_checks,
    find_opcodes,
)
from jsspy.v8.layout import CodeKind
from jsspy.v8.legacy import LegacyCodeReader, LegacyTables, Place
from jsspy.v8.positions import (
    MAX_TABLE_SIZE,
    InliningPosition,
    OffsetTable,
    decode_baseline_offsets,
    decode_inlining_positions,
    decode_positions,
    expand_inlining,
    script_offset,
)

if TYPE_CHECKING:
    from jsspy.target.maps import Mapping
    from jsspy.v8.function import FunctionReader
    from jsspy.v8.heap import Heap

MAX_CODE_SIZE = 4 << 20
"""Bytes. V8 does not optimize functions above 60 KiB of bytecode; baseline code of a large script
stays below 1 MiB."""

_FIRST_CHUNK = 4 << 10
_LAST_CHUNK = 64 << 10
_SCAN_BYTES = 1 << 20
_PAGE_BYTES = 4096
_MAX_CANDIDATES = 64
"""Map words looked at in one search: stale ones of dead code may stand before the live one."""

_EMPTY_TTL_S = 0.5
"""How long memory is taken to hold no code object: long enough for a burst of WebAssembly samples,
short enough for code that is new."""

_MAX_CODES = 1 << 15
_MAX_BYTECODE_TABLES = 1 << 16
"""Entries kept before a cache is emptied."""

_MAX_ISOLATES = 256

_ISOLATE_ROOTS_SIZE = 8 << 10
"""Bytes of the Isolate; the root was found at 0xd8 (V8 7.8) to 0x490 (14.6)."""

_ISOLATE_ROOTS_STEP = 1 << 10
"""Bytes read at a time: the roots come early, and each word costs a look at what it points to."""

_MAX_DEOPT_WORDS = 1 << 18
_MAX_INLINED = 1 << 14

_WEAK = 2
"""Bit of a weak reference."""

_WORD = Struct("<Q")
_U32 = Struct("<I")


class InlinedPosition(NamedTuple):
    """Where one function is executing. Sequences are innermost first."""

    shared: TaggedPtr
    """SharedFunctionInfo; 0 if the code does not say (then it is the frame's own function)."""
    position: int | None
    """Offset in the script; None if not known."""
    bytecode_offset: int | None = None
    """Only where positions come from bytecode offsets."""


class _Inlining(NamedTuple):
    """What optimized code with a position table says of itself."""

    table: OffsetTable
    shared: TaggedPtr
    calls: list[InliningPosition]
    functions: tuple[int, ...]


class _Translations(NamedTuple):
    """What Maglev code says of itself."""

    checks: OffsetTable
    """Code offset -> deopt index."""
    indexes: list[int]
    """Deopt index -> where its frame translation begins in `stream`."""
    stream: bytes
    literals: Address
    literal_count: int
    shared: TaggedPtr


_MOV_R13 = b"\x49\xc7\xc5"
_CALL = 0xE8
_MARKED_EXIT_SIZE = 8
"""A deoptimization exit of V8 8 and before: mov r13, index; call rel32."""

_EXIT_SIZES = {b"\x41\xff\x55": 4, b"\x41\xff\x95": 7}
"""Since V8 9 exits are equal calls, call [r13 + n], in the order of the entries."""


@dataclass(slots=True, eq=False)
class CodeObject:
    """One piece of machine code, as it was when it was last read."""

    address: Address
    """Of the Code object."""
    kind: CodeKind
    start: Address
    """Of the first instruction."""
    size: int
    """Bytes of instructions."""
    position_table: TaggedPtr
    deoptimization_data: TaggedPtr
    guards: dict[int, bytes]
    """Address -> bytes that must still be there for this to be the same object."""
    forget: Callable[[], object]
    gone: bool = False
    leaves: dict[int, int | None] = field(default_factory=dict)
    """pc -> where above rsp the return address is, if there is no frame at pc."""
    baseline: OffsetTable | None = None
    inlining: _Inlining | None = None
    translations: _Translations | None = None
    legacy: LegacyTables | None = None
    lookups: dict[tuple[int, bool, int], list[InlinedPosition]] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """Address after the last instruction."""
        return self.start + self.size


@dataclass(slots=True, eq=False)
class _Root:
    """Where an isolate keeps the map of its code objects."""

    word: bytes
    """Empty if it was not found: the isolate is not set up yet, or is none."""
    guards: dict[int, bytes]
    forget: Callable[[], object]
    expiry: float = 0.0
    gone: bool = False
    """When to look again for what was not found."""


class _Empty(NamedTuple):
    """Memory of one mapping in which no map word stands, as in pages of WebAssembly."""

    low: int
    high: int
    expiry: float


@dataclass(slots=True, eq=False)
class _BytecodeTable:
    """Source positions of a BytecodeArray."""

    table: OffsetTable | None
    guards: dict[int, bytes]
    """Its header: the words that the table was found by."""
    forget: Callable[[], object]
    gone: bool = False


class CodeReader:
    """Finds code objects and positions in one process; caches what it found.

    `learn_isolate` must be told of an isolate before its code can be found. What is cached is
    believed until `Beliefs.confirm` finds it changed.
    """

    def __init__(
        self,
        heap: Heap,
        functions: FunctionReader,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._heap = heap
        self._memory = heap.memory
        self._functions = functions
        self._layout = heap.layout
        self._clock = clock
        self._roots: dict[int, _Root] = {}
        self._map_words: list[bytes] = []
        self._starts: list[int] = []
        self._codes: dict[int, CodeObject] = {}
        self._empty: dict[int, _Empty] = {}
        self._bytecode_tables: dict[int, _BytecodeTable] = {}
        self._believe = heap.beliefs.add
        self._opcodes: TranslationOpcodes | None = find_opcodes(
            self._layout.code.translation_operand_counts
        )
        code = self._layout.code
        self._legacy = (
            LegacyCodeReader(heap, functions, self.bytecode_position)
            if code.legacy is not None
            else None
        )
        self._code_header_size = max(
            code.deoptimization_data + 8,
            code.position_table + 8,
            code.flags + 4,
            code.instruction_size + 4,
            code.instruction_start + 8 if code.instruction_start_is_pointer else 0,
        )

    def close(self) -> None:
        """Forget everything: what is remembered leads back here, and would keep all of it alive."""
        self._roots.clear()
        self._starts.clear()
        self._codes.clear()
        self._bytecode_tables.clear()
        self._legacy = None

    # Finding code

    def learn_isolate(self, isolate: int) -> None:
        """Look up the map word that code objects of `isolate` begin with.

        It is among the isolate's roots. Up to V8 9 every isolate has maps of its own, so this is
        to be called for each isolate, every time: another one may have taken its place.
        """
        root = self._roots.get(isolate)
        if root is not None:
            if root.word:
                self._believe(root)
                return
            if self._clock() < root.expiry:
                return
            del self._roots[isolate]
        if len(self._roots) >= _MAX_ISOLATES:
            del self._roots[next(iter(self._roots))]
        self._roots[isolate] = self._find_root(isolate)
        self._map_words = list({root.word for root in self._roots.values() if root.word})

    def _find_root(self, isolate: int) -> _Root:
        types = self._layout.types
        wanted = (
            types.instruction_stream
            if self._layout.code.instruction_start_is_pointer
            else types.code
        )
        forget = partial(self._roots.pop, isolate, None)
        found = self.find_map(isolate, wanted)
        if found is None:
            return _Root(b"", {}, forget, self._clock() + _EMPTY_TTL_S)
        slot, word = found
        map_word = _WORD.pack(word)
        return _Root(map_word, {slot: map_word}, forget)

    def find_map(self, isolate: int, wanted: int) -> tuple[int, int] | None:
        """Return a map of an instance type that is among the isolate's roots: its slot, and it."""
        types = self._layout.types
        at = self._layout.objects.map_instance_type
        size = self._layout.objects.map_instance_type_size
        kind = (wanted & (1 << 8 * size) - 1).to_bytes(size, "little")
        seen: set[int] = set()
        for first in range(isolate, isolate + _ISOLATE_ROOTS_SIZE, _ISOLATE_ROOTS_STEP):
            data = self._memory.read_many([(first, _ISOLATE_ROOTS_STEP)])[0] or b""
            slots = {
                word: first + 8 * index
                for index, (word,) in enumerate(_WORD.iter_unpack(data))
                if word & 3 == 1 and word > 0xFFFF and word not in seen
            }
            seen.update(slots)
            heads = self._memory.read_many([(word - 1 + at, size) for word in slots])
            for (word, slot), head in zip(slots.items(), heads, strict=True):
                if head == kind and self._heap.instance_type(word) == types.map:
                    return slot, word
        return None

    def iter_codes(self, mapping: Mapping) -> Iterator[CodeObject]:
        """Yield the code objects in a mapping, by address; memory that cannot be read has none."""
        words = self._map_words
        first = self._layout.code.instruction_start
        if self._layout.code.instruction_start_is_pointer:
            first = self._layout.code.instruction_stream_header or 16
        at: int = mapping.start
        while words and at < mapping.end:
            size = min(_SCAN_BYTES, mapping.end - at)
            try:
                data = self._memory.read(Address(at), size)
            except FaultError:
                at = (at // _PAGE_BYTES + 1) * _PAGE_BYTES
                continue
            end = at + size
            offset = 0
            while (found := _first_of(data, words, offset)) >= 0:
                offset = found + 1
                if (at + found) & 7:
                    continue
                try:
                    code = self._read_candidate(at + found, at + found + first, mapping)
                except FaultError:
                    code = None
                if code is not None:
                    yield code
                    # What looks like a map inside of it is a constant.
                    offset = code.end - at
                    end = max(end, code.end & ~7)
            at = end

    def validate_many(self, pcs: Iterable[int]) -> None:
        """Look now, in one read, whether the code at these places is what is remembered of it."""
        codes = {code for pc in pcs if (code := self._find_cached(pc)) is not None}
        self._heap.beliefs.check(codes)

    def find_code(self, pc: int, mapping: Mapping) -> CodeObject | None:
        """Return the code object that contains `pc`, or that ends at it.

        The latter because a return address may lie behind the last instruction. Code objects do
        not touch each other, so there is no doubt which one is meant.

        Args:
            pc: An address in an anonymous executable mapping.
            mapping: That mapping.
        """
        code = self._find_cached(pc)
        if code is not None:
            self._believe(code)
            return code
        code = self._search(pc, mapping)
        if code is not None:
            self._keep(code)
        return code

    def _find_cached(self, pc: int) -> CodeObject | None:
        index = bisect_right(self._starts, pc) - 1
        if index < 0:
            return None
        code = self._codes[self._starts[index]]
        return code if pc <= code.start + code.size else None

    def _drop(self, start: int) -> None:
        if self._codes.pop(start, None) is not None:
            del self._starts[bisect_left(self._starts, start)]

    def _keep(self, code: CodeObject) -> None:
        if len(self._codes) >= _MAX_CODES:
            self._codes.clear()
            self._starts.clear()
        # Whatever was known of this memory is gone.
        index = max(bisect_right(self._starts, code.start) - 1, 0)
        while index < len(self._starts) and self._starts[index] <= code.end:
            old = self._codes[self._starts[index]]
            if old.end >= code.start:
                self._drop(old.start)
            else:
                index += 1
        self._starts.insert(bisect_left(self._starts, code.start), code.start)
        self._codes[code.start] = code

    def _search(self, pc: int, mapping: Mapping) -> CodeObject | None:
        """Look for a map word at or below `pc` that begins an object which contains `pc`."""
        words = self._map_words
        if not words:
            return None
        lowest = low = max(mapping.start, pc - MAX_CODE_SIZE) & ~7
        top = high = (pc & ~7) + 8
        now = self._clock()
        empty = self._empty.get(mapping.start)
        if empty is not None and (now >= empty.expiry or not empty.low <= lowest <= empty.high):
            empty = None
        if empty is not None:
            lowest = empty.high
        chunk = _FIRST_CHUNK
        candidates = 0
        try:
            while high > lowest:
                low = max(lowest, (high - 1) // chunk * chunk)
                data = self._memory.read(Address(low), high - low)
                limit = len(data)
                while (at := max(data.rfind(word, 0, limit) for word in words)) >= 0:
                    candidates += 1
                    if at & 7 == 0:
                        code = self._read_candidate(low + at, pc, mapping)
                        if code is not None or candidates >= _MAX_CANDIDATES:
                            return code
                    limit = at + 7
                high = low
                chunk = min(chunk * 4, _LAST_CHUNK)
        except FaultError:
            return None
        if candidates == 0:
            if empty is None:
                empty = _Empty(low, top, now + _EMPTY_TTL_S)
            self._empty[mapping.start] = empty._replace(high=max(top, empty.high))
        return None

    def _read_candidate(self, at: int, pc: int, mapping: Mapping) -> CodeObject | None:
        """Return the code object whose map word is at `at` if it contains `pc`.

        Raises:
            FaultError: Its header cannot be read.
        """
        layout = self._layout.code
        size = self._code_header_size
        if not layout.instruction_start_is_pointer:
            data = self._memory.read(Address(at), size)
            guards = {at: data}
            return self._make_code(at, at + layout.instruction_start, guards, pc, mapping)
        header_size = layout.instruction_stream_header or 16
        header = self._memory.read(Address(at), header_size)
        start = at + header_size
        for (word,) in _WORD.iter_unpack(header[8 : header_size & ~7]):
            if word & 3 != 1:
                continue
            try:
                data = self._memory.read(Address(word - 1), size)
            except FaultError:
                continue
            if _WORD.unpack_from(data, layout.instruction_start)[0] != start:
                continue
            if self._heap.map_type(_WORD.unpack_from(data)[0]) == self._layout.types.code:
                guards = {at: header, word - 1: data}
                return self._make_code(word - 1, start, guards, pc, mapping)
        return None

    def _make_code(
        self, address: int, start: int, guards: dict[int, bytes], pc: int, mapping: Mapping
    ) -> CodeObject | None:
        layout = self._layout.code
        data = guards[address]
        size: int = _U32.unpack_from(data, layout.instruction_size)[0]
        if not start <= pc <= start + size <= mapping.end:
            return None
        flags: int = _U32.unpack_from(data, layout.flags)[0]
        kind = layout.kinds.get(flags >> layout.kind_shift & layout.kind_mask, CodeKind.OTHER)
        return CodeObject(
            address=Address(address),
            kind=kind,
            start=Address(start),
            size=size,
            position_table=TaggedPtr(_WORD.unpack_from(data, layout.position_table)[0]),
            deoptimization_data=TaggedPtr(_WORD.unpack_from(data, layout.deoptimization_data)[0]),
            guards=guards,
            forget=partial(self._drop, start),
        )

    # Positions

    def positions(
        self,
        code: CodeObject,
        pc: int,
        *,
        is_return_address: bool,
        bytecode_array: int = 0,
        shared: int = 0,
    ) -> list[InlinedPosition]:
        """Say which functions are executing at `pc`, and where.

        Args:
            code: What `find_code` returned for `pc`.
            pc: The address.
            is_return_address: The call before `pc` is executing, not the instruction at it.
            bytecode_array: BytecodeArray slot of the frame; needed for baseline code.
            shared: SharedFunctionInfo of the frame's function; the answer for baseline code.

        Returns:
            Innermost first; the last one is the function the code was compiled for. Positions are
            None where the tables cannot be read. Empty for code of other kinds (regular
            expressions, ...).

        Positions in Maglev code are exact for the return address of a call that may deoptimize.
        Elsewhere they are those of the last check or call before `pc`.
        """
        key = (pc, is_return_address, shared)
        found = code.lookups.get(key)
        if found is not None:
            return found
        try:
            match code.kind:
                case CodeKind.TURBOFAN:
                    found = self._table_positions(code, pc, is_return_address)
                case CodeKind.MAGLEV:
                    found = self._maglev_positions(code, pc, is_return_address)
                case CodeKind.BASELINE:
                    offset = self.baseline_offset(
                        code, bytecode_array, pc, is_return_address=is_return_address
                    )
                    position = self.bytecode_position(bytecode_array, offset)
                    found = [InlinedPosition(TaggedPtr(shared), position, offset)]
                case CodeKind.FULL_CODEGEN | CodeKind.LEGACY_OPTIMIZED:
                    found = self._legacy_positions(code, pc, is_return_address, TaggedPtr(shared))
                case _:
                    return []
        except (FaultError, MalformedData):
            return [InlinedPosition(TaggedPtr(shared), None)]
        if all(place.position is not None for place in found):
            code.lookups[key] = found
        return found

    def baseline_offset(
        self, code: CodeObject, bytecode_array: int, pc: int, *, is_return_address: bool
    ) -> int:
        """Return the bytecode offset at `pc` in baseline code; -1 in its prologue.

        Raises:
            FaultError: A table cannot be read.
            MalformedData: A table does not make sense.
        """
        table = code.baseline
        if table is None:
            sizes = self._layout.code.bytecode_sizes
            if not sizes:
                raise MalformedData("baseline code", "bytecode sizes are not known")
            data = self._heap.read_byte_array(code.position_table, MAX_TABLE_SIZE)
            table = code.baseline = decode_baseline_offsets(
                data, self._read_bytecodes(bytecode_array), sizes
            ).packed()
        offset = table.find(pc - code.start - is_return_address)
        return -1 if offset is None else offset

    def bytecode_position(self, bytecode_array: int, offset: int) -> int | None:
        """Return the script offset at a bytecode offset; None if the table does not have one."""
        entry = self._bytecode_tables.get(bytecode_array)
        if entry is not None:
            self._believe(entry)
        else:
            try:
                entry = self._read_bytecode_table(bytecode_array)
            except (FaultError, MalformedData):
                return None
        if entry.table is None:
            return None
        position = entry.table.find(offset)
        return None if position is None else script_offset(position)

    def _read_bytecode_table(self, bytecode_array: int) -> _BytecodeTable:
        """Read the table of a BytecodeArray, and keep it.

        Raises:
            FaultError: It cannot be read.
            MalformedData: It is not a BytecodeArray, or its table does not make sense.
        """
        layout, types = self._layout.code, self._layout.types
        slot = layout.bytecode_positions
        if slot is None or bytecode_array & 3 != 1:
            raise MalformedData("bytecode array", f"{bytecode_array:#x}")
        # Map, length, ..., table: pointers that change only if the object moves or dies.
        header = self._memory.read(Address(bytecode_array - 1), slot + 8)
        if self._heap.map_type(_WORD.unpack_from(header)[0]) != types.bytecode_array:
            raise MalformedData("bytecode array", f"{bytecode_array:#x} is something else")
        table: OffsetTable | None = None
        word: int = _WORD.unpack_from(header, slot)[0]
        arrays = (types.byte_array, types.trusted_byte_array)
        kind = self._heap.instance_type(word)
        if kind is not None and kind not in arrays and kind != types.oddball:
            # V8 7 may put a SourcePositionTableWithFrameCache around the table; 8.4 has none.
            word = self._heap.read_field(TaggedPtr(word), 8)
            kind = self._heap.instance_type(word)
        if kind in arrays:
            data = self._heap.read_byte_array(TaggedPtr(word), MAX_TABLE_SIZE)
            table = decode_positions(data, layout.position_encoding).packed()
        if len(self._bytecode_tables) >= _MAX_BYTECODE_TABLES:
            self._bytecode_tables.clear()
        forget = partial(self._bytecode_tables.pop, bytecode_array, None)
        entry = _BytecodeTable(table, {bytecode_array - 1: header}, forget)
        self._bytecode_tables[bytecode_array] = entry
        return entry

    def _read_bytecodes(self, bytecode_array: int) -> bytes:
        layout = self._layout.code
        if layout.bytecode_length is None or layout.bytecode_data is None:
            raise MalformedData("bytecode array", "layout is not known")
        if self._heap.instance_type(bytecode_array) != self._layout.types.bytecode_array:
            raise MalformedData("bytecode array", f"{bytecode_array:#x} is something else")
        length = self._heap.read_field(TaggedPtr(bytecode_array), layout.bytecode_length) >> 32
        if length > MAX_TABLE_SIZE:
            raise MalformedData("bytecode array", f"{length} bytes long")
        return self._memory.read(Address(bytecode_array - 1 + layout.bytecode_data), length)

    def _table_positions(
        self, code: CodeObject, pc: int, is_return_address: bool
    ) -> list[InlinedPosition]:
        inlining = code.inlining
        if inlining is None:
            inlining = code.inlining = self._read_inlining(code)
        offset: int | None = pc - code.start
        if is_return_address:
            offset = self._before_trampoline(code, pc - code.start)
        position = None if offset is None else inlining.table.find(offset - is_return_address)
        if position is None:
            return [InlinedPosition(inlining.shared, None)]
        result: list[InlinedPosition] = []
        for place in expand_inlining(position, inlining.calls):
            if place.function < 0:
                shared = inlining.shared
            elif place.function < len(inlining.functions):
                shared = TaggedPtr(inlining.functions[place.function])
            else:
                raise MalformedData("inlining positions", f"no function {place.function}")
            result.append(InlinedPosition(shared, place.position))
        return result

    def _before_trampoline(self, code: CodeObject, offset: int) -> int | None:
        """Return the return address that was there before V8 put another one in its place.

        A frame whose code is thrown away while it runs is to be deoptimized when it is returned to:
        V8 lets it return to one of the code's deoptimization exits. That belongs to an entry of the
        deoptimization data, the third word of which is where the call returns to. Source:
        `ActivationsFinder::VisitThread` in src/deoptimizer/deoptimizer.cc at 9.4 and 13.6.

        Args:
            code: Code of TurboFan.
            offset: A return address, from the start of the code.

        Returns:
            `offset` if it is not that of an exit; None if it is, but not whose.
        """
        instruction = self._memory.read(Address(code.start + offset), _MARKED_EXIT_SIZE)
        marked = instruction[:3] == _MOV_R13 and instruction[7] == _CALL
        if not marked and instruction[:3] not in _EXIT_SIZES:
            return offset
        words = self._read_deopt_data(code, -1)
        first = self._layout.code.deopt_inlining_positions + 1
        if marked:
            # V8 8 and before; up to two words lie between, and entries have three.
            index = int.from_bytes(instruction[3:7], "little")
            first += (len(words) - first) % 3
        else:
            if len(words) < first + 3:
                return None  # V8 has cleared them: no frame needs them any more
            size = _EXIT_SIZES[instruction[:3]]
            start, eager, lazy = (word >> 32 for word in words[first : first + 3])
            index, rest = divmod(offset - start, size)
            if rest or not eager <= index < eager + lazy:
                return offset
            first += 3
        entry = words[first + 3 * index : first + 3 * index + 3]
        found = entry[2] >> 32 if len(entry) == 3 else 0
        return found if 0 < found < code.size else None

    def _read_deopt_data(self, code: CodeObject, count: int) -> tuple[int, ...]:
        """Read the first `count` words of the deoptimization data; none of an empty one.

        Raises:
            FaultError: They cannot be read.
            MalformedData: There are fewer, or the object is not a heap object.
        """
        objects = self._layout.objects
        data = code.deoptimization_data
        if data & 3 != 1:
            raise MalformedData("deoptimization data", f"{data:#x}")
        length = self._heap.read_field(data, objects.fixed_array_length) >> 32
        if length == 0:
            return ()
        if count < 0:
            count = length
        if not count <= length <= _MAX_DEOPT_WORDS:
            raise MalformedData("deoptimization data", f"{length} words")
        return self._read_words(data - 1 + objects.fixed_array_data, count)

    def _read_words(self, address: int, count: int) -> tuple[int, ...]:
        data = self._memory.read(Address(address), count * 8) if count else b""
        return tuple(word for (word,) in _WORD.iter_unpack(data))

    def _read_shared(self, code: CodeObject, word: int) -> TaggedPtr:
        """Return the code's own SharedFunctionInfo and guard it; V8 13 and later wrap it.

        Raises:
            FaultError: It cannot be read.
            MalformedData: It is not one.
        """
        types = self._layout.types
        index = self._layout.code.deopt_shared_function_info
        slots = code.deoptimization_data - 1 + self._layout.objects.fixed_array_data
        self._guard_word(code, slots + 8 * index, word)
        kind = self._heap.instance_type(word)
        if kind == types.shared_function_info_wrapper and kind != -1:
            data = self._memory.read(Address(word - 1), 16)
            code.guards[word - 1] = data
            word = _WORD.unpack_from(data, 8)[0]
            kind = self._heap.instance_type(word)
        if kind != types.shared_function_info:
            raise MalformedData("deoptimization data", f"{word:#x} is not a SharedFunctionInfo")
        return TaggedPtr(word)

    def _guard_word(self, code: CodeObject, address: int, word: int) -> None:
        code.guards[address] = _WORD.pack(word)

    def _read_inlining(self, code: CodeObject) -> _Inlining:
        layout, objects = self._layout.code, self._layout.objects
        data = self._heap.read_byte_array(code.position_table, MAX_TABLE_SIZE)
        table = decode_positions(data, layout.position_encoding).packed()
        last = max(layout.deopt_shared_function_info, layout.deopt_inlining_positions)
        words = self._read_deopt_data(code, last + 1)
        if not words:
            # Code that cannot deoptimize has no data at all, so nothing was inlined either.
            return _Inlining(table, TaggedPtr(0), [], ())
        shared = self._read_shared(code, words[layout.deopt_shared_function_info])
        count = words[layout.deopt_inlined_function_count] >> 32
        if count > _MAX_INLINED:
            raise MalformedData("deoptimization data", f"{count} inlined functions")
        if count == 0:
            return _Inlining(table, shared, [], ())
        literals = words[layout.deopt_literal_array] - 1 + objects.fixed_array_data
        raw = self._memory.read(Address(literals), count * 8)
        # V8 updates these when a SharedFunctionInfo moves: then what we know is out of date.
        code.guards[literals] = raw
        functions = tuple(word & ~_WEAK for (word,) in _WORD.iter_unpack(raw))
        calls = decode_inlining_positions(
            self._heap.read_byte_array(
                TaggedPtr(words[layout.deopt_inlining_positions]), MAX_TABLE_SIZE
            )
        )
        return _Inlining(table, shared, calls, functions)

    # V8 before 7.1

    def _legacy_positions(
        self, code: CodeObject, pc: int, is_return_address: bool, shared: TaggedPtr
    ) -> list[InlinedPosition]:
        reader = self._legacy
        if reader is None:
            return []
        if code.kind is CodeKind.FULL_CODEGEN:
            position = reader.position(code, pc - code.start - is_return_address)
            return [InlinedPosition(shared, position)]
        if is_return_address:
            places = reader.inlined(code, pc - code.start, shared)
        else:
            places = [Place(reader.own_function(code) or shared, None)]
        return [InlinedPosition(TaggedPtr(place.shared), place.position) for place in places]

    # Maglev

    def _maglev_positions(
        self, code: CodeObject, pc: int, is_return_address: bool
    ) -> list[InlinedPosition]:
        if self._layout.v8_version >= (13,) and self._opcodes is not None:
            try:
                if code.translations is None:
                    code.translations = self._read_translations(code)
                offset = pc - code.start - is_return_address
                found = self._translated_positions(code, code.translations, self._opcodes, offset)
            except MalformedData:
                found = None
            if found is not None:
                if is_return_address or self._layout.code.maglev_positions_empty:
                    return found
                # Between two checks the table knows better who runs: a loop that was inlined may
                # hold no check at all. Where both name the same functions the check is closer:
                # the table (14.6) has the first line of a peeled loop for all of it.
                table = self._table_positions(code, pc, is_return_address)
                same = [place.shared for place in table] == [place.shared for place in found]
                return found if same or table[0].position is None else table
        return self._table_positions(code, pc, is_return_address)

    def _read_translations(self, code: CodeObject) -> _Translations:
        layout, objects = self._layout.code, self._layout.objects
        words = self._read_deopt_data(code, -1)
        first = layout.deopt_first_entry
        if len(words) < first or code.size > MAX_CODE_SIZE:
            raise MalformedData("deoptimization data", f"{len(words)} words")
        shared = self._read_shared(code, words[layout.deopt_shared_function_info])
        indexes = [word >> 32 for word in words[first + 1 :: 3]]
        # The pc of an exit is -1, and then no key of use, if the deoptimizer finds it elsewhere.
        exits = {word >> 32: index for index, word in enumerate(words[first + 2 :: 3])}
        literals = words[layout.deopt_literal_array] - 1
        literal_count = self._heap.read_word(literals + objects.fixed_array_length) >> 32
        stream = self._heap.read_byte_array(TaggedPtr(words[0]), MAX_TABLE_SIZE)
        header = decode_safepoint_header(
            self._memory.read(Address(code.end), SAFEPOINT_HEADER_SIZE)
        )
        table = self._memory.read(Address(code.end + SAFEPOINT_HEADER_SIZE), header.table_size)
        safepoints = decode_safepoints(table, header)
        checks = find_checks(self._memory.read(code.start, code.size), exits, safepoints).packed()
        return _Translations(
            checks,
            indexes,
            stream,
            Address(literals + objects.fixed_array_data),
            literal_count,
            shared,
        )

    def _translated_positions(
        self,
        code: CodeObject,
        translations: _Translations,
        opcodes: TranslationOpcodes,
        offset: int,
    ) -> list[InlinedPosition] | None:
        index = translations.checks.find(offset)
        if index is None:
            return None
        if not 0 <= index < len(translations.indexes):
            raise MalformedData("deoptimization data", f"no entry {index}")
        result: list[InlinedPosition] = []
        for frame in decode_translation(translations.stream, translations.indexes[index], opcodes):
            if not 0 <= frame.literal < translations.literal_count:
                raise MalformedData("deoptimization data", f"no literal {frame.literal}")
            address = translations.literals + 8 * frame.literal
            word = self._heap.read_word(address)
            self._guard_word(code, address, word)
            shared = word & ~_WEAK
            position = None
            if frame.bytecode_offset is not None:
                function = self._functions.read_shared(TaggedPtr(shared))
                if function is not None and function.bytecode_array is not None:
                    position = self.bytecode_position(
                        function.bytecode_array, frame.bytecode_offset
                    )
            result.append(InlinedPosition(TaggedPtr(shared), position, frame.bytecode_offset))
        result.reverse()
        return result


def _first_of(data: bytes, words: list[bytes], start: int) -> int:
    """Return where the first of `words` stands in `data` from `start` on; -1 if none does."""
    places = [at for word in words if (at := data.find(word, start)) >= 0]
    return min(places, default=-1)


# What the bytes around a pc tell about its frame. x86-64 only.


def returns_after_call(code_before: bytes) -> bool:
    """Say whether a call instruction ends where `code_before` ends.

    Args:
        code_before: The bytes in front of an address; 7 are enough.

    A word on the stack for which this holds is a return address, or a stale one, or (1 in 240 of
    random bytes pass) neither: ask only of addresses within code.
    Source: Intel SDM volume 2, CALL: E8 rel32; FF /2 with its ModRM, SIB and displacement.
    """
    if code_before[-5:-4] == b"\xe8":
        return True
    for length in (2, 3, 4, 6, 7):
        instruction = code_before[-length:]
        if len(instruction) == length and instruction[0] == 0xFF:
            modrm = instruction[1]
            if modrm & 0x38 == 0x10 and _operand_size(instruction) == length:
                return True
    return False


def _operand_size(instruction: bytes) -> int:
    """Return the length of opcode, ModRM, SIB and displacement."""
    mode, base = instruction[1] >> 6, instruction[1] & 7
    if mode == 3:
        return 2
    size = 2
    if base == 4:
        size = 3
        if mode == 0 and len(instruction) > 2 and instruction[2] & 7 == 5:
            return 7
    elif mode == 0 and base == 5:
        return 6
    return size + (0, 1, 4)[mode]


def return_address_offset(code_before: bytes, code_at: bytes) -> int | None:
    """Say where the return address is while code has no frame of its own, yet or any more.

    Args:
        code_before: The bytes in front of the pc; 1 is enough.
        code_at: The bytes at the pc; 4 are enough.

    Returns:
        Offset from rsp; rbp is then still, or again, the caller's. None: neither `push rbp;
        mov rbp, rsp` nor `ret` is about to run.
    """
    if code_at[:4] == b"\x55\x48\x89\xe5" or code_at[:1] in (b"\xc3", b"\xc2"):
        return 0
    if code_at[:3] == b"\x48\x89\xe5" and code_before[-1:] == b"\x55":
        return 8
    return None


def frame_push_offset(code_start: bytes) -> int | None:
    """Return where in a function's code its frame is set up: the offset of `push rbp`.

    Args:
        code_start: The first bytes of the code; 64 are enough.

    Up to there the return address is at rsp, and one byte later at rsp + 8. V8 may put a test in
    front (has this code been deoptimized?), so this is not always 0.
    """
    at = code_start.find(b"\x55\x48\x89\xe5")
    return at if at >= 0 else None
