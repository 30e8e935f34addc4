"""The mappings of a target's address space."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from jsspy.model.units import Address


class Mapping(NamedTuple):
    """One line of `/proc/PID/maps`."""

    start: Address
    end: Address
    permissions: str
    """Four letters: r or -, w or -, x or -, p(rivate) or s(hared)."""
    offset: int
    """Where in the file it begins."""
    inode: int
    """0 if it is not a file."""
    path: str
    """"" for anonymous memory, "[stack]" and the like, else the path in the target's own root,
    without " (deleted)"."""
    device: int = 0
    """As in `os.stat_result.st_dev`."""
    deleted: bool = False
    """The path no longer leads to the file."""

    @property
    def is_executable(self) -> bool:
        """Whether code can run in it."""
        return self.permissions[2:3] == "x"

    @property
    def is_file(self) -> bool:
        """Whether a file, present or deleted, stands behind it."""
        return self.inode != 0


class AddressSpace:
    """Mappings by address."""

    __slots__ = ("_starts", "mappings")

    def __init__(self, mappings: Iterable[Mapping]) -> None:
        self.mappings = tuple(sorted(mappings, key=lambda mapping: mapping.start))
        self._starts = [mapping.start for mapping in self.mappings]

    def find(self, address: int) -> Mapping | None:
        """Return the mapping that contains `address`."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            mapping = self.mappings[index]
            if address < mapping.end:
                return mapping
        return None


_LINE = re.compile(
    rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) (\S{4}) ([0-9a-f]{1,16})"
    rb" ([0-9a-f]{2,8}):([0-9a-f]{2,8}) (\d{1,20})(?: +(.*))?"
)

_ESCAPE = re.compile(rb"\\012")
"""The kernel writes a line break in a path as \\012, and nothing else as an escape.
Source: fs/proc/task_mmu.c, show_map_vma -> seq_path(..., "\\n"), at v6.12."""


def decode_maps(data: bytes) -> list[Mapping]:
    """Decode `/proc/PID/maps`; lines that do not look like a mapping are left out."""
    mappings = []
    paths: dict[bytes, tuple[str, bool]] = {}
    for line in data.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        start, end, permissions, offset, major, minor, inode, name = match.groups(b"")
        known = paths.get(name)
        if known is None:
            known = paths[name] = _decode_path(name, is_file=inode != b"0")
        path, deleted = known
        mapping = Mapping(
            Address(int(start, 16)),
            Address(int(end, 16)),
            permissions.decode("ascii", "replace"),
            int(offset, 16),
            int(inode),
            path,
            _device(int(major, 16), int(minor, 16)),
            deleted,
        )
        if mapping.start < mapping.end:
            mappings.append(mapping)
    return mappings


def _decode_path(name: bytes, *, is_file: bool) -> tuple[str, bool]:
    deleted = is_file and name.endswith(b" (deleted)")
    if deleted:
        name = name.removesuffix(b" (deleted)")
    return _ESCAPE.sub(b"\n", name).decode("utf-8", "surrogateescape"), deleted


def _device(major: int, minor: int) -> int:
    """Return the device number as stat(2) gives it.

    Source: glibc's gnu_dev_makedev (bits/sysmacros.h), the same in musl.
    """
    return (major & 0xFFF) << 8 | (major & ~0xFFF) << 32 | (minor & 0xFF) | (minor & ~0xFF) << 12
