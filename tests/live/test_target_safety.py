"""What a target must never notice: it gets every signal, child, thread and exit as without us.

Most targets here are driven by themselves, so that each can count what it ought to get.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import nodes
from jsspy.engines.ptrace import PtraceEngine
from jsspy.errors import PermissionDenied, ProcessExited
from jsspy.linux import procfs, ptrace
from jsspy.model.capture import ThreadPlan
from jsspy.model.units import Address, Tid
from jsspy.target.process import Target

VERSION = "20.20.2"
RATE_HZ = 999

KILLS = int(os.environ.get("JSSPY_KILLS", "25"))
"""Moments at which a sampling jsspy is killed."""

DEADLINE_S = 60.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until a condition holds; fail the test if it never does."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.002)


def all_threads(target: Target) -> list[ThreadPlan]:
    """Plan to sample every thread, V8's own helpers too; the main thread's stack end is real."""
    (stack,) = (it for it in target.address_space().mappings if it.path == "[stack]")
    return [ThreadPlan(tid, Address(0), stack.end) for tid in target.threads()]


def sample_until(pid: int, done: Callable[[], bool], *, refresh: bool = False) -> PtraceEngine:
    """Sample all threads of a process as fast as we can until `done`, or until it ends."""
    target = Target.open(pid)
    end = time.monotonic() + DEADLINE_S
    with PtraceEngine(RATE_HZ) as engine:
        engine.set_target(target, None, all_threads(target))
        for count, _ in enumerate(engine.samples()):
            if done():
                break
            assert time.monotonic() < end, "the target is not done"
            if refresh and count % 5 == 0:
                try:
                    engine.set_target(target, None, all_threads(target))
                except (ProcessExited, ValueError):
                    break  # it ends: no threads, no stack
        engine.remove_target(target.pid)
    target.close()
    stats = engine.stats
    delivered = stats.requested - sum(stats.lost.values())
    assert delivered > 0, f"nothing was sampled: {stats}"
    assert engine.pauses().count >= delivered
    return engine


def has_output(process: nodes.NodeProcess) -> Callable[[], bool]:
    """Return whether the target has printed something that was not read yet."""
    stdout = process.process.stdout
    assert stdout is not None
    return lambda: bool(select.select([stdout], [], [], 0)[0])


def assert_untouched(pid: int) -> None:
    """Every thread runs or sleeps, and nobody traces any."""
    for tid in procfs.ProcessFiles(pid).threads():
        status = procfs.read_status(tid)
        if status is not None:
            assert status.tracer == 0
            assert status.state in "RSD", status


@contextmanager
def running_python(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program that prints "ready" first."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


TICKER = r"""
const fs = require('fs');
let ticks = 0;
setInterval(() => { ticks++; fs.writeSync(1, ticks + '\n'); }, 5);
function busy() { const end = Date.now() + 2; while (Date.now() < end); setImmediate(busy); }
console.log('ready');
busy();
"""


class Ticker:
    """A busy target whose timer prints a growing number."""

    def __init__(self, process: nodes.NodeProcess) -> None:
        self.process = process
        assert process.process.stdout is not None
        os.set_blocking(process.process.stdout.fileno(), False)

    def assert_ticks(self) -> None:
        """Fail unless the timer fires from now on."""
        stdout = self.process.process.stdout
        assert stdout is not None
        descriptor = stdout.fileno()
        self.drain(descriptor)
        got = b""
        end = time.monotonic() + DEADLINE_S
        while got.count(b"\n") < 3:
            assert time.monotonic() < end, "the timer stands still"
            if select.select([descriptor], [], [], 1)[0]:
                got += os.read(descriptor, 1 << 16)

    @staticmethod
    def drain(descriptor: int) -> None:
        while True:
            try:
                if not os.read(descriptor, 1 << 16):
                    return
            except BlockingIOError:
                return


def test_signals_arrive_exactly_once() -> None:
    # Each signal is handled before the next is sent, so that none can merge with another.
    program = r"""
    let handled = 0;
    const wanted = 4000;
    process.on('SIGUSR2', () => {
      handled++;
      if (handled < wanted) { process.kill(process.pid, 'SIGUSR2'); return; }
      let left = 50;
      const timer = setInterval(() => {
        if (--left) return;
        clearInterval(timer);
        console.log('handled', handled);
        process.exit(0);
      }, 2);
    });
    function busy() { for (let i = 0; i < 20000; i++) Math.sqrt(i); setImmediate(busy); }
    busy();
    process.stdin.once('data', () => process.kill(process.pid, 'SIGUSR2'));
    console.log('ready');
    """
    with nodes.running(VERSION, program) as process:
        assert process.process.stdin is not None
        process.process.stdin.write("go\n")
        process.process.stdin.flush()
        sample_until(process.pid, has_output(process))
        assert process.line() == "handled 4000"
        assert process.process.wait() == 0


def test_a_storm_of_signals_to_itself_arrives_exactly_once() -> None:
    # A signal that a single-threaded process sends itself is handled before kill returns: tens of
    # thousands per second meet every phase of our stops.
    program = """
        import os, signal
        count = 0
        def handle(number, frame):
            global count
            count += 1
        signal.signal(signal.SIGUSR1, handle)
        print("ready", flush=True)
        for _ in range(100_000):
            os.kill(os.getpid(), signal.SIGUSR1)
        print(count, flush=True)
    """
    with running_python(program) as process:
        assert process.stdout is not None
        stdout = process.stdout
        stops = 0
        tracee = ptrace.Tracee(Tid(process.pid))
        while not select.select([stdout], [], [], 0)[0]:
            try:
                with tracee:
                    stops += 1
            except ptrace.NotStopped:
                # It got no CPU: in a loop without rest we take most of one.
                wait_until(lambda: ptrace.release_lingering() == 0, "it is released")
        assert stops > 100
        assert stdout.readline() == "100000\n"
        assert process.wait() == 0


def test_children_are_started_and_reaped() -> None:
    program = r"""
    const { spawn } = require('child_process');
    let left = 60, sum = 0;
    function next() {
      const code = left % 7;
      spawn('sh', ['-c', 'exit ' + code]).on('exit', (got, signal) => {
        if (signal !== null || got !== code) { console.log('wrong', got, signal); process.exit(1); }
        sum += got;
        if (--left) next(); else { console.log('sum', sum); process.exit(9); }
      });
    }
    function busy() { const end = Date.now() + 1; while (Date.now() < end); setImmediate(busy); }
    busy();
    process.stdin.once('data', () => { next(); });
    console.log('ready');
    """
    with nodes.running(VERSION, program) as process:
        assert process.process.stdin is not None
        process.process.stdin.write("go\n")
        process.process.stdin.flush()
        sample_until(process.pid, has_output(process))
        expected = sum(left % 7 for left in range(1, 61))
        assert process.line() == f"sum {expected}"
        assert process.process.wait() == 9


def test_worker_threads_come_and_go() -> None:
    program = r"""
    const { Worker } = require('worker_threads');
    let done = 0;
    function start() {
      const worker = new Worker(`
        let x = 0; const end = Date.now() + 5; while (Date.now() < end) x++;
        require('worker_threads').parentPort.postMessage('bye');`, { eval: true });
      let bye = false;
      worker.on('message', () => { bye = true; });
      worker.on('exit', (code) => {
        if (code !== 0 || !bye) { console.log('wrong', code, bye); process.exit(1); }
        if (++done === 30) { console.log('done'); process.exit(5); } else start();
      });
    }
    function busy() { const end = Date.now() + 1; while (Date.now() < end); setImmediate(busy); }
    busy();
    process.stdin.once('data', () => { start(); });
    console.log('ready');
    """
    with nodes.running(VERSION, program) as process:
        assert process.process.stdin is not None
        process.process.stdin.write("go\n")
        process.process.stdin.flush()
        sample_until(process.pid, has_output(process), refresh=True)
        assert process.line() == "done"
        assert process.process.wait() == 5


@pytest.mark.parametrize("how", ["process.exit(7)", "process.kill(process.pid, 'SIGKILL')"])
def test_exit_code_is_kept(how: str) -> None:
    program = f"""
    const end = Date.now() + 300;
    console.log('ready');
    while (Date.now() < end);
    {how};
    """
    for _ in range(3):
        with nodes.running(VERSION, program) as process:
            engine = sample_until(process.pid, lambda: False)
            assert not engine._targets
            assert process.process.wait() == (7 if "exit" in how else -signal.SIGKILL)


def test_exec_by_any_thread() -> None:
    # The program replaces itself 40 times, from a second thread every other time: then that thread
    # goes on under the id of the process, even if we had just seized it.
    program = """
        import os, sys, threading, time
        left = int(sys.argv[1])
        if left == 40:
            print("ready", flush=True)
        if not left:
            print("done", flush=True)
            time.sleep(60)
        def replace():
            end = time.monotonic() + 0.02
            while time.monotonic() < end:
                pass
            os.execv(sys.executable, [sys.executable, "-c", os.environ["PROGRAM"], str(left - 1)])
        if left % 2:
            thread = threading.Thread(target=replace)
            thread.start()
            thread.join()
        else:
            replace()
    """
    os.environ["PROGRAM"] = textwrap.dedent(program)
    with running_python(program, "40") as process:
        assert process.stdout is not None
        stdout = process.stdout
        files = procfs.ProcessFiles(process.pid)
        end = time.monotonic() + DEADLINE_S
        stops = 0
        while not select.select([stdout], [], [], 0)[0]:
            assert time.monotonic() < end, "the target is not done"
            for tid in files.threads():
                try:
                    with ptrace.stopped(Tid(tid)):
                        stops += 1
                except (ptrace.ThreadGone, ptrace.NotStopped):
                    pass
                ptrace.release_lingering()
        assert stops > 40
        assert stdout.readline() == "done\n"
        wait_until(lambda: ptrace.release_lingering() == 0, "nothing lingers")
        assert_untouched(process.pid)
        files.close()


def test_nothing_is_left_behind() -> None:
    with nodes.running(VERSION, TICKER) as process:
        ticker = Ticker(process)
        end = time.monotonic() + 0.5
        sample_until(process.pid, lambda: time.monotonic() > end)
        assert_untouched(process.pid)
        ticker.assert_ticks()


class Interruption(Exception):
    """Raised inside a stopped block."""


def test_an_exception_in_the_block_lets_the_thread_run() -> None:
    with nodes.running(VERSION, TICKER) as process:
        with pytest.raises(Interruption), ptrace.stopped(Tid(process.pid)):
            raise Interruption
        assert_untouched(process.pid)
        Ticker(process).assert_ticks()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Take Ctrl-C as Python does by default: a shell may have started us with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_waits_until_the_thread_runs() -> None:
    with nodes.running(VERSION, TICKER) as process:
        reached_the_end = False
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the order is the test
            with ptrace.stopped(Tid(process.pid)):
                # To this thread: a test runner has others that would take it for us.
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)
                sum(range(1000))
                reached_the_end = True
            pytest.fail("Ctrl-C was lost")
        assert reached_the_end
        assert_untouched(process.pid)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_stopped_process_stays_stopped() -> None:
    with nodes.running(VERSION, TICKER) as process:
        os.kill(process.pid, signal.SIGSTOP)

        def state() -> str:
            status = procfs.read_status(process.pid)
            assert status is not None
            return status.state

        wait_until(lambda: state() == "T", "it stops")
        with ptrace.stopped(Tid(process.pid)) as tracee:
            assert tracee.read_registers()[16]  # rip
        wait_until(lambda: state() == "T", "it is stopped again")
        os.kill(process.pid, signal.SIGCONT)
        Ticker(process).assert_ticks()


def test_a_thread_that_is_gone() -> None:
    process = subprocess.Popen(["true"])
    try:
        wait_until(
            lambda: (procfs.read_stat(process.pid) or pytest.fail("reaped")).state == "Z",
            "it is a zombie",
        )
        with pytest.raises(ptrace.ThreadGone), ptrace.stopped(Tid(process.pid)):
            pytest.fail("a zombie cannot be stopped")
    finally:
        assert process.wait() == 0
    with pytest.raises(ptrace.ThreadGone):
        ptrace.stopped(Tid(process.pid))


HOLD = """
    import signal, sys
    from jsspy.linux import ptrace
    with ptrace.stopped(int(sys.argv[1])):
        print("ready", flush=True)
        signal.sigtimedwait([], 60)
