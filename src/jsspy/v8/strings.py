"""Strings of every shape: sequential, cons, sliced, thin and external, of one or two bytes.

A string's map tells its representation and its width. Flat ones (sequential, external) hold
characters or point to them; cons, sliced and thin strings refer to others. Strings are rewritten
while the program runs (a cons string is flattened in place), so what is read must add up at every
step: lengths are checked against each other and capped, and references are followed by a loop with
a budget.
"""

from __future__ import annotations

from jsspy.errors import FaultError, MalformedData
from jsspy.model.units import Address
from jsspy.v8.heap import Heap, is_smi, smi_value

MAX_STRING = 64 << 20
"""Characters: the largest bundles have some tens of MiB. V8's own limit is 512 Mi."""

MAX_PIECES = 1 << 16
"""References followed for one string. V8 flattens a source before it parses it."""

_HEAD = 64
"""Bytes read with the first look at a string: most names fit, so that one read suffices."""


def read_string(heap: Heap, obj: int, limit: int = MAX_STRING) -> str:
    """Return the text of a string. Lone surrogates are replaced by U+FFFD.

    Args:
        heap: Where to read.
        obj: The string.
        limit: Characters (UTF-16 code units) from which on it is refused.

    Raises:
        FaultError: Part of it cannot be read.
        MalformedData: Not a string, longer than `limit`, or its parts contradict each other.
    """
    data, one_byte = read_characters(heap, obj, limit)
    return data.decode("latin-1") if one_byte else data.decode("utf-16-le", "replace")


def read_characters(heap: Heap, obj: int, limit: int = MAX_STRING) -> tuple[bytes, bool]:
    """Return the characters of a string: Latin-1 if the flag is true, else UTF-16.

    Unlike in a `str`, an index into it is a position in V8's sense also beyond U+FFFF.

    Raises:
        FaultError: As `read_string`.
        MalformedData: As `read_string`.
    """
    layout = heap.layout.strings
    pieces: list[tuple[bytes, bool]] = []
    # What is still to be read, next last: (string, first character, count); a count of -1 is all.
    pending = [(obj, 0, -1)]
    total = -1
    steps = 0
    while pending:
        steps += 1
        if steps > MAX_PIECES:
            raise MalformedData(f"string at {obj:#x}", f"more than {MAX_PIECES} pieces")
        piece, start, count = pending.pop()
        instance_type, head = _read_head(heap, piece)
        length = _decode_length(heap, head)
        if count < 0:
            count = length - start
        if total < 0:
            if not 0 <= length <= limit:
                raise MalformedData(f"string at {obj:#x}", f"length {length}")
            total = length
        if start < 0 or count < 0 or start + count > length:
            raise MalformedData(f"string at {obj:#x}", "a part is shorter than the whole")
        if count == 0:
            continue
        shape = instance_type & layout.representation_mask
        if shape == layout.cons:
            first = _word(head, layout.cons_first)
            _, first_head = _read_head(heap, first)
            middle = _decode_length(heap, first_head)
            if not 0 <= middle <= length:
                raise MalformedData(f"string at {obj:#x}", "a part is longer than the whole")
            if start + count > middle:
                second = _word(head, layout.cons_second)
                skip = max(start - middle, 0)
                pending.append((second, skip, start + count - middle - skip))
            if start < middle:
                pending.append((first, start, min(count, middle - start)))
        elif shape == layout.sliced:
            offset = _word(head, layout.sliced_offset)
            if not is_smi(offset):
                raise MalformedData(f"string at {obj:#x}", "the offset of a slice is no number")
            parent = _word(head, layout.sliced_parent)
            pending.append((parent, start + smi_value(offset), count))
        elif shape == layout.thin and layout.thin_actual is not None:
            pending.append((_word(head, layout.thin_actual), start, count))
        else:
            one_byte = instance_type & layout.encoding_mask == layout.one_byte_tag
            pieces.append((_read_flat(heap, piece, instance_type, head, start, count), one_byte))
    return _join(pieces)


def _read_head(heap: Heap, obj: int) -> tuple[int, bytes]:
    """Return a string's instance type and its first bytes: all fields, of short ones all."""
    if obj & 3 != 1:
        raise MalformedData(f"string at {obj:#x}", "not a heap object")
    try:
        head = heap.memory.read(Address(obj - 1), _HEAD)
    except FaultError:
        # The string may lie at the end of what is mapped.
        head = heap.memory.read(Address(obj - 1), min(-(obj - 1) & 0xFFF, _HEAD))
    instance_type = heap.map_type(int.from_bytes(head[:8], "little"))
    if instance_type is None or instance_type >= heap.layout.types.first_nonstring:
        raise MalformedData(f"string at {obj:#x}", f"instance type {instance_type}")
    return instance_type, head


def _decode_length(heap: Heap, head: bytes) -> int:
    layout = heap.layout.strings
    if layout.length_is_smi:
        return smi_value(_word(head, layout.length))
    return int.from_bytes(head[layout.length : layout.length + 4], "little")


def _word(head: bytes, offset: int) -> int:
    if offset + 8 > len(head):
        raise MalformedData("string", "it ends before its fields do")
    return int.from_bytes(head[offset : offset + 8], "little")


def _read_flat(
    heap: Heap, obj: int, instance_type: int, head: bytes, start: int, count: int
) -> bytes:
    """Return `count` characters of a sequential or external string."""
    layout = heap.layout.strings
    width = 1 if instance_type & layout.encoding_mask == layout.one_byte_tag else 2
    shape = instance_type & layout.representation_mask
    if shape == layout.seq:
        first = layout.chars + start * width
        if first + count * width <= len(head):
            return head[first : first + count * width]
        return heap.memory.read(Address(obj - 1 + first), count * width)
    if shape != layout.external:
        raise MalformedData(f"string at {obj:#x}", f"instance type {instance_type}")
    if instance_type & layout.uncached_external_bit:
        data = _find_uncached(heap, _word(head, layout.external_resource), head)
    else:
        data = _word(head, layout.external_data)
    return heap.memory.read(Address(data + start * width), count * width)


def _find_uncached(heap: Heap, resource: int, head: bytes) -> int:
    """Return the data pointer that an external string does not cache.

    It is the resource's own business where it keeps it. The usual resources are {vtable, data,
    length}, with or without a pointer to the isolate between; the length must be the string's.
    """
    length = _decode_length(heap, head)
    words = heap.memory.read(Address(resource), 32)
    for offset in (8, 16):
        if _word(words, offset + 8) == length:
            return _word(words, offset)
    raise MalformedData(f"external string with resource {resource:#x}", "of an unknown kind")


def _join(pieces: list[tuple[bytes, bool]]) -> tuple[bytes, bool]:
    if all(one_byte for _, one_byte in pieces):
        return b"".join(data for data, _ in pieces), True
    return b"".join(_widen(data) if one_byte else data for data, one_byte in pieces), False


def _widen(data: bytes) -> bytes:
    wide = bytearray(2 * len(data))
    wide[::2] = data
    return bytes(wide)
