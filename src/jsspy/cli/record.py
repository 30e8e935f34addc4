"""`jsspy record`: sample for a while, write a file."""

from __future__ import annotations

import gc
import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

import click

from jsspy.cli import output
from jsspy.cli.engines import (
    AUTO,
    duration_option,
    engine_option,
    make_engine,
    mode_options,
    native_option,
    overhead_option,
    rate_option,
    strict_option,
    subprocesses_option,
    threads_option,
)
from jsspy.cli.interrupts import Interrupts
from jsspy.cli.outputs import choose_format, default_file_name, output_options
from jsspy.cli.progress import Progress, make_progress
from jsspy.cli.source_maps import SourceMaps, source_maps_option
from jsspy.cli.started import StartedCommand, describe_exit
from jsspy.cli.summary import Recording, describe_targets, show_summary, summarize
from jsspy.cli.targets import (
    add_started,
    add_targets,
    all_option,
    check_command,
    choose_pids,
    never_node,
    shorten,
    targeting_options,
)
from jsspy.errors import NoSamples
from jsspy.exporters.base import Exporter
from jsspy.exporters.file import FileExporter, StreamExporter, open_destination
from jsspy.formats.base import Format
from jsspy.linux.libc import map_large_blocks
from jsspy.model.mode import Mode, NativeFrames, Threads
from jsspy.recorder import End, Recorder, RecordingOptions
from jsspy.target.search import iter_node_processes

if TYPE_CHECKING:
    from jsspy.inspected import InspectorRecorder

INSPECTOR = "inspector"

EXIT_TARGET_ENDED = 6
_WITH_SOURCES = {"html", "jsspy"}
"""Formats that keep source lines."""


