"""What readers make of other people's files, and of nonsense."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import JsspyError, MalformedData
from jsspy.formats import FORMATS, load_profile, load_readers, read_profile
from jsspy.formats import input as input_module
from jsspy.formats.imported import frame_of_label
from jsspy.model import transform
from jsspy.model.names import VM_KINDS, display_name
from jsspy.model.profile import Profile, ValueType
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location
from profiles import MAIN, hostile, js, profile_of, small, written


def read(name: str, data: bytes | str) -> Profile:
    """Read with the reader of this name."""
    reader = next(reader for reader in load_readers() if reader.name == name)
    profile = reader.read(io.BytesIO(data.encode() if isinstance(data, str) else data))
    profile.check()
    return profile


def stacks(profile: Profile) -> list[tuple[list[str], int]]:
    """Return display names, root first, and weight of each sample."""
    return [
        ([display_name(frame) for frame in profile.stack_frames(row)], weight)
        for row, weight in zip(profile.stack, profile.weight, strict=True)
    ]


@pytest.mark.parametrize("reader", load_readers(), ids=lambda reader: reader.name)
@given(data=st.binary(max_size=300))
def test_any_bytes_end_well(reader: Any, data: bytes) -> None:
    reader.matches(data, "x")
    with suppress(MalformedData):
        reader.read(io.BytesIO(data)).check()


PREFIXES = {
    "v8-log": b"v8-version,1,2,3,4,-,0\ncode-creation,LazyCompile,0,1,0x1,10,",
    "perf-script": b"node 1 2.3: 1 cpu-clock:\n ab ",
    "stap": b'ubt["',
    "dtrace": b" \n \n \n",
}
"""What a reader has to have seen before it looks closely at a line."""
UNITS = (b" ", b"\t", b"1", b"1 ", b":", b'"', b"[", b"+0x1", b" (", b"(", b";", b"->", b",", b"`",
         b"/", b".1", b"a 1 1.", b" ab", b" ab x (y)", b"a:1 ")  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_long_lines_take_no_longer_than_their_length(unit: bytes) -> None:
    """What takes the square of it would not end within the test's time."""
    for reader in load_readers():
        for prefix in (b"", PREFIXES.get(reader.name, b"")):
            for end in (b"\n", b" x\n", b" (x)\n"):
                with suppress(MalformedData):
                    reader.read(io.BytesIO(prefix + unit * 200_000 + end))


@pytest.mark.parametrize(
    "name", [reader.name for reader in load_readers() if reader.name in FORMATS]
)
@given(data=st.data())
def test_mutations_end_well(name: str, data: st.DataObject) -> None:
    content = bytearray(SMALL[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"-1", b"[", b"1e999", b"null", b'"'])
        )
    with suppress(MalformedData):
        read(name, bytes(content))


SMALL = {name: written(FORMATS[name], small()) for name in FORMATS if name != "html"}


@pytest.mark.parametrize("name", ["folded", "folded-annotated"])
@pytest.mark.parametrize("make", [small, hostile])
def test_folded_that_we_read_is_folded_that_we_wrote(name: str, make: Any) -> None:
    profile = make()
    data = written(FORMATS[name], profile)
    assert written(FORMATS[name], read("folded", data)) == data


def test_folded_frames_keep_kind_and_place() -> None:
    cases = {
        "foo /app/a.js:10_[j]": js("foo", "/app/a.js", 10),
        "(anonymous) node:fs:3_[j]": js("", "node:fs", 3),
        "get x /a b/c d.js:1_[i]": js("get x", "/a b/c d.js", 1, inlined=True),
        "do_syscall_64_[k]": Frame("do_syscall_64", FrameKind.KERNEL),
        "Builtin:ArrayMap": Frame("ArrayMap", FrameKind.BUILTIN),
        "foo /app/a.js:10": js("foo", "/app/a.js", 10),
        "main.c:10": Frame("main.c:10", FrameKind.UNKNOWN),
        "f (a.py:12)": Frame("f (a.py:12)", FrameKind.UNKNOWN),
        "v8::Call(int)": Frame("v8::Call(int)", FrameKind.UNKNOWN),
    }
    for label, frame in cases.items():
        found = frame_of_label(label)
        assert (found.name, found.kind, found.inlined) == (frame.name, frame.kind, frame.inlined)
        assert (found.definition and found.definition[:2]) == (
            frame.definition and frame.definition[:2]
        )


