"""The processes of this machine that are node: those with V8 in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

from jsspy.errors import JsspyError, MalformedData, PermissionDenied, UnsupportedTarget
from jsspy.target.elf import ElfFile
from jsspy.target.process import Target

_V8_SYMBOL = re.compile(rb"v8dbg_FirstNonstringType")
"""As in `jsspy.target.process`, for processes that we may not open."""

_MAX_COMMAND_BYTES = 1 << 16


class NodeProcess(NamedTuple):
    """A process of this machine that has V8 in it."""

    pid: int
    uid: int
    command: str
    exe: str
    """A path at which its executable can be read; "" if it cannot."""
    denied: PermissionDenied | UnsupportedTarget | None
    """Why it cannot be profiled by us; None if it can."""


def iter_node_processes(pids: Iterable[int] | None = None) -> Iterator[NodeProcess]:
    """Yield the processes of this machine that have V8 in them, by pid.

    Of those that we may not open, only the executable is looked at, if that much is allowed;
    else its name has to do, and `denied` says so.

    Args:
        pids: Which ones are looked at; None: all but ourselves.
    """
    own = os.getpid()
    with ExitStack() as stack:
        search = _Search(stack)
        for pid in sorted(_list_pids() if pids is None else pids):
            if pid != own:
                process = search.look_at(pid)
                if process is not None:
                    yield process


def _list_pids() -> list[int]:
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdecimal()]


class _Search:
    """What is known of executables while processes are looked at."""

    def __init__(self, stack: ExitStack) -> None:
        """Begin; `stack` closes one process of each executable, whose files others share."""
        self._stack = stack
        self._verdicts: dict[tuple[int, int], bool] = {}

    def look_at(self, pid: int) -> NodeProcess | None:
        """Return a process if it is node."""
        exe = f"/proc/{pid}/exe"
        try:
            uid = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116 - once per process of the machine
            command = _read_command(pid)
            if not command:
                return None  # a kernel thread
        except OSError:
            return None
        try:
            status = os.stat(exe)  # noqa: PTH116
        except PermissionError:
            if not re.match(r"(?:\S*/)?node(?:js)?(?:\s|$)", command):
                return None
            exe, status = "", None
        except OSError:
            return None
        key = None if status is None else (status.st_dev, status.st_ino)
        if key is not None and self._verdicts.get(key) is False:
            return None
        try:
            target = Target.open(pid)
        except (PermissionDenied, UnsupportedTarget) as err:
            if key is not None and key not in self._verdicts:
                self._verdicts[key] = _has_v8(exe)
            if key is None or self._verdicts[key]:
                return NodeProcess(pid, uid, command, exe, err)
            return None
        except JsspyError:
            return None
        with ExitStack() as stack:
            stack.enter_context(closing(target))
            try:
                found = target.find_v8() is not None
            except JsspyError:
                return None
            if key is not None and key not in self._verdicts:
                self._verdicts[key] = found
                if found:
                    self._stack.callback(stack.pop_all().close)
        return NodeProcess(pid, uid, command, exe, None) if found else None


def _has_v8(path: str) -> bool:
    try:
        elf = ElfFile.load(path)
    except (OSError, MalformedData, UnsupportedTarget):
        return False
    try:
        return bool(elf.find_symbols(_V8_SYMBOL))
    except MalformedData:
        return False
    finally:
        elf.close()


def _read_command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - once per process, as above
        data = file.read(_MAX_COMMAND_BYTES)
    return data.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
