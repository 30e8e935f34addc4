"""Writing protocol buffers: the four kinds of field that profiles are made of.

Source: protobuf.dev, "Encoding", at 2024-05.
"""

from __future__ import annotations

from collections.abc import Iterable

_U64 = (1 << 64) - 1


def encode_varint(value: int) -> bytes:
    """Encode an unsigned number, or a negative one as 64 bits."""
    value &= _U64
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_number(field: int, value: int) -> bytes:
    """Encode a scalar field; 0 is the default and is left out."""
    return encode_varint(field << 3) + encode_varint(value) if value else b""


def encode_fixed64(field: int, value: int) -> bytes:
    """Encode a fixed64 field; 0 is the default and is left out."""
    return encode_varint(field << 3 | 1) + value.to_bytes(8, "little") if value else b""


def encode_bytes(field: int, data: bytes) -> bytes:
    """Encode a string, a message, or bytes."""
    return encode_varint(field << 3 | 2) + encode_varint(len(data)) + data


def encode_packed(field: int, values: Iterable[int]) -> bytes:
    """Encode a repeated scalar."""
    return encode_bytes(field, b"".join(map(encode_varint, values)))
