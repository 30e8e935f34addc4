"""Every bad input: its message, the command that mends it, its exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import nodes
from jsspy.formats import load_profile
from running import AS_NOBODY, BUSY, IDLE, jsspy, starting, wait_sampling

VERSION = nodes.selected(("22.23.3",))


def assert_error(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """Check an error's exit code, and that its message has these parts in this order."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    place = done.stderr.find("jsspy: ")
    assert place >= 0, done.stderr
    for part in parts:
        place = done.stderr.find(part, place)
        assert place >= 0, f"{part!r} is not in {done.stderr!r}, or not there"


def ended_pid() -> int:
    """Return the pid of a process that has just ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("verb", ["record", "dump"])
def test_no_such_process(verb: str, tmp_path: Path) -> None:
    pid = ended_pid()
    done = jsspy(verb, "--pid", str(pid), cwd=tmp_path)
    assert_error(done, 3, f"there is no process {pid}")
    assert list(tmp_path.iterdir()) == []


def test_no_such_process_in_the_old_form() -> None:
    pid = ended_pid()
    assert_error(jsspy(str(pid), "text", "1"), 3, f"there is no process {pid}")


@pytest.mark.parametrize("verb", ["record", "dump"])
def test_not_node(verb: str, tmp_path: Path) -> None:
    done = jsspy(verb, "--pid", str(os.getpid()), cwd=tmp_path)
    assert_error(done, 3, f"process {os.getpid()} (", "is not Node.js", "Try: jsspy list")
    assert list(tmp_path.iterdir()) == []


def test_name_that_nothing_has() -> None:
    done = jsspy("record", "--name", "no process has this name")
    assert_error(done, 3, "no node process has a command line that matches", "Try: jsspy list")


@pytest.mark.parametrize("version", VERSION)
def test_target_that_ends_early_is_written(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    with nodes.running(version, BUSY) as target:
        arguments = ("--pid", str(target.pid), "-d", "60", "-o", str(path))
        with starting("record", *arguments) as process:
            wait_sampling(process)
            snapshot = tmp_path / "a.jsspy"
            process.send_signal(signal.SIGUSR1)
            while not snapshot.exists():
                assert process.poll() is None
                os.sched_yield()
            target.process.kill()
            target.process.wait()
            _, err = process.communicate(timeout=30)
    assert process.returncode == 6, err
    assert "it ended before the duration was over" in err
    assert len(load_profile(path)) > 0


@pytest.mark.parametrize("version", VERSION)
def test_sleeper_has_no_samples(version: str, tmp_path: Path) -> None:
    with nodes.running(version, IDLE) as target:
        done = jsspy("record", "--pid", str(target.pid), "-d", "0.5", cwd=tmp_path)
    assert_error(done, 7, "no samples of", "slept", f"Try: jsspy record --idle --pid {target.pid}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", VERSION)
@pytest.mark.parametrize("verb", ["record", "dump", "list"])
def test_no_permission(version: str, verb: str, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        nodes.missing("root and setpriv, to become another user")
    tmp_path.chmod(0o777)
    with nodes.running(version, BUSY) as target:
        pid = str(target.pid)
        if verb == "list":
            done = jsspy("list", "--json", prefix=AS_NOBODY)
            assert done.returncode == 0, done.stderr
            (row,) = [row for row in json.loads(done.stdout) if row["pid"] == target.pid]
            assert row["attachable"] is False
            assert "operation not permitted" in row["reason"]
            assert row["hint"]
        else:
            output = ("-o", str(tmp_path / "a.jsspy")) if verb == "record" else ()
            done = jsspy(verb, "--pid", pid, *output, prefix=AS_NOBODY)
            assert_error(done, 4, f"cannot attach to process {pid}", "belongs to", "Try: ")


@pytest.fixture(scope="session")
def unknown_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a node whose V8 does not say where a function keeps its SharedFunctionInfo."""
    if not VERSION:
        pytest.skip("version not asked for")
    path = tmp_path_factory.mktemp("unknown") / "node"
    shutil.copy(nodes.find(VERSION[0]), path)
    symbol = b"v8dbg_class_JSFunction__shared"
    with path.open("r+b") as file:
        data = file.read()
        place = data.find(symbol)
        assert place >= 0
        while place >= 0:
            file.seek(place)
            file.write(symbol.replace(b"JSFunction", b"JSFiction_"))
            place = data.find(symbol, place + 1)
    return path


