r"""One HTML file that draws its own flame graph: no network, no library, no build step.

What lives here is the packing: tables and columns of integers in, one inert block of text out. All
drawing, merging and searching is done by the scripts in `jsspy/ui`. The file keeps every row of the
stack table (so lines and tiers can be shown, glue frames hidden, recursion folded and time ranges
chosen without us), names once, and the samples in time order.

The block is base64 of zlib of:

    u32 size, little-endian | `size` bytes of JSON | the columns, in the order that the JSON gives

A column of n integers is stored as planes: n lowest bytes, then n second bytes, and so on up to the
last plane that is not all zero. Small integers then cost one byte or less once deflated, and taking
planes apart is a slice in Python and a loop in JavaScript.

Base64 cannot close the `<script>` element that it lies in, and the policy in the page's head lets
exactly two inline texts run, by hash: our script and our style. Names come from `model.names`, with
what turns the text around it written as an escape: `\u202e`.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, repeat
from typing import Any, BinaryIO, ClassVar

from jsspy.model import names
from jsspy.model.profile import Profile
from jsspy.model.sample import VmState
from jsspy.model.stack import Frame, FrameKind, Tier, Truncation
from jsspy.model.transform import mark_truncated

__all__ = ["GROUPS", "Html", "write_page"]

_SOURCE_LINE = 240
"""Characters kept of a source line: what a panel can show; minified files have huge lines."""

_TIERS: dict[Tier | None, int] = {None: 0} | {tier: i for i, tier in enumerate(Tier, start=1)}
_INLINED = len(_TIERS)
_VM_STATES = {state: index for index, state in enumerate(VmState)}

GROUPS = (
    "app", "dependency", "core", "builtin", "regexp", "wasm", "native", "kernel", "vm", "glue",
    "other",
)  # fmt: skip
"""What frames are coloured and filtered by, in the order of `GROUPS` in ui/page.js."""
_DEPENDENCY = GROUPS.index("dependency")
_GROUPS_BY_KIND = {
    FrameKind.REGEXP: "regexp",
    FrameKind.WASM: "wasm",
    FrameKind.VM_FRAME: "glue",
}
"""Kinds that are a group of their own; of all others, the origin is the group."""

_SCRIPTS = ("page.js", "tree.js", "graph.js", "panels.js", "timeline.js", "start.js")
_ON_ERROR = "error => { document.body.prepend(`Cannot draw: ${error}`); throw error }"
_BLANKS = re.compile(r" ?([=<>?:&|,;{}()\[\]*]) ?")

_Column = tuple[str, Sequence[int]]


class Html:
    """Writes an interactive flame graph: one offline file for any browser since 2023."""

    name: ClassVar[str] = "html"
    suffix: ClassVar[str] = ".html"
    description: ClassVar[str] = "interactive flame graph in one offline file, for any browser"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """Write `profile` to `out`."""
        write_page(profile, out)


def write_page(
    profile: Profile,
    out: BinaryIO,
    *,
    before: Sequence[int] | None = None,
    show_before: bool = False,
) -> None:
    """Write the page of a profile, or of a comparison.

    Args:
        profile: What is drawn.
        out: Where to.
        before: A second weight for each sample: then colours are the change from it.
        show_before: Widths are at first the second weights.
    """
    page, policy, style, script = _page()
    profile = mark_truncated(profile)
    title = names.clean(profile.meta.command) or "flame graph"
    parts = {
        "policy": policy,
        "title": html.escape(f"{title} · jsspy"),
        "style": style,
        "script": script,
        "data": base64.b64encode(_pack(profile, before, show_before)).decode("ascii"),
    }
    out.write(re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], page).encode())


@functools.cache
def _page() -> tuple[str, str, str, str]:
    """Return the page with its places to fill, its policy, the style and the script."""
    # Not before there is something to write: they take 7 ms to load.
    from importlib import resources

    files = resources.files("jsspy.ui")
    page, style, *scripts = (
        files.joinpath(name).read_text("utf-8") for name in ("page.html", "page.css", *_SCRIPTS)
    )
    # Indents and comments are for us, and so are blanks around operators; those are kept in lines
    # with a string or a pattern. In these files no literal goes over a line's end, or holds two
    # blanks before two slashes.
    body = "\n".join(scripts)
    style, body = (re.sub(r"(?m)^ *(?://.*)?\n?|  +//.*$", "", text) for text in (style, body))
    body = re.sub(r"(?m)^[^'\"`/\n]+$", lambda line: _BLANKS.sub(r"\1", line[0]), body)
    script = f"(async () => {{'use strict'\n{body}}})().catch({_ON_ERROR})"
    style = re.sub(r"/\*.*?\*/|\s*([{};,])\s*", r"\1", style)
    # Blanks between elements would be text nodes for the browser to keep.
    page = page.replace(">\n<", "><")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return page, policy, style, script


def _hash(text: str) -> str:
    """Return the source expression that lets exactly this inline text through."""
    import hashlib

    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class _Strings:
    """A table of distinct strings."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {"": 0}

    def add(self, text: str) -> int:
        return self.index.setdefault(text, len(self.index))


