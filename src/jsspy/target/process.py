"""One process, read-only: its memory, mappings, ELF files and threads.

Everything goes through our own pid of it, whatever pid namespace it lives in. Files are opened as
the target sees them, never by their path on our side: through `/proc/PID/exe`, through
`/proc/PID/map_files` (works for deleted files; needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE), or
through `/proc/PID/root`, where the file found is compared with what is mapped.
"""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple, Self

from jsspy.errors import (
    FaultError,
    MalformedData,
    PermissionDenied,
    ProcessExited,
    ProcessNotFound,
    UnsupportedTarget,
)
from jsspy.linux.procfs import ProcessFiles, decode_status
from jsspy.model.units import Pid, Tid
from jsspy.target.elf import ElfFile
from jsspy.target.maps import AddressSpace, Mapping, decode_maps
from jsspy.target.memory import ProcessMemory

_V8_SYMBOL = re.compile(rb"v8dbg_FirstNonstringType|_ZN2v82V810GetVersionEv")
"""Metadata for post-mortem debuggers, which only the first of Node 0.10 lack, and embedders that
build V8 without it; and v8::V8::GetVersion, which every V8 exports.
Source: v8/tools/gen-postmortem-metadata.py; include/v8.h at 3.14.5 and 14.6.202."""

_V8_MIN_TEXT = 2 << 20
"""Bytes of code below which a library is not searched: V8 has had more than twice that since
Node 0.10, libc and libstdc++ have less."""

_COMPARED_BYTES = 64 << 10

_ELF64, _LITTLE_ENDIAN, _X86_64 = 2, 1, 62


class V8Binary(NamedTuple):
    """The file that V8 is in, and where it runs."""

    elf: ElfFile
    bias: int
    """Address in the target = FileAddress + bias."""


_FileKey = tuple[str, int, int, int, int, int]
"""Name, device, inode, size, times of change: the name, because people are shown it."""

_shared_files: dict[_FileKey, tuple[ElfFile, int]] = {}
"""Files that targets have open, and how many targets: the tables of node's take some MB."""


