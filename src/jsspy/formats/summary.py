"""Summaries: what was sampled, where the time went, and what the reader should know.

`markdown` is for people, issues and chat; `json` holds the same for programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, ClassVar, NamedTuple

from jsspy.formats.output import dump_json, separated, write_text
from jsspy.formats.tree import Tree, shown_function
from jsspy.model.names import clean, display_place, function_name, origin_of, package_of
from jsspy.model.profile import Profile, ValueType
from jsspy.model.stack import Frame

_FUNCTIONS = 40
_PACKAGES = 20
_HOT_STACKS = 5
_STACK_FRAMES = 30
_NAME_CHARACTERS = 120
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


class _Share(NamedTuple):
    """What one function took."""

    function: Frame
    own: int
    total: int


class Markdown:
    """A summary for people."""

    name: ClassVar[str] = "markdown"
    suffix: ClassVar[str] = ".md"
    description: ClassVar[str] = "summary for people and issues: hot functions, packages, stacks"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, _markdown(profile))


class JsonSummary:
    """A summary for programs."""

    name: ClassVar[str] = "json"
    suffix: ClassVar[str] = ".json"
    description: ClassVar[str] = "summary for programs: every function with self and total"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, _json(profile))


def _shares(tree: Tree[Frame]) -> list[_Share]:
    """Return self and total of each function, the largest self first; recursion counts once."""
    own = [0] * len(tree.keys)
    total = [0] * len(tree.keys)
    open_count = [0] * len(tree.keys)
    totals = tree.totals()
    path: list[int] = []
    for node, depth in tree.walk():
        for key in path[depth:]:
            open_count[key] -= 1
        del path[depth:]
        key = tree.key[node]
        own[key] += tree.own[node]
        if not open_count[key]:
            total[key] += totals[node]
        open_count[key] += 1
        path.append(key)
    shares = map(_Share, tree.keys, own, total)
    return sorted(
        shares,
        key=lambda share: (
            -share.own,
            -share.total,
            function_name(share.function),
            display_place(share.function),
        ),
    )


def _packages(tree: Tree[Frame]) -> list[tuple[str, int]]:
    """Return the self weight of each package, the largest first."""
    packages: dict[str, int] = {}
    for key, own in zip(tree.key, tree.own, strict=True):
        name = package_of(tree.keys[key])
        packages[name] = packages.get(name, 0) + own
    return sorted(packages.items(), key=lambda item: (-item[1], item[0]))


def _facts(profile: Profile) -> dict[str, Any]:
    """Return what is known of the recording; what is not known is left out."""
    meta, stats = profile.meta, profile.stats
    facts: dict[str, Any] = {
        "command": clean(meta.command),
        "node": clean(meta.node_version),
        "v8": clean(meta.v8_version),
        "engine": clean(meta.engine),
        "jsspy": clean(meta.jsspy_version),
        "measures": meta.value_type.value,
        "period_ns": meta.period_ns,
        "start_time_unix_ns": meta.start_time_unix_ns,
        "duration_ns": meta.duration_ns,
        "samples": len(profile),
        "threads": len(set(profile.thread)),
        "requested": stats.requested,
        "idle": stats.idle,
        "truncated": {
            reason.value: stats.truncated[reason]
            for reason in sorted(stats.truncated, key=lambda reason: reason.value)
        },
        "lost": {
            reason.value: stats.lost[reason]
            for reason in sorted(stats.lost, key=lambda reason: reason.value)
        },
        "js_frames": stats.js_frames,
        "js_frames_named": stats.js_frames_named,
        "pauses": stats.pauses._asdict() if any(stats.pauses) else {},
        "profiler_cpu_ns": stats.profiler_cpu_ns,
    }
    return {key: value for key, value in facts.items() if value or key == "samples"}


def _json(profile: Profile) -> Iterator[str]:
    tree = Tree(profile, shown_function, profile.weight)
    head = {
        **_facts(profile),
        "unit": "samples" if profile.meta.value_type is ValueType.SAMPLES else "ns",
        "weight": profile.total_weight(),
        "notes": [clean(note) for note in profile.meta.notes],
        "packages": [{"name": name, "self": own} for name, own in _packages(tree)],
    }
    yield dump_json(head)[:-1] + ',\n"functions":[\n'
    yield from separated(
        dump_json(
            {
                "name": function_name(share.function),
                "place": display_place(share.function),
                "origin": origin_of(share.function).value,
                "package": package_of(share.function),
                "self": share.own,
                "total": share.total,
            }
        )
        for share in _shares(tree)
    )
    yield "]}\n"


def _markdown(profile: Profile) -> Iterator[str]:
    tree = Tree(profile, shown_function, profile.weight)
    whole = profile.total_weight()
    timed = profile.meta.value_type is not ValueType.SAMPLES

    def amount(value: int) -> str:
        share = f"{100 * value / whole:.1f} %" if whole else "0 %"
        return f"{share} | {value / 1e6:,.0f} ms" if timed else f"{share} | {value:,}"

    yield f"# {markdown_text(profile.meta.command) or 'Profile'}\n\n"
    yield "".join(f"- {line}\n" for line in _account(profile))
    for note in profile.meta.notes:
        yield f"- {markdown_text(note)}\n"
    shares = _shares(tree)
    yield "\n## Functions by self time\n\n| self | | total | | function | where |\n"
    yield "|--:|--:|--:|--:|:--|:--|\n"
    for share in [share for share in shares[:_FUNCTIONS] if share.own]:
        yield (
            f"| {amount(share.own)} | {amount(share.total)} "
            f"| {_name(share.function)} | {markdown_text(display_place(share.function))} |\n"
        )
    yield "\n## Functions by total time\n\n| total | | self | | function | where |\n"
    yield "|--:|--:|--:|--:|:--|:--|\n"
    for share in sorted(shares, key=lambda share: -share.total)[:_FUNCTIONS]:
        yield (
            f"| {amount(share.total)} | {amount(share.own)} "
            f"| {_name(share.function)} | {markdown_text(display_place(share.function))} |\n"
        )
    yield "\n## Packages by self time\n\n| self | | package |\n|--:|--:|:--|\n"
    for name, own in _packages(tree)[:_PACKAGES]:
        yield f"| {amount(own)} | {markdown_text(name)} |\n"
    yield "\n## Hottest stacks\n"
    hottest = sorted(range(len(tree)), key=lambda node: (-tree.own[node], node))[:_HOT_STACKS]
    for node in [node for node in hottest if tree.own[node]]:
        yield f"\n{amount(tree.own[node]).replace(' | ', ', ')}\n\n"
        yield from _stack_lines(tree.path(node))


def _account(profile: Profile) -> Sequence[str]:
    meta, stats = profile.meta, profile.stats
    lines = [f"{len(profile):,} samples of {len(set(profile.thread))} threads"]
    if meta.duration_ns:
        lines[0] += f" in {meta.duration_ns / 1e9:.1f} s"
    if meta.period_ns:
        lines[0] += f", one every {meta.period_ns / 1e6:g} ms of {meta.value_type.value} time"
    if stats.requested:
        lost = sum(stats.lost.values())
        truncated = sum(stats.truncated.values())
        lines.append(f"{stats.requested:,} due, {lost:,} lost, {truncated:,} truncated")
    versions = [
        f"{name} {markdown_text(version)}"
        for name, version in (
            ("Node.js", meta.node_version),
            ("V8", meta.v8_version),
            ("engine", meta.engine),
            ("jsspy", meta.jsspy_version),
        )
        if version
    ]
    if versions:
        lines.append(", ".join(versions))
    return lines


def _stack_lines(path: list[Frame]) -> Iterator[str]:
    """Yield a stack as indented code, leaf first; long ones without their middle."""
    half = _STACK_FRAMES // 2
    frames = path[::-1]
    cut = len(frames) - 2 * half
    for index, frame in enumerate(frames):
        if cut > 0 and half <= index < half + cut:
            if index == half:
                yield f"    … {cut} frames …\n"
            continue
        yield f"    {_short(function_name(frame))} {display_place(frame)}".rstrip() + "\n"


def _short(text: str) -> str:
    return text if len(text) <= _NAME_CHARACTERS else text[: _NAME_CHARACTERS - 1] + "…"


def markdown_text(text: str) -> str:
    """Escape what Markdown would interpret."""
    return _MARKDOWN.sub(r"\\\1", _short(clean(text)))


def _name(function: Frame) -> str:
    return markdown_text(function_name(function))
