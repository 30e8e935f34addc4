"""What samples, how often and what: the options, and the one place that makes engines of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from enum import Enum
from functools import partial
from typing import Any, TypeVar

import click

from jsspy.cli import output
from jsspy.engines.base import Availability, Engine
from jsspy.engines.ptrace import PtraceEngine
from jsspy.errors import EngineUnavailable, JsspyError
from jsspy.model.mode import Mode, NativeFrames, Threads
from jsspy.target.process import Target

_Kind = TypeVar("_Kind", bound=Enum)

AUTO = "auto"
NAMES = (AUTO, "ebpf", "perf", "ptrace")

DEFAULT_RATE_HZ = 99
"""Not 100: samples must not march in step with timers of 10 ms."""


def rate_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--rate` to a command."""
    return click.option(
        "-r",
        "--rate",
        "rate_hz",
        type=click.IntRange(1, 1000),
        default=DEFAULT_RATE_HZ,
        show_default=True,
        metavar="HZ",
        help="Samples per second and thread.",
    )(command)


def engine_option(command: Callable[..., Any], *, more: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Add `--engine` to a command, with the names that it knows `more`."""
    return click.option(
        "--engine",
        "engine_name",
        type=click.Choice([*NAMES, *more]),
        default=AUTO,
        show_default=True,
        help="How to sample. ebpf and perf stop nothing, ptrace stops a thread for a moment; auto "
        "takes the first of them that works here; jsspy doctor says what keeps the others.",
    )(command)


def parse_duration(ctx: click.Context, param: click.Parameter, value: str) -> float | None:
    """Return seconds; None is without end."""
    del ctx, param
    if value == "unlimited":
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise click.BadParameter(f"'{value}' is neither a number of seconds nor 'unlimited'")
    return seconds


duration_option = click.option(
    "-d",
    "--duration",
    "duration_s",
    callback=parse_duration,
    default="unlimited",
    show_default=True,
    metavar="SECONDS",
    help="How long to sample. Unlimited is until Ctrl-C, or until the process ends.",
)
subprocesses_option = click.option(
    "-s", "--subprocesses", is_flag=True, help="Child processes too, also new ones."
)
strict_option = click.option(
    "--strict", is_flag=True, help="Fail if the V8 is not known, instead of native frames only."
)


def _parse_overhead(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    del ctx, param
    if value is None:
        return None
    try:
        percent = float(value.removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0.01 <= percent <= 100:
        raise click.BadParameter(f"'{value}' is no share of a CPU such as 1%")
    return percent / 100


overhead_option = click.option(
    "--max-overhead",
    callback=_parse_overhead,
    metavar="PERCENT",
    help="Sample less often where it would cost more of one CPU than this: jsspy's own time, the "
    "time that threads are stopped or interrupted, and that of the program in the kernel.",
)


def mode_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--mode`, and `--idle` for `--mode wall`."""
    idle = click.option(
        "-i",
        "--idle",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_note_idle,
        help="The same as --mode wall.",
    )
    mode = click.option(
        "--mode",
        type=click.Choice([mode.value for mode in Mode]),
        callback=_parse_mode,
        help="What is measured: the time that threads run (cpu, the default), all time (wall: "
        "sleeping threads are sampled too), or the time that they wait (offcpu).",
    )
    return mode(idle(command))


def _parse_member(
    kind: type[_Kind], ctx: click.Context, param: click.Parameter, value: str
) -> _Kind:
    del ctx, param
    return kind(value)


def threads_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--threads`."""
    return click.option(
        "--threads",
        type=click.Choice([wanted.value for wanted in Threads]),
        default=Threads.JS.value,
        show_default=True,
        callback=partial(_parse_member, Threads),
        help="Threads that are sampled: the main one; those that run JavaScript, so workers, too "
        "(js); V8's helpers and libuv's pool as well (all).",
    )(command)


def native_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--native`."""
    return click.option(
        "--native",
        type=click.Choice([wanted.value for wanted in NativeFrames]),
        default=NativeFrames.FULL.value,
        show_default=True,
        callback=partial(_parse_member, NativeFrames),
        help="Native frames of a stack: all, from main to the leaf (full); those that the newest "
        "JavaScript, builtin or WebAssembly frame called, all where there is no such frame (leaf); "
        "none, and (native) where nothing else is left (off). V8's entry and exit frames and the "
        "kernel go with them; the VM state of a sample stays. leaf and off cost less.",
    )(command)


_IDLE = "jsspy.idle"


def _note_idle(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    del param
    ctx.meta[_IDLE] = value


def _parse_mode(ctx: click.Context, param: click.Parameter, value: str | None) -> Mode:
    del param
    if ctx.meta[_IDLE]:
        if value not in {None, Mode.WALL.value}:
            raise click.BadParameter("--idle is --mode wall")
        return Mode.WALL
    return Mode.CPU if value is None else Mode(value)


def make_engine(
    name: str,
    pids: Sequence[int],
    rate_hz: float,
    *,
    mode: Mode = Mode.CPU,
    stopping: bool = False,
) -> Engine:
    """Return the engine that was asked for.

    Args:
        name: One of NAMES.
        pids: Processes that are to be sampled; none if they are not started or found yet.
        rate_hz: Samples per second and thread.
        mode: What to measure.
        stopping: Something is wanted that only an engine can see that stops threads.

    Raises:
        EngineUnavailable: It does not work here, or not for what is asked of it.
    """
    if stopping and name == AUTO:
        output.note("Sampling with ptrace: who awaits is seen only while a thread stands still")
        name = PtraceEngine.name
    if name == PtraceEngine.name and mode in PtraceEngine.modes:
        # Whoever stops threads need not wait until the others are loaded.
        return PtraceEngine(rate_hz, mode=mode)
    from jsspy.engines import ENGINES, choose_engine

    with ExitStack() as stack:
        targets = []
        for pid in pids or [os.getpid()]:  # what is started by us is ours, as we are
            # Why one cannot be opened says whoever adds it to a recorder.
            with suppress(JsspyError):
                targets.append(Target.open(pid))
                stack.callback(targets[-1].close)
        names = ENGINES if name == AUTO else [name]
        choice = choose_engine(targets, rate_hz, mode=mode, names=names)
    if choice.engine is None:
        refused, rung = list(choice.rungs.items())[-1]
        raise EngineUnavailable(refused, rung.reason, hint=rung.hint)
    if name == AUTO and choice.rungs:
        output.note(f"Sampling with {choice.engine.name}: {_explain(choice.rungs)}")
    return choice.engine


def _explain(rungs: Mapping[str, Availability]) -> str:
    """Return why it is this one, in a line."""
    refused = [f"not {name}, {rung.reason}" for name, rung in rungs.items() if not rung.available]
    return "; ".join(refused) or "it stops nothing"