class Target:
    """A process that is being looked at. Made by `open`, ended by `close`."""

    def __init__(self, pid: Pid, files: ProcessFiles) -> None:
        self.pid = pid
        self._files = files
        self.exe = _read_exe(files)
        """Path of the executable in the target's own root."""
        _check_machine(files)
        self.name = self.exe.rpartition("/")[2]
        self.command = files.command()
        namespace_pids = files.status().namespace_pids
        self.ns_pid = namespace_pids[-1] if namespace_pids else int(pid)
        """The pid that the process itself sees."""
        self._space: AddressSpace | None = None
        self._elf_files: dict[tuple[int, int], ElfFile | None] = {}
        self._shared: list[_FileKey] = []
        self.memory = ProcessMemory(pid)

    @classmethod
    def open(cls, pid: int) -> Self:
        """Open a process for reading.

        Raises:
            ProcessNotFound: No process has this pid.
            ProcessExited: It ended, perhaps a moment ago.
            PermissionDenied: With the reason, and the command that mends it.
            UnsupportedTarget: Not a 64-bit x86 process.
        """
        try:
            files = ProcessFiles(pid)
        except ProcessExited as err:
            from jsspy.linux import caps

            hint = caps.hint_hidden_processes()
            raise ProcessNotFound(f"there is no process {pid}", hint=hint) from err
        try:
            _check_process(files)
            return cls(Pid(pid), files)
        except PermissionDenied as err:
            files.close()
            from jsspy.linux import caps

            raise caps.permission_denied(pid) from err
        except BaseException:
            files.close()
            raise

    def address_space(self, *, refresh: bool = False) -> AddressSpace:
        """Return the mappings, as read the first time or now."""
        if self._space is None or refresh:
            self._space = AddressSpace(decode_maps(self._files.read("maps")))
        return self._space

    def threads(self) -> list[Tid]:
        """Return the ids of all threads, ascending."""
        return [Tid(tid) for tid in self._files.threads()]

    def thread_name(self, tid: Tid) -> str:
        """Return the name that a thread gave itself; "" if it is gone."""
        try:
            data = self._files.read(f"task/{tid}/comm", 64)
        except ProcessExited:
            return ""
        return data.removesuffix(b"\n").decode("utf-8", "replace")

    def namespace_tid(self, tid: Tid) -> int:
        """Return the id that a thread itself sees (gettid); 0 if it is gone."""
        if self.ns_pid == self.pid:
            return tid
        try:
            ids = decode_status(self._files.read(f"task/{tid}/status")).namespace_pids
        except ProcessExited:
            return 0
        return ids[-1] if ids else tid

    def is_alive(self) -> bool:
        """Whether the program that was opened still runs: not after exit or exec."""
        return self.memory.alive and self._files.is_alive()

    def elf(self, mapping: Mapping) -> ElfFile | None:
        """Return the file behind a mapping; None if it is no ELF file that can be read."""
        if not mapping.is_file:
            return None
        key = (mapping.device, mapping.inode)
        if key not in self._elf_files:
            self._elf_files[key] = self._load_elf(mapping)
        return self._elf_files[key]

    def _load_elf(self, mapping: Mapping) -> ElfFile | None:
        proc = f"/proc/{self.pid}"
        candidates = (
            f"{proc}/exe" if mapping.path == self.exe else "",
            f"{proc}/map_files/{mapping.start:x}-{mapping.end:x}",
            f"{proc}/root{mapping.path}" if mapping.path.startswith("/") else "",
        )
        for path in filter(None, candidates):
            try:
                # Never blocks, whatever lies there now.
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if self._is_mapped_file(descriptor, mapping):
                    return self._share(descriptor, mapping.path)
            except (OSError, MalformedData, UnsupportedTarget, FaultError):
                continue
            finally:
                os.close(descriptor)
        return None

    def _share(self, descriptor: int, name: str) -> ElfFile:
        """Return an open file, the same one for all targets; see `ElfFile.load`."""
        status = os.fstat(descriptor)
        where = (status.st_dev, status.st_ino)
        key = (name, *where, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key in _shared_files:
            elf, users = _shared_files[key]
        else:
            elf, users = ElfFile.load(f"/proc/self/fd/{descriptor}", name=name), 0
        _shared_files[key] = elf, users + 1
        self._shared.append(key)
        return elf

    def _is_mapped_file(self, descriptor: int, mapping: Mapping) -> bool:
        """Whether an open file is the mapped one.

        Device and inode decide where they agree. On overlayfs and btrfs the mapping can show
        other numbers than stat(2): then the bytes are compared.
        """
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        if (status.st_dev, status.st_ino) == (mapping.device, mapping.inode):
            return True
        size = min(mapping.end - mapping.start, _COMPARED_BYTES, status.st_size - mapping.offset)
        return (
            "w" not in mapping.permissions
            and size > 0
            and (
                os.pread(descriptor, size, mapping.offset) == self.memory.read(mapping.start, size)
            )
        )

    def find_v8(self) -> V8Binary | None:
        """Find V8 by contents, in the executable or a mapped library; None if it is nowhere."""
        space = self.address_space(refresh=True)
        code = [
            mapping
            for mapping in space.mappings
            if mapping.is_executable
            and mapping.is_file
            and mapping.end - mapping.start >= _V8_MIN_TEXT
        ]
        code.sort(key=lambda mapping: mapping.path != self.exe)
        seen = set()
        for mapping in code:
            key = (mapping.device, mapping.inode)
            if key in seen:
                continue
            seen.add(key)
            elf = self.elf(mapping)
            if elf is not None and elf.derive(ElfFile.find_symbols, _V8_SYMBOL):
                return V8Binary(elf, self._bias(elf, key))
        return None

    def _bias(self, elf: ElfFile, key: tuple[int, int]) -> int:
        """Return address - FileAddress of a mapped file.

        The mapping with the lowest file offset tells: V8 maps the part that holds its builtins a
        second time, near its code range, and the linker never moves the beginning.
        """
        first = min(
            (
                mapping
                for mapping in self.address_space().mappings
                if (mapping.device, mapping.inode) == key
            ),
            key=lambda mapping: mapping.offset,
        )
        address = elf.to_address(first.offset)
        if address is None:
            raise MalformedData(first.path, f"no segment holds offset {first.offset:#x}")
        return first.start - address

    def close(self) -> None:
        """Close all files."""
        for key in self._shared:
            elf, users = _shared_files.pop(key)
            if users > 1:
                _shared_files[key] = elf, users - 1
            else:
                elf.close()
        self._shared.clear()
        self._elf_files.clear()
        self.memory.close()
        self._files.close()


def _check_process(files: ProcessFiles) -> None:
    """Verify that this is a process, and not a thread or a zombie.

    Raises:
        ProcessNotFound: A thread: /proc/TID exists, although it is not listed.
        ProcessExited: A zombie.
    """
    status = files.status()
    if status.process != files.pid:
        raise ProcessNotFound(
            f"{files.pid} is a thread of process {status.process}", hint=f"--pid {status.process}"
        )
    if status.state in "ZX":
        raise ProcessExited(f"process {files.pid} has ended and waits for its parent (zombie)")


def _read_exe(files: ProcessFiles) -> str:
    try:
        return files.read_link("exe").removesuffix(" (deleted)")
    except ProcessExited as err:
        # A process that ends has none any more; kernel threads, children of pid 2, never had.
        if 2 not in (files.pid, files.stat().parent):
            raise
        raise UnsupportedTarget(f"process {files.pid} is a kernel thread") from err


def _check_machine(files: ProcessFiles) -> None:
    """Verify that a process runs x86-64 code on an x86-64 machine.

    Raises:
        UnsupportedTarget: It does not.
    """
    machine = os.uname().machine
    if machine != "x86_64":
        raise UnsupportedTarget(f"this machine is {machine}: only x86-64 is supported")
    header = files.read("exe", 20)
    # e_ident[EI_CLASS], e_ident[EI_DATA], e_machine. Source: elf(5).
    if len(header) < 20 or header[:4] != b"\x7fELF":
        raise UnsupportedTarget(f"process {files.pid}: its executable is not an ELF file")
    number = int.from_bytes(header[18:20], "little")
    if (header[4], header[5], number) != (_ELF64, _LITTLE_ENDIAN, _X86_64):
        bits = "64-bit" if header[4] == _ELF64 else "32-bit"
        raise UnsupportedTarget(
            f"process {files.pid} runs {bits} code for ELF machine {number}: "
            "only x86-64 is supported"
        )
