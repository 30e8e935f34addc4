"""The account of a recording, for people and for machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Protocol

from jsspy.cli import output
from jsspy.cli.targets import shorten
from jsspy.model.phase import Phase, weigh_phases, weigh_vm_states
from jsspy.model.profile import Profile
from jsspy.model.sample import VmState
from jsspy.model.units import Pid
from jsspy.recorder import End, Status
from jsspy.session import TargetInfo
from jsspy.symbolize.original import MappingStats


class Recording(Protocol):
    """What is shown of a `Recorder`, or of an `InspectorRecorder`."""

    profile: Profile
    end: End | None
    infos: dict[Pid, TargetInfo]
    mapping: MappingStats
    saw_v8: bool

    def run(
        self, duration_ns: int | None = None, should_stop: Callable[[], bool] = ...
    ) -> Iterator[Status]:
        """See `Recorder.run`."""
        ...

    def update_stats(self) -> None:
        """See `Recorder.update_stats`."""
        ...


def summarize(recorder: Recording) -> dict[str, Any]:
    """Return the account as JSON values; requested = stacks + truncated + lost."""
    profile, stats = recorder.profile, recorder.profile.stats
    pauses = stats.pauses
    return {
        "end": recorder.end.value if recorder.end is not None else None,
        "engine": profile.meta.engine,
        "mode": profile.meta.value_type.value,
        "duration_s": round(profile.meta.duration_ns / 1e9, 3),
        "requested": stats.requested,
        "stacks": len(profile) - len(profile.truncated),
        "truncated": len(profile.truncated),
        "lost": sum(stats.lost.values()),
        "idle": stats.idle,
        "truncated_by_reason": _by_reason(stats.truncated),
        "lost_by_reason": _by_reason(stats.lost),
        "vm_states_ns": _by_reason(weigh_vm_states(profile)),
        "loop_phases_ns": _by_reason(weigh_phases(profile)),
        "js_frames": stats.js_frames,
        "js_frames_named": stats.js_frames_named,
        "pauses": {
            "count": pauses.count,
            "p50_us": round(pauses.p50_ns / 1e3, 1),
            "p99_us": round(pauses.p99_ns / 1e3, 1),
            "max_us": round(pauses.max_ns / 1e3, 1),
            "total_us": round(pauses.total_ns / 1e3, 1),
        },
        "source_maps": {
            "frames": recorder.mapping.frames,
            "maps": recorder.mapping.maps,
            "missing": recorder.mapping.missing,
        },
        "profiler_cpu_s": round(stats.profiler_cpu_ns / 1e9, 3),
        "targets": [
            {
                "pid": info.pid,
                "command": info.command,
                "node_version": info.node_version,
                "v8_version": info.v8_version,
            }
            for info in recorder.infos.values()
        ],
        "notes": profile.meta.notes,
    }


def _by_reason(counts: Mapping[Any, int]) -> dict[str, int]:
    return {reason.value: counts[reason] for reason in sorted(counts, key=_value)}


def _value(reason: Enum) -> str:
    return str(reason.value)


def show_summary(profile: Profile, first_line: str, rest: Iterable[str] = ()) -> None:
    """Print the account on stderr, below a first line that says where the data are."""
    stats = profile.stats
    truncated, lost = len(profile.truncated), sum(stats.lost.values())
    counts = f"{stats.requested} = {len(profile) - truncated} stacks"
    counts += f" + {truncated} truncated{_reasons(_by_reason(stats.truncated))}"
    counts += f" + {lost} lost{_reasons(_by_reason(stats.lost))}"
    if stats.idle:
        counts += f"; asleep {stats.idle} times more"
    lines = [first_line, f"  samples    {counts}"]
    if stats.pauses.count:
        p50, p99, longest = (
            output.format_ns(value)
            for value in (stats.pauses.p50_ns, stats.pauses.p99_ns, stats.pauses.max_ns)
        )
        lines.append(f"  pauses     p50 {p50}, p99 {p99}, max {longest}")
    if stats.js_frames:
        share = output.format_share(stats.js_frames_named, stats.js_frames)
        lines.append(f"  JS frames  {share} of {stats.js_frames} have their function")
    for what, weights in (("V8", weigh_vm_states(profile)), ("event loop", weigh_phases(profile))):
        if shares := _shares(weights):
            lines.append(f"  {what:<10} {shares}")
    lines += [f"  {line}" for line in rest]
    lines += [f"  note: {note}" for note in profile.meta.notes]
    output.note("\n".join(lines))


def _shares(weights: Mapping[VmState, int] | Mapping[Phase, int]) -> str:
    """Return `js 61 %, gc 8 %`; "" where nothing is known, or nothing but `unknown` or `other`."""
    total = sum(weights.values())
    words = {what.value: weight for what, weight in weights.items()}
    if not words.keys() - {"unknown", "other"}:
        return ""
    return ", ".join(
        f"{word} {round(100 * weight / total)} %"
        for word, weight in words.items()
        if weight * 200 >= total
    )


def _reasons(counts: dict[str, int]) -> str:
    if not counts:
        return ""
    return f" ({', '.join(f'{reason} {count}' for reason, count in counts.items())})"


def describe_targets(recorder: Recording) -> str:
    """Return who is recorded, in a few words: `node server.js (pid 4121)`."""
    infos = list(recorder.infos.values())
    if len(infos) == 1:
        return f"{shorten(infos[0].command)} (pid {infos[0].pid})"
    return f"{len(infos)} processes"
