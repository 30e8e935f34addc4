"""Functions and scripts: from a SharedFunctionInfo to a name, a script and positions in it.

    JSFunction ──► SharedFunctionInfo ──► String             name, before the first compilation
                          │          └──► ScopeInfo          name, inferred name, start, end
                          ├──► Script (or DebugInfo ──► Script)   url, id, source
                          └──► BytecodeArray, InterpreterData, baseline Code, UncompiledData or,
                               of a builtin, its number as a Smi

Closures are young and move; the SharedFunctionInfo is old and seldom does, so it is what a sample
keeps. It is read while the program runs: an object that no longer checks out gives None, never a
guess.

A ScopeInfo is a row of slots whose layout depends on flags that moved from version to version:

    flags | parameters | locals n | start, end (V8 13) | module variables?  names | infos |
    saved class variable? | function name, its slot | inferred name | start, end (before V8 13) | …

Of a function all of the second line but the saved variable is there, so the tail is recognized by
its structure: String or 0, Smi, object or 0, Smi, Smi with start <= end. Scripts, modules and
evals have positions and no names. Source: src/objects/scope-info.tq at 9.4.146 and 13.6.233;
src/objects/scope-info.cc at 11.3.244, ScopeInfo::Create ("always reserve space for the name").

Before V8 6.9 positions, and before 6.6 names too, are in the SharedFunctionInfo itself. In between
a ScopeInfo also names parameters and locals on the stack, and has room for the function's name only
where it has one; the positions are known then, and tell where the tail is.
"""

from __future__ import annotations

import re
import sys
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, count
from operator import add
from typing import NamedTuple

from jsspy.errors import FaultError, MalformedData
from jsspy.model.units import Address
from jsspy.v8.beliefs import Remembered
from jsspy.v8.heap import Heap, is_heap_object, is_smi, smi_value
from jsspy.v8.strings import MAX_STRING, read_characters, read_string

MAX_NAME = 1 << 14
"""Characters of a function name or url; V8 has no limit, people have shorter ones."""

MAX_LOCALS = 1 << 20
"""Variables of one scope; their names come before the function's name."""

MAX_FUNCTIONS = 1 << 16
"""Functions that are remembered, 0.5 KiB each."""

MAX_SCRIPTS = 1 << 13

MAX_LINE_ENDS = 1 << 22

_SOURCE_ATTEMPTS = 10
"""The GC may move a source while it is read; a source that fails as often is not there."""

_SOURCE_AT_ONCE = 3
"""Attempts without a wait: one string is moved in a moment."""

_SOURCE_WAIT_S = 0.01
"""Of the attempts after those; each wait is twice the one before, 1.3 seconds at last."""

_SCOPE_SLOTS = 24
"""Slots of a ScopeInfo read at first: enough for functions with up to 8 captured variables."""

_TAIL_SLOTS = 8
_DEBUG_INFO_SIZE = 64
"""Bytes of a DebugInfo among which its script is."""

_DATA_SIZE = 40
"""Bytes read of what a function's data slot points to: four fields."""

_NATIVE = 0
"""Smi: Script::TYPE_NATIVE in src/objects.h, at 3.14.5 and 6.8.275."""

_NO_WORD = 3
"""Stands for a word that cannot be read: neither Smi nor reference."""

_NEWLINE = re.compile(rb"\n")
_OTHER_LINE_ENDS = ("\r", "\u2028", "\u2029")
_CLASS_LF, _CLASS_CR, _CLASS_SEPARATOR = 1, 2, 4
_WIDE_LINE_END = re.compile(rb"\x02\x01|[\x01\x02\x04]")
"""In text whose characters were replaced by the classes above; 0 is everything else."""
_WIDE_NEWLINE = re.compile(rb"\x01")


def _byte_table(classes: dict[int, int]) -> bytes:
    return bytes(classes.get(byte, 0) for byte in range(256))


