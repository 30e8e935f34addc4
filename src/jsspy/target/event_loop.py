"""How long a process' event loop has been away from the loop, read from libuv's own clock.

libuv keeps the time in its loop and renews it in every turn, and whenever it comes back from
waiting. So while the thread does not wait for events, the age of that time is how long the present
callback has been running. One word is read; nothing is stopped.

The main thread of Node.js runs the default loop, a static variable of libuv: `default_loop_struct`
in the symbol table of the executable. Stripped binaries and a libuv of the distribution have none.
"""

from __future__ import annotations

import re
import struct
from typing import Final, Self

from jsspy.errors import FaultError, PermissionDenied, ProcessExited
from jsspy.linux.procfs import ThreadState
from jsspy.model.units import Address
from jsspy.target.process import Target, V8Binary

_SYMBOL: Final = re.compile(rb"default_loop_struct")

_TIME_OFFSETS: Final = {848: 544, 728: 448}
"""Size of uv_loop_t -> offset of its `time`, in ms of CLOCK_MONOTONIC. 848: libuv 1.x, from Node.js
0.12 to 26; 728: libuv 0.10. Source: include/uv.h and uv/unix.h, at v1.51.0; and measured, as the
only word of the structure that is the time, on every version that is tested."""

_WAITS: Final = frozenset({b"232", b"281"})
"""epoll_wait and epoll_pwait. Source: arch/x86/entry/syscalls/syscall_64.tbl, at v6.12."""

_U64: Final = struct.Struct("<Q")


class EventLoop:
    """The clock of a process' main loop."""

    def __init__(self, target: Target, address: Address) -> None:
        self.pid = target.pid
        self._memory = target.memory
        self._address = address
        self._state = ThreadState(target.pid, int(target.pid))

    @classmethod
    def find(cls, target: Target, v8: V8Binary) -> Self | None:
        """Return the main loop of a process; None if its binary does not say where it is."""
        symbol = v8.elf.find_symbols(_SYMBOL).get("default_loop_struct")
        offset = _TIME_OFFSETS.get(symbol.size) if symbol is not None else None
        if symbol is None or offset is None:
            return None
        try:
            return cls(target, Address(v8.bias + symbol.address + offset))
        except (PermissionDenied, ProcessExited):
            return None

    def blocked_ns(self, now_ns: int) -> int:
        """Return for how long the present callback has been running; 0 while it waits for events.

        Args:
            now_ns: CLOCK_MONOTONIC.

        Raises:
            ProcessExited: It is gone.
        """
        try:
            (time_ms,) = _U64.unpack(self._memory.read(self._address, _U64.size))
        except FaultError:
            return 0
        # 0 is a loop that is not made yet, and a time to come cannot be one.
        age_ns = now_ns - int(time_ms) * 1_000_000
        if not time_ms or age_ns <= 0:
            return 0
        return 0 if self._state.read().split(b" ", 1)[0] in _WAITS else age_ns

    def close(self) -> None:
        """Close what is open."""
        self._state.close()
