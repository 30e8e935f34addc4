"""What came before is recorded, and an event loop that does not turn is noticed from outside."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

import nodes
from jsspy.formats import load_profile
from jsspy.target.event_loop import EventLoop
from jsspy.target.process import Target
from running import BUSY, IDLE
from serving import serving

VERSION = nodes.selected(("22.23.3",))

BLOCKING = """
function spin(ms) { const end = Date.now() + ms; while (Date.now() < end); }
process.stdin.on('data', function blockLoop(data) { spin(+data); console.log('done'); });
setInterval(function () { spin(5); }, 20);
console.log('ready');
"""


@pytest.mark.parametrize("version", nodes.selected(nodes.VERSIONS))
def test_the_loops_clock_is_read_on_every_version(version: str) -> None:
    program = BLOCKING.replace("const end", "var end")
    with nodes.running(version, program) as node:
        target = Target.open(node.pid)
        try:
            v8 = target.find_v8()
            assert v8 is not None
            loop = EventLoop.find(target, v8)
            assert loop is not None
            before = [loop.blocked_ns(time.monotonic_ns()) for _ in range(300)]
            assert max(before) < 600_000_000
            assert node.process.stdin is not None
            node.process.stdin.write("1500")
            node.process.stdin.flush()
            longest = 0
            end = time.monotonic() + 20
            while longest < 1_000_000_000:
                assert time.monotonic() < end
                longest = max(longest, loop.blocked_ns(time.monotonic_ns()))
                time.sleep(0.01)
            node.line()
            end = time.monotonic() + 20
            while loop.blocked_ns(time.monotonic_ns()) > 500_000_000:
                assert time.monotonic() < end
            loop.close()
        finally:
            target.close()


@pytest.mark.parametrize("version", VERSION)
def test_a_loop_that_waits_is_not_blocked(version: str) -> None:
    with nodes.running(version, IDLE) as node:
        target = Target.open(node.pid)
        v8 = target.find_v8()
        assert v8 is not None
        loop = EventLoop.find(target, v8)
        assert loop is not None
        time.sleep(1)
        assert loop.blocked_ns(time.monotonic_ns()) == 0
        loop.close()
        target.close()


@pytest.mark.parametrize("version", VERSION)
def test_a_blocked_loop_is_recorded(version: str, tmp_path: Path) -> None:
    with nodes.running(version, BLOCKING) as node:
        options = ("--record-to", str(tmp_path), "--trigger-blocked", "1", "--port", "0")
        with serving("serve", *options, "--pid", str(node.pid)) as server:
            assert server.process.stderr is not None
            assert node.process.stdin is not None
            node.process.stdin.write("2500")
            node.process.stdin.flush()
            line = server.process.stderr.readline()
            assert line.startswith(f"the event loop of process {node.pid} is blocked for 1."), line
            line = server.process.stderr.readline()
            assert line.startswith(f"wrote {tmp_path}/"), line
        path = Path(line.removeprefix("wrote ").strip())
    assert path.name.endswith(f"-blocked-{node.pid}.jsspy")
    profile = load_profile(path)
    times = [
        time
        for time, row in zip(profile.time_ns, profile.stack, strict=True)
        if any(frame.name == "blockLoop" for frame in profile.iter_frames(row))
    ]
    assert times[-1] - times[0] > 900_000_000


@pytest.mark.parametrize("version", VERSION)
def test_a_busy_process_is_recorded(version: str, tmp_path: Path) -> None:
    with nodes.running(version, BUSY) as node:
        options = ("--record-to", str(tmp_path), "--trigger-cpu", "10", "--port", "0")
        with serving("serve", *options, "--pid", str(node.pid)) as server:
            assert server.process.stderr is not None
            line = server.process.stderr.readline()
            assert re.match(rf"process {node.pid} uses [0-9]+ % of a CPU$", line), line
            line = server.process.stderr.readline()
            assert line.startswith(f"wrote {tmp_path}/"), line
            path = Path(line.removeprefix("wrote ").strip())
            assert server.total("jsspy_recordings_total", reason="cpu") == 1
    assert path.name.endswith(f"-cpu-{node.pid}.jsspy")
    profile = load_profile(path)
    # It holds what came before, not only the moment.
    assert profile.meta.duration_ns > 7_000_000_000


@pytest.mark.parametrize("version", VERSION)
def test_signals_and_requests_record(version: str, tmp_path: Path) -> None:
    with nodes.running(version, BUSY) as node:
        options = ("--record-to", str(tmp_path), "--ring", "10m", "--port", "0")
        with serving("serve", *options, "--pid", str(node.pid)) as server:
            end = time.monotonic() + 30
            while server.total("jsspy_samples_total") < 50:
                assert time.monotonic() < end
                time.sleep(0.1)
            assert server.get("/trigger")[0] == 405
            status, _, body = server.get("/trigger?reason=why%2f..", method="POST")
            assert status == 201, body
            assert b"-why___.jsspy" in body
            server.process.send_signal(signal.SIGUSR1)
            assert server.process.stderr is not None
            assert "-signal.jsspy" in server.process.stderr.readline()
    recordings = sorted(tmp_path.iterdir())
    assert len(recordings) == 2
    for path in recordings:
        assert any(frame.name == "leafWork" for frame in load_profile(path).frames)
