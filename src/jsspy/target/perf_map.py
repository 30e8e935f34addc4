"""`/tmp/perf-PID.map` of a target: where it belongs, whose it is, how it gets there.

perf looks for the file in the target's mount namespace, under the pid that the target has in its
innermost pid namespace, and ignores one that belongs neither to root nor to who runs perf.
Source: tools/perf/util/symbol.c, dso__load and dso__find_perf_map, at v6.12.

/tmp belongs to everybody, so nothing in it is trusted: no link is followed, not even /tmp itself;
the file is made under a name that did not exist and then takes its place in one step; what lies in
that place is only replaced if it is ours, and if the target does not write it itself.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from jsspy.errors import ExportError, ProcessExited
from jsspy.target.process import Target

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o644


class PerfMapFile:
    """The perf map of one process. The directory stays open when the process is gone.

    Raises:
        ExportError: There is no /tmp that we can use.
        ProcessExited: The process is gone.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.name = f"perf-{target.ns_pid}.map"
        self.path = f"/proc/{target.pid}/root/tmp/{self.name}"
        """As we see it."""
        try:
            root = os.open(f"/proc/{target.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._directory = os.open("tmp", _DIRECTORY, dir_fd=root)
            finally:
                os.close(root)
        except OSError as err:
            if not target.is_alive():
                raise ProcessExited(f"process {target.pid} is gone") from err
            raise self._error(err) from err

    def check(self) -> None:
        """Look whether the file may be replaced.

        Raises:
            ExportError: What lies there is not ours, or the process writes it itself.
        """
        try:
            status = os.stat(self.name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(status.st_mode):
            raise ExportError(self.path, "something that is no file lies there, perhaps a trap")
        if status.st_uid != os.geteuid():
            raise ExportError(self.path, f"it belongs to uid {status.st_uid}, not to us")
        if self._is_open_in_target(status):
            raise ExportError(
                self.path,
                "the process writes it itself: it was started with --perf-basic-prof",
                hint=f"perf record -g -p {self._target.pid}    needs nothing more",
            )

    def write(self, data: bytes) -> None:
        """Put a new file in the place of the old one, in one step.

        Raises:
            ExportError: It cannot be written, or what lies there is not to be replaced.
        """
        self.check()
        temporary = f".{self.name}.{os.urandom(8).hex()}"
        try:
            descriptor = os.open(temporary, _NEW_FILE, _MODE, dir_fd=self._directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    os.fchmod(descriptor, _MODE)  # whatever the umask is
                    file.write(data)
                os.rename(
                    temporary, self.name, src_dir_fd=self._directory, dst_dir_fd=self._directory
                )
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=self._directory)
                raise
        except OSError as err:
            raise self._error(err) from err

    def close(self) -> None:
        """Close the directory; the file stays, perf script needs it later."""
        os.close(self._directory)

    def _is_open_in_target(self, status: os.stat_result) -> bool:
        """Whether the process itself has the file open."""
        with suppress(OSError):
            for link in Path(f"/proc/{self._target.pid}/fd").iterdir():
                with suppress(OSError):
                    if os.path.samestat(link.stat(), status):
                        return True
        return False

    def _error(self, err: OSError) -> ExportError:
        return ExportError(self.path, (err.strerror or str(err)).lower())
