"""Profile -> Profile: leave out, regroup, turn round, put together.

Each function returns a new profile and leaves its argument alone. What regroups keeps every sample
with its weight, time and thread; what filters drops whole samples and nothing else. Statistics are
those of the recording in any case: they say what was sampled, not what is shown.

Rows are mapped with loops, in the order in which the samples first reach them: tables of the result
hold only what its samples use.
"""

from __future__ import annotations

import copy
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum

from jsspy.errors import JsspyError
from jsspy.model.names import display_name, file_of, function_of, package_of
from jsspy.model.profile import PauseStats, Profile, ProfileMeta, SamplingStats, ThreadInfo
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Truncation

_NOT_MAPPED = -2

Step = Callable[[int, int], int]
"""(row of the caller in the new profile or -1, row in the old one) -> row in the new one."""


class Grouping(Enum):
    """What becomes one frame. Values are the words of `--by`."""

    FUNCTION = "function"
    LINE = "line"
    FILE = "file"
    PACKAGE = "package"


def group(profile: Profile, by: Grouping) -> Profile:
    """Make frames coarser: one per function, executing line, file or package.

    By line, the line takes the place of the function's definition, so that every format shows it.
    Files and packages that call themselves become one frame.
    """
    result = _like(profile)
    frames = [coarser(frame, by) for frame in profile.frames]
    folding = by in {Grouping.FILE, Grouping.PACKAGE}

    def step(caller: int, row: int) -> int:
        index = result.intern_frame(frames[profile.stacks.frame[row]])
        if folding and caller >= 0 and result.stacks.frame[caller] == index:
            return caller
        return result.stacks.intern(caller, index)

    return _copy_samples(profile, result, _map_rows(profile, step))


def coarser(frame: Frame, by: Grouping) -> Frame:
    """Return what a frame becomes part of: a function, an executing line, a file or a package."""
    match by:
        case Grouping.FUNCTION:
            return function_of(frame)
        case Grouping.LINE:
            function = function_of(frame)
            place = frame.original or frame.location
            if place is None or place.line is None:
                return function
            line = Location(place.url, place.line)
            return function._replace(
                location=None, definition=line, original=None, original_definition=None
            )
        case Grouping.FILE:
            return Frame(file_of(frame), frame.kind)
        case Grouping.PACKAGE:
            return Frame(package_of(frame), frame.kind)


def map_frames(profile: Profile, function: Callable[[Frame], Frame | None]) -> Profile:
    """Put another frame in the place of each one; None leaves it out."""
    result = _like(profile)
    frames = [function(frame) for frame in profile.frames]

    def step(caller: int, row: int) -> int:
        frame = frames[profile.stacks.frame[row]]
        return caller if frame is None else _append(result, caller, frame)

    return _copy_samples(profile, result, _map_rows(profile, step))


def show_generated(profile: Profile) -> Profile:
    """Show what ran, and not what it was compiled from: undo source mapping."""
    return map_frames(
        profile,
        lambda frame: frame._replace(
            original=None,
            original_name=None,
            original_definition=None,
            # That of the original.
            package="" if frame.original or frame.original_definition else frame.package,
        ),
    )


def hide(profile: Profile, kinds: Iterable[FrameKind]) -> Profile:
    """Leave out frames of some kinds; their callees move up to their callers."""
    hidden = frozenset(kinds)
    return map_frames(profile, lambda frame: None if frame.kind in hidden else frame)


def fold_recursion(profile: Profile) -> Profile:
    """Make one frame of a function that calls itself, however often; the outermost stays."""
    result = _like(profile)

    def step(caller: int, row: int) -> int:
        frame = profile.frames[profile.stacks.frame[row]]
        if caller >= 0:
            above = result.frames[result.stacks.frame[caller]]
            if function_of(above) == function_of(frame):
                return caller
        return _append(result, caller, frame)

    return _copy_samples(profile, result, _map_rows(profile, step))