_LOW_CLASSES = _byte_table(
    {0x0A: _CLASS_LF, 0x0D: _CLASS_CR, 0x28: _CLASS_SEPARATOR, 0x29: _CLASS_SEPARATOR}
)
_HIGH_CLASSES = _byte_table({0x00: _CLASS_LF | _CLASS_CR, 0x20: _CLASS_SEPARATOR})
"""Low and high byte of U+000A, U+000D, U+2028 and U+2029: both tables agree only on these."""


def find_line_ends(data: bytes, one_byte: bool, *, only_newline: bool = False) -> array[int]:
    r"""Return where the lines of a text end, the end of the text last.

    Terminators are \n, \r, \r\n (its \n counts), U+2028 and U+2029. Source: V8's
    src/objects/string.cc at 13.6.233, CalculateLineEndsImpl.

    Args:
        data: Latin-1 or UTF-16 (little-endian) characters, as V8 stores them.
        one_byte: Which of the two.
        only_newline: No other terminator ends a line (V8 3: src/objects.cc at 3.28.71).

    Returns:
        Positions in characters (UTF-16 code units), ascending.
    """
    if one_byte and not only_newline:
        # bytes.splitlines has these very terminators, and is 6 times as fast as matching them.
        lines = data.splitlines(keepends=True)
        ends = array("I", [end - 1 for end in accumulate(map(len, lines))])
        if not data.endswith((b"\n", b"\r")) and ends:
            ends.pop()
        ends.append(len(data))
        return ends
    if one_byte:
        matches = _NEWLINE.finditer(data)
        size = len(data)
    else:
        text = data[: len(data) // 2 * 2].decode("utf-16-le", "surrogatepass")
        if len(text) == len(data) // 2 and (
            only_newline or not any(end in text for end in _OTHER_LINE_ENDS)
        ):
            # No pairs of surrogates, so positions are the same: the usual case, 4 times as fast.
            lengths = accumulate(map(len, text.split("\n")))
            return array("I", map(add, lengths, count()))
        low = int.from_bytes(data[::2].translate(_LOW_CLASSES), "little")
        high = int.from_bytes(data[1::2].translate(_HIGH_CLASSES), "little")
        size = len(data) // 2
        classes = (low & high).to_bytes(size, "little")
        matches = (_WIDE_NEWLINE if only_newline else _WIDE_LINE_END).finditer(classes)
    ends = array("I", [match.end() - 1 for match in matches])
    ends.append(size)
    return ends


