"""Whatever is wrong with who asks, with where profiles go or with the disk: sampling goes on."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import nodes
from jsspy.formats import read_profile
from receiver import Received, receiving
from running import BUSY
from serving import Server, serving

VERSION = nodes.selected(("22.23.3",))
ANY_PORT = ("--port", "0")
HEALTHY = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def wait_until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, f"not within 60 s: {what}"
        time.sleep(0.1)


@contextmanager
def busy_server(version: str, *options: str) -> Iterator[tuple[Server, int]]:
    """Serve a process that never sleeps; yield its pid as well, once there are samples."""
    with (
        nodes.running(version, BUSY) as target,
        serving("serve", *ANY_PORT, *options, "--pid", str(target.pid)) as server,
    ):
        wait_until(lambda: server.total("jsspy_samples_total") > 20, "samples")
        yield server, target.pid


def connect(server: Server) -> socket.socket:
    url = urlsplit(server.url)
    assert url.hostname is not None
    return socket.create_connection((url.hostname, url.port or 80), timeout=30)


def say(server: Server, data: bytes) -> bytes:
    """Send bytes, and return all that is answered."""
    with connect(server) as connection:
        try:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except ConnectionError:
            return b""


def status_of(answer: bytes) -> int:
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.") else 0


MALFORMED = {
    "no HTTP": (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
        {0, 400},
    ),
    "no request": (b"\r\n\r\n\r\nnonsense\r\n\r\n", {0, 400}),
    "a header of a megabyte": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n",
        {0, 400, 431},
    ),
    "ten thousand headers": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        {0, 400, 431},
    ),
    "an address of a megabyte": (
        b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        {0, 400, 414},
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 9\r\n\r\nx",
        {0, 400},
    ),
    "a negative length": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        {0, 400},
    ),
    "a broken chunk": (
        b"GET / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
        {0, 200, 400},
    ),
    "a huge body": (
        b"GET /metrics HTTP/1.0\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        {413},
    ),
    "no host": (b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n", {400, 403}),
    "a strange host": (
        b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        {403},
    ),
    "a way out": (
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        {404},
    ),
    "bytes in the address": (
        b"GET /\xff\xfe%00%zz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        {0, 400, 404},
    ),
    "an unknown method": (
        b"BREW /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        {400, 405},
    ),
}


@pytest.mark.parametrize("version", VERSION)
def test_malformed_requests(version: str) -> None:
    with busy_server(version) as (server, _):
        for what, (request, allowed) in MALFORMED.items():
            assert status_of(say(server, request)) in allowed, what
            assert status_of(say(server, HEALTHY)) == 200, what
        before = server.total("jsspy_samples_total", result="stack")
        wait_until(
            lambda: server.total("jsspy_samples_total", result="stack") > before, "more samples"
        )
        assert server.process.poll() is None


@pytest.mark.parametrize("version", VERSION)
def test_bad_credentials(version: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("me:s3cret\n", encoding="utf-8")
    good = "Basic " + base64.b64encode(b"me:s3cret").decode()
    with (
        nodes.running(version, BUSY) as target,
        serving(
            "serve", *ANY_PORT, "--basic-auth-file", str(secret), "--pid", str(target.pid)
        ) as server,
    ):
        bad = ("", "Basic", "Basic ====", "Basic bWU6", "Bearer s3cret", good[:-2], "x" * 999)
        for path in ("/", "/metrics", "/debug/pprof/profile?seconds=1", "/profile.html"):
            for value in bad:
                status, headers, _ = server.get(path, headers={"Authorization": value})
                assert (status, headers["www-authenticate"]) == (401, 'Basic realm="jsspy"'), value
        assert server.get("/metrics", headers={"Authorization": good})[0] == 200
        assert server.get("/healthz")[0] == 200


@pytest.mark.parametrize("version", VERSION)
def test_those_who_send_slowly_are_cut_off(version: str) -> None:
    with busy_server(version) as (server, _), ExitStack() as stack:
        slow = []
        for _ in range(400):
            connection = stack.enter_context(connect(server))
            try:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: loc")
            except ConnectionError:
                continue  # one too many
            slow.append(connection)
        # The first ones fill the house; it opens again when they have had their time.
        wait_until(lambda: status_of(say(server, HEALTHY)) == 200, "an answer")
        cut = 0
        for connection in slow:
            try:
                connection.sendall(b"alhost\r\n")
                cut += connection.recv(1) == b""
            except ConnectionError:
                cut += 1
        assert cut == len(slow)


@pytest.mark.parametrize("version", VERSION)
def test_profiles_have_limits(version: str) -> None:
    with busy_server(version, "--max-profiles", "1", "--ring", "30s") as (server, _):
        assert server.get("/debug/pprof/profile?seconds=31")[0] == 400
        assert server.get("/profile.html?seconds=31")[0] == 400
        assert server.get("/profile.html?seconds=-1")[0] == 400
        with connect(server) as first:
            first.sendall(
                b"GET /debug/pprof/profile?seconds=25 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            wait_until(lambda: server.get("/profile.folded?seconds=1")[0] == 503, "a refusal")
            _, headers, _ = server.get("/profile.folded?seconds=1")
            assert int(headers["retry-after"]) > 0
            assert server.get("/metrics")[0] == 200
        # Who has hung up is not waited for.
        begin = time.monotonic()
        wait_until(lambda: server.get("/profile.folded?seconds=1")[0] == 200, "an answer")
        assert time.monotonic() - begin < 15


@pytest.mark.parametrize("version", VERSION)
def test_a_hundred_scrapes_a_second(version: str) -> None:
    with busy_server(version, "--promfiler-compat") as (server, _):
        lost, stacks = (server.total("jsspy_samples_total", result=it) for it in ("lost", "stack"))
        count = 500
        begin = time.monotonic()

        def scrape(number: int) -> float:
            time.sleep(max(0.0, begin + number / 100 - time.monotonic()))
            start = time.monotonic()
            status, _, body = server.get("/metrics", headers={"Accept-Encoding": "gzip"})
            assert status == 200
            assert b"jsspy_samples_total" in gzip.decompress(body)
            return time.monotonic() - start

        with ThreadPoolExecutor(8) as pool:
            took = list(pool.map(scrape, range(count)))
        assert statistics.median(took) < 0.5
        more = server.total("jsspy_samples_total", result="stack") - stacks
        assert more > 50
        assert server.total("jsspy_samples_total", result="lost") - lost < 0.2 * more


def seconds_of(uploads: Iterable[Received]) -> float:
    """Return the CPU time in what Pyroscope was sent."""
    total = 0
    for upload in uploads:
        for series in json.loads(upload.body)["series"]:
            for sample in series["samples"]:
                raw = base64.b64decode(sample["rawProfile"])
                total += read_profile(io.BytesIO(raw), "x.pb.gz").total_weight()
    return total / 1e9


def sampled(server: Server) -> float:
    return sum(server.total("jsspy_samples_total", result=it) for it in ("stack", "truncated"))


@pytest.mark.parametrize("version", VERSION)
@pytest.mark.parametrize("fault", ["down", "500", "slow"])
def test_a_server_that_is_unwell_loses_nothing(version: str, fault: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if fault == "down":
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            receiver = None
        else:
            receiver = stack.enter_context(receiving())
            receiver.status = 500 if fault == "500" else 200
            receiver.delay_s = 1.5 if fault == "slow" else 0
            port = urlsplit(receiver.url).port or 0
        target = stack.enter_context(nodes.running(version, BUSY))
        options = (
            *("--push", f"pyroscope=http://127.0.0.1:{port}", "--push-interval", "1"),
            *("--push-spool", str(tmp_path), *ANY_PORT, "--pid", str(target.pid)),
        )
        server = stack.enter_context(serving("serve", *options))
        if fault == "slow":
            # Slower than profiles are made: they pile up, and no sample waits for them.
            wait_until(lambda: len(list(tmp_path.glob("*/*.push"))) >= 2, "a queue")
        else:
            wait_until(lambda: server.total("jsspy_push_retries_total") >= 2, "attempts")
        assert receiver is None or fault == "slow" or not receiver.accepted
        wait_until(lambda: server.total("jsspy_process_cpu_seconds_total") > 0.5, "CPU time")
        before = server.total("jsspy_process_cpu_seconds_total")
        if receiver is None:
            receiver = stack.enter_context(receiving(port))
        receiver.status, receiver.delay_s = 200, 0
        target.process.kill()
        assert server.process.wait(60) == 0
        assert not list(tmp_path.glob("*/*.push"))
        # Refused ones were sent again.
        assert seconds_of(receiver.accepted) > before - 1e-6


@pytest.mark.parametrize("version", VERSION)
def test_what_does_not_fit_is_said_and_counted(version: str, tmp_path: Path) -> None:
    """A disk of 100 KB: what is written stays, what cannot be written is counted."""
    if os.geteuid() != 0:
        nodes.missing("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], check=True)
    try:
        with receiving() as receiver, nodes.running(version, BUSY) as target:
            receiver.status = 503
            (disk / "ballast").write_bytes(bytes(80 << 10))
            options = (
                *("--push", f"pyroscope={receiver.url}", "--push-interval", "1"),
                *("--push-spool", str(disk / "spool"), "--record-to", str(disk / "box")),
                *(*ANY_PORT, "--pid", str(target.pid)),
            )
            with serving("serve", *options) as server:
                wait_until(
                    lambda: server.total("jsspy_push_uploads_total", result="dropped") > 0, "loss"
                )
                assert server.process.stderr is not None
                line = ""
                while "no space left on device" not in line:
                    line = server.process.stderr.readline()
                    assert line
                with suppress(OSError), (disk / "more").open("wb") as file:
                    while True:
                        file.write(bytes(512))
                        file.flush()
                status, _, body = server.get("/trigger", method="POST")
                assert (status, b"no space left on device" in body) == (503, True), body
                (disk / "more").unlink()
                (disk / "ballast").unlink()
                assert server.get("/trigger", method="POST")[0] == 201
                receiver.status = 200
                receiver.wait(3)
                before = sampled(server)
                wait_until(lambda: sampled(server) > before, "samples")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("version", VERSION)
def test_a_target_that_restarts(version: str, tmp_path: Path) -> None:
    program = tmp_path / "jsspy-restarting.js"
    program.write_text(BUSY, encoding="utf-8")
    with serving("serve", *ANY_PORT, "--name", str(program)) as server:
        totals = []
        for _ in range(3):
            with nodes.running(version, program) as target:
                pid = str(target.pid)
                wait_until(
                    lambda pid=pid: (  # type: ignore[misc]  # bound now
                        server.total("jsspy_process_cpu_seconds_total", pid=pid) > 0.1
                    ),
                    "samples",
                )
            totals.append(sampled(server))
        assert totals == sorted(totals)
        assert server.get("/healthz")[0] == 200
