"""WebAssembly: which function of which module runs at a pc, and what the module calls it.

WebAssembly's code has no header as JavaScript's has, and its objects are not on V8's heap: they are
C++ objects, found through a global of V8's.

    global state ─► std::map  code region start ─► (end, NativeModule)
    NativeModule ─► std::map  code start ─► WasmCode        and a vector of those not yet in it
                 └► {data, size} of the module's bytes      their name section has the names
    WasmCode        NativeModule | instructions | size | function index

Where in the global state and the NativeModule these are is found by their shape: the header of a
std::map has color 0 and a root whose parent is the header, and what it leads to must fit what was
asked (a region around the pc, a NativeModule whose codes start in it). It is found once per
process. Only the WasmCode's own fields come from a table of versions.

The process runs while this is read, and code comes and goes: function tiers up, modules die. What
was found is kept with the bytes of its WasmCode, which are read again each time: the C library
overwrites the first two words of an object when it is freed, and those are among them.

Not here: byte offsets in the module, and functions that WebAssembly's compiler inlined.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from jsspy.errors import FaultError, MalformedData
from jsspy.model.units import Address
from jsspy.target.memory import Memory
from jsspy.target.process import V8Binary
from jsspy.v8.heap import Heap, is_heap_object
from jsspy.v8.strings import read_string

MAX_MODULE = 64 << 20
"""Bytes: V8 allows 1 GiB, and Memory reads no more at once."""

MAX_NAMES = 1 << 20
MAX_NAME = 1 << 12
MAX_CODES = 1 << 14
"""Of a NativeModule, that are looked through one by one: those that are not yet in its map."""

MAX_KEPT = 1 << 16
_MAX_DEPTH = 64
"""Of a red-black tree: twice the logarithm of its size."""

_RETRY_S = 0.5
"""How long a pc that was not found is not looked for again."""

_STATE = re.compile(
    rb"_ZN2v88internal4wasm12_GLOBAL__N_1L?17global_wasm_stateE"
    rb"|_ZZN2v88internal4wasm12_GLOBAL__N_1L?19GetSharedWasmEngineEvE6object"
)
"""Source: src/wasm/wasm-engine.cc at 9.4.146 (the first) and 7.8.279 (the second)."""

_STATE_SIZE = 0x400
_MODULE_SIZE = 0x300
_CODE_SIZE = 64
_HEADER_SIZE = 40
_MAGIC = b"\0asm\1\0\0\0"
_CUSTOM, _IMPORT, _FUNCTION = 0, 2, 3
_FUNCTION_NAMES = 1
_URL = "wasm://wasm/"
_INSTANCE_WORDS = 48
_MODULE_WORDS = 16
_URL_DEPTH = 3

_Words = tuple[int, ...]


class CodeFields(NamedTuple):
    """Offsets in a WasmCode."""

    module: int
    instructions: int
    size: int
    function: int
    """Its index: int32, negative for wrappers."""


_FIELDS: tuple[tuple[tuple[int, int], tuple[int, int], CodeFields], ...] = (
    ((13, 0), (15, 0), CodeFields(0, 8, 32, 56)),
    ((11, 0), (12, 5), CodeFields(0, 8, 24, 44)),
    ((8, 0), (10, 3), CodeFields(0, 8, 32, 48)),
    ((7, 7), (7, 9), CodeFields(48, 0, 8, 56)),
)
"""First version, version from which on it is not known, fields. Checked on live processes of 7.8,
8.4, 9.4, 10.2, 11.3, 12.4, 13.6 and 14.6. Source: src/wasm/wasm-code-manager.h, class WasmCode."""


def find_fields(version: tuple[int, ...]) -> CodeFields | None:
    """Return the fields of a WasmCode; None if this V8 was not looked at."""
    for first, end, fields in _FIELDS:
        if first <= version[:2] < end:
            return fields
    return None


def url_of_script(name: str, source_url: str) -> str:
    """Return the url of a module's script; "" if it is a script of JavaScript.

    V8 9 and later have it for a name, 8 for a source url, and 7 has `wasm-<hash>` for a name.
    Source: src/wasm/wasm-engine.cc at 8.4.371 and 9.4.146, CreateWasmScript;
    src/wasm/module-compiler.cc at 7.8.279.
    """
    for text in (name, source_url):
        if text.startswith(_URL):
            return text
    return f"{_URL}{name[5:]}" if re.fullmatch(r"wasm-[0-9a-f]{8}", name) else ""


class WasmFunction(NamedTuple):
    """A function of a module."""

    number: int
    """Its index; imported functions come first."""
    name: str
    """From the module's name section; "" if that has none."""
    url: str
    """Of the module's script, `wasm://wasm/<hash>`; "" if it was not found."""


