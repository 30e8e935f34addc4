"""Which signals a program asked libuv for, as `process.on('SIGUSR1', …)` does.

libuv keeps its watchers of signals in a red-black tree whose root is a static variable. It is read
and never written; what cannot be read counts as no watcher.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from jsspy.errors import FaultError, PermissionDenied, ProcessExited
from jsspy.model.units import Address
from jsspy.target.process import Target, V8Binary

_SYMBOL: Final = re.compile(rb"uv__signal_tree(\.[0-9]+)?")

_WATCHER: Final = struct.Struct("<104xi4x2Q")
"""uv_signal_t: signum, left and right child. Source: include/uv.h and include/uv/unix.h,
UV_SIGNAL_PRIVATE_FIELDS, at v1.51.0; the same since v1.0.0."""

_MAX_WATCHERS: Final = 1000


def find_watched_signals(target: Target, v8: V8Binary) -> frozenset[int]:
    """Return the signals for which a process has watchers of libuv."""
    found: set[int] = set()
    for symbol in v8.elf.find_symbols(_SYMBOL).values():
        try:
            pending = list(struct.unpack("<Q", _read(target, v8.bias + symbol.address, 8)))
            for address in pending:  # grows while it is walked
                if address and len(pending) < _MAX_WATCHERS:
                    number, *children = _WATCHER.unpack(_read(target, address, _WATCHER.size))
                    found.add(number)
                    pending += children
        except (FaultError, PermissionDenied, ProcessExited):
            continue
    return frozenset(found)


def _read(target: Target, address: int, size: int) -> bytes:
    return target.memory.read(Address(address), size)
