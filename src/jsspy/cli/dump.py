"""`jsspy dump`: what every JavaScript thread does now."""

from __future__ import annotations

import re
from typing import Any

import click

from jsspy.cli import output
from jsspy.cli.engines import make_engine, native_option, strict_option, threads_option
from jsspy.cli.interrupts import Interrupts
from jsspy.cli.source_maps import SourceMaps, source_maps_option
from jsspy.cli.targets import add_targets, choose_pids, targeting_options
from jsspy.errors import NoSamples
from jsspy.model.mode import Mode, NativeFrames, Threads
from jsspy.model.names import function_name, path_of
from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.stack import Frame, FrameKind
from jsspy.recorder import Recorder, RecordingOptions
from jsspy.session import TargetInfo

_RATE_HZ = 1000
"""The first sample of each thread is all that is wanted, soon."""

_LIMIT_NS = 2_000_000_000


@click.command("dump", short_help="Print the stack of every JavaScript thread, now.")
@targeting_options
@click.option("-s", "--subprocesses", is_flag=True, help="Child processes too.")
@strict_option
@click.option(
    "--async",
    "async_callers",
    is_flag=True,
    help="Show the functions that await what runs, below a boundary. Stops threads longer.",
)
@native_option
@threads_option
@source_maps_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@output.color_option
def dump_command(
    pids: tuple[int, ...],
    name: re.Pattern[str] | None,
    subprocesses: bool,
    strict: bool,
    async_callers: bool,
    native: NativeFrames,
    threads: Threads,
    source_maps: SourceMaps,
    as_json: bool,
) -> int:
    """Print the stack of every JavaScript thread, as it is now, leaf first.

    With neither --pid nor --name the only node process of this user is taken. A thread that runs
    is stopped for a fraction of a millisecond; one that sleeps is not stopped.
    """
    chosen = choose_pids(pids, name, "dump")
    # One stop for one sample: an engine that waits for a tick of a clock takes longer.
    engine = make_engine("ptrace", chosen, _RATE_HZ, mode=Mode.WALL)
    options = RecordingOptions(
        strict=strict,
        follow_children=subprocesses,
        source_maps=source_maps.wanted,
        map_directory=source_maps.directory,
        async_callers=async_callers,
        native=native,
        threads=threads,
    )
    with Recorder(engine, options) as recorder:
        add_targets(recorder, chosen, "dump", by_name=name is not None)
        seen = recorder.profile.threads
        wanted = 0

        with Interrupts() as interrupts:

            def should_stop() -> bool:
                return interrupts.should_stop() or 0 < wanted <= len(seen)

            for status in recorder.run(_LIMIT_NS, should_stop):
                wanted = status.threads
    if as_json:
        output.echo_json([_process_value(recorder, info) for info in recorder.infos.values()])
    else:
        click.echo("\n\n".join(_process_text(recorder, info) for info in recorder.infos.values()))
    if recorder.mapping.missing:
        output.note(f"jsspy: {recorder.mapping.describe()}")
    for sentence in recorder.profile.meta.notes:
        output.note(f"jsspy: {sentence}")
    if not len(recorder.profile):
        raise NoSamples("not one thread could be looked at", hint=f"jsspy doctor --pid {chosen[0]}")
    return 0


def _first_samples(profile: Profile, pid: int) -> list[tuple[ThreadInfo, int]]:
    """Return the threads of a process and the first sample of each, by thread id."""
    first: dict[int, int] = {}
    for sample, thread in enumerate(profile.thread):
        first.setdefault(thread, sample)
    found = [(profile.threads[thread], sample) for thread, sample in first.items()]
    return sorted(pair for pair in found if pair[0].pid == pid)


def _process_value(recorder: Recorder, info: TargetInfo) -> dict[str, Any]:
    profile = recorder.profile
    threads = []
    for who, sample in _first_samples(profile, info.pid):
        truncated = profile.truncated.get(sample)
        threads.append(
            {
                "tid": who.tid,
                "name": who.name,
                "state": profile.state[sample].value,
                "vm_state": profile.vm_state[sample].value,
                "truncated": None if truncated is None else truncated.value,
                "frames": [
                    _frame_value(frame) for frame in profile.iter_frames(profile.stack[sample])
                ],
            }
        )
    return {
        "pid": info.pid,
        "command": info.command,
        "node_version": info.node_version,
        "v8_version": info.v8_version,
        "threads": threads,
    }


def _frame_value(frame: Frame) -> dict[str, Any]:
    location = frame.original or frame.location
    return {
        "name": function_name(frame),
        "kind": frame.kind.value,
        "tier": None if frame.tier is None else frame.tier.name.lower(),
        "file": None if location is None else path_of(location.url),
        "line": None if location is None else location.line,
        "column": None if location is None else location.column,
        "inlined": frame.inlined,
        "module": None if frame.module is None else frame.module.path,
    }


def _process_text(recorder: Recorder, info: TargetInfo) -> str:
    profile = recorder.profile
    lines = [
        f"Process {info.pid}: {output.printable(info.command)}",
        f"Node.js {info.node_version or '(unknown)'} (V8 {info.v8_version or '(unknown)'})",
    ]
    for who, sample in _first_samples(profile, info.pid):
        doing = profile.vm_state[sample].value
        state = profile.state[sample].value
        if doing not in {"unknown", "js"} and doing != state:
            state = f"{state}, {doing}"
        lines.append("")
        lines.append(f'Thread {who.tid} ({state}): "{output.printable(who.name)}"')
        lines += [
            f"    {_frame_text(frame)}" for frame in profile.iter_frames(profile.stack[sample])
        ]
        truncated = profile.truncated.get(sample)
        if truncated is not None:
            lines.append(f"    (truncated: {truncated.value})")
    return "\n".join(lines)


_STYLES: dict[FrameKind, dict[str, Any]] = {
    FrameKind.JS: {"fg": "green", "bold": True},
    FrameKind.BUILTIN: {"fg": "cyan"},
}


def _frame_text(frame: Frame) -> str:
    """Return `name (file:line:column)`, or `name (module)` for native code."""
    location = frame.original or frame.location
    place = ""
    if location is not None:
        parts = [path_of(location.url), location.line, location.column]
        place = ":".join(str(part) for part in parts if part is not None)
    elif frame.module is not None:
        place = frame.module.path.rpartition("/")[2]
    name = click.style(function_name(frame), **_STYLES.get(frame.kind, {"dim": True}))
    inlined = " [inlined]" if frame.inlined else ""
    return f"{name} ({output.printable(place)}){inlined}" if place else f"{name}{inlined}"
