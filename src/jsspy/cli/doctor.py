"""`jsspy doctor`: what this machine allows, and the command that mends what it does not."""

from __future__ import annotations

import os
import platform
import signal
from typing import NamedTuple

import click

from jsspy import __version__
from jsspy.cli import output
from jsspy.engines import ENGINES
from jsspy.engines.ptrace import PtraceEngine
from jsspy.errors import JsspyError, NotNode, UnknownV8
from jsspy.linux.caps import Capability, Facts, read_facts
from jsspy.linux.procfs import read_status
from jsspy.model.capture import ThreadPlan
from jsspy.model.mode import Mode
from jsspy.recorder import Recorder
from jsspy.target.node import find_node_version
from jsspy.target.process import Target, V8Binary
from jsspy.target.search import iter_node_processes
from jsspy.v8.isolates import find_threads
from jsspy.v8.layout import Confidence, Layout
from jsspy.v8.metadata import load_layout
from jsspy.v8.selftest import run_self_test

_TEST_RATE_HZ = 1000
_TEST_NS = 300_000_000


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool | None
    """None where it is neither good nor bad."""
    finding: str
    hint: str | None = None
    """The command that mends it."""


@click.command("doctor", short_help="Say what this machine allows, and what mends the rest.")
@click.option("-p", "--pid", type=click.IntRange(min=1), metavar="PID", help="Test this process.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@output.color_option
def doctor_command(pid: int | None, as_json: bool) -> int:
    """Say what this machine allows, and the exact command that mends what it does not.

    With --pid a process is looked at step by step, up to a few samples of it.

    Exit codes: 0 if all is well; else that of the first thing that is not, as record would end.
    """
    checks = _check_machine(read_facts())
    if pid is None:
        checks += _check_engines(None)
    exit_code = 0 if all(check.ok is not False for check in checks) else 1
    if pid is not None:
        more, exit_code = _check_process(pid)
        checks += more
    if as_json:
        output.echo_json([check._asdict() for check in checks])
        return exit_code
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = {True: click.style("ok", fg="green"), False: click.style("NO", fg="red"), None: "--"}
        finding = output.printable(check.finding).replace("\n", "\n" + " " * (width + 6))
        click.echo(f"{mark[check.ok]}  {check.name:<{width}}  {finding}")
        if check.hint:
            click.echo(f"{'':{width + 4}}  Try: {check.hint}")
    return exit_code


def _check_machine(facts: Facts) -> list[Check]:
    kernel = platform.release()
    machine = os.uname().machine
    checks = [
        Check("jsspy", None, f"{__version__}, Python {platform.python_version()}, uid {facts.uid}"),
        Check("kernel", None, f"Linux {kernel}, {machine}"),
        Check("architecture", machine == "x86_64", f"{machine}; x86-64 is what jsspy can read"),
        _check_ptrace(facts),
        Check("/proc", facts.hidepid in {"off", "0"} or facts.uid == 0, _hidepid(facts)),
    ]
    if facts.container:
        checks.append(Check("container", None, facts.container))
    if facts.lockdown is not None:
        checks.append(Check("lockdown", None, facts.lockdown))
    count = sum(1 for _ in iter_node_processes())
    checks.append(Check("processes", None, f"{count} node processes run; see jsspy list"))
    return checks


def _hidepid(facts: Facts) -> str:
    if facts.hidepid in {"off", "0"}:
        return "shows all processes"
    return f"hidepid={facts.hidepid} hides other users' processes"


def _check_ptrace(facts: Facts) -> Check:
    """Say whom we may attach to."""
    scope = facts.yama_ptrace_scope
    yama = "no yama" if scope is None else f"kernel.yama.ptrace_scope {scope}"
    if scope == 3:
        return Check(
            "attach",
            False,
            f"{yama}: nobody, not even root, until the next boot",
            "set kernel.yama.ptrace_scope=1 in /etc/sysctl.d and reboot",
        )
    if facts.has(Capability.SYS_PTRACE):
        return Check("attach", True, f"CAP_SYS_PTRACE, {yama}: any process that we see")
    if facts.container:
        return Check(
            "attach",
            False,
            f"this container lacks CAP_SYS_PTRACE, {yama}",
            "docker run --cap-add SYS_PTRACE ...",
        )
    if scope == 1:
        return Check(
            "attach",
            False,
            f"{yama}: only processes that we start",
            "sudo jsspy record --pid PID    or    jsspy record -- node server.js",
        )
    if scope == 2:
        return Check("attach", False, f"{yama}: only root", "sudo jsspy record --pid PID")
    return Check("attach", True, f"{yama}: processes of our own user")


def _check_engines(pid: int | None) -> list[Check]:
    """Try each engine on a process, or on ourselves: what is started by us is ours, as we are.

    That one does not work is no fault as long as another one does.
    """
    target = Target.open(os.getpid() if pid is None else pid)
    checks, chosen = [], False
    try:
        for name, kind in ENGINES.items():
            rungs = {}
            for mode in Mode:
                if mode in kind.modes:
                    with kind(_TEST_RATE_HZ, mode=mode) as engine:
                        rungs[mode] = engine.probe(target)
            modes = ", ".join(mode.value for mode, rung in rungs.items() if rung.available)
            refused = next((rung for rung in rungs.values() if not rung.available), None)
            finding = f"works, measures {modes}; {_COSTS[name]}" if modes else ""
            if rungs[Mode.CPU].available and not chosen:
                chosen = True
                finding += "; --engine auto takes this one"
            if refused is not None:
                finding += f"; no more: {refused.reason}" if modes else refused.reason
            hint = refused.hint if refused is not None else None
            checks.append(Check(f"engine {name}", bool(modes) or None, finding, hint))
    finally:
        target.close()
    if not chosen:
        checks[-1] = checks[-1]._replace(ok=False)
    return [*checks, _check_inspector(pid)]


_COSTS = {
    "ebpf": "stops nothing",
    "perf": "stops nothing",
    "ptrace": "stops a thread for each sample",
}


def _check_inspector(pid: int | None) -> Check:
    """Say whether the inspector could be opened; nothing is opened."""
    name, how = "engine inspector", "by name only: --engine inspector; JavaScript only"
    if pid is None:
        return Check(name, None, f"{how}; doctor --pid PID says whether a process has one")
    status = read_status(pid)
    if status is None or not status.caught >> (signal.SIGUSR1 - 1) & 1:
        finding = f"process {pid} has no handler for SIGUSR1, which opens it"
        return Check(name, None, finding, "node --inspect, then jsspy record --inspect-url URL")
    return Check(name, True, f"{how}; SIGUSR1 opens it")


def _check_process(pid: int) -> tuple[list[Check], int]:
    """Look at a process step by step; return what was found and the exit code."""
    checks: list[Check] = []
    try:
        target = Target.open(pid)
    except JsspyError as err:
        return [Check("open", False, err.message, err.hint)], err.exit_code
    try:
        checks.append(Check("open", True, " ".join(target.command)))
        v8 = target.find_v8()
        if v8 is None:
            raise NotNode(f"process {pid} has no V8 in it", hint="jsspy list")
        version = find_node_version(v8.elf) or "(unknown)"
        checks.append(Check("node", True, f"{version}, in {v8.elf.name}"))
        layout = load_layout(v8.elf)
        derived = f"; by rule of the version: {', '.join(layout.derived)}" if layout.derived else ""
        checks.append(Check("V8", True, f"{layout.version_text()}{derived}"))
        threads = find_threads(target, v8, layout)
        found = ", ".join(str(plan.tid) for plan in threads)
        checks.append(Check("isolates", bool(threads), f"{len(threads)} threads: {found}"))
        checks += _check_engines(pid)
        if threads:
            checks.append(_check_layout(target, v8, layout, threads[0]))
        checks.append(_check_samples(pid))
    except UnknownV8 as err:
        checks.append(Check("V8", False, f"{err.message}: native frames only", err.hint))
        return checks, err.exit_code
    except JsspyError as err:
        checks.append(Check("process", False, err.message, err.hint))
        return checks, err.exit_code
    finally:
        target.close()
    return checks, 0 if all(check.ok is not False for check in checks) else 1


def _check_layout(target: Target, v8: V8Binary, layout: Layout, thread: ThreadPlan) -> Check:
    """Say how sure jsspy is of what it believes of this V8."""
    result = run_self_test(target.memory, v8, layout, thread)
    marks = {True: "", False: "FAILED: ", None: "not tested: "}
    found = "; ".join(f"{it.name}: {marks[it.passed]}{it.finding}" for it in result.checks)
    return Check(
        "self-test",
        result.confidence is not Confidence.FAILED,
        f"{result.confidence.value}; {found}",
    )


def _check_samples(pid: int) -> Check:
    """Take a few samples and say how many of their JavaScript frames have a function."""
    with Recorder(PtraceEngine(_TEST_RATE_HZ, mode=Mode.WALL)) as recorder:
        recorder.add(pid)
        for _ in recorder.run(_TEST_NS):
            pass
        stats = recorder.profile.stats
        count = len(recorder.profile)
        share = output.format_share(stats.js_frames_named, stats.js_frames)
    return Check(
        "samples",
        count > 0 and len(recorder.profile.truncated) * 2 < count,
        f"{count} taken, {len(recorder.profile.truncated)} of them truncated; "
        f"{share} of {stats.js_frames} JavaScript frames have their function",
    )