def trim_root(profile: Profile, pattern: re.Pattern[str]) -> Profile:
    """Make the outermost frame whose display name the pattern finds the root of its stack.

    Stacks without such a frame stay whole: nothing is lost, and one sees what the pattern misses.
    """
    result = _like(profile)
    inside = _rows_found(profile, pattern)

    def step(caller: int, row: int) -> int:
        if not inside[row]:
            return -1
        return _append(result, caller, profile.frames[profile.stacks.frame[row]])

    trimmed = _map_rows(profile, step)
    whole = _map_rows(profile, _copier(profile, result))
    return _copy_samples(
        profile, result, lambda row: (trimmed if row >= 0 and inside[row] else whole)(row)
    )


def invert(profile: Profile) -> Profile:
    """Turn every stack round: leaves become roots, so that the tree shows who calls them."""
    result = _like(profile)
    inverted: dict[int, int] = {}

    def turned(row: int) -> int:
        if row not in inverted:
            end = -1
            for frame in profile.iter_frames(row):
                end = _append(result, end, frame)
            inverted[row] = end
        return inverted[row]

    return _copy_samples(profile, result, turned)


def add_threads(profile: Profile) -> Profile:
    """Put each thread's stacks below a frame for the thread."""
    result = _like(profile)
    roots = [
        Frame(f"{thread.name} ({thread.pid}/{thread.tid})", FrameKind.THREAD)
        for thread in profile.threads
    ]
    maps: dict[int, Callable[[int], int]] = {}
    rows = array("i")
    for row, thread in zip(profile.stack, profile.thread, strict=True):
        if thread not in maps:
            root = _append(result, -1, roots[thread])
            maps[thread] = _map_rows(profile, _copier(profile, result), root)
        rows.append(maps[thread](row))
    return _copy_columns(profile, result, rows, range(len(profile)))


def mark_truncated(profile: Profile) -> Profile:
    """Put each stack that does not reach its thread's start below a frame that says so and why.

    Otherwise a picture would show its outermost frame as one that nobody called.
    """
    if not profile.truncated:
        return profile
    result = _like(profile)
    copier = _copier(profile, result)
    maps: dict[Truncation | None, Callable[[int], int]] = {None: _map_rows(profile, copier)}
    for why in Truncation:
        if why in profile.truncated.values():
            root = _append(result, -1, Frame(f"(truncated: {why.value})", FrameKind.UNKNOWN))
            maps[why] = _map_rows(profile, copier, root)
    rows = array("i", (maps[profile.truncated.get(i)](row) for i, row in enumerate(profile.stack)))
    return _copy_columns(profile, result, rows, range(len(profile)))


