"""perf maps of running processes: the names are V8's own, and nothing of others is touched."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import nodes
from running import IDLE, jsspy, starting

PROGRAM = r"""
function leafWork(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i ^ s); return s; }
const pattern = /^(a+)+b$/;
const outer = { inner() { pattern.test('aaaaaaaaaaaa'); return leafWork(5000); } };
const end = Date.now() + 700;
while (Date.now() < end) outer.inner();
console.log('ready');
setInterval(() => {}, 1 << 30);
"""
_LINE = re.compile(r"([0-9a-f]+) ([0-9a-f]+) (.+)")
_KIND = re.compile(r"^(?:JS|LazyCompile|Function|Script|Eval):o?([~^+*])'?")
_REGEXP = re.compile(r"RegExp[.:](?:[<>] src: '(.*)' flags: '.*'|(.*))")
# Node 24 and 26 print more of a RegExp; before V8 11 columns are not printed.


def entries(text: str) -> dict[int, tuple[int, str]]:
    """Return start -> (size, name); the last of an address wins, as for perf."""
    found: dict[int, tuple[int, str]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        assert match, line
        found[int(match[1], 16)] = int(match[2], 16), match[3]
    return found


def alike(name: str) -> str:
    """Return what V8 of any version and we write alike."""
    if match := _REGEXP.fullmatch(name):
        return f"RegExp:{match[1] or match[2]}"
    return re.sub(r"(:\d+):\d+$", r"\1", _KIND.sub(r"JS:\1", name))


@pytest.fixture
def no_map() -> Iterator[list[int]]:
    """Yield a list of pids whose maps are removed afterwards."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        Path(f"/tmp/perf-{pid}.map").unlink(missing_ok=True)


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_names_are_those_that_v8_writes(version: str, no_map: list[int]) -> None:
    with nodes.running(version, PROGRAM, flags=["--perf-basic-prof"]) as target:
        no_map.append(target.pid)
        done = jsspy("perf-map", "--pid", str(target.pid), "--stdout")
        assert done.returncode == 0, done.stderr
        theirs = entries(Path(f"/tmp/perf-{target.pid}.map").read_text("utf-8"))
    ours = entries(done.stdout)
    named = {start: name for start, (_, name) in ours.items()}
    assert any(re.match(r"JS:[*+]leafWork /.*program\.js:2", name) for name in named.values())
    assert any(name.startswith("RegExp:") for name in named.values())
    for start, (size, name) in ours.items():
        assert start in theirs, name
        assert size == theirs[start][0], name
        assert alike(name) == alike(theirs[start][1])


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN[4:5]))
def test_the_file_is_safe_and_whole(version: str, no_map: list[int]) -> None:
    with nodes.running(version, PROGRAM) as target:
        no_map.append(target.pid)
        path = Path(f"/tmp/perf-{target.pid}.map")
        arguments = ("perf-map", "--pid", str(target.pid))
        before = os.umask(0o077)
        try:
            done = jsspy(*arguments)
        finally:
            os.umask(before)
        assert done.returncode == 0, done.stderr
        status = path.lstat()
        assert stat.S_IMODE(status.st_mode) == 0o644
        assert status.st_uid == os.geteuid()
        assert "leafWork" in path.read_text("utf-8")
        assert not list(Path("/tmp").glob(f".perf-{target.pid}.map.*"))
        # Again: ours is replaced, not added to.
        assert jsspy(*arguments).returncode == 0
        assert path.lstat().st_ino != status.st_ino

        path.unlink()
        victim = path.with_name(f"jsspy-victim-{target.pid}")
        victim.write_text("precious", "utf-8")
        try:
            path.symlink_to(victim)
            done = jsspy(*arguments)
            assert done.returncode == 9
            assert "something that is no file lies there" in done.stderr
            assert path.is_symlink()
            assert victim.read_text("utf-8") == "precious"
        finally:
            victim.unlink()
            path.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN[4:5]))
def test_what_is_not_ours_is_not_replaced(version: str, no_map: list[int]) -> None:
    with nodes.running(version, IDLE) as target:
        no_map.append(target.pid)
        path = Path(f"/tmp/perf-{target.pid}.map")
        path.write_text("1 2 theirs\n", "utf-8")
        os.chown(path, 65534, 65534)
        done = jsspy("perf-map", "--pid", str(target.pid))
        assert done.returncode == 9
        assert "it belongs to uid 65534" in done.stderr
        assert path.read_text("utf-8") == "1 2 theirs\n"


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN[4:5]))
def test_a_map_that_node_writes_is_left_alone(version: str, no_map: list[int]) -> None:
    with nodes.running(version, IDLE, flags=["--perf-basic-prof"]) as target:
        no_map.append(target.pid)
        done = jsspy("perf-map", "--pid", str(target.pid))
        assert done.returncode == 9
        assert "--perf-basic-prof" in done.stderr


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN[5:6]))
def test_follow_adds_what_is_compiled_later(version: str, no_map: list[int]) -> None:
    program = """
process.stdin.once('data', () => {
  function lateWork(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i ^ s); return s; }
  const end = Date.now() + 700;
  while (Date.now() < end) lateWork(5000);
  console.log('done');
});
console.log('ready');
"""
    with (
        nodes.running(version, program) as target,
        starting("perf-map", "--pid", str(target.pid), "--follow") as follower,
    ):
        no_map.append(target.pid)
        assert follower.stderr is not None
        assert follower.stderr.readline().startswith("Wrote /proc/")
        path = Path(f"/tmp/perf-{target.pid}.map")
        assert "lateWork" not in path.read_text("utf-8")
        assert target.process.stdin is not None
        target.process.stdin.write("go\n")
        target.process.stdin.flush()
        assert target.line() == "done"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 0
        assert "lateWork" in path.read_text("utf-8")


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN[5:6]))
def test_follow_ends_with_the_process(version: str, no_map: list[int]) -> None:
    with nodes.running(version, IDLE) as target:
        no_map.append(target.pid)
        with starting("perf-map", "--pid", str(target.pid), "--follow") as follower:
            assert follower.stderr is not None
            assert follower.stderr.readline().startswith("Wrote /proc/")
            target.process.kill()
            target.process.wait()
            assert follower.wait(30) == 0
            assert "The process ended." in follower.stderr.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces everywhere")
@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN[4:5]))
def test_in_a_container_it_lies_where_the_process_sees_it(version: str) -> None:
    program = "console.log(process.pid); setInterval(() => 0, 1e9)"
    # Through a descriptor: node itself may lie in the /tmp that is covered.
    inside = f"exec 9<{nodes.find(version)} && mount -t tmpfs none /tmp && "
    inside += f"exec /proc/self/fd/9 -e '{program}'"
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        inside,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as outer:
        try:
            assert outer.stdout is not None
            assert outer.stdout.readline() == "1\n"
            pid = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text("utf-8"))
            done = jsspy("perf-map", "--pid", str(pid))
            assert done.returncode == 0, done.stderr
            assert f"Wrote /proc/{pid}/root/tmp/perf-1.map: " in done.stderr
            assert Path(f"/proc/{pid}/root/tmp/perf-1.map").stat().st_size > 0
            assert not Path(f"/tmp/perf-{pid}.map").exists()
        finally:
            outer.kill()
            outer.wait()
