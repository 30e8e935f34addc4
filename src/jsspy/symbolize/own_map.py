"""The perf map that a process writes itself: node with --perf-basic-prof.

For a V8 that we do not know: its code has names after all. Which function is interpreted, and what
was inlined, such a map does not say.

The file lies where the process put it, in a directory that belongs to everybody: it is believed
only if it belongs to the process's own user.
"""

from __future__ import annotations

import os
import stat

from jsspy.errors import MalformedData
from jsspy.model.stack import Frame
from jsspy.model.v8_names import frame_of_v8_name
from jsspy.symbolize.perf_map import EntryTable
from jsspy.target.process import Target

_MAX_BYTES = 1 << 30


class OwnMap:
    """Names of code out of the map of one process, as far as it is written."""

    def __init__(self, target: Target) -> None:
        self._path = f"/proc/{target.pid}/root/tmp/perf-{target.ns_pid}.map"
        self._owner = f"/proc/{target.pid}"
        self._table = EntryTable()
        self._frames: dict[str, Frame | None] = {}
        self._read = 0

    def find(self, pc: int) -> Frame | None:
        """Return what code is at an address; None if the map does not say."""
        self._update()
        entry = self._table.find(pc)
        if entry is None:
            return None
        if entry.name not in self._frames:
            self._frames[entry.name] = frame_of_v8_name(entry.name)
        return self._frames[entry.name]

    def _update(self) -> None:
        """Read what was appended."""
        try:
            if os.stat(self._path, follow_symlinks=False).st_size <= self._read:  # noqa: PTH116 - pathlib takes 4 ms to load
                return
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                owner = os.stat(self._owner).st_uid  # noqa: PTH116 - see above
                if not stat.S_ISREG(status.st_mode) or status.st_uid != owner:
                    return
                file.seek(self._read)
                self._read += self._table.add_lines(file.read(_MAX_BYTES))
        except MalformedData:
            self._read = _MAX_BYTES  # it is something else
        except OSError:
            return
