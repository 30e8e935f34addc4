"""text, raw and fullraw: the bytes of node-flame, and what stackcollapse.pl makes of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.formats import FORMATS
from jsspy.formats.raw import FullRaw
from jsspy.formats.text import classic_name
from jsspy.model.stack import Frame, FrameKind, Location
from profiles import HOT, MAIN, PERIOD_NS, hostile, js, profile_of, small, written

GOLDEN = Path(__file__).parents[2] / "golden"


def plain(name: str) -> Frame:
    return Frame(name, FrameKind.UNKNOWN)


def test_the_text_that_node_stap_asserts() -> None:
    stacks = [
        ["main", "foo", "bar"],
        ["main", "foo", "baz"],
        ["main", "parse", "strlen"],
        ["__start"],
    ]
    profile = profile_of(*(tuple(map(plain, stack)) for stack in stacks))
    assert written(FORMATS["text"], profile).decode() == (
        "Total samples: 4\n"
        "3 main\n"
        "  2 foo\n"
        "    1 bar\n"
        "    1 baz\n"
        "  1 parse\n"
        "    1 strlen\n"
        "1 __start\n"
        "\n"
    )


def test_missing_parts_are_spelled_as_node_flame_does() -> None:
    frames = {
        "foo:/a.js:3": js("foo", "/a.js", 3),
        "[empty]:/a.js:3": js("", "/a.js", 3),
        "foo:[empty]:[unknown]": Frame("foo", FrameKind.JS),
        "foo:/a.js:[unknown]": Frame("foo", FrameKind.JS, definition=Location("/a.js")),
        "write:[native]": Frame("write", FrameKind.NATIVE),
        "Unknown:[native]": Frame("", FrameKind.NATIVE),
        "[entry frame]": Frame("[entry frame]", FrameKind.VM_FRAME),
    }
    for spelling, frame in frames.items():
        assert classic_name(frame) == spelling


def test_the_bytes_of_raw() -> None:
    profile = profile_of((MAIN, js("foo", "/tmp/a/b/foo.js", 10)), (js("x", "rel/path.js", 3),))
    head = " \n \n \n"
    assert written(FORMATS["fullraw-exact"], profile).decode() == (
        head + "foo:/tmp/a/b/foo.js:10\n[empty]:/app/main.js:1\n   1\nx:rel/path.js:3\n   1\n"
    )
    assert written(FORMATS["raw-exact"], profile).decode() == (
        head + "foo:foo.js:10\n[empty]:main.js:1\n   1\nx:relpath.js:3\n   1\n"
    )
    assert written(FORMATS["raw"], profile).decode() == (
        head + "foo:foo.js:10\n[empty]:main.js:1\n   1\nx:path.js:3\n   1\n"
    )


def collapse(raw: str) -> Counter[str]:
    """Do what stackcollapse.pl does, by its rules (formats of FlameGraph at 41fee1f)."""
    folded: Counter[str] = Counter()
    stack: list[str] = []
    for line in raw.split("\n")[3:]:
        if re.fullmatch(r"\s*[0-9]+", line):
            folded[";".join(reversed(stack))] += int(line)
            stack = []
        elif line.strip():
            frame = re.sub(r"\+[^+]*$", "", line.lstrip())
            frame = re.sub(r"(::.*)[(<].*", r"\1", frame) or "-"
            assert "->" not in frame
            stack.append(frame.replace(";", ":").removeprefix("L"))
    assert not stack
    return folded


def expected(profile_frames: list[tuple[Frame, ...]]) -> Counter[str]:
    """Fold the spellings of fullraw without any detour."""

    def spelling(frame: Frame) -> str:
        text = classic_name(frame).replace("->", "=>").replace(";", ":").strip()
        return text + ":" if text.isdigit() else text

    return Counter(";".join(map(spelling, frames)) for frames in profile_frames)


@given(
    st.lists(
        st.builds(
            lambda name, path: js(name, f"/app/{path}.js", 3),
            st.text(st.sampled_from("abL+-><(:;/ 1'\"{")),
            st.text(st.sampled_from("abL+@/(:<")),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_raw_survives_stackcollapse(frames: list[Frame]) -> None:
    profile = profile_of(tuple(frames), tuple(frames[:1]), tuple(frames))
    raw = written(FullRaw(), profile).decode()
    stacks = [profile.stack_frames(row) for row in profile.stack]
    assert collapse(raw) == expected(stacks)


def test_raw_of_hostile_names_keeps_every_sample() -> None:
    assert collapse(written(FullRaw(), hostile()).decode()).total() == len(hostile())


@pytest.mark.parametrize("name", ["folded", "folded-annotated", "folded-time"])
def test_folded_lines_have_one_number(name: str) -> None:
    for line in written(FORMATS[name], hostile()).decode().splitlines():
        stack = re.fullmatch(r"(.*) [0-9]+", line)
        assert stack, line
        for frame in stack[1].split(";"):
            assert not re.search(r"\s[0-9.]+$", frame), frame
            assert frame.strip() == frame
            assert frame


def test_folded_counts_nanoseconds_if_samples_weigh_differently() -> None:
    profile = profile_of((MAIN,), (MAIN, HOT))
    profile.weight[1] = 7
    lines = written(FORMATS["folded"], profile).decode().splitlines()
    assert lines == [
        "(anonymous) /app/main.js:1 10000000",
        "(anonymous) /app/main.js:1;hot /app/lib/hot.js:10 7",
    ]


def test_folded_time_keeps_the_order_of_each_thread() -> None:
    lines = written(FORMATS["folded-time"], small()).decode().splitlines()
    assert [line.split(";")[0] for line in lines] == ["main (4242)"] * 11 + ["worker 1 (4250)"] * 2
    assert lines[0].endswith("hot /app/lib/hot.js:10_[j] 2")


def folded(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        counts[stack] += int(count)
    return counts


@pytest.mark.parametrize("name", ["raw", "fullraw"])
def test_what_stackcollapse_printed(name: str) -> None:
    raw = written(FORMATS[name], small()).decode()
    assert collapse(raw) == folded((GOLDEN / f"collapsed.{name}").read_text("utf-8"))


def test_what_stackcollapse_perf_printed_is_the_annotated_folded_file() -> None:
    printed: Counter[str] = Counter()
    for stack, weight in folded((GOLDEN / "collapsed.perf-script").read_text("utf-8")).items():
        printed[stack.partition(";")[2]] += weight // PERIOD_NS  # without the thread's name
    expected: Counter[str] = Counter()
    for stack, count in folded(written(FORMATS["folded-annotated"], small()).decode()).items():
        spelled = stack.replace("(int, char**)", "").replace("_[i]", "")
        expected[spelled.translate(str.maketrans("()", "[]"))] += count
    assert printed == expected
