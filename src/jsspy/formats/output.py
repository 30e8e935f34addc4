"""Text and JSON, written piece by piece: no format holds all that it writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

_BLOCK_CHARACTERS = 1 << 16


def write_text(out: BinaryIO, parts: Iterable[str]) -> None:
    """Write strings as UTF-8. They must not contain lone surrogates (see `names.clean`)."""
    block: list[str] = []
    size = 0
    for part in parts:
        block.append(part)
        size += len(part)
        if size >= _BLOCK_CHARACTERS:
            out.write("".join(block).encode())
            block.clear()
            size = 0
    out.write("".join(block).encode())


def dump_json(value: Any) -> str:
    """Return a small JSON value on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def separated(items: Iterable[str], separator: str = ",\n") -> Iterator[str]:
    """Yield items with a separator between them."""
    first = True
    for item in items:
        yield item if first else separator + item
        first = False
