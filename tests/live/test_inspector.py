"""Recording through the inspector of real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import nodes
from jsspy import inspected
from jsspy.engines.inspector import open_inspector
from jsspy.errors import EngineUnavailable
from jsspy.formats import load_profile
from jsspy.inspected import InspectorRecorder
from jsspy.linux.sockets import find_listeners
from jsspy.model.mode import Mode
from jsspy.model.profile import Profile
from jsspy.model.stack import FrameKind
from jsspy.recorder import End
from running import BUSY, jsspy, starting, wait_sampling

LATEST = "24.15.0"
ANY_PORT = ("--inspect-port=0",)
"""So that tests may run beside each other. It opens nothing by itself."""

WORKERS = """
const { Worker, isMainThread } = require('worker_threads');
const list = Array.from({ length: 2000 }, (_, i) => 'x' + i);
function inWorker() { for (let end = Date.now() + 50; Date.now() < end; ) JSON.stringify(list); }
function inMain() { for (let end = Date.now() + 5; Date.now() < end; ) JSON.stringify(list); }
if (isMainThread) {
  new Worker(__filename).on('online', () => console.log('ready'));
  setInterval(inMain, 20);
} else setInterval(inWorker, 60);
"""
"""No loop is hot: V8's profiler charges optimized loops to the caller now and then."""


def names_of(profile: Profile, row: int) -> list[str]:
    return [frame.name for frame in profile.stack_frames(row)]


def record(recorder: InspectorRecorder, samples: int, functions: Sequence[str] = ()) -> Profile:
    """Record until there are so many samples and these functions."""

    def is_enough() -> bool:
        names = {frame.name for frame in recorder.profile.frames}
        return len(recorder.profile) >= samples and names.issuperset(functions)

    next_ns = period_ns = 400_000_000
    for status in recorder.run(30 * 10**9, is_enough):
        if status.elapsed_ns >= next_ns:
            next_ns += period_ns
            recorder.update_stats()
    recorder.profile.check()
    return recorder.profile


@pytest.mark.parametrize("version", nodes.selected(("10.24.1", *nodes.MODERN)))
def test_a_local_process_is_opened_recorded_and_closed(version: str) -> None:
    with nodes.running(version, BUSY, flags=ANY_PORT) as node:
        assert find_listeners(node.pid) == []
        with InspectorRecorder.open(node.pid, 500) as recorder:
            profile = record(recorder, 100)
        assert find_listeners(node.pid) == []
        assert node.process.poll() is None
        # It can be opened once more: nothing is left of the first time.
        with InspectorRecorder.open(node.pid, 500) as recorder:
            record(recorder, 10)
        assert find_listeners(node.pid) == []
    stacks = [names_of(profile, row) for row in profile.stack]
    assert sum("outerWork" in names for names in stacks) > 0.8 * len(stacks)
    assert all("outerWork" in names for names in stacks if "leafWork" in names)
    assert profile.meta.engine == "inspector"
    assert profile.meta.node_version == version
    assert "JavaScript only" in profile.meta.notes[0]
    kinds = {frame.kind for frame in profile.frames}
    assert not kinds & {FrameKind.NATIVE, FrameKind.KERNEL}
    places = {frame.definition.url for frame in profile.frames if frame.definition is not None}
    assert any(place.endswith("program.js") and place.startswith("/") for place in places)
    assert {(info.pid, info.tid) for info in profile.threads} == {(node.pid, node.pid)}


@pytest.mark.parametrize("version", nodes.selected(("12.22.12", "18.20.8", LATEST)))
def test_workers_are_recorded_too(version: str) -> None:
    with (
        nodes.running(version, WORKERS, flags=ANY_PORT) as node,
        InspectorRecorder.open(node.pid, 500, mode=Mode.WALL) as recorder,
    ):
        profile = record(recorder, 100, ("inMain", "inWorker"))
    of_thread: dict[int, set[str]] = {}
    for thread, row in zip(profile.thread, profile.stack, strict=True):
        of_thread.setdefault(thread, set()).update(names_of(profile, row))
    main, worker = (of_thread[thread] for thread in sorted(of_thread))
    assert "inMain" in main - worker
    assert "inWorker" in worker - main
    assert profile.time_ns[-1] >= profile.time_ns[0] > 0
    assert list(profile.time_ns) == sorted(profile.time_ns)


def test_idle_time_counts_in_wall_mode_only() -> None:
    program = "setInterval(() => { for (let i = 0; i < 1e5; i++); }, 20); console.log('ready');"
    with nodes.running(LATEST, program, flags=ANY_PORT) as node:
        profiles = []
        for mode in (Mode.CPU, Mode.WALL):
            with InspectorRecorder.open(node.pid, 500, mode=mode) as recorder:
                for _ in recorder.run(duration_ns=10**9):
                    pass
            profiles.append(recorder.profile)
    cpu, wall = profiles
    assert "(idle)" in {frame.name for frame in wall.frames if frame.kind is FrameKind.VM_STATE}
    assert wall.total_weight() > 0.5e9
    assert cpu.stats.idle > len(cpu)
    assert all("(idle)" not in names_of(cpu, row) for row in cpu.stack)


