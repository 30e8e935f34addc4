"""promfiler's command: its metric, its options, and an application that notices nothing of it."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

import nodes
from running import jsspy
from serving import Server, node_first, serving

VERSIONS = nodes.selected(("12.22.12", "22.23.3", "24.15.0"))
VERSION = nodes.selected(("22.23.3",))

APP = """
function leafWork(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i ^ s); return s; }
const work = { ['has#hash']: function () {} };
Object.defineProperty(work.run = () => leafWork(20000), 'name', { value: 'x' });
function outerWork() {
  const end = Date.now() + 20;
  while (Date.now() < end) (() => work.run())();
  setImmediate(outerWork);
}
function slash_metrics_handler() {
  const end = Date.now() + 5;
  while (Date.now() < end) leafWork(2000);
  setTimeout(slash_metrics_handler, 10);
}
process.on('SIGTERM', () => process.exit(7));
process.on('SIGUSR2', () => console.log('usr2'));
process.stdin.on('data', (data) => console.log('in ' + String(data).trim()));
console.log('args ' + process.argv.slice(2).join(' '));
outerWork();
slash_metrics_handler();
"""


@pytest.fixture
def app(tmp_path: Path) -> str:
    path = tmp_path / "app.js"
    path.write_text(APP, encoding="utf-8")
    return str(path)


def wait_samples(server: Server, path: str = "/metrics") -> dict[str, float]:
    """Return the series, once there are samples in them."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = server.metrics(path).get("promfiler_cpu_profile", [])
        series = {labels["signature"]: value for labels, value in found}
        if sum(series.values()) > 20:
            return series
        time.sleep(0.1)
    raise AssertionError("no samples in 30 s")


@pytest.mark.parametrize("version", VERSIONS)
def test_stacks_are_served(version: str, app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", node_first(version))
    arguments = ("-h", "127.0.0.1", "-p", "0", "-s", "5000", app, "-p", "3", "--help", "-h")
    with serving("promfiler", *arguments) as server:
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == "args -p 3 --help -h\n"
        series = wait_samples(server)
        work = [name for name in series if "#leafWork" in name]
        assert work
        assert all(name.startswith("(root)#") for name in series)
        assert any("#outerWork#(anonymous " in name for name in work)
        assert not any("slash_metrics_handler" in name for name in series)
        assert not any(name.startswith(("(root)#(idle)", "(root)#(program)")) for name in series)
        # Every caller of what has a series has one.
        assert all(name.rpartition("#")[0] in {"(root)", *series} for name in series)
        # Two scrapers see the same, and it never falls.
        later = wait_samples(server)
        assert all(later[name] >= value for name, value in series.items())
        status, headers, _ = server.get("/metrics?x=1", method="HEAD")
        assert status == 200
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert server.get("/debug/pprof/")[0] == 404
        # Signals are the application's, and so is the exit code.
        server.process.send_signal(signal.SIGUSR2)
        assert server.process.stdout.readline() == "usr2\n"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 7


@pytest.mark.parametrize("version", VERSION)
def test_path_and_namespace(version: str, app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", node_first(version))
    options = ("--hostname", "127.0.0.1", "--port", "0", "--path", "/stacks")
    with serving("promfiler", *options, "--namespace", "shop", app) as server:
        status, headers, _ = server.get("/")
        assert (status, headers["location"]) == (301, "/stacks")
        assert server.get("/metrics")[0] == 404
        assert b"# TYPE shop_cpu_profile gauge\n" in server.get("/stacks")[2]


@pytest.mark.parametrize("version", VERSION)
def test_streams_are_the_applications(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", node_first(version))
    program = """
process.stdin.pipe(process.stdout, { end: false });
process.stdin.on('end', () => { process.exitCode = 5; });
process.stderr.write('err\\n');
"""
    path = tmp_path / "cat.js"
    path.write_text(program, encoding="utf-8")
    data = os.urandom(300_000).hex()
    done = jsspy("promfiler", "-h", "127.0.0.1", "-p", "0", str(path), stdin=data.encode())
    assert done.stdout == data
    assert "err\n" in done.stderr
    assert done.returncode == 5


@pytest.mark.parametrize("version", VERSION)
def test_death_by_a_signal(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", node_first(version))
    path = tmp_path / "dies.js"
    path.write_text("process.kill(process.pid, 'SIGKILL');", encoding="utf-8")
    done = jsspy("promfiler", "-h", "127.0.0.1", "-p", "0", str(path))
    assert done.returncode == 128 + signal.SIGKILL
    assert "was ended by SIGKILL" in done.stderr


@pytest.mark.parametrize("version", VERSION)
def test_a_port_that_is_taken_costs_no_start(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", node_first(version))
    path = tmp_path / "app.js"
    path.write_text("require('fs').writeFileSync(__filename + '.ran', '');", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = jsspy("promfiler", "-h", "127.0.0.1", "-p", port, str(path))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in done.stderr
    assert not path.with_name("app.js.ran").exists()


@pytest.mark.parametrize("version", VERSION)
def test_the_application_outlives_us(
    version: str, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", node_first(version))
    with serving("promfiler", "-h", "127.0.0.1", "-p", "0", app) as server:
        wait_samples(server)
        sampler = children(server.process.pid)[0]
        (node,) = children(sampler)
        for pid in (server.process.pid, sampler):
            os.kill(pid, signal.SIGKILL)
        server.process.wait()
        before = cpu_ticks(node)
        end = time.monotonic() + 30
        while cpu_ticks(node) <= before + 5:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.parametrize("version", VERSION)
def test_without_its_sampler_the_application_is_still_waited_for(
    version: str, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", node_first(version))
    with serving("promfiler", "-h", "127.0.0.1", "-p", "0", app, "one") as server:
        assert server.process.stdout is not None
        assert server.process.stderr is not None
        assert server.process.stdout.readline() == "args one\n"
        series = wait_samples(server)
        os.kill(children(server.process.pid)[0], signal.SIGKILL)
        assert "runs on without being sampled" in server.process.stderr.readline()
        # What was sampled is still told, and signals are still the application's.
        assert wait_samples(server).keys() >= series.keys()
        server.process.send_signal(signal.SIGUSR2)
        assert server.process.stdout.readline() == "usr2\n"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 1
        assert "the sampler was ended by SIGKILL" in server.process.stderr.read()


def children(pid: int) -> list[int]:
    # Children belong to the thread that started them.
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in lists for word in path.read_text(encoding="ascii").split()]


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_help_is_help_and_h_is_the_host() -> None:
    done = jsspy("promfiler", "--help")
    assert done.returncode == 0
    assert "--sampling-interval" in done.stdout
    done = jsspy("promfiler", "-h")
    assert done.returncode == 2
    done = jsspy("promfiler")
    assert done.returncode == 2