def test_unknown_v8_degrades_to_native_frames(unknown_node: Path, tmp_path: Path) -> None:
    script = tmp_path / "busy.js"
    script.write_text(BUSY, encoding="utf-8")
    path = tmp_path / "a.jsspy"
    command = ("--", str(unknown_node), str(script))
    done = jsspy("record", "-d", "1", "-o", str(path), *command)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "is not known" in line]
    assert "native frames only" in line
    profile = load_profile(path)
    assert len(profile) > 0
    names = {frame.name for frame in profile.frames}
    assert "(unknown)" in names
    assert not names & {"leafWork", "outerWork"}
    assert any("node::" in name or "uv_" in name for name in names)


def test_unknown_v8_fails_under_strict(unknown_node: Path, tmp_path: Path) -> None:
    script = tmp_path / "busy.js"
    script.write_text(BUSY, encoding="utf-8")
    path = tmp_path / "a.jsspy"
    command = ("--", str(unknown_node), str(script))
    done = jsspy("record", "-d", "1", "--strict", "-o", str(path), *command)
    assert done.returncode == 5, done.stderr
    assert re.search(r"jsspy: V8 [\d.]+ is not known: .* missing", done.stderr)
    assert not path.exists()


@pytest.mark.parametrize("version", VERSION)
def test_output_that_cannot_be_written_is_found_out_before(version: str, tmp_path: Path) -> None:
    marker = tmp_path / "started"
    code = f"require('fs').writeFileSync({json.dumps(str(marker))}, '')"
    command = ("--", str(nodes.find(version)), "-e", code)
    for output, reason in [
        (str(tmp_path / "no" / "a.html"), f"Try: mkdir -p {tmp_path / 'no'}"),
        (str(tmp_path), "it is a directory"),
        ("/proc/a.html", "cannot write /proc/a.html"),
    ]:
        done = jsspy("record", "-f", "html", "-o", output, "-d", "30", *command)
        assert_error(done, 9, f"cannot write {output}", reason)
    assert not marker.exists()
    assert list(tmp_path.iterdir()) == []


def test_command_that_cannot_be_started(tmp_path: Path) -> None:
    done = jsspy("record", "--", "/no/such/program", cwd=tmp_path)
    assert_error(done, 3, "cannot start '/no/such/program': no such file or directory")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ("true",),
        (sys.executable, "-c", "import time; time.sleep(0.3)"),
        ("sh", "-c", "exit 4"),
    ],
)
def test_command_that_never_is_node(command: tuple[str, ...], tmp_path: Path) -> None:
    done = jsspy("record", "--", *command, cwd=tmp_path)
    assert_error(done, 3, "no V8 was seen in", "Try: jsspy record --subprocesses -- ")
    assert list(tmp_path.iterdir()) == []


def test_command_that_never_is_node_ends_with_the_duration(tmp_path: Path) -> None:
    code = "import signal; signal.pause()"
    done = jsspy("record", "-d", "0.3", "--", sys.executable, "-c", code, cwd=tmp_path)
    assert_error(done, 3, "no V8 was seen in", "was ended by SIGTERM")


def test_recording_that_is_none(tmp_path: Path) -> None:
    output = str(tmp_path / "b.html")
    missing = str(tmp_path / "a.jsspy")
    assert_error(jsspy("report", missing, "-o", output), 1, f"cannot read {missing}: no such file")
    (tmp_path / "a.jsspy").write_bytes(b"\x00 not a profile")
    assert_error(jsspy("report", missing, "-o", output), 1, missing)
    assert not (tmp_path / "b.html").exists()


def test_32_bit_process(tmp_path: Path) -> None:
    program = tmp_path / "pauses"
    program.write_bytes(elf32(b"\xb8\x1d\x00\x00\x00\xcd\x80\xeb\xf7"))  # pause(), again and again
    program.chmod(0o755)
    try:
        process = subprocess.Popen([str(program)])
    except OSError:
        pytest.skip("this kernel runs no 32-bit programs")
    try:
        done = jsspy("record", "--pid", str(process.pid), cwd=tmp_path)
    finally:
        process.kill()
        process.wait()
    assert_error(done, 5, f"process {process.pid}", "32-bit", "only x86-64 is supported")


def elf32(code: bytes) -> bytes:
    """Return a static 32-bit x86 program. Source: elf(5)."""
    base, size = 0x8048000, 52 + 32
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", ident, 2, 3, 1, base + size, 52, 0, 0, 52, 32, 1, 0, 0, 0
    )
    total = size + len(code)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, total, total, 5, 0x1000)
    return header + segment + code