@contextmanager
def inspected_node(version: str) -> Iterator[tuple[int, str]]:
    """Run a node that opens its inspector itself; yield its pid and the inspector's URL."""
    process = subprocess.Popen(
        [str(nodes.find(version)), "--inspect=127.0.0.1:0", "-e", BUSY],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        found = re.search(r"ws://\S+", process.stderr.readline())
        assert found is not None
        yield process.pid, found[0]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("version", nodes.selected(("8.17.0", "12.22.12", LATEST)))
def test_an_inspector_that_was_open_is_used_by_url_and_stays_open(
    version: str, tmp_path: Path
) -> None:
    with inspected_node(version) as (pid, url):
        before = find_listeners(pid)
        place = re.sub(r"^ws(://[^/]+)/.*", r"http\1", url)
        for number, address in enumerate((url, place)):
            out = tmp_path / f"{number}.jsspy"
            done = jsspy("record", "--inspect-url", address, "-d", "0.5", "-o", str(out))
            assert done.returncode == 0, done.stderr
            assert "JavaScript only" in done.stderr
            profile = load_profile(out)
            assert any("outerWork" in names_of(profile, row) for row in profile.stack)
            assert profile.meta.node_version == version
        assert find_listeners(pid) == before


def test_ctrl_c_keeps_what_there_is(tmp_path: Path) -> None:
    out = tmp_path / "out.folded"
    with nodes.running(LATEST, BUSY, flags=ANY_PORT) as node:
        arguments = ("--engine", "inspector", "--pid", str(node.pid), "-r", "500", "-o", str(out))
        with starting("record", *arguments) as process:
            wait_sampling(process)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
        assert find_listeners(node.pid) == []
        assert node.process.poll() is None
    assert "outerWork" in out.read_text()


def test_what_was_taken_over_outlives_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspected, "HARVEST_S", 0.3)
    with nodes.running(LATEST, BUSY, flags=ANY_PORT) as node:
        recorder = InspectorRecorder.open(node.pid, 500)
        try:
            for status in recorder.run(duration_ns=60 * 10**9):
                if status.samples:
                    node.process.kill()
                    node.process.wait()
        finally:
            recorder.close()
    assert recorder.end is End.TARGET_ENDED
    assert len(recorder.profile) > 0
    assert any("lost" in note for note in recorder.profile.meta.notes)


@pytest.mark.parametrize(
    ("version", "program", "reason"),
    [
        (LATEST, "process.on('SIGUSR1', () => process.exit(9));", "handles SIGUSR1 itself"),
        ("12.22.12", "process.on('SIGUSR1', () => process.exit(9));", "handles SIGUSR1 itself"),
        ("8.17.0", "", "cannot close its inspector"),
    ],
)
def test_who_would_not_bear_it_gets_no_signal(version: str, program: str, reason: str) -> None:
    if version not in nodes.selected((version,)):
        pytest.skip("not among NODES")
    program += "process.on('SIGUSR2', () => {}); setInterval(() => {}, 1e6); console.log('ready');"
    with nodes.running(version, program) as node:
        done = jsspy("record", "--engine", "inspector", "--pid", str(node.pid), "-d", "1")
        assert done.returncode == 10, done.stderr
        assert reason in done.stderr
        assert node.process.poll() is None
        assert find_listeners(node.pid) == []


def test_a_process_without_a_handler_is_not_killed() -> None:
    program = "import time; print('ready', flush=True); time.sleep(1000)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(EngineUnavailable, match="no handler"):
            open_inspector(process.pid)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_a_network_of_its_own_is_said() -> None:
    command = ["unshare", "--net", str(nodes.find(LATEST)), "-e", BUSY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            nodes.missing("unshare makes no network namespace here")
        with pytest.raises(EngineUnavailable) as caught:
            open_inspector(process.pid)
        assert caught.value.hint is not None
        hint = caught.value.hint.split()
        assert hint[:4] == ["nsenter", "--target", str(process.pid), "--net"]
    finally:
        process.kill()
        process.communicate()


def test_no_inspector_at_a_url() -> None:
    done = jsspy("record", "--inspect-url", "http://127.0.0.1:9", "-d", "1")
    assert done.returncode == 10
    assert "no inspector answers" in done.stderr


def test_json_summary(tmp_path: Path) -> None:
    out = tmp_path / "out.cpuprofile"
    with nodes.running(LATEST, BUSY, flags=ANY_PORT) as node:
        arguments = ("--engine", "inspector", "--pid", str(node.pid), "-d", "0.5", "-r", "500")
        done = jsspy("record", *arguments, "-o", str(out), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["requested"] == summary["stacks"] > 0
    assert summary["engine"] == "inspector"
    assert summary["targets"][0]["pid"] == node.pid
