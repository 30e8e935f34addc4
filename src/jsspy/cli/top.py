"""`jsspy top`: what is hot right now.

Two processes: this one samples, as `record` does; a child of it draws, so that no sample waits for
a screen. It is this way round because a target that COMMAND starts may only be traced by us, its
parent, where kernel.yama.ptrace_scope is 1.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from jsspy.cli import output
from jsspy.cli.engines import (
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
from jsspy.cli.live_maps import OriginalNames
from jsspy.cli.live_text import Update
from jsspy.cli.pipe import Receiver, Sender
from jsspy.cli.record import EXIT_TARGET_ENDED
from jsspy.cli.source_maps import SourceMaps, source_maps_option
from jsspy.cli.started import StartedCommand, describe_exit
from jsspy.cli.targets import (
    add_started,
    add_targets,
    check_command,
    choose_pids,
    never_node,
    shorten,
    targeting_options,
)
from jsspy.errors import JsspyError
from jsspy.linux.libc import map_large_blocks
from jsspy.model.growth import GrowthTaker
from jsspy.model.live import Account, LiveTable, View
from jsspy.model.mode import Mode, NativeFrames, Threads
from jsspy.recorder import End, Recorder, RecordingOptions

_SEND_NS = 250_000_000

_NICE = 5
"""Where there are fewer CPUs than work for them, sampling goes before drawing."""


@click.command(
    "top",
    short_help="Show what is hot now, live; plain text where stdout is no terminal.",
    context_settings={"allow_interspersed_args": False},
)
@targeting_options
@duration_option
@rate_option
@engine_option
@mode_options
@native_option
@threads_option
@click.option(
    "--delay",
    "delay_s",
    type=click.FloatRange(0.25, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two pictures.",
)
@click.option(
    "--window",
    "window_s",
    type=click.FloatRange(0.5, 3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="What counts as now: shares are of the last so many seconds.",
)
@click.option(
    "--by",
    type=click.Choice([view.value for view in View]),
    default=View.FUNCTION.value,
    show_default=True,
    help="What one row is, to begin with.",
)
@overhead_option
@subprocesses_option
@strict_option
@source_maps_option
@output.color_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.pass_context
def top_command(
    ctx: click.Context,
    pids: tuple[int, ...],
    name: re.Pattern[str] | None,
    duration_s: float | None,
    rate_hz: int,
    engine_name: str,
    delay_s: float,
    window_s: float,
    by: str,
    max_overhead: float | None,
    subprocesses: bool,
    mode: Mode,
    native: NativeFrames,
    threads: Threads,
    strict: bool,
    source_maps: SourceMaps,
    command: tuple[str, ...],
) -> int:
    """Show what node processes spend their time on, live; ? lists the keys.

    With neither --pid, --name nor COMMAND the only node process of this user is taken. Shares are
    of one CPU, and of the last seconds (--window); times are since the start. COMMAND is started
    with its output in a file, which is named at the end, and gets SIGTERM then.

    Where stdout is no terminal, a table is printed every --delay seconds.

    Exit codes: 0 done, 3 no such process, 4 no permission, 6 the process ended before the duration
    was over.
    """
    check_command(command, pids, name)
    map_large_blocks()
    found = [] if command else choose_pids(pids, name, "top")
    options = RecordingOptions(
        strict=strict,
        follow_children=subprocesses,
        source_maps=False,
        native=native,
        threads=threads,
        max_overhead=max_overhead,
    )
    with Recorder(make_engine(engine_name, found, rate_hz, mode=mode), options) as recorder:
        started, log = None, None
        if command:
            started, log = _start(command)
        try:
            if started is not None:
                target = add_started(recorder, started, "top")
            else:
                target = add_targets(recorder, found, "top", by_name=name is not None)[0]
            file_stem = f"{target.name}-{target.pid}"
            color = ctx.color

            def draw(receiver: Receiver) -> None:
                originals = OriginalNames(source_maps)
                table = LiveTable(window_ns=int(window_s * 1e9))
                table.view = View(by)
                if _is_screen():
                    from jsspy.cli.live_screen import show_screen

                    show_screen(
                        receiver, originals, table, rate_hz, delay_s, file_stem, color=color
                    )
                else:
                    from jsspy.cli.live_plain import print_tables

                    print_tables(receiver, originals, table, rate_hz, delay_s)

            status = _run(recorder, draw, duration_s)
            if started is not None:
                end = started.finish(None, duration_over=True)
                output.note(
                    f"{shorten(' '.join(command))} {describe_exit(end)}; its output is in {log}"
                )
        except BaseException:
            if started is not None:
                started.terminate()
            raise
    if started is not None and not recorder.saw_v8:
        raise never_node(started, "top")
    if status:
        raise JsspyError(f"the display ended with exit code {status}")
    if recorder.end is End.TARGET_ENDED and duration_s is not None and not command:
        return EXIT_TARGET_ENDED
    return 0


def _is_screen() -> bool:
    return sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM") != "dumb"


def _start(command: tuple[str, ...]) -> tuple[StartedCommand, Path]:
    """Start a command whose output shall not go to our screen; return where it goes, too."""
    descriptor, log = tempfile.mkstemp(prefix="jsspy-top-", suffix=".log")
    try:
        return StartedCommand(command, output=descriptor), Path(log)
    except BaseException:
        Path(log).unlink()
        raise
    finally:
        os.close(descriptor)


def _run(recorder: Recorder, draw: Callable[[Receiver], None], duration_s: float | None) -> int:
    """Sample here, draw in a child; return the child's exit code."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(writing)
        _draw_and_exit(draw, Receiver(reading))
    os.close(reading)
    recorder.companions.append(child)
    try:
        with Interrupts() as interrupts:
            _sample(recorder, Sender(writing), interrupts, duration_s)
    finally:
        os.close(writing)
        # Where the process ended by itself, its last picture stays until somebody has seen it.
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status


def _draw_and_exit(draw: Callable[[Receiver], None], receiver: Receiver) -> None:
    """Draw; never return. Ctrl-C is a key there, or the other process's business."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.nice(_NICE)
        draw(receiver)
        sys.stdout.flush()
        status = 0
    except BrokenPipeError:
        status = 0  # whoever read our standard output has seen enough
    except BaseException:  # noqa: BLE001 - whatever it is, the parent's clean-up is not ours
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _sample(
    recorder: Recorder, sender: Sender, interrupts: Interrupts, duration_s: float | None
) -> None:
    """Sample, and tell the child four times a second."""
    # What exists now stays: the collector need not look at it again while a target waits.
    gc.freeze()
    duration_ns = None if duration_s is None else int(duration_s * 1e9)
    taker = GrowthTaker(recorder.profile)
    next_ns = 0
    threads = 0

    def update() -> Update:
        recorder.update_stats()
        account = Account(time.monotonic_ns(), recorder.profile.stats, recorder.profile.meta)
        return Update(taker.take(), account, tuple(recorder.infos.values()), threads, recorder.end)

    try:
        for state in recorder.run(duration_ns, interrupts.should_stop):
            threads = state.threads
            now = time.monotonic_ns()
            if now >= next_ns and sender.flush():
                next_ns = now + _SEND_NS
                sender.send(update())
        sender.send(update())
        sender.drain()
    except BrokenPipeError:
        return  # somebody pressed q
