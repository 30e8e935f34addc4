"""`jsspy perf-map`: names for perf, bpftrace and others, of a process started without a flag."""

from __future__ import annotations

import re
import time

import click

from jsspy.cli import output
from jsspy.cli.interrupts import Interrupts
from jsspy.cli.targets import choose_pids, targeting_options
from jsspy.errors import ProcessExited
from jsspy.session import open_tested
from jsspy.symbolize.perf_map import CodeLister, MapEntry, format_map, keep_old
from jsspy.target.perf_map import PerfMapFile

_PERIOD_S = 1.0
_POLL_S = 0.05


@click.command("perf-map", short_help="Name JIT code for perf: write /tmp/perf-PID.map.")
@targeting_options
@click.option(
    "--follow", is_flag=True, help="Write it anew every second, until Ctrl-C or the process ends."
)
@click.option("--stdout", is_flag=True, help="Print it instead.")
@output.color_option
def perf_map_command(
    pids: tuple[int, ...], name: re.Pattern[str] | None, follow: bool, stdout: bool
) -> int:
    r"""Write /tmp/perf-PID.map for a running process, which needs no flag for it.

    perf, bpftrace, samply and hotspot take the names of compiled JavaScript from there. The file
    is a snapshot: run this after perf record and before perf script; or with --follow beside perf
    record, then code that is gone meanwhile stays named unless other code has taken its place.

    \b
        jsspy perf-map --pid 4121 --follow &
        perf record -F 99 -g -p 4121 -- sleep 10
        kill %1
        perf script | stackcollapse-perf.pl --all | flamegraph.pl --color=js > out.svg

    Interpreted functions have no code of their own and cannot be named by a map: perf shows
    Builtins_InterpreterEntryTrampoline for each. jsspy record names them.

    Nothing of the process is stopped. The file appears in the /tmp that the process sees, under
    the pid that it has there; what is not ours is not replaced.
    """
    (pid, *more) = choose_pids(pids, name, "perf-map")
    if more:
        raise click.UsageError("one process at a time")
    if follow and stdout:
        raise click.UsageError("--stdout is a snapshot, --follow is not")
    session = open_tested(pid)
    try:
        lister = CodeLister(session.target, *session.wait_until_tested())
        if session.note is not None:
            output.note(f"note: {session.note}")
        if stdout:
            click.echo(format_map(lister.entries()), nl=False)
            return 0
        file = PerfMapFile(session.target)
        try:
            entries = _write(file, lister, [])
            output.note(f"Wrote {file.path}: {len(entries)} pieces of code")
            if follow:
                _follow(file, lister, entries)
        finally:
            file.close()
    finally:
        session.close()
    return 0


def _write(file: PerfMapFile, lister: CodeLister, older: list[MapEntry]) -> list[MapEntry]:
    file.check()
    entries = keep_old(lister.entries(), older)
    file.write(format_map(entries))
    return entries


def _follow(file: PerfMapFile, lister: CodeLister, entries: list[MapEntry]) -> None:
    with Interrupts() as interrupts:
        try:
            while not interrupts.should_stop():
                deadline = time.monotonic() + _PERIOD_S
                while time.monotonic() < deadline and not interrupts.should_stop():
                    time.sleep(_POLL_S)
                entries = _write(file, lister, entries)
        except ProcessExited:
            output.note("The process ended.")
    output.note(f"{len(entries)} pieces of code at the end")