"""


def test_a_traced_process_is_refused() -> None:
    with nodes.running(VERSION, TICKER) as process:
        target = Target.open(process.pid)
        assert PtraceEngine(99).probe(target).available
        with running_python(HOLD, str(process.pid)) as tracer:
            with pytest.raises(PermissionDenied), ptrace.stopped(Tid(process.pid)):
                pytest.fail("two tracers")
            availability = PtraceEngine(99).probe(target)
            assert not availability.available
            assert f"traced by process {tracer.pid}" in availability.reason
            assert availability.hint == (f"end the debugger or tracer first: kill {tracer.pid}")
        # It was killed with the thread in its hands.
        wait_until(lambda: PtraceEngine(99).probe(target).available, "the tracer is gone")
        assert_untouched(process.pid)
        Ticker(process).assert_ticks()
        target.close()


VFORK = """
    # clone(CLONE_VM | CLONE_VFORK): we wait for the child, uninterruptible, and the child is libc's
    # own usleep on a stack of its own.
    import ctypes, sys, time
    libc = ctypes.CDLL(None)
    stack = ctypes.create_string_buffer(1 << 16)
    top = ctypes.c_void_p((ctypes.addressof(stack) + (1 << 16) - 64) & ~15)
    print("ready", flush=True)
    CLONE_VM, CLONE_VFORK, SIGCHLD = 0x100, 0x4000, 17
    libc.clone(libc.usleep, top, CLONE_VM | CLONE_VFORK | SIGCHLD, ctypes.c_void_p(700_000))
    print("woke", flush=True)
    time.sleep(60)
