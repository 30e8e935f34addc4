"""Files under /proc/PID, read and decoded.

`decode_*` functions are pure and take whatever the kernel, or a hostile process that chose its own
name, may have written: a field that is missing or no number gives its default. Files are opened
relative to a directory handle, which stays with the process: a pid that is reused later is not
mistaken for it.

Source of the formats: Documentation/filesystems/proc.rst and fs/proc/array.c, at v6.12.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from jsspy.errors import PermissionDenied, ProcessExited
from jsspy.linux import libc

MAX_FILE_BYTES = 64 << 20
"""Cap of one file: 65,530 mappings (vm.max_map_count) take about 8 MiB."""


class Stat(NamedTuple):
    """`/proc/PID/stat`, as far as it is used."""

    id: int
    name: str
    """The thread's own name (comm): at most 15 bytes, chosen by the process."""
    state: str
    """R running, S sleeping, D disk, T stopped, t traced, Z zombie, X dead, I idle kernel thread;
    "?" if not known."""
    parent: int
    start_ticks: int
    """Clock ticks since boot."""
    start_stack: int = 0
    """rsp when the program began; 0 or 1 if we may not know it."""


class Status(NamedTuple):
    """`/proc/PID/status`, as far as it is used."""

    name: str = ""
    state: str = "?"
    process: int = 0
    """Tgid: the process that a thread belongs to."""
    parent: int = 0
    tracer: int = 0
    """Thread id of the tracer; 0 if none, or if it is in a pid namespace that we cannot see."""
    uids: tuple[int, ...] = ()
    """Real, effective, saved, file system."""
    gids: tuple[int, ...] = ()
    namespace_pids: tuple[int, ...] = ()
    """The id in each pid namespace, ours first, the process's own last."""
    permitted: int = 0
    """Capabilities, a bit mask."""
    effective: int = 0
    seccomp: int = 0
    """0 off, 1 strict, 2 filter."""
    caught: int = 0
    """Signals with a handler, a bit mask: 1 << (number - 1)."""


class BlockedCall(NamedTuple):
    """Where a thread that does not run left user space."""

    number: int
    """The system call; -1 if it is blocked elsewhere, as in a page fault."""
    sp: int
    pc: int


def _integer(text: str, base: int = 10) -> int:
    try:
        return int(text, base)
    except ValueError:
        return 0


def _integers(text: str) -> tuple[int, ...]:
    return tuple(_integer(word) for word in text.split())


def decode_stat(data: bytes) -> Stat:
    """Decode `/proc/PID/stat`. The name may hold spaces, brackets and line breaks."""
    head, _, rest = data.rpartition(b")")
    number, _, name = head.partition(b"(")
    fields = rest.decode("ascii", "replace").split()
    return Stat(
        id=_integer(number.decode("ascii", "replace")),
        name=name.decode("utf-8", "replace"),
        state=fields[0] if fields else "?",
        parent=_integer(fields[1]) if len(fields) > 1 else 0,
        start_ticks=_integer(fields[19]) if len(fields) > 19 else 0,
        start_stack=_integer(fields[25]) if len(fields) > 25 else 0,
    )


def decode_status(data: bytes) -> Status:
    """Decode `/proc/PID/status`. Control characters in the name are escaped by the kernel."""
    fields: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        key, colon, value = line.partition(":\t")
        if colon:
            fields.setdefault(key, value.strip(" \t"))
    return Status(
        name=fields.get("Name", ""),
        state=fields.get("State", "")[:1] or "?",
        process=_integer(fields.get("Tgid", "")),
        parent=_integer(fields.get("PPid", "")),
        tracer=_integer(fields.get("TracerPid", "")),
        uids=_integers(fields.get("Uid", "")),
        gids=_integers(fields.get("Gid", "")),
        namespace_pids=_integers(fields.get("NSpid", "")),
        permitted=_integer(fields.get("CapPrm", ""), 16),
        effective=_integer(fields.get("CapEff", ""), 16),
        seccomp=_integer(fields.get("Seccomp", "")),
        caught=_integer(fields.get("SigCgt", ""), 16),
    )


def decode_syscall(data: bytes) -> BlockedCall | None:
    """Decode `/proc/PID/task/TID/syscall`.

    Returns:
        None if the thread runs or waits for a CPU.

    Source: fs/proc/base.c, proc_pid_syscall, at v6.12.
    """
    fields = data.split()
    try:
        number = int(fields[0])
        return BlockedCall(number, int(fields[-2], 16), int(fields[-1], 16))
    except (ValueError, IndexError):
        return None


def decode_command(data: bytes) -> tuple[str, ...]:
    """Decode `/proc/PID/cmdline`. A process that sets its title leaves one long word."""
    text = data.rstrip(b"\0").decode("utf-8", "replace")
    return tuple(text.split("\0")) if text else ()


