"""Transforms keep what they must keep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import JsspyError
from jsspy.model import transform
from jsspy.model.names import VM_KINDS, display_name
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.stack import Frame, FrameKind, Location, Truncation
from jsspy.model.transform import Grouping
from jsspy.model.units import Pid, Tid
from profiles import (
    ARRAY_MAP,
    CORE,
    ENTRY,
    HOT,
    HOT_ELSEWHERE,
    LODASH,
    MAIN,
    MAIN_THREAD,
    START,
    WORKER_THREAD,
    WRITE,
    deep,
    js,
    profile_of,
    small,
)

FRAMES = (
    ENTRY,
    START,
    MAIN,
    HOT,
    HOT_ELSEWHERE,
    LODASH,
    CORE,
    WRITE,
    ARRAY_MAP,
    Frame("", FrameKind.JS),
)
THREADS = (MAIN_THREAD, WORKER_THREAD, ThreadInfo(Pid(7), Tid(7), "main"))
HOT_PATTERN = re.compile(r"^hot ")


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Return a small profile, with times and weights of its own."""
    profile = Profile(ProfileMeta(period_ns=draw(st.sampled_from((0, 5, 10)))))
    for _ in range(draw(st.integers(0, 8))):
        row = -1
        for frame in draw(st.lists(st.sampled_from(FRAMES), max_size=6)):
            row = profile.stacks.intern(row, profile.intern_frame(frame))
        thread = profile.intern_thread(draw(st.sampled_from(THREADS)))
        if draw(st.booleans()):
            profile.truncated[len(profile)] = draw(st.sampled_from(Truncation))
        profile.add_row(row, thread, draw(st.integers(0, 20)), draw(st.integers(0, 1 << 40)))
    profile.stats.requested = len(profile)
    return profile


REGROUPING: dict[str, Callable[[Profile], Profile]] = {
    **{
        f"group-{by.value}": lambda profile, by=by: transform.group(profile, by)  # type: ignore[misc]  # mypy does not infer a lambda with a default
        for by in Grouping
    },
    "hide": lambda profile: transform.hide(profile, VM_KINDS),
    "fold": transform.fold_recursion,
    "trim": lambda profile: transform.trim_root(profile, HOT_PATTERN),
    "invert": transform.invert,
    "threads": transform.add_threads,
    "truncated": transform.mark_truncated,
    "filter": transform.filter_samples,
    "merge": lambda profile: transform.merge([profile]),
}


def samples(profile: Profile) -> Counter[object]:
    """Return the samples with everything that they say, as a multiset."""
    return Counter(
        (
            profile.stack_frames(row),
            profile.threads[thread],
            time,
            weight,
            profile.truncated.get(index),
        )
        for index, (row, thread, time, weight) in enumerate(
            zip(profile.stack, profile.thread, profile.time_ns, profile.weight, strict=True)
        )
    )


def shape(profile: Profile) -> tuple[object, ...]:
    """Return all that a profile holds."""
    return (
        profile.meta,
        profile.stats,
        profile.frames,
        list(profile.stacks.parent),
        list(profile.stacks.frame),
        profile.threads,
        list(profile.stack),
        list(profile.thread),
        list(profile.time_ns),
        list(profile.weight),
        profile.truncated,
    )


def test_truncated_stacks_have_a_root_of_their_own() -> None:
    profile = profile_of((MAIN, HOT), (HOT,), ())
    profile.truncated = {1: Truncation.TOO_DEEP, 2: Truncation.STALE}
    marked = transform.mark_truncated(profile)
    shown = [[display_name(f) for f in marked.stack_frames(row)] for row in marked.stack]
    assert shown[0] == [display_name(MAIN), display_name(HOT)]
    assert shown[1] == ["(truncated: too-deep)", display_name(HOT)]
    assert shown[2] == ["(truncated: stale)"]
    assert marked.truncated == profile.truncated


@pytest.mark.parametrize("name", REGROUPING)
@given(profile=profiles())
def test_regrouping_keeps_every_sample(name: str, profile: Profile) -> None:
    before = samples(profile)
    result = REGROUPING[name](profile)
    result.check()
    assert samples(profile) == before
    assert list(result.weight) == list(profile.weight) or name == "merge"
    assert result.total_weight() == profile.total_weight()
    assert Counter(result.time_ns) == Counter(profile.time_ns)
    assert result.stats == profile.stats
    assert Counter(result.truncated.values()) == Counter(profile.truncated.values())


@pytest.mark.parametrize("name", REGROUPING)
def test_deep_stacks_need_no_recursion(name: str) -> None:
    profile = deep()
    assert REGROUPING[name](profile).total_weight() == profile.total_weight()


@given(profile=profiles(), limit=st.integers(0, 20))
def test_a_filter_and_its_complement_are_everything(profile: Profile, limit: int) -> None:
    for kept, dropped in (
        (
            transform.filter_samples(profile, include=HOT_PATTERN),
            transform.filter_samples(profile, exclude=HOT_PATTERN),
        ),
        (
            transform.filter_samples(profile, end_ns=limit),
            transform.filter_samples(profile, start_ns=limit),
        ),
        (
            transform.filter_samples(profile, threads=lambda thread: thread.tid == 7),
            transform.filter_samples(profile, threads=lambda thread: thread.tid != 7),
        ),
    ):
        assert samples(kept) + samples(dropped) == samples(profile)


