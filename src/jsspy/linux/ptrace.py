"""Stopping one thread for a moment: seize, interrupt, look, detach.

A thread is traced only inside `with stopped(tid):`. Between stops the target is not traced at all,
so that its signals, forks, execs and exits are none of our business, and if we die there is
nothing to clean up: the kernel detaches the threads of a tracer that ends, stopped or not, and
forgets interrupts that have not struck yet (kernel/ptrace.c, exit_ptrace and __ptrace_unlink, at
v6.12). Never PTRACE_O_EXITKILL (it kills the target when we die), never PTRACE_ATTACH (its SIGSTOP
can stay behind).

What can meet us between SEIZE and the stop, and what becomes of it:

- A signal on its way to the thread reports itself first (signal-delivery-stop). The thread is
  stopped all the same; DETACH hands the signal on, with its siginfo.
- Job control (SIGSTOP, group-stop): the thread stays stopped after DETACH until its SIGCONT.
- The thread ends: as its tracer we have to take its exit status, or its process never ends.
  Not so if it is our own child: its status belongs to whoever started it.
- Another thread calls exec: the thread ends. The thread itself calls exec: it goes on under the
  id of its process, seized and about to stop; `_adopt` follows it there.
- **It sleeps uninterruptibly** (state D: disk, vfork, frozen). It will not stop before it wakes,
  and a thread that is not stopped cannot be detached (ESRCH), nor can a pending interrupt be taken
  back. Tried on 6.18 with a parent in vfork: our death at that moment leaves it untraced and
  running. While we live, the interrupt strikes when it wakes. So giving up means remembering it:
  `release_lingering` detaches such threads as soon as they stop, and has to be called every
  millisecond or so until it returns 0. As the last resort they are free when we end.

Signals to ourselves are blocked from before SEIZE until after DETACH: neither Ctrl-C nor Ctrl-Z
can get between. Where another of our threads takes the signal, Python still may raise
KeyboardInterrupt here; every thread is written down before it is seized, so that
`release_lingering` finds it.

Whoever holds a thread must not lose the CPU meanwhile: on a busy machine that is a pause of many
milliseconds (at two busy processes per CPU it happened to 1 % of the stops). So from before SEIZE
until after DETACH we ask for the lowest real-time priority, where we may (CAP_SYS_NICE).

Only the thread of ours that seized a thread can release it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import threading
import time
from types import TracebackType
from typing import Final, Self

from jsspy.errors import JsspyError, PermissionDenied, ProcessExited
from jsspy.linux import libc, procfs
from jsspy.model.capture import Registers
from jsspy.model.units import Tid

# Source: include/uapi/linux/ptrace.h and arch/x86/include/uapi/asm/ptrace-abi.h, at v6.12.
_GETREGS: Final = 12
_DETACH: Final = 17
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_EVENT_STOP: Final = 128

# Source: include/uapi/linux/wait.h, at v6.12. The stop is looked at, not taken (WNOWAIT): it needs
# no taking, and an exit status may not be ours to take.
_P_PID: Final = 1
_LOOK: Final = 0x1 | 0x2 | 0x4 | 0x01000000 | 0x40000000  # WNOHANG|WSTOPPED|WEXITED|WNOWAIT|__WALL
_TAKE_EXIT: Final = 0x1 | 0x4 | 0x40000000  # WNOHANG|WEXITED|__WALL
_CLD_TRAPPED: Final = 4
_CLD_STOPPED: Final = 5

_SPINS = 100
"""Looks in a row before we sleep: about 100 us. A thread on another CPU stops within 10."""

_NAP_S = 0.0002
"""The kernel wakes us when the thread stops, unless another thread of ours takes the SIGCHLD."""

STOP_TIMEOUT_S: Final = 0.1
"""How long a thread may take to stop before we give up. A vfork takes 1 ms, a turn on a busy CPU
some tens; meanwhile the thread would not run anyway."""

_REGISTERS: Final = struct.Struct("<27Q")

_ALL_SIGNALS = ctypes.create_string_buffer(b"\xff" * 128, 128)  # sigset_t, glibc and musl
_ALL_SIGNALS_ADDRESS = ctypes.addressof(_ALL_SIGNALS)

_URGENT: Final = os.sched_param(1)
_ORDINARY: Final = os.sched_param(0)

_lingering: dict[Tid, Tid] = {}
"""Threads seized and not yet detached -> their processes; like the kernel's list of tracees."""


