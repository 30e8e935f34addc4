"""Functions of every form that the language has: each stack must be one of the true ones.

The programs are in `tests/targets/corpus`. Each case calls its way down to `spin`, which stands
still for some milliseconds; its title is the chain of functions, root first, and trailing comments
name the lines on which they are then. The same is asked of V8 (`Error.stack`) at every stop, with
builtins and columns. So a sample is judged three times: by the table, by V8, and by the clock,
which says which case ran.

What the syntax of a line does not know is left out: every paragraph of a program is parsed by the
very Node first, and blanked if that fails, so that lines stay what they are.

A case runs as it is, and again after it has been called for as long as `HOT_MS` in harness.js: with
V8's default flags that is every tier that it would reach.
"""

from __future__ import annotations

import json
import re
import select
import shutil
import subprocess
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import NamedTuple

import pytest

import nodes
from jsspy.engines import ENGINES
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame, FrameKind, Tier, Truncation
from jsspy.recorder import Recorder
from recorded import require
from truth import SCRIPT_KINDS, LegacySite, Site, difference, legacy_difference

CORPUS = nodes.TARGETS / "corpus"
HARNESS = CORPUS / "harness.js"

PROGRAMS = {
    "functions.js": (0, 10),
    "classes.js": (4, 0),
    "asynchronous.js": (8, 0),
    "module.mjs": (12, 17),
    "worker.js": (10, 5),
    "modern.js": (12, 0),
}
"""Each program, and the first Node that can run any of it."""

FLAGS = {(10, "worker.js"): ("--experimental-worker",)}

LEFT_OUT = {
    ("classes.js", 4): 7,
    ("asynchronous.js", 8): 4,
    ("modern.js", 12): 4,
    ("modern.js", 14): 3,
}
"""Paragraphs that a line cannot parse, by program and major version."""

PROBE = """
var vm = require('vm'), text = '';
process.stdin.setEncoding('utf8');
process.stdin.on('data', function (data) { text += data; });
process.stdin.on('end', function () {
  console.log(JSON.stringify(JSON.parse(text).map(function (part) {
    try { new vm.Script("'use strict';" + part); return true; } catch (error) { return false; }
  })));
});
"""
_PARAGRAPH = re.compile(r"\n\n(?=test\(|// |harness\.start)")

VERSIONS = nodes.VERSIONS

RATE_HZ = 500
ROUNDS = 6
"""How often cases that no sample fell into are run again: on a busy machine we come late."""

END_SLACK_NS = 5_000_000
"""A thread is stopped some time after the time that its sample has; it may have gone on."""

MOST_LATE = {"ptrace": 0, "ebpf": 0.05, "perf": 0.05}
"""Engines that stop nothing read code up to 0.2 s after the sample, perf functions up to 10 ms, or
later where CPUs are few. What was thrown away or moved meanwhile has no name, or none of its lines,
or takes the functions that were inlined into it along. It never has another's name."""

MOST_LATE_LEGACY = 0.2
"""Of perf: what frames hold besides the function does not tell whose code it is before Node 10."""

LEAST_NAMED = 0.999
LEAST_NAMED_LEGACY = 0.99
LEAST_WHOLE = 0.995

NATIVE_CALLBACKS = {"runMicrotasks"}
"""Functions of Node's own in C++ that we name; `Error.stack` leaves them out."""

ANONYMOUS = "(anonymous)"
_CASE = re.compile(r"^\s*test\((?:(\d+), )?'([^']+)'", re.MULTILINE)
_MARK = re.compile(r"// ([^/]+)$")


class Stop(NamedTuple):
    """One stop of a program: which case, from when to when, and its stack, innermost first."""

    start_ns: int
    end_ns: int
    title: str
    sites: list[Site]


class Step(NamedTuple):
    """One function of a chain: how it is named, and the lines on which it may be."""

    names: frozenset[str]
    """More than one where V8 gives another name to the program than to its profiler."""
    lines: frozenset[int]
    """Empty: code that was made at run time; V8 alone knows."""


Chain = tuple[Step, ...]