@given(one=profiles(), two=profiles(), three=profiles())
def test_merge_is_associative_and_keeps_everything(
    one: Profile, two: Profile, three: Profile
) -> None:
    whole = transform.merge([one, two, three])
    whole.check()
    assert shape(whole) == shape(transform.merge([transform.merge([one, two]), three]))
    assert shape(whole) == shape(transform.merge([one, transform.merge([two, three])]))
    assert samples(whole) == samples(one) + samples(two) + samples(three)
    assert list(whole.time_ns) == sorted(whole.time_ns)


@given(profile=profiles())
def test_inverting_twice_changes_nothing(profile: Profile) -> None:
    assert samples(transform.invert(transform.invert(profile))) == samples(profile)


def test_merge_refuses_different_kinds() -> None:
    with pytest.raises(JsspyError, match="cpu, wall"):
        transform.merge([Profile(), Profile(ProfileMeta(value_type=ValueType.WALL))])


def stacks(profile: Profile) -> list[list[str]]:
    """Return the display names of each sample's stack, root first."""
    return [[display_name(frame) for frame in profile.stack_frames(row)] for row in profile.stack]


def test_group_by_function_merges_lines_and_tiers() -> None:
    result = transform.group(profile_of((MAIN, HOT), (MAIN, HOT_ELSEWHERE)), Grouping.FUNCTION)
    assert len(result.stacks) == 2
    assert stacks(result)[0] == ["(anonymous) /app/main.js:1", "hot /app/lib/hot.js:10"]


def test_group_by_line_shows_the_executing_line() -> None:
    result = transform.group(profile_of((MAIN, HOT), (MAIN, HOT_ELSEWHERE)), Grouping.LINE)
    assert [stack[-1] for stack in stacks(result)] == [
        "hot /app/lib/hot.js:12",
        "hot /app/lib/hot.js:14",
    ]


def test_group_by_file_and_package_fold_calls_within() -> None:
    profile = profile_of((START, MAIN, HOT, HOT, LODASH, LODASH, CORE))
    assert stacks(transform.group(profile, Grouping.PACKAGE)) == [
        ["(native)", "(app)", "lodash@4.17.21+x", "node:"]
    ]
    assert stacks(transform.group(profile, Grouping.FILE)) == [
        [
            "/usr/bin/node",
            "/app/main.js",
            "/app/lib/hot.js",
            "/app/node_modules/.pnpm/lodash@4.17.21+x/node_modules/lodash/lodash.js",
            "node:fs",
        ]
    ]


def test_fold_recursion_keeps_what_is_between() -> None:
    recursive = profile_of((MAIN, HOT, HOT_ELSEWHERE, HOT, CORE, HOT))
    assert [name.split()[0] for name in stacks(transform.fold_recursion(recursive))[0]] == [
        "(anonymous)",
        "hot",
        "readFileSync",
        "hot",
    ]


def test_trim_root_leaves_stacks_without_a_match_whole() -> None:
    trimmed = transform.trim_root(profile_of((MAIN, HOT, CORE), (MAIN, CORE), (MAIN,)), HOT_PATTERN)
    assert [[name.split()[0] for name in stack] for stack in stacks(trimmed)] == [
        ["hot", "readFileSync"],
        ["(anonymous)", "readFileSync"],
        ["(anonymous)"],
    ]


def test_hide_moves_callees_up() -> None:
    hidden = transform.hide(profile_of((START, ENTRY, MAIN), (ENTRY,)), {FrameKind.VM_FRAME})
    assert [len(stack) for stack in stacks(hidden)] == [2, 0]


def test_filter_by_kind() -> None:
    kernel = transform.filter_samples(small(), kinds={FrameKind.KERNEL})
    assert len(kernel) == 1


def test_add_threads_names_them() -> None:
    result = transform.add_threads(small())
    assert {stack[0] for stack in stacks(result)} == {"main (4242/4242)", "worker 1 (4242/4250)"}


def test_unused_rows_and_frames_are_left_out() -> None:
    profile = profile_of((MAIN,))
    profile.stacks.intern(-1, profile.intern_frame(js("unused")))
    assert len(transform.group(profile, Grouping.FUNCTION).frames) == 1


MAPPED = HOT._replace(
    original=Location("/src/hot.ts", 40, 3),
    original_name="hotter",
    original_definition=Location("/src/hot.ts", 33, 7),
)


def test_source_mapping_can_be_undone() -> None:
    result = transform.show_generated(profile_of((MAIN, MAPPED), (MAIN, HOT)))
    assert result.frames == [MAIN, HOT]
    assert len(result) == 2


def test_lines_are_those_that_were_written() -> None:
    frame = transform.coarser(MAPPED, Grouping.LINE)
    assert display_name(frame) == "hotter /src/hot.ts:40"
    assert display_name(transform.coarser(MAPPED, Grouping.FUNCTION)) == "hotter /src/hot.ts:33"
