"""Does what is believed of a V8 hold in a running process? Asked before anything is named.

In every Node.js there are objects of which the truth is known, or which prove themselves:

- the isolate's context, and in it V8's own functions by their well-known names;
- scripts of Node.js, by well-known names, in the isolate's list of scripts, and their functions:
  the source in front of a function's position ends with its name, and its own with a brace;
- the bytecode of such a function: bytecodes of the sizes that are believed fill it exactly, and its
  table of positions stays within the function;
- the Codes of V8's builtins: they are all of one kind, and each is where a builtin is;
- the code that makes frames: JSEntry pushes the marker, the interpreter's entry the registers, and
  the way into C++ stores the frame pointer where it is believed to be.

Nothing is stopped, a few hundred words are read. What does not come out right fails the test, and
nothing is named then. What could not be looked at is said.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from jsspy.errors import FaultError, MalformedData
from jsspy.model.capture import ThreadPlan
from jsspy.model.units import Address, FileAddress, TaggedPtr
from jsspy.target.elf import ElfFile
from jsspy.target.memory import Memory
from jsspy.target.process import V8Binary
from jsspy.v8.code import CodeReader
from jsspy.v8.function import FunctionReader, Script, SharedFunctionInfo
from jsspy.v8.heap import Heap, is_heap_object, is_smi, smi_value
from jsspy.v8.layout import CodeKind, Confidence, Layout, MarkerScheme
from jsspy.v8.legacy import decode_relocation
from jsspy.v8.metadata import MAKE_INTERPRETER_FRAME, SET_ROOT, count_pushes
from jsspy.v8.stripped import PREFIX, builtin_symbols

_ROOT_WORDS = 1536
_HEAD_WORDS = 10
_CONTEXT_WORDS = 400
_STACK_SIZES = (128 << 10, 32 << 10)
"""Above the first frames of a main thread are its arguments and its environment."""
_NATIVE_LENGTHS = range(40, 2000)
"""Slots of a native context: 66 in V8 3.14, 370 in 14.6."""
_NEAR_WORDS = 10
_SCRIPT_WORDS = 20
_LIST_WORDS = 18
_ISOLATE_WORDS = 8192
"""Within which are the Codes of all builtins, from V8 7.8 to 14.6."""

_MAX_SCRIPTS = 4
_MAX_FUNCTIONS = 120
_ENOUGH = 3
"""Functions that prove themselves. Were a position or a name not what it is believed to be, none
would but by accident."""
_MIN_SHARE = 4
"""One of so many has to. Arrow functions, getters and classes do not have their name in front."""

_BUILTINS = frozenset(
    (
        *("Array", "ArrayBuffer", "Boolean", "DataView", "Date", "Error", "Float64Array", "Map"),
        *("Function", "Int8Array", "Number", "Object", "Promise", "RegExp", "Set", "String"),
        *("Symbol", "Uint8Array", "WeakMap", "apply", "construct", "next", "then"),
    )
)
"""Functions in the native context of some versions or all."""

_SCRIPTS = re.compile(
    r"(?:node:)?internal/[\w/]+(?:\.js)?|(?:node:)?\w+(?:\.js)?|native [\w-]+\.js|node:electron/.*"
)
"""What scripts of Node.js and V8 are called, as opposed to a text out of place."""

_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)

_JUMP = b"\x49\xba"
"""mov r10, imm64; then jmp r10: the Code of an embedded builtin before V8 11."""
_PADDING = b"\xcc"
"""Or nothing at all, where nobody goes by it."""
_MAX_JUMP = 32
_MIN_CODES = 100
_MAX_CODES = 256
_STRETCH = 32
_PAGE = 4096
_MIN_ADDRESS, _MAX_ADDRESS = 1 << 16, 1 << 47

_ENTRY_MARKER = re.compile(rb"\x55\x48\x89\xe5\x6a(.)", re.DOTALL)
"""push rbp; mov rbp, rsp; push imm8"""
_STORE_RBP = re.compile(
    rb"(?:\x49\x89\x6d(.)|\x49\x89\xad(....)|(?:\x48\x8b\xc5|\x48\x89\xe8)\x49\x89\x85(....))",
    re.DOTALL,
)
"""mov [r13+d], rbp; or by way of rax"""
_ENTRY_SIZE = 0x500
_MAX_BYTECODES = 1 << 20
_WITH_DEBUG_BREAKS = bytes((1, 1, 1, 1, 1, 2, 3, 4))
"""Sizes of the first bytecodes since V8 6.9: Wide, ExtraWide, twins of them for debuggers, ..."""


class Check(NamedTuple):
    """One thing that was tried."""

    name: str
    passed: bool | None
    """None: there was nothing to try it on."""
    finding: str


class SelfTest(NamedTuple):
    """How sure jsspy is of a layout, and why."""

    confidence: Confidence
    checks: tuple[Check, ...]

    @property
    def failures(self) -> str:
        """What failed, as text; "" if nothing did."""
        return "; ".join(f"{it.name}: {it.finding}" for it in self.checks if it.passed is False)

    @property
    def untested(self) -> str:
        """What could not be tried although it always can be; "" if there is no such thing.

        A sleeping thread may have left its context, and code of functions is thrown away.
        """
        optional = ("context", "bytecode")
        return ", ".join(
            it.name for it in self.checks if it.passed is None and it.name not in optional
        )


def run_self_test(memory: Memory, v8: V8Binary, layout: Layout, thread: ThreadPlan) -> SelfTest:
    """Try a layout on a thread of a process that runs, and on its isolate.

    Raises:
        ProcessExited: It ended.
    """
    test = _Test(memory, v8.elf, layout, thread)
    tried = [
        ("context", test.check_context),
        ("functions", test.check_functions),
        ("scripts", test.check_scripts),
    ]
    if layout.embedded_blob is not None:
        # Before, V8 made its builtins when it started, and has JavaScript of its own, which is
        # what is found, without positions.
        tried += [
            ("bytecode", test.check_bytecode),
            ("code", test.check_code),
            ("frames", test.check_frames),
        ]
    if layout.code.legacy is not None and layout.code.legacy.relocation_encoding is not None:
        tried.append(("positions", test.check_relocation))
    try:
        checks = tuple(Check(name, *_try(check)) for name, check in tried)
    finally:
        test.close()
    if any(check.passed is False for check in checks):
        confidence = Confidence.FAILED
    elif layout.derived or any(check.passed is None for check in checks):
        confidence = Confidence.DERIVED
    else:
        confidence = Confidence.EXACT
    return SelfTest(confidence, checks)


_Finding = tuple[bool | None, str]


def _try(check: Callable[[], _Finding]) -> _Finding:
    try:
        return check()
    except (FaultError, MalformedData) as error:
        return False, error.message


class _Test:
    """The checks, and what they share. Fields of objects are read by the readers under test."""

    def __init__(self, memory: Memory, elf: ElfFile, layout: Layout, thread: ThreadPlan) -> None:
        self._memory = memory
        self._elf = elf
        self._layout = layout
        self._isolate = thread.isolate
        self._stack_end = thread.stack_end
        self._heap = Heap(memory, layout)
        self._reader = FunctionReader(self._heap)
        self._codes = CodeReader(self._heap, self._reader)
        self._builtins = builtin_symbols(elf)
        self._scripts: list[Script] = []
        self._functions: list[SharedFunctionInfo] = []

    def close(self) -> None:
        """Forget what was read."""
        self._heap.beliefs.clear()
        self._reader.close()
        self._codes.close()

    def check_context(self) -> _Finding:
        """Look for well-known functions in the isolate's context."""
        slot = self._layout.isolate.context
        context = 0 if slot is None else self._heap.read_word(self._isolate + slot)
        if not context:
            return None, "no context is entered"
        if not is_heap_object(context):
            return False, f"{context:#x} is no object"
        # That of a function leads to the native one, through a slot or through its map.
        near = self._read_objects(context, _NEAR_WORDS)
        candidates = [context, *near, *self._behind_map(context)]
        # Up to V8 4 it is the global object that has it.
        candidates += chain.from_iterable(self._read_objects(it, _NEAR_WORDS) for it in near)
        native, names = 0, set[str]()
        for candidate in dict.fromkeys(candidates):
            if self._length(candidate) in _NATIVE_LENGTHS:
                native += 1
                names = self._names_in(candidate)
                if len(names) >= _ENOUGH:
                    return True, f"{len(names)} of V8's functions by name"
        return False, f"none of {native} contexts has functions of known names"

    def _behind_map(self, obj: int) -> list[int]:
        map_word = self._heap.read_field(TaggedPtr(obj), 0)
        return self._read_objects(map_word, _NEAR_WORDS) if is_heap_object(map_word) else []

    def _length(self, obj: int) -> int:
        (data,) = self._memory.read_many([(obj + 7, 8)])
        word = 1 if data is None else _int64(data, 0)
        return smi_value(word) if is_smi(word) else 0

    def _names_in(self, context: int) -> set[str]:
        """Return well-known names of functions that a context has: enough of them.

        Those of its functions that have a script are kept: so they are before V8 7.
        """
        names: set[str] = set()
        for function in self._functions_in(self._read_objects(context, _CONTEXT_WORDS)):
            names |= _BUILTINS & {function.name}
            if function.script is not None and function.script.url:
                self._functions.append(function)
            elif len(names) >= _ENOUGH and self._layout.embedded_blob is not None:
                break
        return names

    def _functions_in(self, words: Sequence[int]) -> Iterator[SharedFunctionInfo]:
        """Yield what those of some words have that are functions."""
        slot = self._layout.objects.js_function_shared
        heads = self._memory.read_many([(word - 1 + slot, 8) for word in words])
        shared_type = self._layout.types.shared_function_info
        for word in self._select([_int64(head or b"", 0) for head in heads], shared_type):
            function = self._reader.read_shared(word)
            if function is not None:
                yield function

    def _functions_on_stack(self) -> Iterator[SharedFunctionInfo]:
        """Yield functions with a script that lie where the thread's first frames are."""
        end = self._stack_end
        parts = self._memory.read_many([(end - size, size) for size in _STACK_SIZES])
        data = next(filter(None, parts), b"")
        words = {word for (word,) in struct.iter_unpack("<Q", data) if _can_be_object(word)}
        for function in self._functions_in(sorted(words)):
            if function.script is not None and function.script.url:
                yield function

    def check_functions(self) -> _Finding:
        """Look whether the source says of functions what their positions and names do."""
        for script in self._find_scripts():
            self._functions += self._functions_of(script)
        if not self._functions:
            self._functions += self._functions_on_stack()
        tried = good = 0
        sources: dict[Script, str] = {}
        for function in self._functions[:_MAX_FUNCTIONS]:
            home = function.script
            if home is None or not _IDENTIFIER.fullmatch(function.name):
                continue
            if home not in sources:
                sources[home] = home.source()
            tried += 1
            good += _proves_itself(function, sources[home])
        self._scripts = list(sources)
        if not tried:
            return False, "no function of a script was found"
        found = f"{good} of {tried} functions prove themselves"
        return good >= _ENOUGH and good * _MIN_SHARE >= tried, found

    def check_scripts(self) -> _Finding:
        """Look at what scripts are called and numbered."""
        if not self._scripts:
            return False, "no script was found"
        named = [it for it in self._scripts if _SCRIPTS.fullmatch(it.url)]
        if not named:
            return False, f"called {self._scripts[0].url[:80]!r}"
        ids = [it.id for it in self._scripts]
        if len(set(ids)) != len(ids) or min(ids) < 0:
            return False, f"numbered {ids}"
        if any(it.line_offset or it.column_offset for it in named):
            return False, "they do not begin at line 1"
        objects = self._layout.objects
        slots = (objects.script_source_url, objects.script_source_mapping_url)
        for script in named:
            for slot in slots:
                if slot is not None and not self._is_text_or_undefined(script, slot):
                    return False, f"no url at {slot}"
        columns = (objects.script_line_offset, objects.script_column_offset)
        is_urls = slots[0] is None or slots[0] != slots[1]
        is_array = objects.fixed_array_data == objects.fixed_array_length + 8
        in_order = columns == (objects.script_name + 8, objects.script_name + 16)
        if not (in_order and is_urls and is_array):
            return False, "fields are not in V8's order"
        return True, f"{named[0].url} and {len(named) - 1} more"

    def _is_text_or_undefined(self, script: Script, slot: int) -> bool:
        types = self._layout.types
        kind = self._heap.instance_type(self._heap.read_field(TaggedPtr(script.address), slot))
        return kind is not None and (kind < types.first_nonstring or kind == types.oddball)

    def _find_scripts(self) -> list[int]:
        """Return scripts of the isolate's list, which is one of its roots."""
        heap, types = self._heap, self._layout.types
        data = self._memory.read(Address(self._isolate), 8 * _ROOT_WORDS)
        roots = sorted({word for (word,) in struct.iter_unpack("<Q", data) if _can_be_object(word)})
        elements: list[int] = []
        heads = self._memory.read_many([(root - 1, 8 * _HEAD_WORDS) for root in roots])
        for head in heads:
            map_word, length, *words = struct.unpack(f"<{_HEAD_WORDS}Q", head or bytes(80))
            kind = heap.map_type(map_word)
            is_array = is_smi(length) and smi_value(length) > 0
            if kind is not None and kind >= types.first_nonstring and kind != types.map:
                elements += [word & ~2 for word in words if is_array and word & 1]
        return self._select(elements, types.script)[:_MAX_SCRIPTS]

    def _functions_of(self, script: int) -> list[SharedFunctionInfo]:
        """Return functions that a script lists, if they say that they are its."""
        shared_type = self._layout.types.shared_function_info
        found: list[SharedFunctionInfo | None] = []
        for word in self._read_objects(script, _SCRIPT_WORDS):
            shared = self._select(self._read_objects(word, _LIST_WORDS), shared_type)
            if len(shared) > len(found):
                found = [self._reader.read_shared(each) for each in shared]
        return [
            it
            for it in found
            if it is not None and it.script is not None and it.script.address == script
            if it.script.url
        ]

    def _select(self, objects: list[int], wanted: int) -> list[int]:
        """Return those of some words that are objects of a type."""
        objects = [word for word in objects if _can_be_object(word)]
        maps = self._memory.read_many([(word - 1, 8) for word in objects])
        return [
            word
            for word, found in zip(objects, maps, strict=True)
            if found is not None and self._heap.map_type(_int64(found, 0)) == wanted
        ]

    def _read_objects(self, obj: int, count: int) -> list[int]:
        """Return the objects that one refers to, weak references included."""
        (data,) = self._memory.read_many([(obj - 1, 8 * count)])
        if data is None:
            # It may lie at the end of a page.
            (data,) = self._memory.read_many([(obj - 1, min(8 * count, -(obj - 1) % 4096))])
        return [] if data is None else [w & ~2 for (w,) in struct.iter_unpack("<Q", data) if w & 1]

    def check_relocation(self) -> _Finding:
        """Look whether the positions in relocation info lie within their function."""
        code, slot = self._layout.code, self._layout.objects.sfi_code
        if slot is None or code.legacy is None or code.legacy.relocation_encoding is None:
            return None, "functions do not say what their code is"
        inside = 0
        for function in self._functions[:_MAX_FUNCTIONS]:
            own = self._heap.read_field(TaggedPtr(function.address), slot)
            if self._heap.instance_type(own) != self._layout.types.code:
                return False, f"the code of {function.name!r} is something else"
            word = self._heap.read_field(TaggedPtr(own), code.position_table)
            size = self._heap.read_field(TaggedPtr(own), code.instruction_size) & 0xFFFFFFFF
            try:
                table = self._heap.read_byte_array(TaggedPtr(word))
                places = decode_relocation(table, code.legacy.relocation_encoding, size).values
            except MalformedData:
                continue  # the Code of a builtin that it shares with others
            inside += bool(places) and all(function.start <= it <= function.end for it in places)
        return inside >= _ENOUGH, f"{inside} functions have them within themselves"

    def check_bytecode(self) -> _Finding:
        """Look whether bytecodes have the sizes, and positions the places, that are believed."""
        code = self._layout.code
        strange = [it.name for it in self._functions if not self._has_code(it)]
        if self._layout.types.uncompiled_data and strange:
            return False, f"{strange[0]!r} and {len(strange) - 1} more have no code"
        reader = self._codes
        tried = placed = 0
        for function in self._functions:
            array = function.bytecode_array
            if array is None or tried == _ENOUGH * 2:
                continue
            tried += 1
            bytecodes = self._read_bytecodes(array)
            if code.bytecode_sizes and not _fills(bytecodes, code.bytecode_sizes):
                return False, f"that of {function.name!r} does not end where it does"
            found = {reader.bytecode_position(array, at) for at in range(len(bytecodes))}
            places = [place for place in found if place is not None]
            placed += bool(places)
            if not all(function.start <= place <= function.end for place in places):
                return False, f"{function.name!r} is at {places}, outside of itself"
        if not tried:
            return None, "no function is compiled"
        return placed == tried, f"{placed} of {tried} functions have it in place"

    def _has_code(self, function: SharedFunctionInfo) -> bool:
        """Say whether what a function has for code is something that stands for code."""
        types, slot = self._layout.types, self._layout.objects.sfi_function_data
        if function.bytecode_array is not None:
            return True
        kind = self._heap.instance_type(self._heap.read_field(TaggedPtr(function.address), slot))
        return kind is not None and (kind in types.uncompiled_data or kind == types.code)

    def _read_bytecodes(self, array: int) -> bytes:
        """Return the bytecodes of a function.

        Raises:
            MalformedData: It has no believable length.
        """
        code = self._layout.code
        length = self._heap.read_field(TaggedPtr(array), code.bytecode_length or 0)
        if not is_smi(length) or not 0 < smi_value(length) < _MAX_BYTECODES:
            raise MalformedData("bytecode array", "its length is not believable")
        return self._memory.read(Address(array - 1 + (code.bytecode_data or 0)), smi_value(length))

    def check_code(self) -> _Finding:
        """Look whether the Codes of V8's builtins lie as the builtins do."""
        code = self._layout.code
        words = self._read_code_words()
        size = 16 + max(code.flags, code.instruction_size, code.instruction_start)
        found = self._memory.read_many([(word - 1, size) for word in words])
        codes = [head for head in found if head is not None]
        if len(codes) < _MIN_CODES:
            return False, "the Codes of V8's builtins were not found"
        stream = self._layout.types.instruction_stream
        wanted = self._layout.types.code if stream < 0 else stream
        if self._codes.find_map(self._isolate, wanted) is None:
            return False, "what is made of scripts has no map"
        kinds = Counter(
            (_int32(head, code.flags) >> code.kind_shift) & code.kind_mask for head in codes
        )
        kind, count = kinds.most_common(1)[0]
        regexp = next((number for number, it in code.kinds.items() if it is CodeKind.REGEXP), None)
        is_mask = not code.kind_mask & (code.kind_mask + 1)
        if (
            not is_mask
            or count * 2 < len(codes)
            or kind in code.kinds
            or (regexp or kind + 1) != kind + 1
        ):
            return False, f"{count} of {len(codes)} are of kind {kind}"
        sizes = {(it.address % _PAGE, it.size) for it in self._builtins.values()}
        # Builtins have none of either: an empty array, or a Smi since V8 12.
        types = self._layout.types
        # What they are made of comes before what they are where they hold it themselves.
        apart = code.flags - code.instruction_size
        apart = -apart if code.instruction_start_is_pointer else apart
        if code.position_table != code.deoptimization_data + 8 or apart not in (4, 8):
            return False, "fields are not in V8's order"
        for slot, allowed in (
            (code.position_table, {types.byte_array, types.trusted_byte_array}),
            (code.deoptimization_data, {types.fixed_array}),
        ):
            slots = {_int64(head, slot) for head in codes}
            if {self._heap.instance_type(word) for word in slots if not is_smi(word)} - allowed:
                return False, f"what is at {slot} is something else"
        if not code.instruction_start_is_pointer:
            fitting = sum(
                head[code.instruction_start :].startswith((_JUMP, _PADDING))
                and 0 < _int32(head, code.instruction_size) < _MAX_JUMP
                for head in codes
            )
            return fitting * 10 >= len(codes) * 9, f"{fitting} of {len(codes)} lead to a builtin"
        if not any(size for _, size in sizes):
            return None, f"{len(codes)} of kind {kind}"
        # They may run from another place, at the same distance from a page.
        fitting = sum(
            (_int64(head, code.instruction_start) % _PAGE, _int32(head, code.instruction_size))
            in sizes
            for head in codes
        )
        return fitting * 10 >= len(codes) * 9, f"{fitting} of {len(codes)} are where a builtin is"

    def _read_code_words(self) -> list[int]:
        """Return Codes of builtins out of the isolate's table of them."""
        data = self._memory.read(Address(self._isolate), 8 * _ISOLATE_WORDS)
        words = [word for (word,) in struct.iter_unpack("<Q", data)]
        # They stand together: one word of each stretch is looked at, and if it is a Code, all.
        found: list[int] = []
        probes = [index for index in range(0, len(words), _STRETCH) if is_heap_object(words[index])]
        codes = set(self._select([words[index] for index in probes], self._layout.types.code))
        for index in probes:
            if words[index] in codes and len(found) < _MAX_CODES:
                found += words[index : index + _STRETCH]
        return self._select(found, self._layout.types.code)

    def check_frames(self) -> _Finding:
        """Look whether the code that makes frames puts into them what is believed."""
        frame, isolate = self._layout.frame, self._layout.isolate
        if not self._builtins:
            return None, "where V8's builtins are is not known"
        bias = isolate.root_register_bias
        entry = self._code_of("JSEntry")
        marker = _ENTRY_MARKER.match(entry)
        numbers = [number for number, name in frame.types.items() if name == "Entry"]
        if marker is None or frame.marker_scheme is not MarkerScheme.TYPE_SHL_1:
            return False, "JSEntry does not begin with a marker"
        if marker[1][0] not in {number << 1 for number in numbers}:
            return False, f"JSEntry pushes the marker {marker[1][0]}, not that of {numbers}"
        saved = _saved_at(entry, isolate.c_entry_fp - bias)
        if saved != frame.entry_saved_c_entry_fp:
            return False, f"JSEntry saves c_entry_fp at {saved}"
        if isolate.js_entry_sp - bias not in _stores_of_rbp(entry):
            return False, "JSEntry does not set js_entry_sp"
        exits = [
            self._code_of(name.removeprefix(PREFIX))
            for name in self._builtins
            if name.startswith(f"{PREFIX}CEntry_")
        ]
        if not exits or any(isolate.c_entry_fp - bias not in _stores_of_rbp(it) for it in exits):
            return False, "the way into C++ does not set c_entry_fp"
        pushes = MAKE_INTERPRETER_FRAME.search(self._code_of("InterpreterEntryTrampoline"))
        if pushes is None:
            return None, "the interpreter's frames are not made as they were"
        array = -32 if pushes[1] else -24
        made = (-8, -16, array, array - 8)
        slots = (frame.context, frame.function, frame.bytecode_array, frame.bytecode_offset)
        # The offset counts from the tag of the array's address on.
        data = int.from_bytes(pushes[2], "little") + 1
        is_right = slots == made and data == self._layout.code.bytecode_data
        return is_right, f"the interpreter's frames have {made}, bytecodes begin at {data}"

    def _code_of(self, name: str) -> bytes:
        symbol = self._builtins.get(PREFIX + name)
        if symbol is None:
            return b""
        size = min(symbol.size or _ENTRY_SIZE, _ENTRY_SIZE)
        return self._elf.read(FileAddress(symbol.address), size)