class ThreadGone(ProcessExited):
    """The thread ended."""


class NotStopped(JsspyError):
    """The thread did not stop in time: it sleeps uninterruptibly, or got no CPU."""


class _Look:
    """What waitid reports of a thread: a siginfo_t of our own, reused."""

    def __init__(self) -> None:
        # siginfo_t is 128 bytes; si_code is word 2, si_pid 4, si_status 6 (x86-64 ABI).
        self._info = (ctypes.c_int * 32)()
        self._address = ctypes.addressof(self._info)

    def at(self, tid: int, flags: int = _LOOK) -> bool | None:
        """Look at a thread: whether it has stopped or ended; None if it is not ours."""
        if libc.waitid(_P_PID, tid, self._address, flags) < 0:
            return None
        return self._info[4] != 0

    @property
    def has_ended(self) -> bool:
        """Whether the thread ended, rather than stopped."""
        return self._info[2] not in (_CLD_TRAPPED, _CLD_STOPPED)

    @property
    def signal(self) -> int:
        """The signal that was on its way and has to be handed on; 0 if none."""
        status = self._info[6]
        return status & 0x7F if status >> 8 == 0 else 0


class Tracee:
    """One thread, to be stopped any number of times: `with tracee: ...`.

    Attributes:
        stopped_since_ns: CLOCK_MONOTONIC when the thread was last seen not yet stopped. The stop
            cannot have begun earlier.
        resumed_ns: CLOCK_MONOTONIC just after it was let run.
    """

    def __init__(self, tid: Tid) -> None:
        self.tid = tid
        self.stopped_since_ns = 0
        self.resumed_ns = 0
        status = procfs.read_status(tid)
        if status is None:
            raise ThreadGone(f"thread {tid} is gone")
        self._process = Tid(status.process)
        self._look = _Look()
        self._registers = (ctypes.c_uint64 * 27)()
        self._registers_address = ctypes.addressof(self._registers)
        self._is_urgent = False
        self._mask = ctypes.create_string_buffer(128)
        self._mask_address = ctypes.addressof(self._mask)

    def __enter__(self) -> Self:
        """Stop the thread.

        Raises:
            ThreadGone: It has ended.
            NotStopped: It did not stop in time; it is released when it does.
            PermissionDenied: Also where something else traces it. `caps.permission_denied` finds
                the reason; here it would take too long.
        """
        if self.tid in _lingering and release_lingering() and self.tid in _lingering:
            raise NotStopped(f"thread {self.tid} has not stopped since the last time")
        libc.pthread_sigmask(signal.SIG_SETMASK, _ALL_SIGNALS_ADDRESS, self._mask_address)
        try:
            self._is_urgent = _hurry()
            self._seize()
            self._wait()
        except BaseException:
            release_lingering()
            self._be_ordinary()
            raise
        return self

    def _be_ordinary(self) -> None:
        if self._is_urgent:
            os.sched_setscheduler(0, os.SCHED_OTHER, _ORDINARY)
        libc.pthread_sigmask(signal.SIG_SETMASK, self._mask_address, None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the thread run; never raises."""
        if libc.ptrace(_DETACH, self.tid, None, self._look.signal) == 0:
            _lingering.pop(self.tid, None)
        else:
            # Killed while it was stopped.
            release_lingering()
        self.resumed_ns = time.monotonic_ns()
        self._be_ordinary()

    def _seize(self) -> None:
        """Become the thread's tracer and ask it to stop."""
        _lingering[self.tid] = self._process
        failed = libc.ptrace(_SEIZE, self.tid, None, None)
        if failed and libc.get_errno() == errno.EPERM:
            # SEIZE waits until an exec is over. If a second thread called it, that thread goes on
            # under this id, and we were refused the dead one that had it before.
            failed = libc.ptrace(_SEIZE, self.tid, None, None)
        if failed:
            code = libc.get_errno()
            _lingering.pop(self.tid, None)
            raise self._refused(code)
        # Fails if the thread is just ending: then that is what `_wait` waits for.
        libc.ptrace(_INTERRUPT, self.tid, None, None)

    def _refused(self, code: int) -> JsspyError:
        stat = procfs.read_stat(self.tid)
        # A thread that has ended but was not waited for cannot be seized either (EPERM).
        if code == errno.ESRCH or stat is None or stat.state in "ZX":
            return ThreadGone(f"thread {self.tid} is gone")
        if code == errno.EPERM:
            return PermissionDenied(f"cannot attach to thread {self.tid}: not permitted")
        return libc.failure("attach to", self.tid, code)

    def _wait(self) -> None:
        """Wait until the thread has stopped."""
        look = self._look.at
        tid = self.tid
        clock = time.monotonic_ns
        spins = 0
        deadline = clock() + int(STOP_TIMEOUT_S * 1e9)
        while True:
            now = clock()
            found = look(tid)
            if found:
                break
            if found is None:
                _adopt(self._process)
                raise ThreadGone(f"thread {tid} is gone")
            self.stopped_since_ns = now
            spins += 1
            if spins > _SPINS:
                if now > deadline:
                    status = _read_status_if_ours(tid)
                    if status is None:
                        raise ThreadGone(f"thread {tid} is gone")
                    raise NotStopped(
                        f"thread {tid} did not stop within {STOP_TIMEOUT_S:g} s "
                        f"(state {status.state})"
                    )
                signal.sigtimedwait((signal.SIGCHLD,), _NAP_S)
        if spins == 0:
            self.stopped_since_ns = now
        if self._look.has_ended:
            raise ThreadGone(f"thread {tid} is gone")

    def read_registers(self) -> tuple[int, ...]:
        """Return the user registers, in the order of `Registers`.

        Raises:
            ThreadGone: The thread was killed while it was stopped.
        """
        if libc.ptrace(_GETREGS, self.tid, None, self._registers_address) < 0:
            raise ThreadGone(f"thread {self.tid} is gone")
        return _REGISTERS.unpack(self._registers)


def stopped(tid: Tid) -> Tracee:
    """Return the context in which a thread is stopped; see `Tracee.__enter__` for what it raises.

    Inside: read registers, copy memory, leave. No logging, no symbols, no `yield`.
    """
    return Tracee(tid)


def read_registers(tid: Tid) -> Registers:
    """Stop a thread just to read its registers; raises what `Tracee.__enter__` raises."""
    with stopped(tid) as tracee:
        values = tracee.read_registers()
    return Registers._make(values)


def _hurry() -> bool:
    """Ask for real-time priority; whether we got it. Never from a policy that somebody chose."""
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, _URGENT)
    except PermissionError:
        return False
    return True