@cache
def marked_lines(path: Path) -> dict[str, frozenset[int]]:
    """Return the lines that a file's trailing comments name."""
    lines: dict[str, frozenset[int]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        mark = _MARK.search(text)
        for name in mark[1].split(", ") if mark else ():
            lines[name] = lines.get(name, frozenset()) | {number}
    return lines


@cache
def prepared(version: str, program: str) -> tuple[str, int]:
    """Return a program without what a version of Node cannot parse, and how much that is."""
    parts = (CORPUS / program).read_text(encoding="utf-8")
    found = [0, *(match.end() for match in _PARAGRAPH.finditer(parts)), len(parts)]
    paragraphs = [parts[start:end] for start, end in pairwise(found)]
    if program.endswith(".mjs"):
        return parts, 0
    probe = subprocess.run(
        [nodes.find(version), "-e", PROBE],
        input=json.dumps(paragraphs),
        capture_output=True,
        text=True,
        check=True,
    )
    is_known = json.loads(probe.stdout)
    text = "".join(
        part if known else "\n" * part.count("\n")
        for part, known in zip(paragraphs, is_known, strict=True)
    )
    return text, is_known.count(False)


@cache
def table(program: str, text: str, major: int) -> dict[str, Chain]:
    """Return the cases of a program under a version of Node: title -> chain, root first."""
    marks = marked_lines(CORPUS / program)
    for other in ("exports.mjs", "required.js"):
        marks |= marked_lines(CORPUS / other)
    cases = {}
    for since, title in _CASE.findall(text):
        if int(since or 0) > major:
            continue
        chain: list[Step] = []
        for token in title.split(" > "):
            token, _, count = token.partition("*")  # noqa: PLW2901 - what is left of it
            names = frozenset("" if name == ANONYMOUS else name for name in token.split("|"))
            lines = [marks[name] for name in token.split("|") if name in marks]
            chain += [Step(names, lines[0] if lines else frozenset())] * int(count or 1)
        cases[title] = tuple(chain)
    assert cases, program
    return cases


def is_step(frame: Frame, step: Step) -> bool:
    """Whether a frame is the one that the table has."""
    is_named = frame.name in step.names or any(
        name.endswith("…") and frame.name.startswith(name[:-1]) for name in step.names
    )
    line = frame.location.line if frame.location is not None else None
    return is_named and (not step.lines or line in step.lines)


def ends_with(frames: Sequence[Frame], chain: Chain) -> bool:
    """Whether a stack, root first, ends with a chain."""
    return len(frames) >= len(chain) and all(
        is_step(frame, step) for frame, step in zip(frames[-len(chain) :], chain, strict=True)
    )


@dataclass
class Recorded:
    """A corpus program's profile, and what the program wrote down."""

    profile: Profile
    stops: list[Stop]
    in_worker: bool
    """Cases run in a thread that is not the main thread."""

    def stop_at(self, time_ns: int) -> Stop | None:
        """Return the stop that a time lies in."""
        index = bisect_right(self.stops, time_ns, key=lambda stop: stop.start_ns) - 1
        if index < 0 or time_ns > self.stops[index].end_ns:
            return None
        return self.stops[index]


def load_stops(path: Path) -> list[Stop]:
    """Read what a program wrote down."""
    stops = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            (start_s, start_ns), (end_s, end_ns) = record["start"], record["end"]
            sites = [tuple(site) for site in record["stack"]]
            stops.append(
                Stop(start_s * 10**9 + start_ns, end_s * 10**9 + end_ns, record["title"], sites)
            )
    return sorted(stops)


def record(version: str, program: Path, engine: str, cases: dict[str, Chain]) -> Recorded:
    """Run all cases of a program until a sample has shown each."""
    titles, is_legacy = list(cases), version in nodes.LEGACY
    flags = FLAGS.get((int(version.partition(".")[0]), program.name), ())
    path = program.with_suffix(".stops")
    with nodes.running(version, program, str(path), flags=flags, wait=False) as target:
        announced = json.loads(target.line())
        assert sorted(announced) == sorted(titles)
        target.wait_ready()
        require(ENGINES[engine], target.pid)
        assert target.process.stdin is not None
        assert target.process.stdout is not None
        rounds, is_done = 0, Event()
        missing = titles
        with Recorder(ENGINES[engine](RATE_HZ)) as recorder:
            recorder.add(target.pid)
            for _ in recorder.run(should_stop=is_done.is_set):
                recorded = Recorded(recorder.profile, [], program.name == "worker.js")
                if rounds:
                    if not select.select([target.process.stdout], [], [], 0)[0]:
                        continue
                    assert target.line() == "done"
                    recorded.stops = load_stops(path)
                    seen = {
                        judge(recorded, cases, index, is_legacy=is_legacy)[0]
                        for index in range(len(recorder.profile))
                    }
                    missing = [title for title in titles if title not in seen]
                if not missing or rounds == ROUNDS:
                    is_done.set()
                    continue
                rounds += 1
                target.process.stdin.write(json.dumps(missing) + "\n")
                target.process.stdin.flush()
            assert missing == []
            return recorded


def judge(
    recorded: Recorded, cases: dict[str, Chain], index: int, *, is_legacy: bool
) -> tuple[str, str]:
    """Judge one sample.

    Before V8 7.1 optimized code says only where it calls what is executing and what was inlined.

    Returns:
        The case that it shows ("": none), and what is wrong with it ("": nothing).
    """
    profile = recorded.profile
    thread = profile.threads[profile.thread[index]]
    if count_deoptimized(profile, index) or recorded.in_worker is (int(thread.tid) == thread.pid):
        return "", ""
    time_ns = profile.time_ns[index]
    stop = recorded.stop_at(time_ns)
    if index in profile.truncated:
        # It says so itself, and how many may be is asked below.
        return stop.title if stop is not None else "", ""
    frames = [
        frame
        for frame in profile.stack_frames(profile.stack[index])
        if frame.kind in SCRIPT_KINDS and frame.name not in NATIVE_CALLBACKS
    ]
    spins = [at for at, frame in enumerate(frames) if is_spin(frame)]
    is_placeless = is_legacy and bool(frames) and is_without_place(frames[-1])
    if not spins and is_placeless:
        if stop is None:
            return "", ""
        return stop.title, hidden_difference(frames, stop.sites)
    if not spins:
        if stop is not None and time_ns < stop.end_ns - END_SLACK_NS:
            return stop.title, "spin is not on the stack"
        return "", ""
    outer, inner = frames[: spins[0]], frames[spins[0] + 1 :]
    if len(spins) > 1 or (inner and inner[0].kind is not FrameKind.BUILTIN):
        is_harness = all(frame.name != "spin" for frame in inner)
        return "", "" if is_harness else "spin calls spin"
    lines = marked_lines(HARNESS)["spin"]
    location = frames[spins[0]].location
    if not is_placeless and (location is None or location.line not in lines):
        # Entering or leaving, or about to call begin and finish.
        is_ending = stop is None or time_ns >= stop.end_ns - END_SLACK_NS
        return "", "" if is_ending else f"spin at {location}"
    scripted = [frame for frame in outer if frame.kind is not FrameKind.BUILTIN]
    title = next((title for title, chain in cases.items() if ends_with(scripted, chain)), "")
    if not title:
        return "", "no such chain"
    if stop is None or time_ns >= stop.end_ns - END_SLACK_NS:
        return title, ""
    # `spin` itself is not among the sites: its line was judged above.
    same = {name: min(step.names) for step in cases[stop.title] for name in step.names}
    sites = [
        (site[0] and same.get(site[0], site[0]), *site[1:])
        for site in stop.sites
        # Closures of V8's own; they are glue to us.
        if site[0] is not None or site[2] is not None
    ]
    outer = [frame._replace(name=same.get(frame.name, frame.name)) for frame in outer]
    if is_legacy:
        wrong = legacy_difference(outer, as_legacy(sites))
    else:
        spin: Site = ("spin", None, location.line if location is not None else None, 0)
        wrong = difference([*outer, frames[spins[0]]], [spin, *sites])
    if not wrong and not is_legacy and len(outer) != len(sites):
        wrong = f"{len(outer)} frames of {len(sites)}"
    if not wrong and not ends_with(scripted, cases[stop.title]):
        wrong = f"the case is {stop.title}"
    return title, wrong


def count_deoptimized(profile: Profile, index: int) -> int:
    """Return how many functions have no name while V8 takes one of them off the stack."""
    frames = profile.stack_frames(profile.stack[index])
    if not any("Deoptimizer::" in frame.name for frame in frames):
        return 0
    return sum(frame.kind is FrameKind.UNKNOWN for frame in frames)


def is_late(frames: Sequence[Frame]) -> bool:
    """Whether something on a stack was gone when it was to be named."""
    return any(
        frame.kind is FrameKind.UNKNOWN
        or (frame.kind is FrameKind.JS and (frame.location is None or frame.location.line is None))
        for frame in frames
    )


def is_without_place(frame: Frame) -> bool:
    """Whether a frame is of optimized code that does not say where it is."""
    return frame.tier is Tier.OPTIMIZED and (frame.location is None or frame.location.line is None)


def hidden_difference(frames: Sequence[Frame], sites: Sequence[Site]) -> str:
    """Say where a stack differs from the root end of the true one; "" if nowhere."""
    count = sum(frame.kind is not FrameKind.BUILTIN for frame in frames)
    scripted = [at for at, site in enumerate(sites) if not (site[1] or "").startswith("native ")]
    if not 0 < count <= len(scripted):
        return f"{count} functions of {len(scripted)}"
    return legacy_difference(frames, as_legacy(sites[scripted[-count] :]))


def as_legacy(sites: Sequence[Site]) -> list[LegacySite]:
    """Return sites in the form that V8's own JavaScript is marked in, by its file here."""
    return [(*site, False) for site in sites]


def shown(frames: Sequence[Frame]) -> str:
    """Return the leaf end of a stack in one line."""
    parts = []
    for frame in frames[-60:]:
        at = frame.location.line if frame.location is not None else ""
        parts.append(f"{frame.tier.value if frame.tier else ''}{frame.name or ANONYMOUS}:{at}")
    return " > ".join(parts)


def is_spin(frame: Frame) -> bool:
    """Whether a frame is the one that stands still."""
    return (
        frame.name == "spin"
        and frame.location is not None
        and frame.location.url.endswith(HARNESS.name)
    )


CASES = [
    (version, program, engine)
    for engine in ENGINES
    for version in nodes.selected(VERSIONS)
    for program, since in PROGRAMS.items()
    if tuple(int(part) for part in version.split(".")[:2]) >= since
]


@pytest.mark.parametrize(("version", "program", "engine"), CASES)
def test_every_stack_is_a_true_one(version: str, program: str, engine: str, tmp_path: Path) -> None:
    major = int(version.partition(".")[0])
    text, left_out = prepared(version, program)
    assert left_out == LEFT_OUT.get((program, major), 0)
    for other in CORPUS.iterdir():
        shutil.copy(other, tmp_path)
    (tmp_path / program).write_text(text, encoding="utf-8")
    cases = table(program, text, major)
    recorded = record(version, tmp_path / program, engine, cases)
    profile = recorded.profile
    wrong: list[str] = []
    late: list[str] = []
    cut = excused = 0
    is_legacy = version in nodes.LEGACY
    for index in range(len(profile)):
        cut += profile.truncated.get(index) is Truncation.STACK_TOO_LARGE
        excused += count_deoptimized(profile, index)
        title, fault = judge(recorded, cases, index, is_legacy=is_legacy)
        if fault:
            frames = profile.stack_frames(profile.stack[index])
            told = f"{title}: {fault}: {shown(frames)}"
            (late if engine != "ptrace" and is_late(frames) else wrong).append(told)
    most_late = MOST_LATE_LEGACY if engine == "perf" and is_legacy else MOST_LATE[engine]
    allowed = most_late and 1 + most_late * len(profile)
    for found, most in (wrong, 0), (late, allowed):
        assert len(found) <= most, f"{len(found)} of {len(profile)}\n" + "\n".join(
            sorted(set(found))[:40]
        )
    stats = profile.stats
    least = LEAST_NAMED_LEGACY if is_legacy else LEAST_NAMED
    named = stats.js_frames_named + excused
    assert named >= (least - allowed / len(profile)) * stats.js_frames
    whole = len(profile) - len(profile.truncated)
    if engine == "perf":  # its dumps have a limit, and some stacks here are deeper
        whole += cut
    assert whole >= LEAST_WHOLE * len(profile) - (engine != "ptrace"), stats.truncated