def _can_be_object(word: int) -> bool:
    """Say whether a word can be a reference: to where programs have memory, and aligned.

    To try and read what cannot costs a system call each.
    """
    return word & 7 == 1 and _MIN_ADDRESS < word < _MAX_ADDRESS


def _proves_itself(function: SharedFunctionInfo, source: str) -> bool:
    """Say whether the text at a function's position is that of a function of its name."""
    return (
        source[function.start : function.start + 1] == "("
        and source[function.end - 1 : function.end] == "}"
        and source[: function.start].rstrip().endswith(function.name)
    )


def _fills(bytecodes: bytes, sizes: bytes) -> bool:
    """Say whether bytecodes of these sizes end where all of them do.

    Source: see `jsspy.v8.positions.decode_baseline_offsets`.
    """
    count = len(sizes) // 3
    prefixes = 4 if sizes.startswith(_WITH_DEBUG_BREAKS) else 2
    at = 0
    while at < len(bytecodes):
        opcode, base = bytecodes[at], 0
        if opcode < prefixes and at + 1 < len(bytecodes):
            at, base = at + 1, count * (1 + opcode % 2)
            opcode = bytecodes[at]
        if opcode >= count or not sizes[base + opcode]:
            return False
        at += sizes[base + opcode]
    return at == len(bytecodes)


def _saved_at(entry: bytes, displacement: int) -> int | None:
    """Return where, relative to fp, code pushes a word of the isolate; None if it does not."""
    push = b"\x41\xff\xb5" + displacement.to_bytes(4, "little", signed=True)
    at = entry.find(push)
    root = SET_ROOT.search(entry)
    before = None if at < 0 or root is None else count_pushes(entry[: root.start()])
    return None if before is None or root is None or root.end() != at else -8 * (before + 1)


def _stores_of_rbp(code: bytes) -> set[int]:
    """Return where, relative to the root register, code stores the frame pointer."""
    return {
        int.from_bytes(match[1] or match[2] or match[3], "little", signed=True)
        for match in _STORE_RBP.finditer(code)
    }


def _int64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")


def _int32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")