def test_folded_counts_are_not_guessed() -> None:
    assert stacks(read("folded", "# a comment\na;b 10\r\n\na;c\0  3\n")) == [
        (["a", "b"], 10),
        (["a", "c"], 3),
    ]
    for bad in ("a;b\n", "a;b 1.5\n", "a;b -1\n", "a 1\na;b\n", f"a {1 << 63}\n", "12\n"):
        with pytest.raises(MalformedData):
            read("folded", bad)


def test_long_lines_and_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_module, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(input_module, "MAX_TEXT_BYTES", 1000)
    monkeypatch.setattr(input_module, "MAX_JSON_BYTES", 1000)
    for text in ("a" * 200 + " 1\n", "abc 1\n" * 200):
        with pytest.raises(MalformedData, match="too long"):
            read("folded", text)
    with pytest.raises(MalformedData, match="larger than"):
        read("speedscope", " " * 2000)


CPUPROFILE: dict[str, Any] = {
    "nodes": [
        {"id": 1, "callFrame": {"functionName": "(root)", "url": ""}, "children": [2, 3, 4]},
        {"id": 2, "callFrame": {"functionName": "(idle)", "url": ""}},
        {
            "id": 3,
            "callFrame": {
                "functionName": "hot",
                "scriptId": "81",
                "url": "file:///app/busy.js",
                "lineNumber": 2,
                "columnNumber": 12,
            },
        },
        {"id": 4, "callFrame": {"functionName": "(garbage collector)", "url": ""}},
    ],
    "startTime": 1000,
    "endTime": 5000,
    "samples": [3, 2, 4],
    "timeDeltas": [100, 1000, 2000],
}


def test_cpuprofile() -> None:
    profile = read("cpuprofile", json.dumps(CPUPROFILE))
    assert list(profile.time_ns) == [1_100_000, 2_100_000, 4_100_000]
    assert list(profile.weight) == [1_000_000, 2_000_000, 900_000]
    assert profile.state[1] is ThreadState.SLEEPING
    assert profile.vm_state == [VmState.UNKNOWN, VmState.IDLE, VmState.GC]
    (hot,) = profile.stack_frames(profile.stack[0])
    assert hot.definition == Location("file:///app/busy.js", 3, 13)
    assert (hot.name, hot.kind, hot.script_id) == ("hot", FrameKind.JS, 81)


def test_cpuprofile_with_parents_instead_of_children_and_hits_instead_of_samples() -> None:
    call = {"functionName": "f", "url": "/a.js", "lineNumber": 0, "columnNumber": 0}
    nodes = [
        {"id": 5, "callFrame": call, "parent": 7, "hitCount": 3},
        {"id": 7, "callFrame": call | {"functionName": "g"}, "parent": 1, "hitCount": 1},
        {"id": 1, "callFrame": {"functionName": "(root)"}, "hitCount": 0},
    ]
    profile = read("cpuprofile", json.dumps({"nodes": nodes}))
    assert profile.meta.value_type is ValueType.SAMPLES
    assert stacks(profile) == [(["g /a.js:1", "f /a.js:1"], 3), (["g /a.js:1"], 1)]


@pytest.mark.parametrize(
    "change",
    [
        {"samples": [9, 2, 4]},
        {"samples": [3]},
        {"timeDeltas": ["x", 1, 2]},
        {"timeDeltas": None},
        {"nodes": None},
        {"nodes": [1]},
        {"nodes": CPUPROFILE["nodes"] * 2},
        {"nodes": [{"id": 3, "callFrame": {"functionName": "a"}, "children": [3]}]},
        {"nodes": [{"id": 3, "callFrame": {"functionName": "a"}, "children": [{}]}]},
        {"nodes": [{"id": 3, "callFrame": None}]},
        {"nodes": [*CPUPROFILE["nodes"], {"id": 5, "callFrame": {}, "children": [3]}]},
        {"startTime": -5},
        {"startTime": 1e300},
    ],
)
def test_cpuprofile_that_contradicts_itself(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedData):
        read("cpuprofile", json.dumps(CPUPROFILE | change))