class ModuleNames(NamedTuple):
    """What the bytes of a module say."""

    imported: int
    """Imported functions; the first function with code has this index."""
    functions: int
    """All functions, imported ones included."""
    names: dict[int, str]


def decode_module(data: bytes) -> ModuleNames:
    """Decode the imports, the number of functions and the name section of a module.

    A name section that is damaged has the names before the damage: engines ignore errors in it.

    Raises:
        MalformedData: It is no module.

    Source: WebAssembly Core Specification 2.0, sections 5.5 and 7.4 ("Name Section").
    """
    if not data.startswith(_MAGIC):
        raise MalformedData("WebAssembly module", "not one")
    imported = declared = 0
    names: dict[int, str] = {}
    at = len(_MAGIC)
    while at < len(data):
        kind = data[at]
        size, start = _leb(data, at + 1)
        end = start + size
        if end > len(data):
            raise MalformedData("WebAssembly module", "a section is cut off")
        if kind == _IMPORT:
            imported = _count_imported_functions(data, start, end)
        elif kind == _FUNCTION:
            declared, _ = _leb(data, start)
        elif kind == _CUSTOM:
            title, inner = _name(data, start, end)
            if title == "name":
                _decode_names(data, inner, end, names)
        at = end
    return ModuleNames(imported, imported + declared, names)