def release_lingering() -> int:
    """Detach the threads that we gave up on and that have stopped since. Never blocks.

    Returns:
        How many are left.
    """
    if not _lingering:
        return 0
    look = _Look()
    for tid, process in tuple(_lingering.items()):
        found = look.at(tid)
        if found is False and _read_status_if_ours(tid) is not None:
            continue
        if found and not look.has_ended:
            if libc.ptrace(_DETACH, tid, None, look.signal) < 0:
                continue
        elif found and not _is_our_child(tid):
            look.at(tid, _TAKE_EXIT)
        del _lingering[tid]
        if not found:
            _adopt(process)
    return len(_lingering)


def _read_status_if_ours(tid: Tid) -> procfs.Status | None:
    """Return the status of a thread that we trace; None if it is not traced by us any more.

    For a child of ours waitid cannot tell: after an exec by its second thread it knows the new
    main thread as our child, while the one that we traced is gone.
    """
    status = procfs.read_status(tid)
    return status if status is not None and status.tracer == threading.get_native_id() else None


def _is_our_child(tid: int) -> bool:
    """Whether `tid` is a process that we started: whoever did wants its exit status."""
    status = procfs.read_status(tid)
    return status is not None and status.process == tid and status.parent == os.getpid()


def _adopt(process: Tid) -> None:
    """Write down a process whose main thread became ours by an exec of a thread that we seized.

    SEIZE waits until an exec is over, so it can be that the thread changed its id just before it
    was seized. Then our interrupt went nowhere: it is sent again.
    """
    if _read_status_if_ours(process) is not None:
        _lingering[process] = process
        libc.ptrace(_INTERRUPT, process, None, None)


def is_allowed() -> bool:
    """Whether ptrace(2) may be called at all: a seccomp filter can forbid it."""
    libc.ptrace(_INTERRUPT, 0, None, None)
    return libc.get_errno() == errno.ESRCH
