"""Every command on real node processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import nodes
from jsspy.engines.ptrace import PtraceEngine
from jsspy.formats import load_profile
from jsspy.recorder import End, Recorder
from running import BUSY, IDLE, jsspy, starting, thread_state, wait_sampling, without_choice

VERSIONS = nodes.selected(("18.20.8", "24.15.0"))
VERSION = nodes.selected(("22.23.3",))

WORKERS = """
const { Worker, isMainThread } = require('worker_threads');
if (isMainThread) {
  let up = 0;
  for (let i = 0; i < 2; i++) {
    new Worker(__filename).on('message', () => { if (++up === 2) console.log('ready'); });
  }
  setInterval(function () {}, 1 << 30);
} else {
  const { parentPort } = require('worker_threads');
  parentPort.postMessage('up');
  setInterval(function workerTick() {}, 1 << 30);
}
"""

PARENT = f"""
const child = require('child_process').spawn(process.execPath, ['-e', {json.dumps(BUSY)}]);
child.stdout.once('data', () => console.log('ready ' + child.pid));
process.stdin.on('end', () => process.exit()).resume();
"""


@pytest.mark.parametrize("engine", ["auto", "ptrace"])
@pytest.mark.parametrize("version", VERSIONS)
def test_record_writes_a_page_under_its_default_name(
    version: str, engine: str, tmp_path: Path
) -> None:
    with nodes.running(version, BUSY) as target:
        arguments = ("--pid", str(target.pid), "-d", "1", "--engine", engine)
        done = jsspy("record", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    (page,) = tmp_path.iterdir()
    assert re.fullmatch(rf"node-{target.pid}-\d{{8}}T\d{{6}}Z\.html", page.name)
    assert page.read_bytes().startswith(b"<!doctype html>")
    assert done.stderr.startswith("Sampling with ") == (engine == "auto")
    lines = without_choice(done.stderr).splitlines()
    assert lines[0].startswith("Sampling ")
    assert lines[0].endswith(" at 99 Hz for 1 s")
    assert lines[1].startswith(f"Wrote {page.name} (html, ")
    counts = re.search(
        r"samples +(\d+) = (\d+) stacks \+ (\d+) truncated.* \+ (\d+) lost", lines[2]
    )
    assert counts is not None, lines[2]
    requested, stacks, truncated, lost = map(int, counts.groups())
    assert requested == stacks + truncated + lost
    if engine == "ptrace":
        assert re.match(r"  pauses +p50 \d+ us, p99 .*, max .*", lines.pop(3))
    assert re.match(r"  JS frames  \d+(\.\d)? % of \d+ have their function", lines[3])
    assert lines[4].startswith("  V8         js ")
    assert lines[5].startswith("  event loop check ")


@pytest.mark.parametrize("version", VERSIONS)
def test_summary_for_machines_adds_up(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    with nodes.running(version, BUSY) as target:
        arguments = ("--pid", str(target.pid), "-d", "1", "-r", "200", "-o", str(path))
        done = jsspy("record", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["requested"] == summary["stacks"] + summary["truncated"] + summary["lost"]
    assert summary["requested"] > 0
    assert summary["truncated"] == sum(summary["truncated_by_reason"].values())
    assert summary["lost"] == sum(summary["lost_by_reason"].values())
    assert summary["js_frames_named"] <= summary["js_frames"]
    assert summary["end"] == "duration"
    assert summary["output"] == str(path)
    assert summary["size_bytes"] == path.stat().st_size
    (who,) = summary["targets"]
    assert who["pid"] == target.pid
    assert who["node_version"] == version
    profile = load_profile(path)
    profile.check()
    assert len(profile) == summary["stacks"] + summary["truncated"]
    assert profile.meta.node_version == version
    assert profile.meta.period_ns == 5_000_000


@pytest.mark.parametrize("version", VERSION)
def test_report_turns_a_recording_into_any_format(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    with nodes.running(version, BUSY) as target:
        done = jsspy("record", "--pid", str(target.pid), "-d", "0.5", "-o", str(path))
    assert done.returncode == 0, done.stderr

    done = jsspy("report", str(path), "-o", str(tmp_path / "a.cpuprofile"))
    assert done.returncode == 0, done.stderr
    value = json.loads((tmp_path / "a.cpuprofile").read_bytes())
    assert "leafWork" in {node["callFrame"]["functionName"] for node in value["nodes"]}

    done = jsspy("report", "-", "-o", "-", "-f", "folded", stdin=path.read_bytes())
    assert done.returncode == 0, done.stderr
    assert all(re.fullmatch(r".+ \d+", line) for line in done.stdout.splitlines())
    assert "leafWork" in done.stdout

    done = jsspy("report", str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.html").exists()


@pytest.mark.parametrize("version", VERSION)
def test_standard_output_carries_data_only(version: str) -> None:
    with nodes.running(version, BUSY) as target:
        done = jsspy("record", "--pid", str(target.pid), "-d", "0.5", "-o", "-", "--json")
    assert done.returncode == 0, done.stderr
    assert all(re.fullmatch(r".+ \d+", line) for line in done.stdout.splitlines())
    assert re.search(r"outerWork[^;]*;leafWork", done.stdout)
    summary = json.loads(done.stderr[done.stderr.index("{") :])
    assert summary["output"] == "standard output"


@pytest.mark.parametrize("version", VERSION)
def test_command_is_started_recorded_and_ended(version: str, tmp_path: Path) -> None:
    script = tmp_path / "busy.js"
    script.write_text(BUSY, encoding="utf-8")
    node = str(nodes.find(version))
    path = str(tmp_path / "a.jsspy")
    done = jsspy("record", "-d", "0.5", "-o", path, "--json", "--", node, str(script), "--port")
    assert done.returncode == 0, done.stderr
    output, _, rest = done.stdout.partition("\n")
    assert output == "ready"  # the command's own
    summary = json.loads(rest)
    assert summary["command_exit_code"] == -signal.SIGTERM
    assert summary["targets"][0]["command"] == f"{node} {script} --port"
    assert summary["stacks"] > 0
    assert not Path(f"/proc/{summary['targets'][0]['pid']}").exists()


@pytest.mark.parametrize("version", VERSION)
def test_command_that_ends_by_itself(version: str, tmp_path: Path) -> None:
    node = str(nodes.find(version))
    code = "const end = Date.now() + 3000; while (Date.now() < end); process.exit(9)"
    # A shell that becomes node by exec: what is recorded is node, not the shell.
    command = ("sh", "-c", f'exec "{node}" -e "{code}"')
    done = jsspy("record", "-d", "30", "-o", str(tmp_path / "a.jsspy"), "--json", "--", *command)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["command_exit_code"] == 9
    assert summary["end"] == "target-ended"
    assert summary["stacks"] > 0


@pytest.mark.parametrize("version", VERSION)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_ends_sampling_and_writes(
    version: str, number: signal.Signals, tmp_path: Path
) -> None:
    path = tmp_path / "a.folded"
    with (
        nodes.running(version, BUSY) as target,
        starting("record", "--pid", str(target.pid), "-o", str(path)) as process,
    ):
        assert wait_sampling(process).endswith(" until it ends or Ctrl-C\n")
        snapshot(process, path)
        path.unlink()
        process.send_signal(number)
        assert process.wait(30) == 0
        assert "leafWork" in path.read_text(encoding="utf-8")
        assert thread_state(target.pid) in "RS"


def snapshot(process: subprocess.Popen[str], path: Path) -> None:
    """Ask for a snapshot and wait until it is there."""
    process.send_signal(signal.SIGUSR1)
    while not path.exists():
        assert process.poll() is None
        os.sched_yield()


@pytest.mark.parametrize("version", VERSION)
def test_second_signal_gives_up_and_frees_the_target(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.folded"
    with (
        nodes.running(version, BUSY) as target,
        starting("record", "--pid", str(target.pid), "-o", str(path)) as process,
    ):
        wait_sampling(process)
        # Both are there when it wakes up.
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 130
        assert list(tmp_path.iterdir()) == []
        assert thread_state(target.pid) in "RS"
        status = Path(f"/proc/{target.pid}/status").read_text(encoding="utf-8")
        assert "TracerPid:\t0\n" in status


@pytest.mark.parametrize("version", VERSION)
def test_signal_for_us_alone_reaches_the_command(version: str, tmp_path: Path) -> None:
    script = tmp_path / "busy.js"
    body = "process.on('SIGINT', () => process.exit(5));" + BUSY
    script.write_text(body, encoding="utf-8")
    path = tmp_path / "a.jsspy"
    command = ("--json", "-o", str(path), "--", str(nodes.find(version)), str(script))
    with starting("record", *command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"  # from here on it handles SIGINT
        wait_sampling(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out[out.index("{") :])["command_exit_code"] == 5
    assert len(load_profile(path)) > 0


@pytest.mark.parametrize("version", VERSION)
def test_children_are_followed_when_asked(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    with nodes.running(version, PARENT, wait=False) as target:
        child = int(target.line().split()[1])
        arguments = ("--pid", str(target.pid), "-d", "1", "-o", str(path), "--json")
        alone = jsspy("record", *arguments)
        family = jsspy("record", *arguments, "--subprocesses")
    assert alone.returncode == 7, alone.stderr
    assert family.returncode == 0, family.stderr
    assert {who["pid"] for who in json.loads(family.stdout)["targets"]} == {target.pid, child}
    profile = load_profile(path)
    assert {profile.threads[thread].pid for thread in profile.thread} == {child}


@pytest.mark.parametrize("version", VERSION)
def test_children_of_a_shell_are_found(version: str, tmp_path: Path) -> None:
    script = tmp_path / "busy.js"
    script.write_text(BUSY, encoding="utf-8")
    command = f'"{nodes.find(version)}" "{script}" & wait'
    path = tmp_path / "a.jsspy"
    shell = subprocess.Popen(
        ["sh", "-c", command], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "ready\n"
        pid = str(shell.pid)
        alone = jsspy("record", "--pid", pid)
        family = jsspy("record", "--pid", pid, "-s", "-d", "0.5", "-o", str(path), "--json")
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        if shell.stdout is not None:
            shell.stdout.close()
    assert alone.returncode == 3
    assert family.returncode == 0, family.stderr
    (who,) = json.loads(family.stdout)["targets"]
    assert f"Try: --pid {who['pid']} " in alone.stderr


@pytest.mark.parametrize("version", VERSION)
def test_child_born_while_recording_is_picked_up(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    program = f"""
      const {{ spawn }} = require('child_process');
      const argv = ['-e', {json.dumps(BUSY)}];
      process.stdin.once('data', () => spawn(process.execPath, argv, {{ stdio: 'ignore' }}));
      process.stdin.on('end', () => process.exit());
      {BUSY}
    """
    with nodes.running(version, program) as target:
        arguments = ("--pid", str(target.pid), "-d", "2", "-o", str(path), "-s")
        with starting("record", *arguments) as process:
            wait_sampling(process)
            assert target.process.stdin is not None
            target.process.stdin.write("go\n")
            target.process.stdin.flush()
            assert process.wait(30) == 0, process.stderr and process.stderr.read()
    profile = load_profile(path)
    sampled = {profile.threads[thread].pid for thread in profile.thread}
    assert target.pid in sampled
    assert len(sampled) == 2


@pytest.mark.parametrize("version", VERSION)
def test_pids_and_names_choose(version: str, tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    path = tmp_path / "a.jsspy"
    with nodes.running(version, BUSY, mark) as one, nodes.running(version, BUSY, mark) as two:
        by_name = jsspy("record", "--name", f"{mark}$", "-d", "0.5", "-o", str(path), "--json")
        by_pid = jsspy(
            *("record", "--pid", str(one.pid), "--pid", str(two.pid), "-d", "0.5"),
            *("-o", str(path), "--json"),
        )
    for done in (by_name, by_pid):
        assert done.returncode == 0, done.stderr
        who = {target["pid"] for target in json.loads(done.stdout)["targets"]}
        assert who == {one.pid, two.pid}


@pytest.mark.parametrize("version", VERSION)
def test_idle_samples_sleepers_too(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    with nodes.running(version, IDLE) as target:
        done = jsspy("record", "--pid", str(target.pid), "-d", "1", "-o", str(path), "--idle")
    assert done.returncode == 0, done.stderr
    profile = load_profile(path)
    assert profile.meta.value_type.value == "wall"
    assert {state.value for state in profile.state} == {"epoll"}


@pytest.mark.parametrize("version", VERSIONS)
def test_dump_prints_leaf_first(version: str) -> None:
    with nodes.running(version, BUSY) as target:
        done = jsspy("dump", "--pid", str(target.pid))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"Process {target.pid}: ")
    assert re.fullmatch(rf"Node\.js {re.escape(version)} \(V8 [\d.]+\)", lines[1])
    assert lines[2] == ""
    assert re.fullmatch(rf'Thread {target.pid} \(running.*\): ".+"', lines[3])
    text = done.stdout
    assert re.search(r"^    outerWork \(.*program\.js:\d+(:\d+)?\)", text, re.MULTILINE)
    if "leafWork" in text:
        assert text.index("leafWork") < text.index("outerWork")


@pytest.mark.parametrize("version", VERSIONS)
def test_dump_shows_every_worker(version: str) -> None:
    with nodes.running(version, WORKERS) as target:
        done = jsspy("dump", "--pid", str(target.pid), "--json")
    assert done.returncode == 0, done.stderr
    (process,) = json.loads(done.stdout)
    assert process["pid"] == target.pid
    assert process["node_version"] == version
    assert len(process["threads"]) == 3
    assert {thread["state"] for thread in process["threads"]} <= {"epoll", "futex"}
    assert all(thread["frames"] for thread in process["threads"])


@pytest.mark.parametrize("version", VERSIONS)
def test_list_knows_version_and_workers(version: str) -> None:
    with nodes.running(version, WORKERS) as target:
        for_people = jsspy("list")
        done = jsspy("list", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = [row for row in json.loads(done.stdout) if row["pid"] == target.pid]
    assert row["node_version"] == version
    assert row["workers"] == 2
    assert row["attachable"] is True
    (line,) = [line for line in for_people.stdout.splitlines() if f"{target.pid} " in line]
    assert version in line


@pytest.mark.parametrize("version", VERSIONS)
def test_doctor_looks_at_a_process_step_by_step(version: str) -> None:
    with nodes.running(version, BUSY) as target:
        done = jsspy("doctor", "--pid", str(target.pid), "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert version in checks["node"]["finding"]
    assert checks["V8"]["ok"] is True
    assert checks["isolates"]["ok"] is True
    assert checks["self-test"]["ok"] is True
    assert checks["samples"]["ok"] is True
    assert checks["engine ptrace"]["ok"] is True
    rungs = [check for name, check in checks.items() if name.startswith("engine ")]
    assert len(rungs) == 4
    assert sum("--engine auto takes this one" in rung["finding"] for rung in rungs) == 1
    assert all(rung["finding"] for rung in rungs)
    assert str(target.pid) in checks["isolates"]["finding"]


@pytest.mark.parametrize("version", VERSION)
@pytest.mark.parametrize("kind", ["text", "flame", "raw", "fullraw"])
def test_node_flames_own_command_line(version: str, kind: str) -> None:
    with nodes.running(version, BUSY) as target:
        done = jsspy(str(target.pid), kind, "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"Sampling {target.pid} for 1s, outputting {kind}.\n\n"
    match kind:
        case "text":
            first, *tree, last = done.stdout.split("\n")[:-1]
            assert re.fullmatch(r"Total samples: \d+", first)
            assert last == ""
            assert all(re.fullmatch(r"(  )*\d+ .+", line) for line in tree)
        case "flame":
            assert done.stdout.startswith("<!doctype html>")
        case _:
            assert done.stdout.startswith(" \n \n \n")
            assert done.stdout.rstrip("\n").endswith("\n   1")
            path = "/.*/" if kind == "fullraw" else ""
            assert re.search(rf"^outerWork:{path}program\.js:\d+$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("version", VERSION)
def test_recorder_is_a_library(version: str, capfd: pytest.CaptureFixture[str]) -> None:
    with nodes.running(version, BUSY) as target:
        with Recorder(PtraceEngine(200)) as recorder:
            recorder.add(target.pid)
            statuses = list(recorder.run(500_000_000))
        assert recorder.end is End.DURATION
        with Recorder(PtraceEngine(200)) as recorder:
            recorder.add(target.pid)
            profile = recorder.profile
            for _ in recorder.run(should_stop=lambda: len(profile) >= 3):
                pass
        assert recorder.end is End.STOPPED
    assert len(profile) >= 3
    assert [status.samples for status in statuses] == sorted(status.samples for status in statuses)
    assert statuses[-1].threads == 1
    stats = profile.stats
    assert stats.requested == len(profile) + sum(stats.lost.values())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("version", VERSION)
@pytest.mark.parametrize("who", ["--all", "--name"])
def test_processes_that_start_meanwhile_are_taken(version: str, who: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    program = tmp_path / "meanwhile.js"
    program.write_text(BUSY, encoding="utf-8")
    command = [str(nodes.find(version)), str(program)]
    arguments = ["--all"] if who == "--all" else ["--name", re.escape(str(program))]
    first = subprocess.Popen(command, stdout=subprocess.PIPE)
    started = [first]
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"ready\n"
        with starting("record", *arguments, "-o", str(path)) as process:
            wait_sampling(process)
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            deadline = time.monotonic() + 60
            seen: set[int] = set()
            while not seen >= {one.pid for one in started}:
                assert time.monotonic() < deadline, seen
                path.unlink(missing_ok=True)
                process.send_signal(signal.SIGUSR1)  # writes what there is so far
                while not path.exists():
                    assert process.poll() is None
                    time.sleep(0.1)
                profile = load_profile(path)
                seen = {int(profile.threads[thread].pid) for thread in profile.thread}
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert all(one.poll() is None for one in started)
    finally:
        for one in started:
            one.kill()
            one.wait()
        if first.stdout is not None:
            first.stdout.close()


@pytest.mark.parametrize("version", VERSION)
def test_overhead_is_told(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.folded"
    with nodes.running(version, BUSY) as target:
        arguments = ("--pid", str(target.pid), "-d", "3.5", "-r", "999", "--max-overhead", "0.5%")
        done = jsspy("record", *arguments, "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"note: Sampling took \S+ % of a CPU in the end, at .* of 999 Hz", done.stderr)
    assert jsspy("record", "--max-overhead", "much").returncode == 2
