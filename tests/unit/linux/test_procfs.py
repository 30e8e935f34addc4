"""Decoding /proc: what the kernel writes, and what a hostile process makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import ProcessExited
from jsspy.linux import procfs

STAT = b"4121 (%s) R 17 4121 4121 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 11 0 987654 1 2 3 4 5 777 8\n"


@pytest.mark.parametrize(
    "name", [b"node", b"a b", b") R 1 (", b"((()", b"x\ny) S 2", b"", "имя".encode()]
)
def test_stat_of_a_process_with_any_name(name: bytes) -> None:
    stat = procfs.decode_stat(STAT % name)
    assert stat == (4121, name.decode(), "R", 17, 987654, 777)


@given(st.binary(max_size=400))
def test_decoders_give_a_value_for_any_bytes(data: bytes) -> None:
    assert isinstance(procfs.decode_stat(data), procfs.Stat)
    assert isinstance(procfs.decode_status(data), procfs.Status)
    procfs.decode_syscall(data)
    procfs.decode_command(data)


@given(st.text(max_size=15).filter(lambda name: "\0" not in name))
def test_stat_keeps_the_state_apart_from_the_name(name: str) -> None:
    stat = procfs.decode_stat(STAT % name.encode())
    assert (stat.name, stat.state, stat.parent) == (name, "R", 17)


def test_status() -> None:
    status = procfs.decode_status(
        b"Name:\tode\\nState:\\tZ\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t41\nPid:\t42\n"
        b"PPid:\t1\nTracerPid:\t77\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\n"
        b"NSpid:\t42\t9\t2\nCapPrm:\t0000000000000400\nCapEff:\t000001ffffffffff\nSeccomp:\t2\n"
    )
    assert status == procfs.Status(
        name=r"ode\nState:\tZ",
        state="S",
        process=41,
        parent=1,
        tracer=77,
        uids=(1000, 1001, 1002, 1003),
        gids=(5, 6, 7, 8),
        namespace_pids=(42, 9, 2),
        permitted=0x400,
        effective=0x1FFFFFFFFFF,
        seccomp=2,
    )


def test_status_of_an_old_kernel_lacks_fields() -> None:
    status = procfs.decode_status(b"Name:\tnode\nState:\tR (running)\n")
    assert status.namespace_pids == ()
    assert status.tracer == 0


def test_syscall() -> None:
    assert procfs.decode_syscall(b"running\n") is None
    assert procfs.decode_syscall(b"-1 0x7ffc00 0x55aa\n") == (-1, 0x7FFC00, 0x55AA)
    line = b"281 0xd 0x7ffc51d63930 0x400 0xf9f 0x0 0x8 0x7ffc51d62bd0 0x7f0000001234\n"
    assert procfs.decode_syscall(line) == (281, 0x7FFC51D62BD0, 0x7F0000001234)


def test_command() -> None:
    assert procfs.decode_command(b"node\0a b\0\0-x\0") == ("node", "a b", "", "-x")
    assert procfs.decode_command(b"") == ()
    assert procfs.decode_command(b"a process title\0\0\0\0") == ("a process title",)


def test_our_own_process() -> None:
    files = procfs.ProcessFiles(os.getpid())
    try:
        assert files.status().process == os.getpid()
        assert files.stat().parent == os.getppid()
        assert os.getpid() in files.threads()
        assert files.is_alive()
        assert files.read("stat", 3) == str(os.getpid()).encode()[:3]
        assert Path("/proc/self/exe").samefile(files.read_link("exe"))
        with pytest.raises(ProcessExited):
            files.read("no-such-file")
    finally:
        files.close()


def test_no_such_process() -> None:
    with pytest.raises(ProcessExited):
        procfs.ProcessFiles(2**22 + 1)  # above the kernel's largest pid_max
    assert procfs.read_stat(2**22 + 1) is None
    assert procfs.read_status(2**22 + 1) is None


def test_a_running_thread_says_so() -> None:
    state = procfs.ThreadState(os.getpid(), os.getpid())
    try:
        # A thread that looks at itself is shown inside its own pread.
        call = procfs.decode_syscall(state.read())
        assert call is not None
        assert call.sp > 0
    finally:
        state.close()
