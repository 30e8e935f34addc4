"""What was derived from a binary, kept between runs: bytes by (identity, kind).

A cache that is absent, damaged, foreign or not writable costs time and nothing else: every failure
reads as "not there" and every failed write as done. Entries are raw bytes (never pickles), under
`$XDG_CACHE_HOME/jsspy` or `~/.cache/jsspy`, in files that only their owner can read. Files and
directories of other users, and links, are ignored: under sudo, `HOME` may be somebody else's.

    magic 8 | version u32 | crc32 of the payload u32 | length u64 | payload
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
import zlib

MAGIC = b"jsspy\0\r\n"
VERSION = 1
"""Version of this container; what is inside is versioned by its kind."""

MAX_ENTRY_SIZE = 32 << 20
"""Far above the largest entry (2 MiB, the functions of Node 26)."""

MAX_TOTAL_SIZE = 128 << 20
"""About thirty binaries; the entries that were written first go first."""

_HEADER = struct.Struct("<8sIIQ")
_KEY = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,127}")


def load(identity: str, kind: str) -> bytes | None:
    """Return what was stored under (identity, kind), or None."""
    directory = _find_directory()
    if directory is None:
        return None
    try:
        fd = os.open(
            f"{directory}/{_file_name(identity, kind)}",
            os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK,
        )
    except OSError:
        return None
    with os.fdopen(fd, "rb", buffering=0) as file:
        try:
            status = os.fstat(fd)
            limit = _HEADER.size + MAX_ENTRY_SIZE
            if not _is_ours(status) or not stat.S_ISREG(status.st_mode) or status.st_size > limit:
                return None
            head = file.read(_HEADER.size)
            payload = file.read(status.st_size)
        except OSError:
            return None
    if len(head) < _HEADER.size:
        return None
    magic, version, checksum, length = _HEADER.unpack(head)
    if magic != MAGIC or version != VERSION or length != len(payload):
        return None
    return payload if zlib.crc32(payload) == checksum else None


def store(identity: str, kind: str, data: bytes) -> None:
    """Keep `data` under (identity, kind), replacing in one step what was there."""
    if len(data) > MAX_ENTRY_SIZE:
        return
    path = _find_directory(create=True)
    if path is None:
        return
    # Only on the way that is slow anyhow: it takes 4 ms to load.
    from pathlib import Path

    directory = Path(path)
    name = _file_name(identity, kind)
    temporary = directory / f".{name}.{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        _make_room(path, _HEADER.size + len(data))
        fd = os.open(temporary, flags, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(_HEADER.pack(MAGIC, VERSION, zlib.crc32(data), len(data)))
            file.write(data)
        temporary.rename(directory / name)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _file_name(identity: str, kind: str) -> str:
    if not _KEY.fullmatch(identity) or not _KEY.fullmatch(kind):
        raise ValueError(f"not a cache key: {identity!r}, {kind!r}")
    return f"{identity}.{kind}"


def _find_directory(*, create: bool = False) -> str | None:
    """Return our cache directory if it is a directory of our own that only we can write."""
    parent = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative XDG_CACHE_HOME is to be ignored.
    if not parent.startswith("/"):
        parent = os.path.expanduser("~/.cache")  # noqa: PTH111 - see `store`
    if not parent.startswith("/"):
        return None
    directory = f"{parent}/jsspy"
    try:
        if create:
            os.makedirs(parent, mode=0o700, exist_ok=True)  # noqa: PTH103 - see `store`
            os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103 - see `store`
        status = os.lstat(directory)
    except OSError:
        return None
    ours = stat.S_ISDIR(status.st_mode) and _is_ours(status) and not status.st_mode & 0o022
    return directory if ours else None


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid()


def _make_room(directory: str, size: int) -> None:
    """Delete the oldest entries until `size` more bytes fit."""
    with os.scandir(directory) as entries:
        files = [
            (status.st_mtime_ns, entry.name, status.st_size)
            for entry in entries
            if stat.S_ISREG((status := entry.stat(follow_symlinks=False)).st_mode)
        ]
    total = size + sum(file_size for _, _, file_size in files)
    for _, name, file_size in sorted(files):
        if total <= MAX_TOTAL_SIZE:
            return
        os.unlink(f"{directory}/{name}")  # noqa: PTH108 - see `store`
        total -= file_size
