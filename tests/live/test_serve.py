"""A server for every node process: metrics, profiles, limits, and what the real Prometheus says."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)

import nodes
from jsspy.formats import read_profile
from jsspy.model.profile import Profile
from maps import Segment, encode
from running import AS_NOBODY, BUSY, IDLE, jsspy
from serving import Server, serving

VERSIONS = nodes.selected(("6.17.1", "12.22.12", "18.20.8", "24.15.0"))
VERSION = nodes.selected(("22.23.3",))
ANY_PORT = ("--port", "0")


def wait_until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 40
    while not holds():
        assert time.monotonic() < end, f"not within 40 s: {what}"
        time.sleep(0.1)


def profile_of(server: Server, path: str) -> Profile:
    status, _, body = server.get(path)
    assert status == 200, body
    return read_profile(io.BytesIO(body), path.partition("?")[0])


@pytest.mark.parametrize("version", VERSIONS)
def test_metrics_and_profiles_of_a_process(version: str) -> None:
    with (
        nodes.running(version, BUSY) as target,
        serving("serve", *ANY_PORT, "--pid", str(target.pid)) as server,
    ):
        wait_until(lambda: server.total("jsspy_samples_total", result="stack") > 100, "samples")
        before = server.metrics()
        profile = profile_of(server, "/debug/pprof/profile?seconds=2")
        after = server.metrics()
        for name, series in before.items():
            if name.endswith("_total"):
                later = {tuple(sorted(labels.items())): value for labels, value in after[name]}
                for labels, value in series:
                    key = tuple(sorted(labels.items()))
                    assert later.get(key, value) >= value, (name, labels)
        names = {labels["function"]: value for labels, value in
                 after["jsspy_function_cpu_seconds_total"]}  # fmt: skip
        # Where sqrt is not inlined it is a function of its own.
        heaviest = sorted(names, key=lambda name: -names[name])[:2]
        assert "leafWork" in heaviest
        seconds = {
            name: sum(value for _, value in after[f"jsspy_{name}_total"])
            for name in ("function_cpu_seconds", "process_cpu_seconds", "vm_state_seconds")
        }
        assert max(seconds.values()) - min(seconds.values()) < 1e-6
        assert after["jsspy_targets"][0] == ({"state": "sampled"}, 1.0)
        assert abs(profile.meta.duration_ns - 2e9) < 1e7
        assert any(frame.name == "leafWork" for frame in profile.frames)
        html = server.get("/profile.html?seconds=5")[2]
        assert html.startswith(b"<!doctype html>")
        listed = json.loads(server.get("/targets")[2])["targets"]
        assert [one["pid"] for one in listed] == [target.pid]
        assert listed[0]["node_version"] == version


@pytest.mark.parametrize("version", VERSION)
def test_minified_functions_have_their_names(version: str, tmp_path: Path) -> None:
    bundle = BUSY.replace("leafWork", "a").replace("outerWork", "b")
    segments: list[list[Segment]] = [[] for _ in bundle.splitlines()]
    for number, line in enumerate(bundle.splitlines()):
        for name, text in enumerate(("function a", "function b")):
            if line.startswith(text):
                segments[number] = [(0, 0, 40 + number, 0, None), (9, 0, 40 + number, 9, name)]
    (tmp_path / "bundle.js").write_text(f"{bundle}\n//# sourceMappingURL=bundle.js.map\n")
    tree = {"version": 3, "sources": ["../src/work.ts"], "names": ["leafWork", "outerWork"]}
    text = json.dumps(tree | {"mappings": encode(segments)})
    (tmp_path / "bundle.js.map").write_text(text)
    source = str(tmp_path.parent / "src" / "work.ts")
    with (
        nodes.running(version, tmp_path / "bundle.js") as target,
        serving("serve", *ANY_PORT, "--promfiler-compat", "--pid", str(target.pid)) as server,
    ):
        wait_until(
            lambda: (
                server.total(
                    "jsspy_function_cpu_seconds_total", function="leafWork", file=source, line="42"
                )
                > 0.1
            ),
            "the original name",
        )
        profile = profile_of(server, "/profile.jsspy?seconds=60")
        assert any(frame.original_name == "leafWork" for frame in profile.frames)
        series = server.metrics()["promfiler_cpu_profile"]
        assert any(labels["signature"].endswith("#outerWork#leafWork") for labels, _ in series)


@pytest.mark.parametrize("version", VERSION)
def test_it_ends_with_its_target_and_by_signals(version: str) -> None:
    with (
        nodes.running(version, BUSY) as target,
        serving("serve", *ANY_PORT, "--pid", str(target.pid)) as server,
    ):
        target.process.kill()
        assert server.process.wait(30) == 0
    with (
        nodes.running(version, BUSY) as target,
        serving("serve", *ANY_PORT, "--pid", str(target.pid)) as server,
    ):
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert target.process.poll() is None


@pytest.mark.parametrize("version", VERSION)
def test_new_processes_are_picked_up(version: str, tmp_path: Path) -> None:
    program = tmp_path / "jsspy-test-target.js"
    program.write_text(BUSY, encoding="utf-8")
    with serving("serve", *ANY_PORT, "--name", str(program)) as server:
        assert server.get("/healthz")[0] == 200
        assert server.total("jsspy_targets") == 0
        for _ in range(2):  # it survives that all of them end
            with nodes.running(version, program) as target:
                wait_until(
                    lambda pid=str(target.pid): (  # type: ignore[misc]  # bound now
                        server.total("jsspy_process_cpu_seconds_total", pid=pid) > 0
                    ),
                    "samples of a new process",
                )
            wait_until(lambda: server.total("jsspy_targets", state="sampled") == 0, "its end")


@contextmanager
def control_group(path: str, pid: int) -> Iterator[None]:
    """Put a process into a control group of its own until the block ends; skip if none can be."""
    roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
    root = next((one for one in roots if os.access(one / "cgroup.procs", os.W_OK)), None)
    if root is None:
        pytest.skip("no control groups can be made here")
    group = root / path
    try:
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text(str(pid), encoding="ascii")
        yield
    finally:
        (root / "cgroup.procs").write_text(str(pid), encoding="ascii")
        while group != root:
            group.rmdir()
            group = group.parent


@pytest.mark.parametrize("version", VERSION)
def test_containers_and_pods_are_labels(version: str) -> None:
    pod, container = "7e2f9a1c-0b3d-4c5e-8f60-1a2b3c4d5e6f", f"{os.getpid():064x}"
    with (
        nodes.running(version, BUSY) as target,
        control_group(f"kubepods-jsspy/burstable/pod{pod}/{container}", target.pid),
        serving("serve", *ANY_PORT, "--pid", str(target.pid)) as server,
    ):
        labels = {"container_id": container, "pod_uid": pod, "service": ""}
        wait_until(
            lambda: (
                server.total("jsspy_process_cpu_seconds_total", pid=str(target.pid), **labels) > 0
            ),
            "samples with labels",
        )
        (listed,) = json.loads(server.get("/targets")[2])["targets"]
        assert labels.items() <= listed.items()


@pytest.mark.parametrize("version", VERSION)
def test_a_server_that_stalls_costs_no_sample(version: str) -> None:
    with (
        nodes.running(version, BUSY) as target,
        serving("serve", *ANY_PORT, "--pid", str(target.pid)) as server,
    ):
        wait_until(lambda: server.total("jsspy_samples_total") > 50, "samples")
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(4)
        os.kill(server.process.pid, signal.SIGCONT)
        wait_until(lambda: len(profile_of(server, "/profile.jsspy?seconds=100")) > 300, "samples")
        profile = profile_of(server, "/profile.jsspy?seconds=100")
        gaps = sorted(b - a for a, b in zip(profile.time_ns, profile.time_ns[1:], strict=False))
        assert gaps[-1] < 2_000_000_000
        assert server.total("jsspy_lost_samples_total", reason="ring-full") == 0


@pytest.mark.parametrize("version", VERSION)
def test_tls_and_a_token(version: str, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        nodes.missing("openssl is not installed")
    certificate, key, token = (tmp_path / name for name in ("cert.pem", "key.pem", "token"))
    subprocess.run(
        [
            *(str(openssl), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    token.write_text("s3cret\n", encoding="utf-8")
    context = ssl.create_default_context(cafile=str(certificate))
    options = (
        *("--tls-cert", str(certificate), "--tls-key", str(key), "--token-file", str(token)),
        *("--host", "0.0.0.0", *ANY_PORT),  # noqa: S104 - that is what is tested
    )
    with (
        nodes.running(version, IDLE) as target,
        serving("serve", *options, "--pid", str(target.pid)) as server,
    ):
        assert server.url.startswith("https://0.0.0.0:")
        local = server._replace(url=server.url.replace("0.0.0.0", "127.0.0.1"))  # noqa: S104
        assert local.get("/metrics", context=context)[0] == 401
        headers = {"Authorization": "Bearer s3cret"}
        status, _, body = local.get("/metrics", headers=headers, context=context)
        assert status == 200
        assert b"jsspy_targets" in body


def test_the_world_is_not_let_in_by_mistake() -> None:
    done = jsspy("serve", "--host", "0.0.0.0", "--all")  # noqa: S104 - likewise
    assert done.returncode == 2
    assert "--no-auth" in done.stderr


@pytest.mark.parametrize("version", VERSION)
def test_no_permission_is_explained(version: str) -> None:
    if os.geteuid() != 0:
        nodes.missing("only root can become somebody else")
    with nodes.running(version, IDLE) as target:
        arguments = ("serve", *ANY_PORT, "--pid", str(target.pid))
        done = jsspy(*arguments, prefix=AS_NOBODY)
    assert done.returncode == 4, done.stderr
    assert f"process {target.pid}" in done.stderr or f"cannot attach to {target.pid}" in done.stderr


@pytest.mark.parametrize("version", VERSION)
def test_go_tool_pprof_takes_the_address(version: str, tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        nodes.missing("go is not installed: run `make consumers-installed` as root")
    with (
        nodes.running(version, BUSY) as target,
        serving("serve", *ANY_PORT, "--pid", str(target.pid)) as server,
    ):
        wait_until(lambda: server.total("jsspy_samples_total", result="stack") > 20, "samples")
        done = subprocess.run(
            [
                *(str(go), "tool", "pprof", "-top", "-seconds", "2"),
                f"{server.url}/debug/pprof/profile",
            ],
            capture_output=True,
            text=True,
            env=os.environ | {"PPROF_TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"{server.url}/debug/pprof/profile?seconds=2" in done.stderr
        assert re.search(r"^Type: cpu$", done.stdout, re.MULTILINE), done.stdout
        # It says how long the profile is, and how much CPU time is in it.
        length = re.search(r"^Duration: ([0-9.]+)s, Total samples = ", done.stdout, re.MULTILINE)
        assert length is not None, done.stdout
        assert abs(float(length[1]) - 2) < 0.2
        assert "leafWork" in done.stdout


@pytest.mark.parametrize("version", VERSION)
def test_promtool_finds_no_fault_with_the_metrics(version: str, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        nodes.missing("promtool is not installed: run `make consumers-installed` as root")
    options = ("--promfiler-compat", "--push", "pyroscope=http://127.0.0.1:9", "--push-spool",
               str(tmp_path / "spool"), "--record-to", str(tmp_path / "box"))  # fmt: skip
    with (
        nodes.running(version, BUSY) as target,
        serving("serve", *ANY_PORT, *options, "--pid", str(target.pid)) as server,
    ):
        wait_until(lambda: server.total("jsspy_samples_total", result="stack") > 50, "samples")
        text = server.get("/metrics")[2]
        openmetrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
        _, headers, body = server.get("/metrics", headers=openmetrics)
    done = subprocess.run(
        [str(promtool), "check", "metrics"], input=text, capture_output=True, check=False
    )
    # promfiler's own name has no unit, and is as it is.
    said = [line for line in done.stderr.decode().splitlines() if "promfiler_" not in line]
    assert (done.returncode in {0, 3}, said) == (True, []), done.stderr
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = list(parse_openmetrics(body.decode()))  # type: ignore[no-untyped-call]  # theirs
    assert {"jsspy_samples", "promfiler_cpu_profile"} <= {family.name for family in families}


@pytest.mark.parametrize("version", VERSION)
def test_prometheus_scrapes_it(version: str, tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        nodes.missing("prometheus is not installed: run `make consumers-installed` as root")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        nodes.running(version, BUSY) as target,
        serving("serve", *ANY_PORT, "--promfiler-compat", "--pid", str(target.pid)) as server,
    ):
        config = tmp_path / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s}\n"
            "scrape_configs:\n"
            "- job_name: jsspy\n"
            f"  static_configs: [{{targets: ['{server.url.partition('//')[2]}']}}]\n",
            encoding="utf-8",
        )
        process = subprocess.Popen(
            [
                *(str(prometheus), f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/db"),
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def query(expression: str) -> list[dict[str, object]]:
            url = f"http://127.0.0.1:{port}/api/v1/query?query={quote(expression)}"
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    result: list[dict[str, object]] = json.load(answer)["data"]["result"]
                    return result
            except OSError:
                return []

        try:
            wait_until(
                lambda: bool(query("rate(jsspy_function_cpu_seconds_total[5s]) > 0")), "a rate"
            )
            (up,) = query('up{job="jsspy"}')
            assert up["value"][1] == "1"  # type: ignore[index]  # a JSON value
            top = query("topk(1, jsspy_function_cpu_seconds_total)")
            assert top[0]["metric"]["function"] in {"leafWork", "Builtin:sqrt"}  # type: ignore[index]  # likewise
            assert query('promfiler_cpu_profile{signature=~".*#outerWork#leafWork"} > 0')
        finally:
            process.terminate()
            process.wait()