class Script:
    """A script, module, eval or Function body. What it says of itself is read when it is asked."""

    __slots__ = (
        "_attempts",
        "_heap",
        "_line_ends",
        "_next_attempt",
        "address",
        "column_offset",
        "forget",
        "gone",
        "guards",
        "id",
        "is_native",
        "line_offset",
        "name",
        "source_url",
    )

    def __init__(
        self, heap: Heap, address: int, words: bytes, forget: Callable[[], object]
    ) -> None:
        """Decode a Script.

        Args:
            heap: Where it is.
            address: Tagged pointer to it.
            words: Its bytes, `script_size(heap)` of them.
            forget: See `Remembered`.

        Raises:
            FaultError: A string of it cannot be read.
            MalformedData: It is not as a script is.
        """
        objects = heap.layout.objects
        self._heap = heap
        self._line_ends: array[int] | None = None
        self._attempts = 0
        self._next_attempt = 0.0
        self.address = address
        self.id = _script_id(heap, words)
        id_word = words[objects.script_id : objects.script_id + 8]
        self.guards = {address - 1 + objects.script_id: id_word}
        self.forget = forget
        self.gone = False
        self.line_offset = smi_value(_word(words, objects.script_line_offset))
        self.column_offset = smi_value(_word(words, objects.script_column_offset))
        # Processes that run one program have the same names.
        self.name = sys.intern(_read_text(heap, _word(words, objects.script_name)))
        source_url = objects.script_source_url
        self.source_url = "" if source_url is None else _read_text(heap, _word(words, source_url))
        """What a `//# sourceURL=` comment says, else ""."""
        kind = objects.script_type
        self.is_native = kind is not None and _word(words, kind) == _NATIVE
        """V8's own JavaScript, which it had builtins in before V8 7."""

    @property
    def url(self) -> str:
        """The script's name, else its sourceURL, else "" (eval, new Function)."""
        return self.name or self.source_url

    @property
    def source_mapping_url(self) -> str:
        """What a `//# sourceMappingURL=` comment says, read now: a data: url may have megabytes."""
        offset = self._heap.layout.objects.script_source_mapping_url
        if offset is None:
            return ""
        try:
            return _read_text(self._heap, self._read_field(offset), MAX_STRING)
        except (FaultError, MalformedData):
            return ""

    def source(self) -> str:
        """Return the source text as it is now.

        Raises:
            FaultError: It cannot be read.
            MalformedData: It has none, or the script is gone.
        """
        data, one_byte = self._read_source()
        return data.decode("latin-1") if one_byte else data.decode("utf-16-le", "replace")

    def line_column(self, position: int) -> tuple[int, int] | None:
        """Return line and column of a position, both from 1; None if the source is not there.

        Columns count UTF-16 code units, as everywhere in V8. The offsets of a script that stands
        in a larger file (vm.Script, inline handlers) are added, the column's to its first line.
        V8 7 numbers the lines of `new Function` so that its body begins with 1: what is in front
        of it counts as line 1, too.
        """
        ends = self._line_ends
        if ends is None:
            ends = self._line_ends = self._find_line_ends()
            if ends is None:
                return None
        if not 0 <= position <= ends[-1]:
            return None
        index = bisect_left(ends, position)
        if index == 0:
            return max(self.line_offset + 1, 1), self.column_offset + position + 1
        return max(self.line_offset + index + 1, 1), position - ends[index - 1]

    def _find_line_ends(self) -> array[int] | None:
        """Return V8's own table if it has made one, else our own."""
        now = time.monotonic()
        if self._attempts >= _SOURCE_ATTEMPTS or now < self._next_attempt:
            return None
        # All frames of a stack ask at once, and what is moving the source takes a while.
        self._attempts += 1
        if self._attempts >= _SOURCE_AT_ONCE:
            self._next_attempt = now + _SOURCE_WAIT_S * 2 ** (self._attempts - _SOURCE_AT_ONCE)
        heap = self._heap
        try:
            word = self._read_field(heap.layout.objects.script_line_ends)
            if heap.instance_type(word) == heap.layout.types.fixed_array:
                known = _decode_line_ends(heap.read_fixed_array(word, MAX_LINE_ENDS))
                if known is not None:
                    return known
            only_newline = heap.layout.objects.only_newline_ends_line
            return find_line_ends(*self._read_source(), only_newline=only_newline)
        except (FaultError, MalformedData):
            return None

    def _read_source(self) -> tuple[bytes, bool]:
        return read_characters(
            self._heap, self._read_field(self._heap.layout.objects.script_source)
        )

    def _read_field(self, offset: int) -> int:
        words = self._heap.memory.read(Address(self.address - 1), script_size(self._heap))
        if _script_id(self._heap, words) != self.id:
            raise MalformedData(f"script {self.id}", "it is gone")
        return _word(words, offset)


def script_size(heap: Heap) -> int:
    """Return how many bytes of a Script are read."""
    objects = heap.layout.objects
    return 8 + max(
        objects.script_id,
        objects.script_line_ends,
        objects.script_source_url or 0,
        objects.script_source_mapping_url or 0,
    )


def _script_id(heap: Heap, words: bytes) -> int:
    word = _word(words, heap.layout.objects.script_id)
    if heap.map_type(_word(words, 0)) != heap.layout.types.script or not is_smi(word):
        raise MalformedData("script", "it is gone")
    return smi_value(word)


def _decode_line_ends(words: tuple[int, ...]) -> array[int] | None:
    ends = [word >> 32 for word in words]
    if not ends or any(word & 0xFFFFFFFF for word in words) or ends != sorted(ends):
        return None
    return array("I", ends)