def _pack(profile: Profile, before: Sequence[int] | None, show_before: bool) -> bytes:
    """Return the compressed tables and columns of a profile."""
    strings = _Strings()
    frames = list(profile.frames)
    parent, frame = list(profile.stacks.parent), list(profile.stacks.frame)
    no_stack = len(parent)
    if -1 in profile.stack:
        # An empty stack has weight too: it is shown as a frame that says so.
        parent.append(-1)
        frame.append(len(frames))
        frames.append(names.NO_STACK)
    columns = [
        *_frame_columns(frames, strings),
        # Distance to the caller's row; from a root to row -1.
        ("row_up", [row - up for row, up in enumerate(parent)]),
        ("row_frame", frame),
        *_sample_columns(profile, no_stack, before),
    ]
    lines = _source_lines(profile, strings)
    packed = [(name, len(values), *_planes(values)) for name, values in columns]
    head = {
        "columns": [(name, count, planes) for name, count, planes, _ in packed],
        "strings": list(strings.index),
        "tiers": ["", *(tier.name.lower() for tier in Tier), "inlined"],
        "vmStates": [state.value for state in VmState],
        "threads": [
            (thread.pid, thread.tid, names.clean(thread.name), names.clean(thread.process_name))
            for thread in profile.threads
        ],
        "lines": lines,
        "meta": _meta(profile) | ({"before": show_before} if before is not None else {}),
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    blob = b"".join((len(text).to_bytes(4, "little"), text, *(data for *_, data in packed)))
    return zlib.compress(blob, 6)


def _frame_columns(frames: Sequence[Frame], strings: _Strings) -> Iterator[_Column]:
    """Yield the columns of functions and of frames, which are a function at a line and tier."""
    functions: dict[Frame, int] = {}
    rows: list[tuple[int, int, int]] = []
    for frame in frames:
        function = functions.setdefault(names.function_of(frame), len(functions))
        at = frame.original or frame.location
        tier = _INLINED if frame.inlined else _TIERS[frame.tier]
        rows.append((function, (at and at.line) or 0, tier))
    table: list[tuple[int, ...]] = []
    for function_frame in functions:
        place = names.place_of(function_frame)
        group = _group_of(function_frame)
        package = names.package_of(function_frame) if group == _DEPENDENCY else ""
        table.append(
            (
                strings.add(names.function_name(function_frame)),
                group,
                strings.add(
                    names.file_of(function_frame) if place or function_frame.module else ""
                ),
                (place and place.line) or 0,
                (place and place.column) or 0,
                strings.add(package),
            )
        )
    yield from _columns("fn", ("name", "group", "file", "line", "column", "package"), table)
    yield from _columns("frame", ("fn", "line", "tier"), rows)


def _group_of(frame: Frame) -> int:
    """Return the index of a frame's colour and filter in the viewer's legend."""
    group = _GROUPS_BY_KIND.get(frame.kind) or names.origin_of(frame).value
    return GROUPS.index(group)


def _columns(
    prefix: str, keys: Sequence[str], rows: Sequence[tuple[int, ...]]
) -> Iterator[_Column]:
    """Yield a named column for each position of the tuples in `rows`."""
    values: Iterable[Sequence[int]] = zip(*rows, strict=True) if rows else ((),) * len(keys)
    for key, column in zip(keys, values, strict=True):
        yield f"{prefix}_{key}", column


def _sample_columns(
    profile: Profile, no_stack: int, before: Sequence[int] | None
) -> Iterator[_Column]:
    """Yield the samples in time order; where there are no times, those that are alike as one."""
    start = min(profile.time_ns, default=0)
    timed = start != max(profile.time_ns, default=0)
    rows = zip(
        ((time - start) // 1000 for time in profile.time_ns),
        (no_stack if row < 0 else row for row in profile.stack),
        profile.thread,
        profile.weight,
        (_VM_STATES[state] for state in profile.vm_state),
        repeat(0, len(profile)) if before is None else before,
        strict=True,
    )
    samples: list[tuple[int, int, int, int, int, int]]
    if timed:
        samples = sorted(rows)
    else:
        merged: dict[tuple[int, int, int], tuple[int, int]] = {}
        for _, row, thread, weight, vm, base in rows:
            known = merged.get((row, thread, vm), (0, 0))
            merged[row, thread, vm] = known[0] + weight, known[1] + base
        samples = [(0, row, thread, w, vm, b) for (row, thread, vm), (w, b) in merged.items()]
    times = [0, *(time for time, *_ in samples)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    yield "sample_gap", gaps
    keys = ("row", "thread", "weight", "vm", "base")[: 5 if before is not None else 4]
    yield from _columns("sample", keys, [s[1 : 1 + len(keys)] for s in samples])


def _planes(values: Sequence[int]) -> tuple[int, bytes]:
    """Return the number of byte planes of a column of non-negative integers, and the planes."""
    count = (max(values, default=0).bit_length() + 7) // 8
    data = array("Q", values).tobytes()
    return count, b"".join(data[plane::8] for plane in range(count))


def _source_lines(profile: Profile, strings: _Strings) -> list[tuple[int, int, str]]:
    """Return (file, line, text) of every line that a frame executes and whose source is kept."""
    wanted = {
        (at.url, at.line)
        for frame in profile.frames
        if (at := frame.original or frame.location) and at.line and at.url in profile.sources
    }
    split = {url: profile.sources[url].splitlines() for url in {url for url, _ in wanted}}
    return [
        (
            strings.add(names.clean(names.path_of(url))),
            line,
            names.clean(split[url][line - 1].strip()[:_SOURCE_LINE]),
        )
        for url, line in sorted(wanted)
        if line <= len(split[url])
    ]


def _meta(profile: Profile) -> dict[str, Any]:
    """Return what is known about the recording, and the account of its samples."""
    meta, stats = profile.meta, profile.stats
    lost = {reason.value: count for reason, count in stats.lost.items() if count}
    # Of the samples that are shown: they may be a part of the recording.
    reasons = list(profile.truncated.values())
    truncated = {r.value: reasons.count(r) for r in Truncation if r in reasons}
    return {
        "command": names.clean(meta.command),
        "engine": names.clean(meta.engine),
        "node": names.clean(meta.node_version),
        "v8": names.clean(meta.v8_version),
        "jsspy": names.clean(meta.jsspy_version),
        "unit": meta.value_type.value,
        "period": meta.period_ns,
        "started": meta.start_time_unix_ns // 1_000_000,
        "duration": meta.duration_ns,
        "samples": len(profile),
        "requested": stats.requested,
        "idle": stats.idle,
        "lost": dict(sorted(lost.items())),
        "truncated": dict(sorted(truncated.items())),
        "pauses": stats.pauses._asdict(),
        "jsFrames": stats.js_frames,
        "jsFramesNamed": stats.js_frames_named,
        "profilerCpu": stats.profiler_cpu_ns,
        "notes": [names.clean(note) for note in meta.notes],
    }
