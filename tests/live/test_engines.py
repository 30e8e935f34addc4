"""What every engine promises: nothing lost in silence, no target left stopped, nothing left behind.

Time is never measured but against clocks of the target itself; how much of a loaded machine it
gets is not ours to say.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import nodes
from jsspy.engines import ENGINES
from jsspy.engines.base import Engine
from jsspy.formats import load_profile
from jsspy.linux import bpf, procfs
from jsspy.model.capture import ThreadPlan
from jsspy.model.mode import Mode
from jsspy.model.profile import Profile
from jsspy.model.sample import LossReason, RawSample
from jsspy.model.units import Address, Tid
from jsspy.recorder import End, Recorder, RecordingOptions, Status
from jsspy.target.process import Target
from recorded import require
from running import BUSY, IDLE, environment, starting, thread_state, wait_sampling

LATEST = "22.23.3"
WITH_EXECVE = "26.10.0"
RATE_HZ = 199
LIMIT_NS = 60_000_000_000
FAST_NS, SLOW_NS = round(1e9 / 499), round(1e9 / 50)

pytestmark = pytest.mark.live

WORKERS = """
const { Worker, isMainThread } = require('worker_threads');
function busy(ms) { for (const end = Date.now() + ms; Date.now() < end;) Math.sqrt(end); }
if (isMainThread) {
  (function turn() { new Worker(__filename).on('exit', turn); })();
  console.log('ready');
} else busy(1000);
"""

PARENT = """
const { spawn } = require('child_process');
function childWork() { for (;;) Math.sqrt(Date.now()); }
function parentWork() { for (;;) Math.sqrt(Date.now()); }
if (process.argv[2]) childWork();
const child = spawn(process.execPath, [__filename, 'child'], { stdio: 'ignore' });
process.on('SIGTERM', () => { child.kill('SIGKILL'); process.exit(); });
console.log('ready');
setTimeout(function turn() {
  for (const end = Date.now() + 20; Date.now() < end;) Math.sqrt(end);
  setTimeout(turn, 5);
}, 0);
"""

EXEC = """
function work() { for (const end = Date.now() + 20; Date.now() < end;) Math.sqrt(end); }
function before() { work(); setImmediate(before); }
function after() { work(); setImmediate(after); }
process.on('SIGUSR2', () => {
  process.execve(process.execPath, [process.execPath, __filename, 'after']);
});
console.log('ready');
console.log(String(process.hrtime.bigint()));
process.argv[2] === 'after' ? after() : before();
"""


@pytest.fixture(scope="module", params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    """Each engine, if it works here."""
    require(ENGINES[request.param], os.getpid())
    return str(request.param)


def make(name: str, rate_hz: float = RATE_HZ, mode: Mode = Mode.CPU) -> Engine:
    return ENGINES[name](rate_hz, mode=mode)


def record(
    recorder: Recorder, enough: Callable[[Status], bool], limit_ns: int = LIMIT_NS
) -> Profile:
    """Record until that is enough; what is promised of every recording is checked."""
    last: list[Status] = []
    for status in recorder.run(limit_ns, lambda: bool(last) and enough(last[0])):
        last[:] = [status]
    profile, stats = recorder.profile, recorder.profile.stats
    truncated = len(profile.truncated)
    assert truncated == sum(stats.truncated.values())
    assert stats.requested == len(profile) + sum(stats.lost.values())
    assert all(weight > 0 for weight in profile.weight)
    return profile


def named(profile: Profile) -> Counter[str]:
    """Count the samples in which each function is on the stack."""
    found: Counter[str] = Counter()
    for row in profile.stack:
        found.update({frame.name for frame in profile.iter_frames(row)})
    return found


def assert_runs(target: nodes.NodeProcess) -> None:
    """Check that nobody stops, traces or ended a process."""
    assert target.process.poll() is None
    status = procfs.read_status(target.pid)
    assert status is not None
    assert status.tracer == 0
    assert thread_state(target.pid) in "RSD"


class Clock:
    """What the kernel says that the main thread of a target has run, while it is recorded."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/task/{pid}/schedstat")
        self._seen: list[tuple[int, int]] = []

    def look(self) -> None:
        ran, waited, _ = self._path.read_text(encoding="ascii").split()
        self._seen.append((int(ran), int(waited)))

    def ran_ns(self, *, waiting: bool) -> int:
        """Return the CPU time between the first look and the last, or that and waiting for it."""
        (ran, waited), (ran_before, waited_before) = self._seen[-1], self._seen[0]
        return ran - ran_before + (waited - waited_before if waiting else 0)


