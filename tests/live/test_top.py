"""`jsspy top` on real processes: as plain text, and on a real terminal (tmux)."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import nodes
from jsspy.formats import load_profile
from maps import encode
from running import BUSY, IDLE, environment, jsspy, starting, thread_state, without_choice

VERSIONS = nodes.selected(("18.20.8", "24.15.0"))
VERSION = nodes.selected(("22.23.3",))

PHASES = """
const fs = require('fs');
function spin() { let s = 0; for (let i = 0; i < 4e6; i++) s += Math.sqrt(i ^ s); return s; }
function timer() { spin(); setTimeout(timer, 1); }
function check() { spin(); setImmediate(check); }
function poll() { fs.stat(__filename, function onStat() { spin(); poll(); }); }
function tick() { setTimeout(() => process.nextTick(() => { spin(); tick(); }), 1); }
async function micro() { for (;;) { await null; spin(); await new Promise(setImmediate); } }
console.log('ready');
timer(); check(); poll(); tick(); micro();
"""


def pictures(text: str) -> list[list[str]]:
    """Return the tables of plain text, each as its lines."""
    return [part.splitlines() for part in text.rstrip("\n").split("\n\n")]


@pytest.mark.parametrize("version", VERSIONS)
def test_tables_where_there_is_no_terminal(version: str) -> None:
    with nodes.running(version, BUSY) as target:
        done = jsspy("top", "--pid", str(target.pid), "-d", "3", "--delay", "0.5")
        assert thread_state(target.pid) != "t"
    assert done.returncode == 0, done.stderr
    assert without_choice(done.stderr) == ""
    tables = pictures(done.stdout)
    assert len(tables) >= 3
    last = tables[-1]
    assert last[0].startswith(f"pid {target.pid}, Node.js {version}, ")
    assert "the time is up" in last[0]
    assert last[1].startswith("V8:  js ")
    assert last[2].startswith("loop:  check ")
    assert re.search(r"; \d+ samples, \d+ truncated, \d+ lost", last[3])
    assert last[4].split() == ["%Own", "%Total", "OwnTime", "TotalTime", "%GC", "Name"]
    rows = {line.split()[5]: line.split() for line in last[5:] if "%" in line}
    # It does nothing else: of what CPU time there is, leafWork has about all.
    whole = max(float(row[1].rstrip("%")) for row in rows.values())
    assert float(rows["leafWork"][1].rstrip("%")) > 0.5 * whole
    assert float(rows["leafWork"][3].rstrip("s")) > 0.1
    assert rows["leafWork"][6].endswith("program.js:2")


@pytest.mark.parametrize("version", nodes.selected(("12.22.12", "20.20.2", "26.10.0")))
def test_phases_of_the_event_loop(version: str) -> None:
    with nodes.running(version, PHASES) as target:
        done = jsspy("top", "--pid", str(target.pid), "-d", "4", "--window", "60")
    assert done.returncode == 0, done.stderr
    line = pictures(done.stdout)[-1][2]
    shares = {name: int(share) for name, share in re.findall(r"(\w+) (\d+) %", line)}
    # One turn of the loop spins at most once in each; how often, is the loop's to say.
    for phase in ("timers", "check", "poll", "nextTick", "microtasks"):
        assert shares.get(phase, 0) >= 3, line
    assert shares.get("other", 0) <= 5, line


@pytest.mark.parametrize("version", VERSION)
@pytest.mark.parametrize("maps", ["auto", "off"])
def test_original_names(version: str, maps: str, tmp_path: Path) -> None:
    code = "function a(b){let c=0;for(let d=0;d<b;d++)c+=Math.sqrt(d^c);return c}"
    code += "const e=()=>{const g=Date.now()+20;while(Date.now()<g)a(2e4);setImmediate(e)};"
    segments = [
        (0, 0, 2, 0, None),
        (code.index("a(b)"), 0, 2, 9, 0),
        (code.index("b){"), 0, 2, 18, 1),
    ]
    tree = {"version": 3, "sources": ["../src/work.ts"], "names": ["leafWork", "count"]}
    tree["mappings"] = encode([segments])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bundle.js.map").write_text(json.dumps(tree), "utf-8")
    program = tmp_path / "out" / "bundle.js"
    program.write_text(
        f"{code}console.log('ready');e()\n//# sourceMappingURL=bundle.js.map\n", "utf-8"
    )
    with nodes.running(version, program) as target:
        done = jsspy("top", "--pid", str(target.pid), "-d", "2", "--source-maps", maps)
    assert done.returncode == 0, done.stderr
    last = "\n".join(pictures(done.stdout)[-1])
    assert bool(re.search(r" leafWork \S*src/work\.ts:3\b", last)) is (maps == "auto"), last
    assert bool(re.search(r" a \S*bundle\.js:1\b", last)) is (maps == "off"), last


@pytest.mark.parametrize("version", VERSION)
def test_a_process_that_sleeps_is_idle(version: str) -> None:
    with nodes.running(version, IDLE) as target:
        done = jsspy("top", "--pid", str(target.pid), "-d", "1.5")
    assert done.returncode == 0, done.stderr
    assert pictures(done.stdout)[-1][1].endswith("idle 100 %")


@pytest.mark.parametrize("version", VERSION)
def test_ctrl_c_ends_with_a_last_table(version: str) -> None:
    with (
        nodes.running(version, BUSY) as target,
        starting("top", "--pid", str(target.pid), "--delay", "0.3") as process,
    ):
        assert process.stdout is not None
        while process.stdout.readline() != "\n":
            pass
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        rest = process.stdout.read()
        assert process.wait(10) == 0
        assert "stopped" in pictures(rest)[-1][0]
        assert process.stderr is not None
        assert without_choice(process.stderr.read()) == ""


@pytest.mark.parametrize("version", VERSION)
def test_a_reader_that_goes_away_ends_it(version: str) -> None:
    with (
        nodes.running(version, BUSY) as target,
        starting("top", "--pid", str(target.pid), "--delay", "0.3") as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(10) == 0
        assert without_choice(process.stderr.read()) == ""


@pytest.mark.parametrize("version", VERSION)
def test_a_process_that_ends_is_told(version: str) -> None:
    with (
        nodes.running(version, BUSY) as target,
        starting("top", "--pid", str(target.pid), "-d", "60", "--delay", "0.3") as process,
    ):
        assert process.stdout is not None
        while process.stdout.readline() != "\n":
            pass
        target.process.kill()
        assert "the process ended" in pictures(process.stdout.read())[-1][0]
        assert process.wait(10) == 6


@pytest.mark.parametrize("version", VERSION)
def test_command_is_started_and_its_output_kept(version: str, tmp_path: Path) -> None:
    script = tmp_path / "busy.js"
    script.write_text(BUSY, encoding="utf-8")
    done = jsspy("top", "-d", "1", "--", str(nodes.find(version)), str(script))
    assert done.returncode == 0, done.stderr
    assert "ready" not in done.stdout
    match = re.fullmatch(
        r".* was ended by SIGTERM; its output is in (\S+)\n", without_choice(done.stderr)
    )
    assert match is not None, done.stderr
    log = Path(match[1])
    assert log.read_text(encoding="utf-8") == "ready\n"
    log.unlink()


def test_a_process_that_is_not_there() -> None:
    done = jsspy("top", "--pid", "4194304")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "4194304" in done.stderr


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self._socket), "-f", "/dev/null", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def screen(self) -> list[str]:
        return self.tmux("capture-pane", "-p").splitlines()

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def wait(self, what: Callable[[list[str]], bool]) -> list[str]:
        """Return the screen as soon as it is as wanted."""
        deadline = time.monotonic() + 30
        screen: list[str] = []
        while time.monotonic() < deadline:
            screen = self.screen()
            if what(screen):
                return screen
            time.sleep(0.05)
        pytest.fail("\n".join(screen))

    def wait_for(self, text: str) -> list[str]:
        return self.wait(lambda screen: any(text in line for line in screen))


@contextmanager
def terminal(*arguments: str, cwd: Path, width: int = 80, height: int = 24) -> Iterator[Terminal]:
    """Run jsspy on a terminal until the block ends; it says its exit code at the end."""
    if shutil.which("tmux") is None:
        nodes.missing("tmux is not installed")
    command = shlex.join([sys.executable, "-m", "jsspy", *arguments])
    path = shlex.quote(environment()["PYTHONPATH"])
    shell = f"env PYTHONPATH={path} {command}; echo exit code $?; exec cat"
    result = Terminal(cwd / "tmux")
    size = ("-x", str(width), "-y", str(height))
    result.tmux("new-session", "-d", *size, "-c", str(cwd), shell)
    try:
        yield result
    finally:
        result.tmux("kill-server")


@pytest.mark.parametrize("version", VERSION)
def test_on_a_real_terminal(version: str, tmp_path: Path) -> None:
    with (
        nodes.running(version, BUSY) as target,
        terminal("top", "--pid", str(target.pid), cwd=tmp_path) as screen,
    ):
        lines = screen.wait_for("leafWork")
        assert lines[0].startswith(f"pid {target.pid}, Node.js {version}")
        assert all(len(line) <= 80 for line in lines)
        heading = next(line for line in lines if "%Own" in line)
        assert heading.split()[-1] == "Name"

        screen.press("j")
        screen.wait_for("JavaScript only")
        screen.press("4")
        screen.wait_for("▼TotalTime")
        screen.press("/", "l", "e", "a", "f")
        screen.wait(lambda lines: sum("%" in line and ".js:" in line for line in lines) == 1)
        screen.wait(lambda lines: not any("q quit" in line for line in lines))
        screen.press("Enter")
        screen.wait_for("q quit")
        screen.press("Enter")
        lines = screen.wait_for("callee (itself)")
        assert any("caller outerWork" in line for line in lines)
        screen.press("Escape")
        screen.wait_for("▼TotalTime")
        screen.press("?")
        screen.wait_for("Any key closes this")
        screen.press("x")
        screen.wait(lambda lines: not any("Any key" in line for line in lines))
        screen.press("s")
        screen.wait_for("Wrote")
        screen.press("q")
        screen.wait_for("exit code 0")
        (recording,) = tmp_path.glob("*.jsspy")
        profile = load_profile(recording)
        assert len(profile) > 0
        assert "leafWork" in {frame.name for frame in profile.frames}
        assert profile.stats.requested == len(profile) + sum(profile.stats.lost.values())
        assert thread_state(target.pid) in "RS"


@pytest.mark.parametrize("version", VERSION)
def test_the_terminal_is_as_before_after_the_target_ended(version: str, tmp_path: Path) -> None:
    with (
        nodes.running(version, BUSY) as target,
        terminal("top", "--pid", str(target.pid), cwd=tmp_path, width=120) as screen,
    ):
        screen.wait_for("leafWork")
        target.process.kill()
        screen.wait_for("the process ended")
        screen.wait_for("leafWork")
        screen.press("C-c")
        screen.wait_for("exit code 0")
        screen.press("e", "c", "h", "o", "Enter")  # cat repeats it: line by line, with echo
        screen.wait(lambda lines: lines.count("echo") == 2)


@pytest.mark.parametrize("version", VERSION)
def test_drawing_is_killed_and_killing_us_leaves_the_target_running(
    version: str, tmp_path: Path
) -> None:
    with (
        nodes.running(version, BUSY) as target,
        terminal("top", "--pid", str(target.pid), cwd=tmp_path) as screen,
    ):
        screen.wait_for("leafWork")
        (pane,) = screen.tmux("list-panes", "-F", "#{pane_pid}").split()
        children = Path(f"/proc/{pane}/task/{pane}/children").read_text(encoding="utf-8").split()
        (sampler,) = children
        os.kill(int(sampler), signal.SIGKILL)
        screen.wait_for("exit code 137")
        assert thread_state(target.pid) in "RS"