class SharedFunctionInfo(NamedTuple):
    """What all closures of one function share. Positions are UTF-16 code units in the script."""

    address: int
    """Tagged pointer."""
    name: str
    """The function's name, else what V8 inferred from where it is assigned, else ""."""
    script: Script | None
    start: int
    """Of an ordinary function its opening parenthesis; -1 if it has no source."""
    end: int
    bytecode_array: int | None
    """Tagged pointer; None if it is a builtin, not compiled, or was flushed."""
    builtin: bool
    """Compiled into V8: no script, and a number in place of code."""


@dataclass(slots=True, eq=False)
class _Known:
    """A function that is remembered."""

    info: SharedFunctionInfo
    guards: dict[int, bytes]
    forget: Callable[[], object]
    gone: bool = False


class FunctionReader:
    """Reads SharedFunctionInfos and remembers them, until `Beliefs.confirm` finds them changed."""

    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        objects = heap.layout.objects
        slots = (
            objects.sfi_function_data,
            objects.sfi_untrusted_function_data or 0,
            objects.sfi_name_or_scope_info,
            objects.sfi_script,
            objects.sfi_inferred_name or 0,
            objects.sfi_start or 0,
        )
        self._size = max(slots) + 8
        self._script_size = script_size(heap)
        self._functions: dict[int, _Known] = {}
        self._scripts: dict[int, Script] = {}
        self.scripts_read = 0
        """How often a script was read that was not known: while it stays, `scripts` does."""

    def close(self) -> None:
        """Forget everything: what is remembered leads back here, and would keep all of it alive."""
        self._functions.clear()
        self._scripts.clear()

    def scripts(self) -> list[Script]:
        """Return the scripts of the functions that were read of late."""
        return list(self._scripts.values())

    def read_shared(self, sfi: int) -> SharedFunctionInfo | None:
        """Return a function; None if there is none at this address.

        A function that is remembered is believed: see `Beliefs`.
        """
        known = self._functions.get(sfi)
        if known is not None:
            believe = self.heap.beliefs.add
            believe(known)
            script = known.info.script
            if script is not None:
                believe(script)
            return known.info
        if sfi & 3 != 1:
            return None
        try:
            return self._read(sfi)
        except (FaultError, MalformedData):
            return None

    def is_remembered(self, info: SharedFunctionInfo) -> bool:
        """Say whether a function is the one that is remembered, without believing it."""
        known = self._functions.get(info.address)
        return known is not None and known.info is info

    def validate_many(self, sfis: Iterable[int]) -> None:
        """Look now, in one read, whether these functions are what is remembered of them."""
        known = [known for sfi in sfis if (known := self._functions.get(sfi)) is not None]
        scripts = {it.info.script for it in known if it.info.script is not None}
        self.heap.beliefs.check([*known, *scripts])

    def basis(self, functions: Sequence[SharedFunctionInfo]) -> tuple[Remembered, ...] | None:
        """Return what these rest on; None if one of them is not remembered any more."""
        basis: list[Remembered] = []
        for function in functions:
            known = self._functions.get(function.address)
            if known is None or known.info is not function:
                return None
            basis.append(known)
            if function.script is not None:
                basis.append(function.script)
        return tuple(basis)

    def _forget_script(self, script: int) -> None:
        gone = self._scripts.pop(script, None)
        for sfi in [sfi for sfi, known in self._functions.items() if known.info.script is gone]:
            del self._functions[sfi]

    def _read(self, sfi: int) -> SharedFunctionInfo:
        heap = self.heap
        types, objects = heap.layout.types, heap.layout.objects
        words = heap.memory.read(Address(sfi - 1), self._size)
        if heap.map_type(_word(words, 0)) != types.shared_function_info:
            raise MalformedData(f"SharedFunctionInfo at {sfi:#x}", "it is gone")
        name_or_scope = _word(words, objects.sfi_name_or_scope_info)
        script_word = _word(words, objects.sfi_script)
        data_word = _word(words, objects.sfi_function_data)
        first_slot = objects.scope_info_first_slot
        scope_words, script_words, data_words = heap.memory.read_many(
            [
                (name_or_scope - 1, first_slot + 8 * _SCOPE_SLOTS),
                (script_word - 1, self._script_size),
                (data_word - 1, _DATA_SIZE),
            ]
        )
        if data_words is None and is_heap_object(data_word):
            data_words = self._read_to_page_end(data_word)
        script = self._find_script(script_word, script_words)
        bytecode_array = self._find_bytecode_array(data_word, data_words)
        name, start, end = "", -1, -1
        if objects.sfi_start is not None:
            name, start, end = self._decode_positions(words, objects.sfi_start)
        elif self._type_of(name_or_scope, scope_words) == types.scope_info:
            name, start, end = self._read_scope(name_or_scope, scope_words)
        else:
            name = _read_text(heap, name_or_scope)
            if (
                data_words is not None
                and heap.map_type(_word(data_words, 0)) in types.uncompiled_data
            ):
                inferred, start, end = self._decode_uncompiled(data_words)
                name = name or inferred
        code = objects.sfi_untrusted_function_data or objects.sfi_function_data
        builtin = script is None and (
            is_smi(_word(words, code))
            # Before V8 6.8 only the builtins that V8 treats specially have numbers.
            or (
                objects.sfi_start is not None
                and self._type_of(data_word, data_words) == types.oddball
            )
        )
        name = sys.intern(name)
        info = SharedFunctionInfo(sfi, name, script, start, end, bytecode_array, builtin)
        if len(self._functions) >= MAX_FUNCTIONS:
            self._functions.clear()
        forget = partial(self._functions.pop, sfi, None)
        self._functions[sfi] = _Known(info, {sfi - 1: words}, forget)
        return info

    def _read_to_page_end(self, obj: int) -> bytes:
        """Return the first bytes of an object at the end of what is mapped."""
        return self.heap.memory.read(Address(obj - 1), min(-(obj - 1) & 0xFFF, 512))

    def _type_of(self, obj: int, words: bytes | None) -> int | None:
        """Return the type of an object whose first bytes may have been read already."""
        if not is_heap_object(obj):
            return None
        if words is None:
            return self.heap.instance_type(obj)
        return self.heap.map_type(_word(words, 0))

    def _find_script(self, word: int, words: bytes | None) -> Script | None:
        """Return the script of a function; None if it has none.

        Raises:
            FaultError: It cannot be read.
            MalformedData: The slot holds something that is no object.
        """
        heap, types = self.heap, self.heap.layout.types
        instance_type = self._type_of(word, words)
        if instance_type is None and not is_smi(word):
            raise MalformedData(f"script at {word:#x}", "it is gone")
        # While a debugger is or was attached: DebugInfo, one field of which is the script. Before
        # V8 8 its type is not known, so that any other object is looked into.
        if instance_type not in {None, types.script, types.oddball}:
            if types.debug_info not in {instance_type, -1}:
                return None
            word = self._find_field(word, types.script, _DEBUG_INFO_SIZE)
            if word == 0:
                return None
            words = None
        elif instance_type != types.script:
            return None
        if words is None:
            words = heap.memory.read(Address(word - 1), self._script_size)
        known = self._scripts.get(word)
        if known is not None and known.id == _script_id(heap, words):
            return known
        if len(self._scripts) >= MAX_SCRIPTS:
            self._scripts.clear()
        forget = partial(self._forget_script, word)
        script = self._scripts[word] = Script(heap, word, words, forget)
        self.scripts_read += 1
        return script

    def _find_field(self, obj: int, instance_type: int, size: int) -> int:
        """Return the first field of an object that holds one of a type; 0 if none does."""
        words = self.heap.memory.read(Address(obj - 1), size)
        for offset in range(8, size, 8):
            field = _word(words, offset)
            if self.heap.instance_type(field) == instance_type:
                return field
        return 0

    def _find_bytecode_array(self, word: int, words: bytes | None) -> int | None:
        """Return the bytecode of a function: the slot itself, or up to two objects further.

        InterpreterData, BaselineData (V8 9) and baseline Code refer to it or to each other.
        Source: src/objects/shared-function-info-inl.h at 9.4.146 and 11.3.244, GetBytecodeArray.
        """
        types = self.heap.layout.types
        containers = {types.interpreter_data, types.baseline_data, types.code} - {-1}
        for _ in range(3):
            instance_type = self._type_of(word, words)
            if instance_type == types.bytecode_array:
                return word
            if instance_type not in containers:
                return None
            if words is None:
                words = self.heap.memory.read(Address(word - 1), _DATA_SIZE)
            fields = [_word(words, offset) for offset in range(8, len(words) - 7, 8)][:4]
            instance_type_of = self.heap.instance_type
            for wanted in (types.bytecode_array, types.interpreter_data):
                found = next((it for it in fields if instance_type_of(it) == wanted), 0)
                if found:
                    word, words = found, None
                    break
            else:
                return None
        return None

    def _decode_uncompiled(self, words: bytes) -> tuple[str, int, int]:
        """Return inferred name, start and end of a function that has no bytecode now."""
        objects = self.heap.layout.objects
        start, end = objects.uncompiled_start, objects.uncompiled_start + 4
        return (
            _read_text(self.heap, _word(words, objects.uncompiled_inferred_name)),
            int.from_bytes(words[start : start + 4], "little", signed=True),
            int.from_bytes(words[end : end + 4], "little", signed=True),
        )

    def _read_scope(self, scope: int, words: bytes | None) -> tuple[str, int, int]:
        """Return name, start and end of a function from its ScopeInfo."""
        objects = self.heap.layout.objects
        first = objects.scope_info_first_slot
        if words is None:
            words = self._read_to_page_end(scope)
        count = smi_value(_word(words, first + 8 * objects.scope_info_context_local_count))
        if not 0 <= count <= MAX_LOCALS:
            raise MalformedData(f"ScopeInfo at {scope:#x}", f"{count} locals")
        hashtable_from = objects.scope_info_names_hashtable_from
        names = 1 if hashtable_from is not None and count >= hashtable_from else count
        tail = first + 8 * (objects.scope_info_first_vars + names + count)
        if tail + 8 * _TAIL_SLOTS <= len(words):
            slots = [_word(words, tail + 8 * index) for index in range(_TAIL_SLOTS)]
        else:
            slots = self._read_tail(scope - 1 + tail)
        if objects.scope_info_positions_in_front:
            start = smi_value(_word(words, first + 24))
            end = smi_value(_word(words, first + 32))
            # Scripts, evals and modules have something else there: no names.
            return self._decode_names(slots) or "", start, end
        return self._decode_tail(slots)

    def _decode_positions(self, words: bytes, at: int) -> tuple[str, int, int]:
        """Return name, start and end of a function that has its positions itself.

        Source: src/objects.h at 3.14.5 and 6.2.414, src/objects/shared-function-info.h at 6.8.275.
        """
        heap, objects = self.heap, self.heap.layout.objects
        start = _int32(words, at) >> objects.sfi_start_shift
        end = _int32(words, objects.sfi_end) >> objects.sfi_end_shift
        name_or_scope = _word(words, objects.sfi_name_or_scope_info)
        if self._type_of(name_or_scope, None) == heap.layout.types.scope_info:
            name = self._read_scope_name(name_or_scope, start, end)
        else:
            name = _read_text(heap, name_or_scope)
        if not name and objects.sfi_inferred_name is not None:
            name = _read_text(heap, _word(words, objects.sfi_inferred_name))
        return name, start, end

    def _read_scope_name(self, scope: int, start: int, end: int) -> str:
        """Return the function's name, or the inferred one, from a ScopeInfo of V8 6.6 to 6.8.

        Before the tail stand the names of parameters, the first stack slot, the names of locals on
        the stack, and names and infos of locals in the context. Source: src/objects/scope-info.cc
        at 6.8.275, ScopeInfo::Create.
        """
        heap, objects = self.heap, self.heap.layout.objects
        parameters, locals_ = (
            objects.scope_info_parameter_count,
            objects.scope_info_stack_local_count,
        )
        first = objects.scope_info_first_slot
        if parameters is None or locals_ is None:
            raise MalformedData(f"ScopeInfo at {scope:#x}", "its structure is not known")
        words = heap.read_words(scope, first, objects.scope_info_first_vars)
        counts = [
            smi_value(words[index])
            for index in (parameters, locals_, objects.scope_info_context_local_count)
        ]
        if not all(0 <= count <= MAX_LOCALS for count in counts):
            raise MalformedData(f"ScopeInfo at {scope:#x}", f"{counts} variables")
        names = counts[0] + 1 + counts[1] + 2 * counts[2]
        slots = self._read_tail(scope - 1 + first + 8 * (objects.scope_info_first_vars + names))
        # A slot for the receiver, name and slot of the function, inferred name, start, end: the
        # first and the next two may be absent.
        for at in range(1, 5):
            if [slots[at], slots[at + 1]] == [start << 32, end << 32]:
                has_name = at >= 3 and is_smi(slots[at - 2])
                name = _read_text(heap, slots[at - 3]) if has_name else ""
                return name or _read_text(heap, slots[at - 1])
        raise MalformedData(f"ScopeInfo at {scope:#x}", "its tail is not known")

    def _read_tail(self, address: int) -> list[int]:
        """Return what follows the variables of a ScopeInfo; 3, no valid word, beyond the end."""
        data = self.heap.memory.read_many(
            [(address + 8 * index, 8) for index in range(_TAIL_SLOTS)]
        )
        return [_NO_WORD if word is None else int.from_bytes(word, "little") for word in data]

    def _decode_tail(self, slots: list[int]) -> tuple[str, int, int]:
        """Return name, start and end from the tail of a ScopeInfo with its positions in it.

        Raises:
            MalformedData: The tail has none of the known structures.
        """
        for index in range(_TAIL_SLOTS - 4):
            start, end = slots[index + 3 : index + 5]
            if _are_positions(start, end):
                name = self._decode_names(slots[index : index + 3])
                if name is not None:
                    return name, smi_value(start), smi_value(end)
        # An eval in V8 before 12: a function name that is empty, its slot, and nothing inferred.
        text, slot, start, end = slots[:4]
        if is_heap_object(text) and is_smi(slot) and _are_positions(start, end):
            return _read_text(self.heap, text), smi_value(start), smi_value(end)
        # A script or an eval; or a module, whose number of variables comes first.
        for index in range(2):
            start, end = slots[index : index + 2]
            if _are_positions(start, end):
                return "", smi_value(start), smi_value(end)
        raise MalformedData("ScopeInfo", "its tail is not known")

    def _decode_names(self, slots: list[int]) -> str | None:
        """Return the name that (function name, slot, inferred name) give; None if they do not."""
        name, slot, inferred = slots[:3]
        if not is_smi(slot) or (is_smi(name) and name != 0) or (is_smi(inferred) and inferred != 0):
            return None
        heap = self.heap
        limit = heap.layout.types.first_nonstring
        if name != 0:
            name_type = heap.instance_type(name)
            if name_type is None or name_type >= limit:
                return None
        if inferred != 0:
            inferred_type = heap.instance_type(inferred)
            if inferred_type is None:
                return None
        text = read_string(heap, name, MAX_NAME) if name != 0 else ""
        return text or _read_text(heap, inferred)


def _are_positions(start: int, end: int) -> bool:
    return is_smi(start) and is_smi(end) and 0 <= smi_value(start) <= smi_value(end)


def _word(data: bytes, offset: int) -> int:
    if offset + 8 > len(data):
        raise MalformedData("object", "it ends before its fields do")
    return int.from_bytes(data[offset : offset + 8], "little")


def _int32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little", signed=True)


def _read_text(heap: Heap, word: int, limit: int = MAX_NAME) -> str:
    """Return a string, or "" for undefined, a Smi, a Symbol and other things that are no text.

    Raises:
        FaultError: It cannot be read.
        MalformedData: It is no object, too long, or contradicts itself.
    """
    if is_smi(word):
        return ""
    instance_type = heap.instance_type(word)
    if instance_type is None:
        raise MalformedData(f"object at {word:#x}", "it is gone")
    if instance_type >= heap.layout.types.first_nonstring:
        return ""
    return read_string(heap, word, limit)