def test_the_account_adds_up_to_the_time_that_the_program_had(name: str) -> None:
    with nodes.running(LATEST, BUSY) as target:
        clock = Clock(target.pid)
        with Recorder(make(name)) as recorder:
            recorder.add(target.pid)

            def enough(status: Status) -> bool:
                if status.threads:
                    clock.look()
                return status.samples + status.lost > 150

            profile = record(recorder, enough)
        assert_runs(target)
    due = profile.stats.requested * profile.meta.period_ns
    # ptrace samples who waits for a CPU, too; the others count the CPU time of the thread.
    ran = clock.ran_ns(waiting=name == "ptrace")
    assert abs(due - ran) < 0.2 * ran + 5 * profile.meta.period_ns
    assert sum(profile.weight) == len(profile) * profile.meta.period_ns
    assert named(profile)["leafWork"] > 0.7 * len(profile)


def test_weights_stay_right_when_the_rate_changes(name: str) -> None:
    with nodes.running(LATEST, BUSY) as target:
        clock = Clock(target.pid)
        with Recorder(make(name, 499)) as recorder:
            recorder.add(target.pid)

            def enough(status: Status) -> bool:
                if status.threads:
                    clock.look()
                taken = Counter(recorder.profile.weight)
                if taken[FAST_NS] > 60 and status.rate_hz > 400:
                    recorder.engine.set_rate(50)
                return taken[SLOW_NS] > 20

            profile = record(recorder, enough)
    assert set(profile.weight) == {FAST_NS, SLOW_NS}
    lost = sum(profile.stats.lost.values())
    if name == "ptrace":  # what was late may be of either rate
        ran = clock.ran_ns(waiting=True)
        assert sum(profile.weight) < ran + 5 * SLOW_NS
        assert sum(profile.weight) + lost * SLOW_NS > 0.8 * ran
    else:
        ran = clock.ran_ns(waiting=False)
        assert abs(sum(profile.weight) + lost * SLOW_NS - ran) < 0.2 * ran + 5 * SLOW_NS


def test_the_limit_of_overhead_is_kept(name: str) -> None:
    limit = 0.02
    with nodes.running(LATEST, BUSY) as target:
        options = RecordingOptions(max_overhead=limit, source_maps=False)
        with Recorder(make(name, 999), options) as recorder:
            recorder.add(target.pid)
            governor = recorder.governor
            assert governor is not None
            profile = record(recorder, lambda _: 0 < governor.share < limit)
            assert 0 < governor.share < limit
        (note,) = profile.meta.notes[-1:]
        assert re.match(r"Sampling took \S+ % of a CPU in the end, at .* Hz.*: .* is kept", note)


def test_every_sample_takes_some_of_the_program_s_time(name: str) -> None:
    with nodes.running(LATEST, BUSY) as target, Recorder(make(name, 500)) as recorder:
        recorder.add(target.pid)
        costs = []

        def note(status: Status) -> bool:
            costs.append((status.samples, recorder.engine.cost_ns()))
            return status.samples >= 200

        record(recorder, note)
        (before, from_ns), (after, to_ns) = costs[0], costs[-1]
        each_ns = (to_ns - from_ns) / (after - before)
    # An interrupt, or a stop; no machine does the one in less, or the other in more.
    assert 300 < each_ns < 1_000_000


def test_who_sleeps_is_idle(name: str) -> None:
    with nodes.running(LATEST, IDLE) as target:
        with Recorder(make(name, 99)) as recorder:
            recorder.add(target.pid)
            profile = record(recorder, lambda _: False, 1_500_000_000)
        assert_runs(target)
    stats = profile.stats
    ticks = profile.meta.duration_ns / profile.meta.period_ns
    assert stats.idle > 0.5 * ticks
    assert stats.idle + stats.requested < 1.2 * ticks