def _leb(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned LEB128 number of up to 64 bits, and where it ends."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise MalformedData("WebAssembly module", "a number is cut off")


def _name(data: bytes, at: int, end: int) -> tuple[str, int]:
    size, start = _leb(data, at)
    if start + size > end:
        raise MalformedData("WebAssembly module", "a name is cut off")
    return data[start : start + min(size, MAX_NAME)].decode("utf-8", "replace"), start + size


def _count_imported_functions(data: bytes, at: int, end: int) -> int:
    count, at = _leb(data, at)
    functions = 0
    for _ in range(min(count, MAX_NAMES)):
        for _ in range(2):
            _, at = _name(data, at, end)
        if at >= end:
            raise MalformedData("WebAssembly module", "an import is cut off")
        kind = data[at]
        at += 1
        if kind == 0:
            functions += 1
            _, at = _leb(data, at)
        else:
            at = _skip_import(data, at, kind)
    return functions


def _skip_import(data: bytes, at: int, kind: int) -> int:
    """Return where the description of an imported table (1), memory, global or tag (4) ends."""
    if kind == 4:
        return _leb(data, at + 1)[1]
    if kind in {1, 3}:
        # A reference type may be (ref null? heap type).
        at = _leb(data, at + 1)[1] if data[at : at + 1] in {b"\x63", b"\x64"} else at + 1
    if kind == 3:
        return at + 1
    if kind not in {1, 2}:
        raise MalformedData("WebAssembly module", f"an import of kind {kind}")
    flags, at = _leb(data, at)
    for _ in range(1 + (flags & 1)):
        _, at = _leb(data, at)
    return at


def _decode_names(data: bytes, at: int, end: int, names: dict[int, str]) -> None:
    try:
        while at < end:
            kind = data[at]
            size, at = _leb(data, at + 1)
            if kind != _FUNCTION_NAMES:
                at += size
                continue
            count, at = _leb(data, at)
            for _ in range(min(count, MAX_NAMES)):
                index, at = _leb(data, at)
                names[index], at = _name(data, at, end)
            return
    except MalformedData:
        return


class _Module(NamedTuple):
    """A NativeModule whose bytes were read."""

    guard: bytes
    """Where the module's bytes are: pointer and size."""
    said: ModuleNames


class _Found(NamedTuple):
    """A WasmCode around a pc."""

    code: int
    guard: bytes
    module: int
    function: int


class WasmReader:
    """Finds functions of one target. Everything that it reads may be changing meanwhile."""

    def __init__(
        self,
        memory: Memory,
        v8: V8Binary,
        heap: Heap,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory = memory
        self._v8 = v8
        self._heap = heap
        self._clock = clock
        self._fields = find_fields(heap.layout.v8_version)
        self._state: int | None = None
        """Where the pointer to the global state is; 0 if the binary does not say."""
        self._regions_at = -1
        self._codes_at = -1
        self._new_codes_at = -1
        self._bytes_at = -1
        """Offsets, once found: in the global state, and three in a NativeModule."""
        self._found: dict[int, _Found] = {}
        self._modules: dict[int, _Module] = {}
        self._urls: dict[tuple[int, bytes], str] = {}
        self._missing: dict[int, float] = {}

    def find(self, pc: int, instance: int = 0) -> WasmFunction | None:
        """Return the function whose code contains `pc`; None if it is not, or not found.

        Args:
            pc: Of an instruction that executes, or the last byte of a call.
            instance: What the frame has in the place of a JSFunction; it leads to the module's url.
        """
        if self._fields is None:
            return None
        if self._state is None:
            symbol = next(iter(self._v8.elf.find_symbols(_STATE).values()), None)
            self._state = self._v8.bias + symbol.address if symbol is not None else 0
        if not self._state:
            return None
        try:
            found = self._known(pc)
            if found is None:
                found = self._look_up(self._fields, pc)
            if found is None:
                return None
            module = self._module(found.module)
        except (FaultError, MalformedData):
            return None
        if module is None or not module.said.imported <= found.function < module.said.functions:
            return None
        key = (found.module, module.guard)
        url = self._urls.get(key, "")
        if not url and is_heap_object(instance):
            url = self._find_url(instance)
            if url:
                self._urls[key] = url
        return WasmFunction(found.function, module.said.names.get(found.function, ""), url)

    # Code

    def _known(self, pc: int) -> _Found | None:
        """Return what was found at a pc if it is as it was."""
        found = self._found.get(pc)
        if found is None:
            return None
        if self._memory.read(Address(found.code), _CODE_SIZE) == found.guard:
            return found
        del self._found[pc]
        return None

    def _look_up(self, fields: CodeFields, pc: int) -> _Found | None:
        now = self._clock()
        if now < self._missing.get(pc, 0.0):
            return None
        module = self._find_region(self._state or 0, pc)
        found = self._find_code(fields, module, pc) if module else None
        caches: tuple[dict[int, object], ...] = (self._found, self._missing)  # type: ignore[assignment]  # only to empty them
        for cache in caches:
            if len(cache) >= MAX_KEPT:
                cache.clear()
        if found is None:
            self._missing[pc] = now + _RETRY_S
            if self._codes_at < 0 and self._new_codes_at < 0:
                # No module has been seen in there yet: it may have been something else.
                self._regions_at = -1
        else:
            self._found[pc] = found
        return found

    def _find_region(self, pointer: int, pc: int) -> int:
        """Return the NativeModule in whose code region a pc is; 0 if there is none."""
        state = self._word(pointer)
        if self._regions_at >= 0:
            return self._region_in(state + self._regions_at, pc)
        # V8 7 and 8 have a shared_ptr in that place: its object comes first either way.
        for at in range(0, _STATE_SIZE, 8):
            module = self._region_in(state + at, pc)
            if module:
                self._regions_at = at
                return module
        return 0

    def _region_in(self, header: int, pc: int) -> int:
        node = self._floor(header, pc)
        if node is None or not node[4] <= pc < node[5]:
            return 0
        return node[6]

    def _find_code(self, fields: CodeFields, module: int, pc: int) -> _Found | None:
        offsets = [self._codes_at] if self._codes_at >= 0 else range(0, _MODULE_SIZE, 8)
        for at in offsets:
            node = self._floor(module + at, pc)
            if node is None:
                continue
            found = self._check_code(fields, module, node[5], pc, start=node[4])
            if found is not None:
                self._codes_at = at
                return found
        return self._find_new_code(fields, module, pc)

    def _find_new_code(self, fields: CodeFields, module: int, pc: int) -> _Found | None:
        """Look through the vector of codes that are not in the map yet."""
        data = self._memory.read(Address(module), _MODULE_SIZE)
        offsets = (
            [self._new_codes_at] if self._new_codes_at >= 0 else range(0, _MODULE_SIZE - 16, 8)
        )
        for at in offsets:
            first, last, end = struct.unpack_from("<3Q", data, at)
            count = (last - first) // 8
            if first & 7 or last & 7 or not 0 < first < last <= end or count > MAX_CODES:
                continue
            try:
                pointers = struct.unpack(f"<{count}Q", self._memory.read(Address(first), 8 * count))
            except FaultError:
                continue
            if any(pointer & 7 or pointer < _MODULE_SIZE for pointer in pointers):
                continue
            bodies = self._memory.read_many([(pointer, _CODE_SIZE) for pointer in pointers])
            for pointer, body in zip(pointers, bodies, strict=True):
                if body is None or _u64(body, fields.module) != module:
                    break
                found = self._check_code(fields, module, pointer, pc)
                if found is not None:
                    self._new_codes_at = at
                    return found
        return None

    def _check_code(
        self, fields: CodeFields, module: int, code: int, pc: int, start: int = 0
    ) -> _Found | None:
        """Return a WasmCode if it is one, of this module, around the pc, and a function."""
        try:
            body = self._memory.read(Address(code), _CODE_SIZE)
        except FaultError:
            return None
        begin = _u64(body, fields.instructions)
        size, index = struct.unpack_from("<I", body, fields.size)[0], _i32(body, fields.function)
        if _u64(body, fields.module) != module or (start and begin != start):
            return None
        if not begin <= pc < begin + size or index < 0:
            return None
        return _Found(code, body, module, index)

    def _floor(self, header: int, key: int) -> _Words | None:
        """Return the node of a std::map with the greatest key up to `key`; None if it is no map.

        Returns:
            color, parent, left, right, key, and two words of the value.

        Source: libstdc++, bits/stl_tree.h, _Rb_tree_node_base and _Rb_tree_header.
        """
        try:
            color, root, _, _, count = self._words(header, 5)
            if color & 0xFFFFFFFF or not root or root & 7 or not 0 < count < 1 << 32:
                return None
            node: int = root
            best: _Words | None = None
            parent = header
            for _ in range(_MAX_DEPTH):
                if not node:
                    break
                words = self._words(node, 7)
                if words[1] != parent:
                    return None
                parent = node
                if words[4] <= key:
                    best, node = words, words[3]
                else:
                    node = words[2]
        except FaultError:
            return None
        return best

    # Modules

    def _module(self, module: int) -> _Module | None:
        """Return what a NativeModule's bytes say."""
        known = self._modules.get(module)
        if self._bytes_at >= 0:
            guard = self._read_place(module, self._bytes_at)
        else:
            guard = self._find_bytes(module)
        if guard is None:
            return None
        if known is not None and known.guard == guard:
            return known
        data, size = struct.unpack("<2Q", guard)
        if size > MAX_MODULE:
            return None
        said = decode_module(self._memory.read(Address(data), size))
        made = self._modules[module] = _Module(guard, said)
        return made

    def _read_place(self, module: int, at: int) -> bytes | None:
        """Return pointer and size of a module's bytes if they are at an offset."""
        try:
            place = self._memory.read(Address(self._word(module + at)), 16)
            data, size = struct.unpack("<2Q", place)
            is_module = self._memory.read(Address(data), len(_MAGIC)) == _MAGIC
        except FaultError:
            return None
        return place if is_module and size > len(_MAGIC) else None

    def _find_bytes(self, module: int) -> bytes | None:
        for at in range(0, _MODULE_SIZE, 8):
            place = self._read_place(module, at)
            if place is not None:
                self._bytes_at = at
                return place
        return None

    def _find_url(self, instance: int) -> str:
        """Return the name of the script that a module has; "" if it is not found.

        An instance leads to its module object, and that to the script; since V8 12 there is one
        object more in between.
        """
        script_type = self._heap.layout.types.script
        layer = [instance]
        for _ in range(_URL_DEPTH):
            count = _INSTANCE_WORDS if layer == [instance] else _MODULE_WORDS
            bodies = self._memory.read_many([(obj - 1, 8 * count) for obj in layer])
            fields = [
                word
                for body in bodies
                if body is not None
                for word in struct.unpack(f"<{count}Q", body)[1:]
                if is_heap_object(word)
            ]
            fields = list(dict.fromkeys(fields))[:MAX_CODES]
            maps = self._memory.read_many([(word - 1, 8) for word in fields])
            layer = []
            for word, data in zip(fields, maps, strict=True):
                kind = self._heap.map_type(_u64(data, 0)) if data is not None else None
                if kind == script_type:
                    url = self._script_url(word)
                    if url:
                        return url
                elif kind is not None:
                    layer.append(word)
        return ""

    def _script_url(self, script: int) -> str:
        objects = self._heap.layout.objects
        texts = []
        for offset in (objects.script_name, objects.script_source_url):
            try:
                word = self._heap.read_field(script, offset or objects.script_name)
                texts.append(read_string(self._heap, word, MAX_NAME))
            except (FaultError, MalformedData):
                texts.append("")
        return url_of_script(*texts)

    def _word(self, address: int) -> int:
        return _u64(self._memory.read(Address(address), 8), 0)

    def _words(self, address: int, count: int) -> _Words:
        return struct.unpack(f"<{count}Q", self._memory.read(Address(address), 8 * count))


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _i32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little", signed=True)