"""


def wait_for_disk_state(pid: int) -> None:
    """Wait until a thread sleeps uninterruptibly."""
    wait_until(lambda: (procfs.read_stat(pid) or pytest.fail("gone")).state == "D", "state D")


def test_giving_up_on_a_thread_that_cannot_stop() -> None:
    with running_python(VFORK) as process:
        wait_for_disk_state(process.pid)
        with pytest.raises(ptrace.NotStopped), ptrace.stopped(Tid(process.pid)):
            pytest.fail("it cannot have stopped")
        assert ptrace.release_lingering() == 1
        with pytest.raises(ptrace.NotStopped), ptrace.stopped(Tid(process.pid)):
            pytest.fail("it cannot have stopped")
        wait_until(lambda: ptrace.release_lingering() == 0, "it is released")
        assert process.stdout is not None
        assert process.stdout.readline() == "woke\n"
        assert_untouched(process.pid)


def test_dying_while_a_thread_cannot_stop() -> None:
    seize = """
        import sys, time
        from jsspy.linux import ptrace
        try:
            with ptrace.stopped(int(sys.argv[1])):
                pass
        except ptrace.NotStopped:
            print("ready", flush=True)
        time.sleep(60)
    """
    with running_python(VFORK) as process:
        wait_for_disk_state(process.pid)
        with running_python(seize, str(process.pid)) as helper:
            status = procfs.read_status(process.pid)
            assert status is not None
            assert (status.tracer, status.state) == (helper.pid, "D")
        assert process.stdout is not None
        assert process.stdout.readline() == "woke\n"
        assert_untouched(process.pid)


SAMPLER = """
    import sys
    from jsspy.engines.ptrace import PtraceEngine
    from jsspy.model.capture import ThreadPlan
    from jsspy.target.process import Target
    target = Target.open(int(sys.argv[1]))
    (stack,) = (it for it in target.address_space().mappings if it.path == "[stack]")
    with PtraceEngine(float(sys.argv[2])) as engine:
        threads = [ThreadPlan(tid, 0, stack.end) for tid in target.threads()]
        engine.set_target(target, None, threads)
        first = True
        for batch in engine.samples():
            if batch and first:
                print("ready", flush=True)
                first = False
"""


def test_killing_us_at_any_moment_leaves_the_target_running() -> None:
    dice = random.Random(4121)
    caught_stopped = 0
    with nodes.running(VERSION, TICKER) as process:
        ticker = Ticker(process)
        for _ in range(KILLS):
            with running_python(SAMPLER, str(process.pid), "20000") as sampler:
                time.sleep(dice.uniform(0, 0.01))
                status = procfs.read_status(process.pid)
                caught_stopped += status is not None and status.tracer == sampler.pid
                sampler.kill()
                sampler.wait()
            assert_untouched(process.pid)
            ticker.assert_ticks()
    # Else these were not the moments that matter.
    assert KILLS < 20 or caught_stopped