def test_workers_come_and_go(name: str) -> None:
    with nodes.running(LATEST, WORKERS) as target:
        with Recorder(make(name)) as recorder:
            recorder.add(target.pid)
            profile = record(recorder, lambda _: len(recorder.profile.threads) >= 5)
        assert_runs(target)
    assert len(profile.threads) >= 5
    assert {thread.pid for thread in profile.threads} == {target.pid}
    workers = [thread for thread in profile.threads if int(thread.tid) != target.pid]
    assert len({thread.isolate for thread in workers} - {0}) >= 1
    assert named(profile)["busy"] > 0


@pytest.mark.parametrize("follow", [False, True])
def test_children_are_taken_where_asked_for(name: str, *, follow: bool) -> None:
    with nodes.running(LATEST, PARENT) as target:
        with Recorder(make(name), RecordingOptions(follow_children=follow)) as recorder:
            recorder.add(target.pid)

            def enough(status: Status) -> bool:
                seen = {thread.pid for thread in recorder.profile.threads}
                return status.samples > 30 and (not follow or len(seen) == 2)

            profile = record(recorder, enough)
        assert_runs(target)
        target.process.terminate()
        target.process.wait(10)
    pids = {profile.threads[thread].pid for thread in profile.thread}
    assert target.pid in pids
    assert len(pids) == 1 + follow
    assert ("childWork" in named(profile)) == follow


def test_exec_begins_anew(name: str) -> None:
    with nodes.running(WITH_EXECVE, EXEC) as target:
        with Recorder(make(name)) as recorder:
            recorder.add(target.pid)
            told: list[int] = []

            def enough(_: Status) -> bool:
                found = named(recorder.profile)
                if found["before"] > 20 and not told:
                    target.process.send_signal(signal.SIGUSR2)
                    told.append(len(recorder.profile))
                return found["after"] > 20

            profile = record(recorder, enough)
        assert_runs(target)
    # What was taken before we had noticed has no wrong name.
    for row in profile.stack:
        names = [frame.name for frame in profile.iter_frames(row)]
        assert not ("before" in names and "after" in names)


def test_nothing_is_taken_of_a_program_that_comes_by_exec(name: str) -> None:
    with nodes.running(WITH_EXECVE, EXEC) as node, make(name) as engine:
        target = Target.open(node.pid)
        engine.set_target(target, None, [ThreadPlan(Tid(node.pid), Address(0), Address(0))])
        taken: list[RawSample] = []
        for batch in engine.samples():
            if len(taken) <= 20 < len(taken) + len(batch):
                node.process.send_signal(signal.SIGUSR2)
            taken += batch
        node.wait_ready()
        began_ns = int(node.line())
        target.close()
    assert len(taken) > 20
    assert max(sample.time_ns for sample in taken) < began_ns


def test_the_end_of_a_target_keeps_what_was_taken(name: str) -> None:
    with nodes.running(LATEST, BUSY) as target, Recorder(make(name)) as recorder:
        recorder.add(target.pid)

        def enough(status: Status) -> bool:
            if status.samples > 30 and target.process.poll() is None:
                target.process.kill()
                target.process.wait()
            return False

        profile = record(recorder, enough)
    assert recorder.end is End.TARGET_ENDED
    assert len(profile) > 30
    assert named(profile)["leafWork"] > 0.7 * len(profile)


def test_one_of_several_targets_ends(name: str) -> None:
    with (
        nodes.running(LATEST, BUSY) as first,
        nodes.running("20.20.2", BUSY) as second,
        nodes.running("24.15.0", BUSY) as third,
    ):
        targets = [first, second, third]
        with Recorder(make(name, 99)) as recorder:
            for target in targets:
                recorder.add(target.pid)
            counts: Counter[int] = Counter()

            def enough(_: Status) -> bool:
                counts.clear()
                for thread in recorder.profile.thread:
                    counts[recorder.profile.threads[thread].pid] += 1
                if all(counts[target.pid] > 10 for target in targets) and not killed:
                    first.process.kill()
                    first.process.wait()
                    killed.update(counts)
                return bool(killed) and all(
                    counts[target.pid] > killed[target.pid] + 10 for target in (second, third)
                )

            killed: Counter[int] = Counter()
            profile = record(recorder, enough)
        assert_runs(second)
        assert_runs(third)
    assert recorder.end is End.STOPPED
    assert set(profile.stats.lost) <= {
        LossReason.LATE,
        LossReason.THREAD_GONE,
        LossReason.UNRESOLVED,
        LossReason.NOT_STOPPED,
    }
    assert named(profile)["leafWork"] > 0.7 * len(profile)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a pid namespace")