def test_cpuprofile_written_and_read() -> None:
    profile = profile_of((MAIN, js("a")), (MAIN, js("a")), (MAIN,))
    again = read("cpuprofile", written(FORMATS["cpuprofile"], profile))
    assert list(again.time_ns) == list(profile.time_ns)
    assert list(again.weight) == list(profile.weight)
    assert again.threads[0][:3] == profile.threads[0][:3]


def test_cpuprofile_fills_the_time_in_which_a_thread_slept() -> None:
    profile = profile_of((MAIN,), (MAIN,))
    profile.time_ns[1] += 1_000_000_000
    for idle, name in ((0, "(program)"), (3, "(idle)")):
        profile.stats.idle = idle
        again = read("cpuprofile", written(FORMATS["cpuprofile"], profile))
        assert stacks(again)[1] == ([name], 1_000_000_000)


def speedscope(**part: Any) -> str:
    """Return a file with one profile of two frames."""
    base = {"type": "sampled", "name": "x", "unit": "milliseconds", "startValue": 0, "endValue": 9}
    return json.dumps(
        {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "shared": {"frames": [{"name": "a", "file": "/x.js", "line": 3}, {"name": "b"}]},
            "profiles": [base | part],
        }
    )


def test_speedscope_sampled_and_evented() -> None:
    expected = [(["a /x.js:3"], 1_500_000), (["a /x.js:3", "b"], 2_000_000)]
    sampled = speedscope(samples=[[0], [0, 1]], weights=[1.5, 2])
    assert stacks(read("speedscope", sampled)) == expected
    events = [("O", 0, 0), ("O", 1, 1.5), ("C", 1, 3.5), ("C", 0, 3.5)]
    evented = speedscope(
        type="evented",
        events=[{"type": kind, "frame": frame, "at": at} for kind, frame, at in events],
    )
    assert stacks(read("speedscope", evented)) == expected


@pytest.mark.parametrize(
    "part",
    [
        {"samples": [[2]], "weights": [1]},
        {"samples": [[-1]], "weights": [1]},
        {"samples": [[0]], "weights": []},
        {"samples": [[0]], "weights": [-1]},
        {"samples": [[0]], "weights": [1e300]},
        {"samples": [["0"]], "weights": [1]},
        {"samples": [0], "weights": [1]},
        {"type": "heap"},
        {"type": "evented", "events": [{"type": "C", "frame": 0, "at": 1}]},
        {"type": "evented", "events": [{"type": "O", "frame": 0, "at": 1}]},
        {
            "type": "evented",
            "events": [{"type": "O", "frame": 0, "at": 2}, {"type": "C", "frame": 0, "at": 1}],
        },
    ],
)
def test_speedscope_that_contradicts_itself(part: dict[str, Any]) -> None:
    with pytest.raises(MalformedData):
        read("speedscope", speedscope(**part))


def test_speedscope_written_and_read() -> None:
    again = read("speedscope", written(FORMATS["speedscope"], small()))
    assert again.total_weight() == small().total_weight()
    assert [thread[:4] for thread in again.threads] == [t[:4] for t in small().threads]
    totals: Counter[tuple[str, ...]] = Counter()
    for stack, weight in stacks(again):
        totals[tuple(stack)] += weight
    shown = transform.hide(small(), VM_KINDS)
    expected: Counter[tuple[str, ...]] = Counter()
    for stack, weight in stacks(shown):
        expected[tuple(stack) or ("(no stack)",)] += weight
    assert totals == expected


def test_files_gzipped_and_not(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(SMALL["folded"]))
    assert load_profile(path).total_weight() == len(small())
    path.write_bytes(gzip.compress(SMALL["folded"])[:-12])
    with pytest.raises(MalformedData, match="gzip"):
        load_profile(path)
    path.write_bytes(b"\x1f\x8bnonsense")
    with pytest.raises(MalformedData, match="gzip"):
        load_profile(path)
    path.write_bytes(b"")
    with pytest.raises(MalformedData, match="not a profile"):
        load_profile(path)
    with pytest.raises(JsspyError, match="no such file"):
        load_profile(tmp_path / "absent")


def test_pipes_give_little_at_a_time() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(7, size) if size is not None and size > 0 else 7)

    assert read_profile(Slow(SMALL["jsspy"]), "-").total_weight() == small().total_weight()
