"""One process, opened with a layout that was tried on it: whoever names anything begins here.

`open_session` opens a process at once, and its layout is tried when the first isolate appears: for
recordings, which begin with a process that starts. `open_tested` waits for that. What fails the
self-test is not used: a session has no layout then, or it is an error.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import NamedTuple

from jsspy.errors import (
    FaultError,
    JsspyError,
    MalformedData,
    NotNode,
    ProcessExited,
    UnknownV8,
)
from jsspy.model.capture import CapturePlan, ThreadPlan
from jsspy.model.mode import NativeFrames, Threads
from jsspy.model.units import Address, Pid, Tid
from jsspy.resolve import Resolver
from jsspy.symbolize.original import ScriptLog
from jsspy.target.node import find_node_version
from jsspy.target.process import Target, V8Binary
from jsspy.v8.isolates import ThreadFinder
from jsspy.v8.layout import Confidence, Layout
from jsspy.v8.metadata import load_layout
from jsspy.v8.plan import make_plan
from jsspy.v8.selftest import run_self_test

SETTLE_NS = 2_000_000_000
"""How long after a change of the task list isolates are still expected to appear."""

NO_ISOLATE_NS = 3_000_000_000
"""How long a process that has V8 may take to make its first isolate."""

SELF_TEST_NS = 1_000_000_000
"""How long a layout may fail the self-test: what starts is not complete."""

STARTING_POLL_S = 0.005
"""How often a process that has no isolate yet is looked at while nothing else is sampled."""

MAX_EXECS = 1000
"""Programs that a process may go through while it is being opened, each in about a millisecond."""


class TargetInfo(NamedTuple):
    """What is known of a process that was recorded."""

    pid: Pid
    command: str
    node_version: str | None
    v8_version: str | None
    """None if its V8 is not known."""


class Session:
    """One process as it has been since its last exec."""

    def __init__(
        self,
        target: Target,
        image: bytes,
        *,
        strict: bool = False,
        async_callers: bool = False,
        native: NativeFrames = NativeFrames.FULL,
        threads: Threads = Threads.JS,
    ) -> None:
        """Look for V8 in `target`.

        Args:
            target: Opened while the process had `image`.
            image: What `read_image` said.
            strict: Raise where a V8 is not known, instead of degrading to native frames.
            async_callers: Show who awaits what runs.
            native: Which native frames stacks have.
            threads: Which threads are wanted.

        Raises:
            UnknownV8: That is to be an error, and its V8 is not known.
            ProcessExited: It ended.
        """
        self.target = target
        self.image = image
        self.node_version: str | None = None
        self.layout: Layout | None = None
        self.plan: CapturePlan | None = None
        self.is_tested = False
        """Its layout was tried, and may be used."""
        self.note: str | None = None
        self.threads: list[ThreadPlan] = []
        self._finder: ThreadFinder | None = None
        self._tasks: list[Tid] = []
        self._settled_ns = 0
        self._has_isolates = False
        self._strict = strict
        self._native = native
        self._wanted = threads
        self._first_test_ns = 0
        self._give_up_ns = time.monotonic_ns() + NO_ISOLATE_NS
        self.v8 = target.find_v8()
        if self.v8 is not None:
            self.node_version = self.v8.elf.derive(find_node_version)
            # The first time this takes half a second, later 2 ms: better now than between samples.
            self.v8.elf.functions()
            try:
                self.layout = self.v8.elf.derive(load_layout)
                self.plan = make_plan(self.layout)
            except UnknownV8 as err:
                if strict:
                    raise
                self.note = f"{err.message}: native frames only, JavaScript is (unknown)"
        self.resolver = Resolver(
            target,
            self.v8,
            self.layout,
            async_callers=async_callers,
            native=native,
        )
        if async_callers and self.layout is not None and self.resolver.stopped_reader is None:
            self.note = "who awaits is not known of its V8"
        self.scripts = ScriptLog(target.pid)

    def close(self) -> None:
        """Close the process, and forget what was read of it."""
        self.scripts.close()
        self.resolver.close()
        self.target.close()

    @property
    def info(self) -> TargetInfo:
        """What is known of it."""
        return TargetInfo(
            self.target.pid,
            " ".join(self.target.command),
            self.node_version,
            self.layout.version_text() if self.layout is not None else None,
        )

    def refresh_threads(self, now_ns: int) -> bool:
        """Look for threads that own an isolate; say whether they are other ones than before."""
        tasks = self.target.threads()
        if tasks != self._tasks:
            self._tasks = tasks
            self._settled_ns = now_ns + SETTLE_NS
        elif self._has_isolates and now_ns > self._settled_ns:
            return False
        before = self.threads
        if self.v8 is not None:
            self.threads = self._find_isolates()
            self._has_isolates = self._has_isolates or bool(self.threads)
            gives_up = now_ns >= self._give_up_ns and not self._first_test_ns
            if not self._has_isolates and (self.layout is None or gives_up):
                self.threads = self._main_thread()
        return self.threads != before

    def wait_until_tested(self) -> tuple[V8Binary, Layout]:
        """Find its threads and try the layout on an isolate, unless that is done.

        Returns:
            Where V8 is, and the layout.

        Raises:
            ProcessExited: It ended.
            NotNode: There is no V8 in it, or no isolate.
            UnknownV8: It is strict, and its V8 is not what is believed of it.
        """
        name = f"process {self.target.pid} ({' '.join(self.target.command)})"
        if self.v8 is None:
            raise NotNode(f"{name} is not Node.js: it has no V8 in it")
        while not self.is_tested or self.layout is None:
            # Else it was caught in the middle of a change: the next look sees it whole.
            with suppress(FaultError, MalformedData):
                self.refresh_threads(time.monotonic_ns())
            if self.is_tested:
                continue
            if self.threads:
                raise NotNode(f"{name} runs no JavaScript: no thread of it has an isolate")
            time.sleep(STARTING_POLL_S)
        return self.v8, self.layout

    def _find_isolates(self) -> list[ThreadPlan]:
        if self.v8 is None or self.layout is None:
            return []
        if self._finder is None:
            self._finder = ThreadFinder(self.target, self.v8, self.layout)
        threads = self._finder.find(others=self._wanted is Threads.ALL)
        if self._wanted is Threads.MAIN:
            threads = [plan for plan in threads if int(plan.tid) == self.target.pid]
        if (
            threads
            and not self.is_tested
            and not self._test(self.v8, self.layout, max(threads, key=lambda it: it.isolate))
        ):
            return []
        return threads

    def _test(self, v8: V8Binary, layout: Layout, thread: ThreadPlan) -> bool:
        """Try the layout before anything is named by it; return whether it is to be used.

        Raises:
            UnknownV8: That is to be an error, and the layout is not what this V8 has.
        """
        result = run_self_test(self.target.memory, v8, layout, thread)
        if result.confidence is not Confidence.FAILED:
            self.is_tested, self._first_test_ns = True, 0
            if result.untested:
                self.note = f"not certain of its V8: nothing to test {result.untested} on"
            return True
        now = time.monotonic_ns()
        self._first_test_ns = self._first_test_ns or now
        if now - self._first_test_ns < SELF_TEST_NS:
            # A process that starts does not have all of it yet, and a collector may move it.
            return False
        error = UnknownV8(layout.version_text(), (), failures=result.failures)
        if self._strict:
            raise error
        self.layout = self.plan = None
        self.note = f"{error.message}: native frames only, JavaScript is (unknown)"
        self.resolver = Resolver(self.target, v8, None, native=self._native)
        return False

    def _main_thread(self) -> list[ThreadPlan]:
        """Return the one thread of which it is certain that it is not V8's or libuv's helper."""
        if self.layout is not None:
            self.note = "no thread has an isolate: its main thread is sampled"
        for mapping in self.target.address_space(refresh=True).mappings:
            if mapping.path == "[stack]":
                return [ThreadPlan(Tid(self.target.pid), Address(0), mapping.end)]
        return []


def open_session(
    pid: Pid,
    *,
    strict: bool = False,
    async_callers: bool = False,
    native: NativeFrames = NativeFrames.FULL,
    threads: Threads = Threads.JS,
) -> Session:
    """Open a process; see `Session` for the arguments. Its layout is not tried yet.

    Shells start programs by exec, and what was opened before is of no use after: what counts is
    that it was the same program before and after.

    Raises:
        ProcessNotFound: No process has this pid.
        ProcessExited: It ended.
        PermissionDenied: It may not be read.
        UnsupportedTarget: Not for this architecture.
        UnknownV8: That is to be an error, and its V8 is not known.
    """
    for _ in range(MAX_EXECS):
        image = read_image(pid)
        target = None
        try:
            target = Target.open(pid)
            session = Session(
                target,
                image,
                strict=strict,
                async_callers=async_callers,
                native=native,
                threads=threads,
            )
        except BaseException as err:
            if target is not None:
                target.close()
            if isinstance(err, JsspyError) and read_image(pid) not in {image, b""}:
                continue  # it fell into the middle of exec
            raise
        # Gone: it ended while its binary was read for the first time. The next look drops it.
        if read_image(pid) in {image, b""}:
            return session
        target.close()
    raise ProcessExited(f"process {pid} never stays the same program")


def open_tested(pid: int) -> Session:
    """Open a process that runs JavaScript, with a layout that was tried on it, and its threads.

    Raises:
        ProcessNotFound: No process has this pid.
        ProcessExited: It ended.
        PermissionDenied: It may not be read.
        NotNode: There is no V8 in it, or no isolate.
        UnknownV8: Its V8 is not known, or is not what is believed of it.
    """
    session = open_session(Pid(pid), strict=True)
    try:
        session.wait_until_tested()
    except BaseException:
        session.close()
        raise
    return session


def read_image(pid: int) -> bytes:
    """Return bytes that differ after each exec; b"" once the process is gone.

    The auxiliary vector names the addresses of the vdso, of 16 random bytes and of the program's
    name on the stack, all of which the kernel draws anew for each program.
    Source: fs/binfmt_elf.c, create_elf_tables, at v6.12.
    """
    return read_proc(f"/proc/{pid}/auxv")


def read_proc(path: str) -> bytes:
    """Return the contents of a small file (pathlib takes 4 ms to load); b"" if it is gone."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - see above
            return file.read()
    except OSError:
        return b""
