"""Which Node.js a binary is, read from its constants; nothing of it is run."""

from __future__ import annotations

import re

from jsspy.errors import FaultError, MalformedData
from jsspy.model.units import FileAddress
from jsspy.target import cache
from jsspy.target.elf import ElfFile, Section

_CACHE_KIND = "node-version-1"
_CHUNK_SIZE = 1 << 22
_OVERLAP = 128
"""Longer than any match, so that none is cut in two."""

MAX_SEARCHED = 1 << 28
"""Bytes of constants looked through: Node 26 has 60 MiB of them."""

# Constants that end in NODE_VERSION; distributions' own builds have the first one too.
# - "node.js/v": what the inspector calls itself. Node 6 and later.
#   Source: src/inspector_socket_server.cc, SendVersionResponse, at v22.0.0.
# - "/download/release/v…/node-v…": process.release.sourceUrl. Node 4 and later, released builds.
#   Source: src/node_metadata.cc, at v22.0.0.
# - "node v": printed for --help and fatal errors by Node 0.10.
# - Last, where there is none of those: process.version itself (Node 0.12).
#   Source: src/node.cc, at v0.10.48 and v0.12.18.
_PREFIXES = (b"node.js/v", b"/download/release/v", b"\0node v")
_LAST_RESORT = (b"\0v",)
_VERSION = re.compile(
    rb"([0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?:-[0-9A-Za-z.-]{1,32})?)(?:\0|/node-v)"
)


def find_node_version(elf: ElfFile) -> str | None:
    """Return the version of the Node.js in a file, as `22.23.3`; None if it does not say one.

    Reads up to 60 MiB the first time; later answers come from the cache.
    """
    kept = cache.load(elf.identity, _CACHE_KIND)
    if kept is None:
        try:
            kept = _search(elf)
        except (FaultError, MalformedData):
            return None
        cache.store(elf.identity, _CACHE_KIND, kept)
    text = kept.decode("ascii", "replace")
    return text or None


def _search(elf: ElfFile) -> bytes:
    """Return the version, or b"" where none is found or two contradict each other."""
    section = elf.section(".rodata")
    if section is None:
        return b""
    found = _search_constants(elf, section, _PREFIXES) or _search_constants(
        elf, section, _LAST_RESORT
    )
    return found.pop() if len(found) == 1 else b""


def _search_constants(elf: ElfFile, section: Section, prefixes: tuple[bytes, ...]) -> set[bytes]:
    """Return every version that follows one of `prefixes`."""
    found: set[bytes] = set()
    end = min(section.size, MAX_SEARCHED)
    for offset in range(0, end, _CHUNK_SIZE):
        size = min(_CHUNK_SIZE + _OVERLAP, end - offset)
        chunk = elf.read(FileAddress(section.address + offset), size)
        for prefix in prefixes:
            place = chunk.find(prefix)
            while place >= 0:
                match = _VERSION.match(chunk, place + len(prefix))
                if match:
                    found.add(match[1])
                place = chunk.find(prefix, place + 1)
    return found