def filter_samples(
    profile: Profile,
    *,
    threads: Callable[[ThreadInfo], bool] | None = None,
    kinds: Iterable[FrameKind] | None = None,
    include: re.Pattern[str] | None = None,
    exclude: re.Pattern[str] | None = None,
    vm_states: Collection[VmState] | None = None,
    states: Collection[ThreadState] | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> Profile:
    """Keep the samples that meet every condition given.

    Args:
        profile: Where from.
        threads: Says which threads to keep.
        kinds: The stack has a frame of one of these kinds.
        include: The pattern finds the display name of a frame in the stack.
        exclude: The pattern finds none.
        vm_states: V8 did one of these.
        states: The thread ran, or waited, in one of these ways.
        start_ns: Taken at this time (CLOCK_MONOTONIC) or later.
        end_ns: Taken before this time.
    """
    conditions: list[tuple[bytearray, bool]] = []
    if kinds is not None:
        wanted = frozenset(kinds)
        conditions.append((_rows_with(profile, lambda frame: frame.kind in wanted), True))
    if include is not None:
        conditions.append((_rows_found(profile, include), True))
    if exclude is not None:
        conditions.append((_rows_found(profile, exclude), False))
    kept_threads = [threads is None or threads(thread) for thread in profile.threads]

    def keeps(sample: int) -> bool:
        time, row = profile.time_ns[sample], profile.stack[sample]
        return (
            kept_threads[profile.thread[sample]]
            and (start_ns is None or time >= start_ns)
            and (end_ns is None or time < end_ns)
            and (vm_states is None or profile.vm_state[sample] in vm_states)
            and (states is None or profile.state[sample] in states)
            and all((row >= 0 and bool(found[row])) is expected for found, expected in conditions)
        )

    result = _like(profile)
    map_row = _map_rows(profile, _copier(profile, result))
    samples = [sample for sample in range(len(profile)) if keeps(sample)]
    rows = array("i", (map_row(profile.stack[sample]) for sample in samples))
    return _copy_columns(profile, result, rows, samples)


def cut(profile: Profile, start_ns: int = 0, end_ns: int | None = None) -> Profile:
    """Keep the samples of a part of the recording, and say so in its metadata.

    Args:
        profile: Where from.
        start_ns: Since the recording's start.
        end_ns: Since the recording's start; None is its end.

    Raises:
        JsspyError: Its samples have no times (it was imported from a format without them).
    """
    first, last = min(profile.time_ns, default=0), max(profile.time_ns, default=0)
    if first == last and len(profile) > 1:
        raise JsspyError("samples without times cannot be cut by time")
    begin = profile.meta.start_ns or first
    result = filter_samples(
        profile,
        start_ns=begin + start_ns,
        end_ns=None if end_ns is None else begin + end_ns,
    )
    meta = result.meta
    whole_ns = meta.duration_ns or last - begin
    meta.start_ns = begin + start_ns
    meta.duration_ns = max(min(whole_ns, whole_ns if end_ns is None else end_ns) - start_ns, 0)
    if meta.start_time_unix_ns:
        meta.start_time_unix_ns += start_ns
    return result


def merge(profiles: Sequence[Profile]) -> Profile:
    """Put profiles together, samples in order of time; threads with equal pid and tid are one.

    Of pauses only count, sum and maximum can be merged; the quantiles given are the largest.

    Raises:
        JsspyError: The profiles measure different things.
    """
    if len({profile.meta.value_type for profile in profiles}) > 1:
        kinds = ", ".join(sorted({profile.meta.value_type.value for profile in profiles}))
        raise JsspyError(f"profiles of different kinds cannot be merged: {kinds}")
    result = Profile(_merged_meta([profile.meta for profile in profiles]))
    result.stats = _merged_stats([profile.stats for profile in profiles])
    order = sorted(
        (time, number, sample)
        for number, profile in enumerate(profiles)
        for sample, time in enumerate(profile.time_ns)
    )
    threads = [[result.intern_thread(info) for info in profile.threads] for profile in profiles]
    maps = [_map_rows(profile, _copier(profile, result)) for profile in profiles]
    for time, number, sample in order:
        profile = profiles[number]
        if sample in profile.truncated:
            result.truncated[len(result)] = profile.truncated[sample]
        result.add_row(
            maps[number](profile.stack[sample]),
            threads[number][profile.thread[sample]],
            time,
            profile.weight[sample],
            profile.state[sample],
            profile.vm_state[sample],
        )
    for profile in profiles:
        for url, text in profile.sources.items():
            result.sources.setdefault(url, text)
    return result


def _merged_meta(metas: Sequence[ProfileMeta]) -> ProfileMeta:
    if not metas:
        return ProfileMeta()
    starts = [meta for meta in metas if meta.start_ns]
    periods = {meta.period_ns for meta in metas}

    def words(values: Iterable[str]) -> str:
        return ", ".join(
            dict.fromkeys(word for value in values for word in value.split(", ") if word)
        )

    start = min((meta.start_ns for meta in starts), default=0)
    end = max((meta.start_ns + meta.duration_ns for meta in starts), default=0)
    return ProfileMeta(
        value_type=metas[0].value_type,
        period_ns=periods.pop() if len(periods) == 1 else 0,
        start_time_unix_ns=min(
            (meta.start_time_unix_ns for meta in metas if meta.start_time_unix_ns), default=0
        ),
        start_ns=start,
        duration_ns=max(end - start, *(meta.duration_ns for meta in metas)),
        engine=words(meta.engine for meta in metas),
        command=words(meta.command for meta in metas),
        node_version=words(meta.node_version for meta in metas),
        v8_version=words(meta.v8_version for meta in metas),
        jsspy_version=words(meta.jsspy_version for meta in metas),
        notes=list(dict.fromkeys(note for meta in metas for note in meta.notes)),
    )


def _merged_stats(parts: Sequence[SamplingStats]) -> SamplingStats:
    result = SamplingStats(
        requested=sum(part.requested for part in parts),
        idle=sum(part.idle for part in parts),
        js_frames=sum(part.js_frames for part in parts),
        js_frames_named=sum(part.js_frames_named for part in parts),
        profiler_cpu_ns=sum(part.profiler_cpu_ns for part in parts),
    )
    for part in parts:
        for reason, count in part.lost.items():
            result.lost[reason] = result.lost.get(reason, 0) + count
        for why, count in part.truncated.items():
            result.truncated[why] = result.truncated.get(why, 0) + count
    pauses = [part.pauses for part in parts]
    result.pauses = PauseStats(
        sum(pause[0] for pause in pauses),
        max((pause.p50_ns for pause in pauses), default=0),
        max((pause.p99_ns for pause in pauses), default=0),
        max((pause.max_ns for pause in pauses), default=0),
        sum(pause.total_ns for pause in pauses),
    )
    return result


def _like(profile: Profile) -> Profile:
    """Return a profile with everything but frames, stacks and samples."""
    result = Profile(copy.deepcopy(profile.meta))
    result.stats = copy.deepcopy(profile.stats)
    for thread in profile.threads:
        result.intern_thread(thread)
    result.sources = dict(profile.sources)
    return result


def _append(profile: Profile, caller: int, frame: Frame) -> int:
    return profile.stacks.intern(caller, profile.intern_frame(frame))


def _copier(profile: Profile, result: Profile) -> Step:
    """Return the step that keeps frames as they are."""
    return lambda caller, row: _append(result, caller, profile.frames[profile.stacks.frame[row]])


def _map_rows(profile: Profile, step: Step, root: int = -1) -> Callable[[int], int]:
    """Return a function from old rows to new ones that takes a step per row and stack only once.

    Args:
        profile: Whose rows.
        step: Maps one row, given what its caller was mapped to.
        root: What the callers of roots, and the empty stack, are mapped to.
    """
    parents = profile.stacks.parent
    mapped = array("i", [_NOT_MAPPED]) * len(parents)
    pending: list[int] = []

    def map_row(row: int) -> int:
        while row >= 0 and mapped[row] == _NOT_MAPPED:
            pending.append(row)
            row = parents[row]
        result = mapped[row] if row >= 0 else root
        while pending:
            row = pending.pop()
            result = mapped[row] = step(result, row)
        return result

    return map_row


def _rows_with(profile: Profile, holds: Callable[[Frame], bool]) -> bytearray:
    """Say of each row whether it or one of its callers is a frame of which `holds` is true."""
    marks = [holds(frame) for frame in profile.frames]
    stacks = profile.stacks
    found = bytearray(len(stacks))
    for row, (parent, frame) in enumerate(zip(stacks.parent, stacks.frame, strict=True)):
        found[row] = marks[frame] or (parent >= 0 and found[parent])
    return found


def _rows_found(profile: Profile, pattern: re.Pattern[str]) -> bytearray:
    """Say of each row whether the pattern finds its display name or that of one of its callers."""
    return _rows_with(profile, lambda frame: pattern.search(display_name(frame)) is not None)


def _copy_samples(profile: Profile, result: Profile, map_row: Callable[[int], int]) -> Profile:
    """Append all samples to `result`, with mapped rows."""
    rows = array("i", map(map_row, profile.stack))
    return _copy_columns(profile, result, rows, range(len(profile)))


def _copy_columns(
    profile: Profile, result: Profile, rows: array[int], samples: Sequence[int]
) -> Profile:
    """Append the samples with these indexes, and rows of their own, to `result`."""
    result.stack.extend(rows)
    result.thread.extend(profile.thread[sample] for sample in samples)
    result.time_ns.extend(profile.time_ns[sample] for sample in samples)
    result.weight.extend(profile.weight[sample] for sample in samples)
    result.state.extend(profile.state[sample] for sample in samples)
    result.vm_state.extend(profile.vm_state[sample] for sample in samples)
    for index, sample in enumerate(samples):
        if sample in profile.truncated:
            result.truncated[index] = profile.truncated[sample]
    return result