class ProcessFiles:
    """An open `/proc/PID`, or `/proc/PID/task/TID`.

    Raises:
        ProcessExited: There is no such process, here or any more.
        PermissionDenied: The file may not be read.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            raise libc.failure("look at", pid, err.errno or 0) from err

    def open(self, name: str) -> int:
        """Return a descriptor, open for reading."""
        try:
            return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError as err:
            raise libc.failure(f"read {name} of", self.pid, err.errno or 0) from err

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """Return a file's content, cut off at `limit` bytes."""
        descriptor = self.open(name)
        try:
            parts = []
            left = limit
            while left > 0 and (part := os.read(descriptor, min(left, 1 << 16))):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)
        except OSError as err:
            raise libc.failure(f"read {name} of", self.pid, err.errno or 0) from err
        finally:
            os.close(descriptor)

    def read_link(self, name: str) -> str:
        """Return what a symbolic link says."""
        try:
            return os.readlink(name, dir_fd=self._directory)
        except OSError as err:
            raise libc.failure(f"read {name} of", self.pid, err.errno or 0) from err

    def stat(self) -> Stat:
        """Read `stat`."""
        return decode_stat(self.read("stat", 4096))

    def status(self) -> Status:
        """Read `status`."""
        return decode_status(self.read("status", 65536))

    def command(self, limit: int = 1 << 16) -> tuple[str, ...]:
        """Read `cmdline`."""
        return decode_command(self.read("cmdline", limit))

    def threads(self) -> list[int]:
        """Return the thread ids, ascending."""
        descriptor = self.open("task")
        try:
            with os.scandir(descriptor) as entries:
                return sorted(int(entry.name) for entry in entries)
        except OSError as err:
            raise libc.failure("list the threads of", self.pid, err.errno or 0) from err
        finally:
            os.close(descriptor)

    def is_alive(self) -> bool:
        """Whether the process has not ended (a zombie has)."""
        try:
            return self.stat().state not in "ZX"
        except ProcessExited:
            return False

    def close(self) -> None:
        """Close the directory."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


class ThreadState:
    """`.../syscall` of a thread, kept open: the cheapest way to ask whether it runs.

    Measured on 6.18 for a running and a sleeping thread: syscall 1.1 and 2.0 us, stat 3.1 us,
    status 7.1 us. Unlike stat, syscall gives the pc and sp of a blocked thread, too. It needs the
    permission that ptrace needs.

    Raises:
        ProcessExited: The thread is gone.
        PermissionDenied: Reading it is not allowed.
    """

    __slots__ = ("_syscall", "_tid")

    def __init__(self, pid: int, tid: int) -> None:
        self._tid = tid
        self._syscall = -1
        try:
            self._syscall = os.open(f"/proc/{pid}/task/{tid}/syscall", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as err:
            raise libc.failure("look at", tid, err.errno or 0) from err

    def read(self) -> bytes:
        """Return the raw line: "running" if the thread runs or waits for a CPU."""
        try:
            return os.pread(self._syscall, 256, 0)
        except OSError as err:
            raise libc.failure("look at", self._tid, err.errno or 0) from err

    def close(self) -> None:
        """Close the file."""
        if self._syscall >= 0:
            os.close(self._syscall)
            self._syscall = -1


def read_stat(pid: int, tid: int | None = None) -> Stat | None:
    """Return `stat` of a process or thread; None if it is gone."""
    path = f"/proc/{pid}/stat" if tid is None else f"/proc/{pid}/task/{tid}/stat"
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a hot path: Path costs more than the read
            return decode_stat(file.read(4096))
    except OSError as err:
        if err.errno in (errno.ESRCH, errno.ENOENT):
            return None
        raise libc.failure("look at", pid, err.errno or 0) from err


def read_busy_ns(pid: int, tid: int) -> int | None:
    """Return how long a thread ran or waited for a CPU since it began; None if it is gone.

    Source: fs/proc/base.c, proc_pid_schedstat, at v6.12. Where the kernel does not count (no
    CONFIG_SCHED_INFO) there is no such file.
    """
    try:
        with open(f"/proc/{pid}/task/{tid}/schedstat", "rb") as file:  # noqa: PTH123 - as above
            ran, waited, _ = file.read(256).split()
            return int(ran) + int(waited)
    except (OSError, ValueError):
        return None


def read_status(pid: int) -> Status | None:
    """Return `status` of a process or thread; None if it is gone or hidden."""
    try:
        files = ProcessFiles(pid)
    except (ProcessExited, PermissionDenied):
        return None
    try:
        return files.status()
    except ProcessExited:
        return None
    finally:
        files.close()
