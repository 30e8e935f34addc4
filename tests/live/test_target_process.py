"""Opening real processes: what is found in them, and what is said where it is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import nodes
from jsspy.errors import ProcessExited, ProcessNotFound, UnsupportedTarget
from jsspy.model.units import Tid
from jsspy.target.process import Target

WAIT = "console.log('ready'); setInterval(function () {}, 1e6);"


@contextmanager
def started(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start a command and wait for the first line that it prints, "ready"."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("version", nodes.selected(nodes.VERSIONS))
def test_v8_is_found_by_contents(version: str, tmp_path: Path) -> None:
    binary = tmp_path / "renamed binary"
    shutil.copy(nodes.find(version), binary)
    with started(binary, "-e", WAIT) as process:
        binary.unlink()  # as an update of the package does
        target = Target.open(process.pid)
        assert target.exe == str(binary)
        assert target.name == "renamed binary"
        assert target.command[1:] == ("-e", WAIT)
        assert target.ns_pid == process.pid
        assert process.pid in target.threads()
        assert target.thread_name(Tid(process.pid))
        v8 = target.find_v8()
        assert v8 is not None
        code = next(it for it in target.address_space().mappings if it.is_executable)
        assert (code.path, code.deleted) == (str(binary), True)
        address = v8.elf.to_address(code.offset)
        assert address is not None
        assert address + v8.bias == code.start
        assert v8.elf.read(address, 4096) == target.memory.read(code.start, 4096)
        seen = [target.is_alive()]
        process.kill()
        process.wait()
        seen.append(target.is_alive())
        assert seen == [True, False]
        assert target.thread_name(Tid(process.pid)) == ""
        target.close()


def test_no_v8_where_there_is_none() -> None:
    program = "import time; print('ready', flush=True); time.sleep(60)"
    with started(sys.executable, "-c", program) as process:
        target = Target.open(process.pid)
        assert target.find_v8() is None
        libraries = [it for it in target.address_space().mappings if ".so" in it.path]
        assert all(target.elf(mapping) is not None for mapping in libraries)
        assert target.elf(libraries[0]) is target.elf(libraries[0])
        anonymous = next(it for it in target.address_space().mappings if not it.is_file)
        assert target.elf(anonymous) is None
        target.close()


def test_what_cannot_be_opened() -> None:
    with pytest.raises(ProcessNotFound, match="no process"):
        Target.open(2**22 + 1)
    with pytest.raises(UnsupportedTarget, match="kernel thread"):
        Target.open(2)  # kthreadd
    with nodes.running("20.20.2", WAIT) as process:
        target = Target.open(process.pid)
        thread = target.threads()[-1]
        target.close()
        with pytest.raises(ProcessNotFound, match=f"thread of process {process.pid}") as caught:
            Target.open(thread)
        assert caught.value.hint == f"--pid {process.pid}"
        process.process.kill()
        # Not waited for yet: it is about to be a zombie, and stays one.
        for _ in range(2):
            with pytest.raises(ProcessExited):
                open_for_ever(process.pid)


def open_for_ever(pid: int) -> None:
    """Open a process until that fails."""
    while True:
        Target.open(pid).close()


def test_another_users_process() -> None:
    # Without rights, as nobody: the reason and the command that helps.
    program = textwrap.dedent("""
        import os, sys
        import jsspy.linux.caps  # now, while the interpreter's own files can be read
        from jsspy.errors import PermissionDenied
        from jsspy.target.process import Target
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            Target.open(int(sys.argv[1]))
        except PermissionDenied as error:
            print(error.message)
            print(error.hint)
    """)
    with nodes.running("20.20.2", WAIT) as process:
        result = subprocess.run(
            [sys.executable, "-c", program, str(process.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
    head, reason, hint = result.stdout.splitlines()
    assert head.startswith(f"cannot attach to process {process.pid} (node ")
    assert head.endswith("): operation not permitted")
    assert f"{process.pid} belongs to user root, and we are" in reason
    # In a container there is no other user to become.
    assert hint in (f"sudo jsspy record --pid {process.pid}", "docker run --cap-add SYS_PTRACE ...")


def test_reading_where_seccomp_forbids_process_vm_readv() -> None:
    program = textwrap.dedent("""
        import ctypes, struct, sys
        # Filter: process_vm_readv (310) -> EPERM, all else allowed. See seccomp(2).
        code = [(0x20, 0, 0, 0), (0x15, 0, 1, 310), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
        program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *it) for it in code))
        header = ctypes.create_string_buffer(
            struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(program))
        )
        libc = ctypes.CDLL(None)
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert libc.prctl(22, 2, header, 0, 0) == 0  # PR_SET_SECCOMP, filter
        from jsspy.engines.ptrace import PtraceEngine
        from jsspy.model.capture import ThreadPlan
        from jsspy.model.mode import Mode
        from jsspy.target.process import Target
        target = Target.open(int(sys.argv[1]))
        start = target.address_space().mappings[0].start
        assert target.memory.read_many([(start, 4), (0, 8), (start + 1, 3)]) == [
            b"\\x7fELF", None, b"ELF"
        ]
        assert not target.memory.reader.can_gather
        target.memory.reader.can_gather = True
        (stack,) = (it for it in target.address_space().mappings if it.path == "[stack]")
        with PtraceEngine(99, mode=Mode.WALL) as engine:
            engine.set_target(target, None, [ThreadPlan(target.pid, 0, stack.end)])
            (sample,) = next(batch for batch in engine.samples() if batch)
            assert sample.capture.stack_complete
        assert not target.memory.reader.can_gather
    """)
    with nodes.running("20.20.2", WAIT) as process:
        subprocess.run([sys.executable, "-c", program, str(process.pid)], check=True)