@click.command(
    "record",
    short_help="Sample for a while and write a flame graph, or any other format.",
    context_settings={"allow_interspersed_args": False},
)
@targeting_options
@all_option
@duration_option
@rate_option
@partial(engine_option, more=(INSPECTOR,))
@click.option(
    "--inspect-url",
    metavar="URL",
    help="Record through the inspector at ws://HOST:PORT/ID or http://HOST:PORT, of a process on "
    "another host for example: V8's own profiler, JavaScript only.",
)
@mode_options
@native_option
@threads_option
@output_options
@overhead_option
@subprocesses_option
@strict_option
@click.option(
    "--async",
    "async_callers",
    is_flag=True,
    help="Show the functions that await what runs, below a boundary. Stops threads longer.",
)
@source_maps_option
@click.option(
    "--sources/--no-sources",
    "sources",
    default=True,
    help="Keep the source lines that ran, where the format can: html and jsspy. On by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
@output.color_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.pass_context
def record_command(
    ctx: click.Context,
    pids: tuple[int, ...],
    name: re.Pattern[str] | None,
    everyone: bool,
    duration_s: float | None,
    rate_hz: int,
    engine_name: str,
    inspect_url: str | None,
    destination: str | None,
    form: str | None,
    subprocesses: bool,
    mode: Mode,
    native: NativeFrames,
    threads: Threads,
    max_overhead: float | None,
    strict: bool,
    async_callers: bool,
    source_maps: SourceMaps,
    sources: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> int:
    """Sample node processes for a while and write a flame graph, or any other format.

    With neither --pid, --name, --all nor COMMAND the only node process of this user is taken.
    --name and --all take processes that start meanwhile, too; --all waits for them.

    The first Ctrl-C (or SIGTERM) ends sampling and writes the file; a second one gives up. SIGUSR1
    writes what there is so far. COMMAND runs in our place: its streams are untouched, and Ctrl-C
    reaches it as it would without us; a signal sent to jsspy alone is passed on. When the duration
    is over COMMAND gets SIGTERM. A process that ran before us gets no signal, but for --engine
    inspector: SIGUSR1, which opens its inspector if it has a handler for it; it is closed again.

    Exit codes: 0 done, 3 no such process, 4 no permission, 6 the process ended before the duration
    was over (what was taken is written), 7 not one sample (nothing is written), 9 the output
    cannot be written, 130 given up.
    """
    check_command(command, pids, name)
    if command and everyone:
        raise click.UsageError("--all looks at what runs; COMMAND starts something new")
    if everyone and (pids or name is not None):
        raise click.UsageError("--all is everyone: it goes with neither --pid nor --name")
    chosen = choose_format(form, destination)
    map_large_blocks()

    def run(
        recorder: Recording,
        exporter: Exporter,
        started: StartedCommand | None = None,
        look: Callable[[], None] | None = None,
    ) -> int:
        exporter.check()
        with Interrupts() as interrupts:
            progress = make_progress(
                duration_s, rate_hz, color=ctx.color, is_shared=started is not None
            )
            _sample(recorder, interrupts, progress, exporter, chosen, duration_s, look)
            return _finish(
                recorder, interrupts, exporter, chosen, duration_s, started, as_json=as_json
            )

    if inspect_url is not None or engine_name == INSPECTOR:
        unknown = (command, everyone, subprocesses, async_callers, strict, max_overhead is not None)
        if any(unknown) or native is not NativeFrames.FULL:
            raise click.UsageError(
                "the inspector shows the JavaScript of one process that runs already: it knows "
                "no COMMAND, --all, --subprocesses, --async, --strict, --max-overhead or --native"
            )
        if inspect_url is not None and (pids or name is not None):
            raise click.UsageError("--inspect-url names a process already")
        if engine_name not in {AUTO, INSPECTOR}:
            raise click.UsageError(f"--inspect-url is --engine inspector, not {engine_name}")
        with open_inspector(inspect_url, pids, name, rate_hz, mode) as recording:
            (pid,) = recording.infos
            default = default_file_name("node", pid, time.time(), chosen.suffix)
            return run(recording, open_destination(destination or default))
    if everyone:
        found = [process.pid for process in iter_node_processes() if process.denied is None]
    else:
        found = [] if command else choose_pids(pids, name, "record")
    options = RecordingOptions(
        strict=strict,
        follow_children=subprocesses,
        source_maps=source_maps.wanted,
        map_directory=source_maps.directory,
        sources=sources and chosen.name in _WITH_SOURCES,
        async_callers=async_callers,
        native=native,
        threads=threads,
        wait=everyone,
        max_overhead=max_overhead,
    )
    # Of many those that cannot be sampled are left out; they do not decide for the others.
    probed = [] if everyone or name is not None else found
    engine = make_engine(engine_name, probed, rate_hz, mode=mode, stopping=async_callers)
    with Recorder(engine, options) as recorder, ExitStack() as stack:
        now = time.time()
        started = None
        if command:
            program = os.path.basename(command[0])  # noqa: PTH119 - a word of a command line
            # Before it is started: then its pid, which is part of the name, is not known yet.
            open_destination(
                destination or default_file_name(program, 0, now, chosen.suffix)
            ).check()
            started = StartedCommand(command)
        try:
            who: tuple[str, int] = ("node", 0)
            if started is not None:
                target = add_started(recorder, started, "record")
                who = target.name, target.pid
            elif everyone:
                for each in found:
                    recorder.adopt(each)
            else:
                target = add_targets(recorder, found, "record", by_name=name is not None)[0]
                who = target.name, target.pid
            look = None
            if everyone or name is not None:
                look = _follow(recorder, "" if name is None else name.pattern, stack)
            exporter = open_destination(destination or default_file_name(*who, now, chosen.suffix))
            return run(recorder, exporter, started, look)
        except BaseException:
            if started is not None:
                started.terminate()
            raise


def open_inspector(
    url: str | None,
    pids: tuple[int, ...],
    name: re.Pattern[str] | None,
    rate_hz: float,
    mode: Mode,
) -> InspectorRecorder:
    """Connect to the inspector at a URL, or of the only process that is meant."""
    from jsspy.inspected import InspectorRecorder  # loads aiohttp

    if url is not None:
        return InspectorRecorder(url, rate_hz, mode=mode)
    found = choose_pids(pids, name, "record")
    if len(found) > 1:
        raise click.UsageError(f"the inspector records one process, not {len(found)}")
    return InspectorRecorder.open(found[0], rate_hz, mode=mode)


def _follow(recorder: Recorder, pattern: str, stack: ExitStack) -> Callable[[], None]:
    """Return what adds node processes that have come; to be called now and then."""
    from jsspy.cli.discovery import Discovery

    discovery = stack.enter_context(closing(Discovery(pattern)))
    recorder.companions.append(discovery.pid)

    def look() -> None:
        for pid in discovery.poll():
            recorder.adopt(pid)

    return look


def _sample(
    recorder: Recording,
    interrupts: Interrupts,
    progress: Progress,
    exporter: Exporter,
    form: Format,
    duration_s: float | None,
    look: Callable[[], None] | None,
) -> None:
    # What exists now stays: the collector need not look at it again while a target waits.
    gc.freeze()
    duration_ns = None if duration_s is None else int(duration_s * 1e9)
    with progress:
        for status in recorder.run(duration_ns, interrupts.should_stop):
            progress.show(status, recorder)
            if look is not None:
                look()
            if interrupts.take_snapshot_request() and isinstance(exporter, FileExporter):
                recorder.update_stats()
                exporter.export(recorder.profile, form)


def _finish(
    recorder: Recording,
    interrupts: Interrupts,
    exporter: Exporter,
    form: Format,
    duration_s: float | None,
    started: StartedCommand | None,
    *,
    as_json: bool,
) -> int:
    """Write the profile, let a command that we started end, and tell how it went."""
    profile = recorder.profile
    if len(profile):
        exporter.export(profile, form)
    status = None
    rest = []
    if started is not None:
        status = started.finish(interrupts.stop_signal, duration_over=recorder.end is End.DURATION)
        rest.append(f"{shorten(' '.join(started.command))} {describe_exit(status)}")
    exit_code = 0
    if not len(profile):
        exit_code = NoSamples.exit_code
    elif recorder.end is End.TARGET_ENDED and duration_s is not None and started is None:
        exit_code = EXIT_TARGET_ENDED
        rest.append("it ended before the duration was over")
    if mapping := recorder.mapping.describe():
        rest.append(f"source maps  {mapping}")
    size = exporter.size() if isinstance(exporter, FileExporter) and len(profile) else None
    if as_json:
        value = summarize(recorder) | {
            "output": exporter.destination if len(profile) else None,
            "format": form.name,
            "size_bytes": size,
            "command_exit_code": status,
            "exit_code": exit_code,
        }
        # Standard output carries one thing: the profile, if it was sent there.
        output.echo_json(value, err=isinstance(exporter, StreamExporter))
    if started is not None and not recorder.saw_v8:
        raise never_node(started, "record")
    if not len(profile):
        raise _no_samples(recorder)
    if not as_json:
        where = "" if size is None else f", {output.format_size(size)}"
        show_summary(profile, f"Wrote {exporter.destination} ({form.name}{where})", rest)
    return exit_code


def _no_samples(recorder: Recording) -> NoSamples:
    stats = recorder.profile.stats
    if not recorder.infos:
        if recorder.saw_v8:
            return NoSamples("no samples: no JavaScript ran yet when the recording ended")
        return NoSamples("no samples: no node process ran")
    who = describe_targets(recorder)
    if stats.requested:
        lost = ", ".join(f"{reason.value} {count}" for reason, count in stats.lost.items())
        return NoSamples(f"no samples of {who}: all of {stats.requested} were lost ({lost})")
    if recorder.end is End.TARGET_ENDED:
        return NoSamples(f"no samples of {who}: it ended before the first one was due")
    if stats.idle:
        pids = " ".join(f"--pid {pid}" for pid in recorder.infos)
        return NoSamples(
            f"no samples of {who}: it slept all the time ({stats.idle} looks)",
            hint=f"jsspy record --idle {pids}    samples sleeping threads, too",
        )
    return NoSamples(f"no samples of {who}: none was due yet when the recording ended")
