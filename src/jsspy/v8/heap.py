"""Words, tags, maps and instance types: what every reader of V8 objects is built on.

A tagged word whose low bit is 0 is a Smi (the integer in its upper half); one that ends in binary
01 is the address of a heap object plus 1; 11 is a weak reference. A heap object starts with its
map, itself a heap object, which holds the instance type. All maps have the same map, the meta map,
which is its own: a chain that does not end so is not a heap object, or one that is being moved.

Nothing read here is believed: sizes are capped, and a type is told only of objects whose map checks
out.
"""

from __future__ import annotations

import struct

from jsspy.errors import FaultError, MalformedData
from jsspy.model.units import Address
from jsspy.target.memory import Memory
from jsspy.v8.beliefs import Beliefs
from jsspy.v8.layout import Layout

MAX_BYTE_ARRAY = 16 << 20
"""Bytes: position tables of the largest bundles have a few MiB."""

MAX_FIXED_ARRAY = 1 << 22
"""Elements: line ends of a script of 4 million lines."""

MAX_MAPS = 4096
"""Maps whose type is remembered; a large program has a few thousand, we meet some dozens."""


def is_smi(word: int) -> bool:
    """Say whether a tagged word is a Smi."""
    return not word & 1


def smi_value(word: int) -> int:
    """Return the integer of a Smi (signed, 32 bits)."""
    value = word >> 32
    return value - (1 << 32) if value >> 31 else value


def is_heap_object(word: int) -> bool:
    """Say whether a tagged word is a strong reference."""
    return word & 3 == 1


class Heap:
    """Checked reading of objects. Object arguments and results are tagged pointers."""

    def __init__(self, memory: Memory, layout: Layout) -> None:
        self.memory = memory
        self.layout = layout
        self.beliefs = Beliefs(memory)
        objects = layout.objects
        self._type_offset = objects.map_instance_type
        self._type_end = objects.map_instance_type + objects.map_instance_type_size
        self._shared = objects.js_function_shared
        self._types: dict[int, int] = {}
        self._meta_maps: set[int] = set()

    def read_word(self, address: int) -> int:
        """Return the 8 bytes at an address.

        Raises:
            FaultError: They cannot be read.
        """
        return int.from_bytes(self.memory.read(Address(address), 8), "little")

    def read_field(self, obj: int, offset: int) -> int:
        """Return the word at an offset of an object.

        Raises:
            FaultError: It cannot be read.
        """
        return int.from_bytes(self.memory.read(Address(obj - 1 + offset), 8), "little")

    def read_words(self, obj: int, offset: int, count: int) -> tuple[int, ...]:
        """Return `count` words from an offset of an object on.

        Raises:
            FaultError: Not all of them can be read.
        """
        data = self.memory.read(Address(obj - 1 + offset), 8 * count)
        return struct.unpack(f"<{count}Q", data)

    def instance_type(self, obj: int) -> int | None:
        """Return the instance type of an object; None for what is not, or no longer, an object."""
        if obj & 3 != 1:
            return None
        try:
            map_word = self.read_word(obj - 1)
        except FaultError:
            return None
        return self.map_type(map_word)

    def map_type(self, map_word: int) -> int | None:
        """Return the instance type that a map gives its objects; None if the word is no map.

        Types are remembered by map. The maps of the types that jsspy tells apart are never freed;
        a map of ordinary JavaScript objects might be, and its place be taken by another.
        """
        known = self._types.get(map_word)
        if known is not None:
            return known
        if map_word & 3 != 1:
            return None
        try:
            data = self.memory.read(Address(map_word - 1), self._type_end)
            meta_map = int.from_bytes(data[:8], "little")
            if meta_map not in self._meta_maps:
                if meta_map & 3 != 1 or self.read_word(meta_map - 1) != meta_map:
                    return None
                if self._read_type(meta_map) != self.layout.types.map:
                    return None
                self._meta_maps.add(meta_map)
        except FaultError:
            return None
        if len(self._types) >= MAX_MAPS:
            self._types.clear()
        found = int.from_bytes(data[self._type_offset :], "little")
        self._types[map_word] = found
        return found

    def _read_type(self, map_word: int) -> int:
        size = self._type_end - self._type_offset
        data = self.memory.read(Address(map_word - 1 + self._type_offset), size)
        return int.from_bytes(data, "little")

    def is_js_function(self, obj: int) -> bool:
        """Say whether an object is a JSFunction: its shared slot holds a SharedFunctionInfo.

        The instance type would not do: JSFunctions have a range of them, and where it ends is not
        known before V8 12 (on 11.3 class constructors lie beyond the usual guess).
        """
        if obj & 3 != 1:
            return False
        try:
            data = self.memory.read(Address(obj - 1), self._shared + 8)
        except FaultError:
            return False
        if self.map_type(int.from_bytes(data[:8], "little")) is None:
            return False
        shared = int.from_bytes(data[self._shared :], "little")
        return self.instance_type(shared) == self.layout.types.shared_function_info

    def read_byte_array(self, obj: int, cap: int = MAX_BYTE_ARRAY) -> bytes:
        """Return the contents of a ByteArray or TrustedByteArray.

        Raises:
            FaultError: It cannot be read.
            MalformedData: Its length is negative or above `cap`.
        """
        size = self._read_length(obj, cap)
        return self.memory.read(Address(obj - 1 + self.layout.objects.fixed_array_data), size)

    def read_fixed_array(self, obj: int, cap: int = MAX_FIXED_ARRAY) -> tuple[int, ...]:
        """Return the words of a FixedArray, or of one of its kin.

        Raises:
            FaultError: It cannot be read.
            MalformedData: Its length is negative or above `cap`.
        """
        count = self._read_length(obj, cap)
        return self.read_words(obj, self.layout.objects.fixed_array_data, count)

    def _read_length(self, obj: int, cap: int) -> int:
        word = self.read_field(obj, self.layout.objects.fixed_array_length)
        length = smi_value(word)
        if not is_smi(word) or not 0 <= length <= cap:
            raise MalformedData(f"array at {obj:#x}", f"length {length}")
        return length