def test_a_pid_namespace(name: str, tmp_path: Path) -> None:
    program = tmp_path / "busy.js"
    program.write_text(BUSY, encoding="utf-8")
    command = ["unshare", "--pid", "--fork", "--mount-proc", str(nodes.find(LATEST)), str(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        pid = int(children.read_text(encoding="ascii"))
        try:
            with Recorder(make(name)) as recorder:
                recorder.add(pid)
                profile = record(recorder, lambda status: status.samples > 30)
        finally:
            os.kill(pid, signal.SIGKILL)
    assert {thread.pid for thread in profile.threads} == {pid}
    assert named(profile)["leafWork"] > 0.8 * len(profile)


def test_ctrl_c_keeps_what_was_taken(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    with nodes.running(LATEST, BUSY) as target:
        arguments = ("--pid", str(target.pid), "--engine", name, "-o", str(path))
        with starting("record", *arguments) as process:
            wait_sampling(process)
            os.kill(process.pid, signal.SIGUSR1)  # a snapshot: then there are samples
            while not path.exists():
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert_runs(target)
    assert load_profile(path).meta.engine == name


SAMPLER = """
import sys
from jsspy.engines import ENGINES
from jsspy.recorder import Recorder
with Recorder(ENGINES[sys.argv[1]](999)) as recorder:
    recorder.add(int(sys.argv[2]))
    for status in recorder.run():
        if status.samples > 20:
            print("sampling", flush=True)
"""

GET_FD_BY_ID = {"prog_id": 13, "map_id": 14, "link_id": 30}
"""enum bpf_cmd in include/uapi/linux/bpf.h at v6.12."""


def kernel_objects(pid: int) -> tuple[set[tuple[str, int]], int]:
    """Return (kind, id) of the BPF objects that a process holds, and how many perf events."""
    ids, events = set(), 0
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        text = info.read_text(encoding="ascii", errors="replace")
        kind = re.search(r"^(prog_id|map_id|link_id):\t(\d+)$", text, re.MULTILINE)
        if "link_type" in text:  # it names its program, too
            kind = re.search(r"^(link_id):\t(\d+)$", text, re.MULTILINE)
        if kind is not None:
            ids.add((kind[1], int(kind[2])))
        events += "perf_event" in str(Path(f"/proc/{pid}/fd/{info.name}").readlink())
    return ids, events


def is_in_kernel(kind: str, number: int) -> bool:
    """Say whether a BPF object lives."""
    try:
        os.close(bpf._bpf(GET_FD_BY_ID[kind], struct.pack("<I12x", number), f"find {kind}"))
    except bpf.Refused as err:
        if err.code == errno.ENOENT:
            return False
        raise
    return True


@contextmanager
def sampler(name: str, pid: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", SAMPLER, name, str(pid)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"sampling\n"
        yield process


def test_killing_us_leaves_nothing_behind(name: str) -> None:
    with nodes.running(LATEST, BUSY) as target:
        with sampler(name, target.pid) as process:
            ids, events = kernel_objects(process.pid)
            assert bool(ids) == (name == "ebpf")
            assert bool(events) == (name != "ptrace")
            assert all(is_in_kernel(*it) for it in ids)
            process.kill()
            process.wait()
        # The kernel takes programs and maps back after a grace period.
        deadline = time.monotonic() + 20
        while any(is_in_kernel(*it) for it in ids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [it for it in ids if is_in_kernel(*it)]
        while thread_state(target.pid) in "tT" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert_runs(target)
        # Nothing is in the way of the next one.
        with Recorder(make(name)) as recorder:
            recorder.add(target.pid)
            assert len(record(recorder, lambda status: status.samples > 10)) > 10
