"""Opening files as another process sees them: inside its root directory and mount namespace.

`/proc/PID/root` leads there, but an absolute symbolic link below it would lead back into our own
root, and ".." out of the target's. openat2(2) with RESOLVE_IN_ROOT resolves every path as the
target itself would.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from jsspy.linux import libc

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
# Source: include/uapi/linux/openat2.h and arch/x86/entry/syscalls/syscall_64.tbl, at v6.12.

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""Never blocks, whatever lies there."""

_TRIES = 3
"""A path that is renamed meanwhile gives EAGAIN."""


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class RootDirectory:
    """The root directory of a process: stays open, and readable, when the process is gone.

    Raises:
        OSError: It may not be opened, or the process is gone.
    """

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.place = _find_place(self._fd)
        """Mount and inode: equal where other processes have the very same root. None: not known."""

    def read(self, path: str, limit: int) -> bytes:
        """Return the contents of a regular file.

        Args:
            path: Absolute, as the process sees it.
            limit: Bytes.

        Raises:
            OSError: There is no such file, it may not be read, is no regular file (EINVAL), or is
                larger than `limit` (EFBIG); or this is closed (ESTALE).
        """
        if self._fd < 0:
            raise OSError(errno.ESTALE, "its process ended long ago", path)
        descriptor = self._open(os.fsencode(path))
        with open(descriptor, "rb") as file:  # noqa: PTH123 - not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            data = file.read(limit + 1)
        if len(data) > limit:
            raise OSError(errno.EFBIG, "too large", path)
        return data

    def _open(self, path: bytes) -> int:
        if b"\0" in path:
            raise OSError(errno.EINVAL, "NUL in a path")
        name = ctypes.create_string_buffer(path)
        how = _OpenHow(_FLAGS, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        where = ctypes.addressof(name), ctypes.addressof(how), ctypes.sizeof(how)
        code = 0
        for _ in range(_TRIES):
            descriptor = libc.syscall(_OPENAT2, self._fd, *where, 0)
            if descriptor >= 0:
                return int(descriptor)
            code = libc.get_errno()
            if code != errno.EAGAIN:
                break
        # Linux before 5.6, or a sandbox. In our own root nothing has to be translated.
        if code in {errno.ENOSYS, errno.EPERM} and self._is_ours():
            return os.open(path, _FLAGS)
        raise OSError(code, os.strerror(code), os.fsdecode(path))

    def _is_ours(self) -> bool:
        mine = os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            return os.path.sameopenfile(self._fd, mine)
        finally:
            os.close(mine)

    def close(self) -> None:
        """Close it. Reading fails from here on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _find_place(descriptor: int) -> tuple[int, int] | None:
    """Return the mount that a file is on and its inode, which no other has while it is open.

    Source: Documentation/filesystems/proc.rst, /proc/PID/fdinfo, at v6.12.
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:  # noqa: PTH123 - takes 4 ms
            fields = dict(line.split(b":\t", 1) for line in file if b":\t" in line)
        return int(fields[b"mnt_id"]), os.fstat(descriptor).st_ino
    except (OSError, KeyError, ValueError):
        return None
