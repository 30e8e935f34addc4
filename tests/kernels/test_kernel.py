"""What is claimed of a kernel, tried on the one that runs: `make kernels` boots others for it.

Nothing here depends on how fast the machine is: where it is emulated it is some 20 times slower.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import nodes
import running
import serving
from jsspy.engines import ENGINES
from jsspy.engines.ebpf import _NEEDED, EbpfEngine
from jsspy.formats import load_profile, read_profile
from jsspy.linux import bpf
from jsspy.model.mode import Mode
from jsspy.model.profile import Profile
from jsspy.model.sample import ThreadState
from jsspy.target.process import Target

NODE = "22.23.3"
LINUX = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
MODES = [(name, mode) for name, kind in ENGINES.items() for mode in Mode if mode in kind.modes]

PROGRAM = """
const word = new Int32Array(new SharedArrayBuffer(4));
function compute() { for (const end = Date.now() + 30; Date.now() < end;); }
function rest() { Atomics.wait(word, 0, 0, 30); }
function turn() { compute(); rest(); }
console.log('ready');
for (;;) turn();
"""
OTHER = PROGRAM.replace("compute", "calculate").replace("turn", "repeat")

STACKS = (
    *(("", "turn", "compute"), ("", "turn", "rest")),
    *(("", "repeat", "calculate"), ("", "repeat", "rest")),
)
LINES = {"": 7, "turn": 5, "repeat": 5, "rest": 4, "compute": 3, "calculate": 3}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TIMEOUT_S", 600.0)
    monkeypatch.setattr(serving, "TIMEOUT_S", 600.0)


def version(linux: tuple[int, ...]) -> str:
    return ".".join(map(str, linux))


def refusal(engine: str, mode: Mode) -> str:
    """Return why this kernel must refuse an engine; "" if it must not."""
    needed = _NEEDED[mode] if engine == EbpfEngine.name else (0, 0)
    if needed <= LINUX:
        return ""
    return f"this kernel is too old: it is Linux {version(LINUX)}, and {version(needed)} is needed"


def test_verifier(record_testsuite_property: Callable[[str, object], None]) -> None:
    """The programs are taken and attached, or the kernel is said to be too old."""
    target = Target.open(os.getpid())
    counts = []
    for mode in Mode:
        with EbpfEngine(99, mode=mode) as engine:
            availability = engine.probe(target)
            assert availability.reason == refusal(engine.name, mode)
            assert availability.available == (not availability.reason)
            if engine._kernel is not None:
                programs = [it for it in engine._kernel._open if isinstance(it, bpf.Program)]
                texts = [Path(f"/proc/self/fdinfo/{it.fd}").read_text("ascii") for it in programs]
                counts = [re.findall(r"verified_insns:\t(\d+)", text) for text in texts]
    target.close()
    record_testsuite_property("linux", platform.release())
    record_testsuite_property("instructions", " + ".join(count[0] for count in counts if count))


def test_doctor() -> None:
    checks = json.loads(running.jsspy("doctor", "--json").stdout)
    findings = {check["name"]: check["finding"] for check in checks}
    for name, kind in ENGINES.items():
        modes = [mode for mode in Mode if mode in kind.modes]
        able = ", ".join(mode.value for mode in modes if not refusal(name, mode))
        assert findings[f"engine {name}"].startswith(
            f"works, measures {able}; " if able else refusal(name, modes[0])
        ), findings


def judge(profile: Profile, pids: set[int], mode: Mode = Mode.CPU) -> None:
    """Check that stacks are those of the programs, to the line, and time is where it was spent."""
    seen = set()
    total = vague = busy = resting = 0
    for index, row in enumerate(profile.stack):
        pid = int(profile.threads[profile.thread[index]].pid)
        if pid not in pids or index in profile.truncated:
            continue
        frames = [
            (frame.name, frame.location.line)
            for frame in profile.stack_frames(row)
            if frame.location is not None and frame.location.url.endswith("program.js")
        ]
        names = tuple(name for name, _ in frames)
        assert names, profile.stack_frames(row)
        assert any(names == stack[: len(names)] for stack in STACKS), names
        # A function that just begins or ends has no line.
        assert all(line in (None, LINES[name]) for name, line in frames), frames
        state, weight = profile.state[index], profile.weight[index]
        assert mode is not Mode.OFFCPU or state is not ThreadState.RUNNING
        total += weight
        vague += weight if (names[-1], None) in frames else 0
        resting += weight if names[-1] == "rest" and state is ThreadState.FUTEX else 0
        busy += weight if names[-1] in ("compute", "calculate") else 0
        seen.add(pid)
    assert seen == pids
    assert len(profile) >= 20
    assert len(profile.truncated) <= 0.1 * len(profile), profile.stats
    assert vague <= 0.1 * total, profile.stats
    # Who leaves its CPU in `compute` was made to.
    assert busy >= {Mode.CPU: 0.7, Mode.WALL: 0.2, Mode.OFFCPU: 0}[mode] * total, profile.stats
    assert resting >= {Mode.CPU: 0, Mode.WALL: 0.2, Mode.OFFCPU: 0.4}[mode] * total, profile.stats


@pytest.mark.parametrize(
    ("engine", "mode"), MODES, ids=[f"{name} {mode.value}" for name, mode in MODES]
)
def test_record(engine: str, mode: Mode, tmp_path: Path) -> None:
    """Names and lines are right, and weights are where they belong."""
    file = tmp_path / "profile.jsspy"
    with nodes.running(NODE, PROGRAM) as target:
        done = running.jsspy(
            *("record", "--pid", str(target.pid), "--engine", engine, "--mode", mode.value),
            *("--duration", "5", "--output", str(file)),
        )
    if refusal(engine, mode):
        assert f"engine {engine} cannot run: {refusal(engine, mode)}" in done.stderr
        pytest.skip("refused")
    assert done.returncode == 0, done.stderr
    judge(load_profile(file), {target.pid}, mode)


def test_all(tmp_path: Path) -> None:
    """--all takes the engine that --engine auto comes to, and says what it is."""
    file = tmp_path / "profile.jsspy"
    with nodes.running(NODE, PROGRAM) as one, nodes.running(NODE, OTHER) as other:
        done = running.jsspy("record", "--all", "--duration", "5", "--output", str(file))
        pids = {one.pid, other.pid}
    assert done.returncode == 0, done.stderr
    reason = refusal(EbpfEngine.name, Mode.CPU)
    if reason:
        assert f"Sampling with perf: not ebpf, {reason}" in done.stderr
    else:
        assert "Sampling with ebpf: " in done.stderr
    judge(load_profile(file), pids)


def test_serve() -> None:
    """At this rate the program in the kernel counts equal stacks."""
    with (
        nodes.running(NODE, PROGRAM) as target,
        serving.serving(
            *("serve", "--port", "0", "--pid", str(target.pid), "--rate", "250")
        ) as server,
    ):
        while server.total("jsspy_samples_total", result="stack") < 500:
            time.sleep(1)
        status, _, body = server.get("/profile.jsspy?seconds=60")
    assert status == 200, body
    profile = read_profile(io.BytesIO(body), "profile.jsspy")
    judge(profile, {target.pid})
    counted = any(weight > profile.meta.period_ns for weight in profile.weight)
    assert counted == (not refusal(EbpfEngine.name, Mode.CPU))
