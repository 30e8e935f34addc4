"""Writes small ELF files, for shapes that no binary at hand shows."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

FUNC, OBJECT, NOTYPE, TLS = 2, 1, 0, 6
LOCAL, GLOBAL, WEAK = 0, 1, 2

TEXT_ADDRESS = 0x401000
TEXT_SIZE = 0x1000
BSS_ADDRESS = 0x500000
BSS_SIZE = 0x100


class Sym(NamedTuple):
    """A symbol to write; `section` 1 is .text, 2 is .data with .bss, 0 is undefined."""

    name: str
    value: int
    size: int = 0
    type: int = FUNC
    binding: int = GLOBAL
    section: int = 1


def build(
    symtab: Sequence[Sym] = (),
    dynsym: Sequence[Sym] = (),
    *,
    text: bytes = b"",
    data: bytes = b"",
    build_id: bytes = b"",
    eh_frame_hdr: bytes = b"",
    machine: int = 62,
    ident: bytes = b"\x7fELF\x02\x01\x01",
    kind: int = 2,
    tail_merge: bool = False,
) -> bytes:
    """Return an ELF file with .text at TEXT_ADDRESS and .data + .bss at BSS_ADDRESS.

    `eh_frame_hdr` is put at the end of .text; whoever passes it has put .eh_frame into `text`.
    """
    text = text.ljust(TEXT_SIZE, b"\xcc")
    body = bytearray(b"\0" * 0x1000)
    body += text
    hdr_offset = len(body)
    body += eh_frame_hdr.ljust(0x1000, b"\0")
    data_offset = len(body)
    body += data.ljust(16, b"\1")
    note = b""
    if build_id:
        note = struct.pack("<III", 4, len(build_id), 3) + b"GNU\0" + build_id
    note_offset = len(body)
    body += note
    names = b"\0.text\0.data\0.symtab\0.strtab\0.dynsym\0.dynstr\0.shstrtab\0"
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (names.index(b".text"), 1, 6, TEXT_ADDRESS, 0x1000, TEXT_SIZE, 0, 0, 16, 0),
        (names.index(b".data"), 1, 3, BSS_ADDRESS, data_offset, 16, 0, 0, 16, 0),
    ]
    for table, kind_, name in ((symtab, 2, b"sym"), (dynsym, 11, b"dyn")):
        if not table:
            continue
        strings = bytearray(b"\0")
        rows = bytearray(24)
        for symbol in table:
            encoded = symbol.name.encode() + b"\0"
            at = strings.find(encoded) if tail_merge else -1
            if at < 0:
                at = len(strings)
                strings += encoded
            info = symbol.binding << 4 | symbol.type
            rows += struct.pack("<IBBHQQ", at, info, 0, symbol.section, symbol.value, symbol.size)
        offset = len(body)
        link = len(sections) + 1
        body += rows + strings
        symbols_name = names.index(b".symtab" if name == b"sym" else b".dynsym")
        strings_name = names.index(b".strtab" if name == b"sym" else b".dynstr")
        sections.append((symbols_name, kind_, 0, 0, offset, len(rows), link, 0, 8, 24))
        sections.append((strings_name, 3, 0, 0, offset + len(rows), len(strings), 0, 0, 1, 0))
    sections.append((names.index(b".shstrtab"), 3, 0, 0, len(body), len(names), 0, 0, 1, 0))
    body += names
    body += b"\0" * (-len(body) % 8)
    section_offset = len(body)
    for row in sections:
        body += struct.pack("<IIQQQQIIQQ", *row)
    segments = [
        (1, 5, 0x1000, TEXT_ADDRESS, 0, 0x2000, 0x2000, 0x1000),
        (1, 6, data_offset, BSS_ADDRESS, 0, 16, BSS_SIZE, 0x1000),
        (7, 4, data_offset, BSS_ADDRESS, 0, 8, 0x18, 8),
    ]
    if note:
        segments.append((4, 4, note_offset, 0, 0, len(note), len(note), 4))
    if eh_frame_hdr:
        address = TEXT_ADDRESS + hdr_offset - 0x1000
        size = len(eh_frame_hdr)
        segments.append((0x6474E550, 4, hdr_offset, address, 0, size, size, 4))
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(ident, kind, machine, 1, 0, 64, section_offset, 0, 64, 56),
        *(len(segments), 64, len(sections), len(sections) - 1),
    )
    for segment in segments:
        head += struct.pack("<IIQQQQQQ", *segment)
    body[: len(head)] = head
    return bytes(body)


HDR_ADDRESS = TEXT_ADDRESS + TEXT_SIZE
"""Where `eh_frame_hdr` comes to lie."""
