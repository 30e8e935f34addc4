"""Firefox Profiler's processed profile, at version 66 of the format.

Old versions keep loading, so this one is pinned. Stacks hold frames by executing line and tier;
tiers are subcategories, by samply's names. Times are milliseconds since the start of sampling.
Collections and stretches without samples are markers.

Source: firefox-devtools/profiler, docs-developer/CHANGELOG-formats.md and src/types/profile.ts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, ClassVar

from jsspy.formats.output import dump_json, separated, write_text
from jsspy.formats.tree import Tree, proportional_counts, samples_by_thread
from jsspy.model.names import NO_STACK, VM_KINDS, clean, function_name, function_of, path_of
from jsspy.model.profile import Profile
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Tier

VERSION = 66
_GECKO_VERSION = 24
_TIERS = {
    Tier.INTERPRETED: "Interpreter",
    Tier.BASELINE: "Baseline",
    Tier.MAGLEV: "Maglev",
    Tier.OPTIMIZED: "TurboFan",
}
_JAVASCRIPT, _BUILTIN, _NATIVE, _KERNEL, _OTHER, _GC = range(6)
_CATEGORIES = (
    ("JavaScript", "yellow", ["Other", *_TIERS.values()]),
    ("Builtin", "magenta", ["Other"]),
    ("Native", "blue", ["Other"]),
    ("Kernel", "orange", ["Other"]),
    ("Other", "grey", ["Other"]),
    ("GC", "red", ["Other"]),
)
_CATEGORY_OF_KIND = {
    FrameKind.JS: _JAVASCRIPT,
    FrameKind.WASM: _JAVASCRIPT,
    FrameKind.BUILTIN: _BUILTIN,
    FrameKind.BYTECODE_HANDLER: _BUILTIN,
    FrameKind.REGEXP: _BUILTIN,
    FrameKind.NATIVE: _NATIVE,
    FrameKind.KERNEL: _KERNEL,
}
_TIER_NUMBERS = {tier: number for number, tier in enumerate(_TIERS, 1)}
_INTERVAL = 1
"""A marker's phase: it has a start and an end."""


class Firefox:
    """A processed profile for profiler.firefox.com."""

    name: ClassVar[str] = "firefox"
    suffix: ClassVar[str] = ".firefox.json"
    description: ClassVar[str] = "profiler.firefox.com: threads, tiers, CPU use, source positions"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, _parts(profile))


def _key(frame: Frame) -> Frame | None:
    return None if frame.kind in VM_KINDS or frame == NO_STACK else frame._replace(address=None)


def _parts(profile: Profile) -> Iterator[str]:
    tree = Tree(profile, _key, profile.weight)
    tables = _Tables(tree)
    yield f'{{"meta":{dump_json(_meta(profile))},\n"libs":[],"pages":[],"counters":[],\n'
    yield '"profilerOverhead":[],\n"shared":{\n'
    yield from separated(f'"{name}":{dump_json(table)}' for name, table in tables.shared().items())
    yield '},\n"threads":[\n'
    threads = samples_by_thread(profile)
    yield from separated(
        dump_json(_thread(profile, tree, tables, thread, samples))
        for thread, samples in threads.items()
    )
    yield "]}\n"


def _meta(profile: Profile) -> dict[str, Any]:
    meta = profile.meta
    return {
        "interval": meta.period_ns / 1e6 or 1,
        "startTime": meta.start_time_unix_ns / 1e6,
        "preprocessedProfileVersion": VERSION,
        "version": _GECKO_VERSION,
        "processType": 0,
        "product": f"{clean(meta.command) or 'node'} ({meta.value_type.words})",
        "importedFrom": f"jsspy {clean(meta.jsspy_version)}".strip(),
        "stackwalk": 1,
        "debug": False,
        "symbolicated": True,
        "categories": [
            {"name": name, "color": color, "subcategories": parts}
            for name, color, parts in _CATEGORIES
        ],
        "markerSchema": [],
        "sampleUnits": {"time": "ms", "eventDelay": "ms", "threadCPUDelta": "µs"},
        "pausedRanges": [],
        "extensions": {"length": 0, "id": [], "name": [], "baseURL": []},
    }


class _Column(dict[Any, int]):
    """Numbers values in the order in which they first come."""

    def index(self, value: Any) -> int:
        return self.setdefault(value, len(self))


class _Tables:
    """The tables that all threads share."""

    def __init__(self, tree: Tree[Frame]) -> None:
        self.strings = _Column()
        self._sources = _Column()
        self._places = _Column()
        functions = _Column()
        rows = [(functions.index(function_of(frame)), frame) for frame in tree.keys]
        self._functions = _table(
            ("name", "isJS", "relevantForJS", "resource", "source", "lineNumber", "columnNumber",
             "originalLocation"),
            [self._function_row(function) for function in functions],
        )  # fmt: skip
        self._frames = _table(
            ("address", "inlineDepth", "category", "subcategory", "func", "nativeSymbol",
             "innerWindowID", "line", "column", "originalLocation"),
            [self._frame_row(number, frame) for number, frame in rows],
        )  # fmt: skip
        self._stacks = _table(
            ("frame", "prefixOffset"),
            [
                (frame, node - parent if parent >= 0 else 0)
                for node, (frame, parent) in enumerate(zip(tree.key, tree.parent, strict=True))
            ],
        )

    def shared(self) -> dict[str, Any]:
        """Return the tables by name, strings last, when they are complete."""
        sources = _table(
            ("id", "filename", "startLine", "startColumn", "sourceMapURL", "content"),
            [(None, self.strings.index(path), 1, 1, None, None) for path in self._sources],
        )
        return {
            "funcTable": self._functions,
            "frameTable": self._frames,
            "stackTable": self._stacks,
            "resourceTable": _table(("lib", "name", "host", "type"), []),
            "nativeSymbols": _table(("libIndex", "address", "name", "functionSize"), []),
            "sources": sources,
            "sourceLocationTable": _table(("source", "line", "column"), list(self._places)),
            "stringArray": list(self.strings),
        }

    def _source(self, url: str) -> int:
        return self._sources.index(clean(path_of(url)))

    def _function_row(self, function: Frame) -> tuple[Any, ...]:
        begin = function.definition or function.location
        file = begin.url if begin else function.module.path if function.module else ""
        return (
            self.strings.index(function_name(function)),
            function.kind is FrameKind.JS,
            False,
            -1,
            self._source(file) if file else None,
            begin.line if begin else None,
            begin.column if begin else None,
            None,
        )

    def _frame_row(self, function: int, frame: Frame) -> tuple[Any, ...]:
        place = frame.location
        return (
            -1,
            int(frame.inlined),
            _CATEGORY_OF_KIND.get(frame.kind, _OTHER),
            _TIER_NUMBERS[frame.tier] if frame.tier and frame.kind is FrameKind.JS else 0,
            function,
            None,
            0,
            place.line if place else None,
            place.column if place else None,
            self._original(frame.original),
        )

    def _original(self, place: Location | None) -> int | None:
        if place is None or place.line is None:
            return None
        return self._places.index((self._source(place.url), place.line, place.column or 1))


def _table(columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Return rows as the parallel columns of the format."""
    return {
        "length": len(rows),
        **{name: [row[number] for row in rows] for number, name in enumerate(columns)},
    }


def _thread(
    profile: Profile, tree: Tree[Frame], tables: _Tables, thread: int, samples: Sequence[int]
) -> dict[str, Any]:
    info = profile.threads[thread]
    counts, unit = proportional_counts(profile)
    start = profile.meta.start_ns
    times = [(profile.time_ns[sample] - start) / 1e6 for sample in samples]
    running = [profile.state[sample] is ThreadState.RUNNING for sample in samples]
    nodes = [tree.node_of_sample[sample] for sample in samples]
    return {
        "name": clean(info.name),
        "isMainThread": int(info.pid) == int(info.tid),
        "processType": "default",
        "processName": clean(info.process_name),
        "pid": str(info.pid),
        "tid": str(info.tid),
        "processStartupTime": 0,
        "processShutdownTime": None,
        "registerTime": 0,
        "unregisterTime": None,
        "pausedRanges": [],
        "showMarkersInTimeline": True,
        "samples": {
            "length": len(samples),
            "stack": [None if node < 0 else node for node in nodes],
            "timeDeltas": [
                round(time - before, 6) for before, time in zip([0.0, *times], times, strict=False)
            ],
            "weight": [
                counts[sample] if unit == "samples" else counts[sample] / 1e6 for sample in samples
            ],
            "weightType": "samples" if unit == "samples" else "tracing-ms",
            "threadCPUDelta": [
                profile.weight[sample] // 1000 if runs else 0
                for sample, runs in zip(samples, running, strict=True)
            ],
        },
        "markers": _markers(profile, tables, samples),
    }


def _markers(profile: Profile, tables: _Tables, samples: Sequence[int]) -> dict[str, Any]:
    """Return intervals of collections, and those without samples (asleep, or lost)."""
    start = profile.meta.start_ns
    rows: list[tuple[Any, ...]] = []
    end = None
    last_gc: int | None = None
    for sample in samples:
        time, weight = profile.time_ns[sample] - start, profile.weight[sample]
        if end is not None and time - end > weight:
            name = tables.strings.index("No samples")
            rows.append((name, end / 1e6, time / 1e6, _INTERVAL, _OTHER, None))
        end = time + weight
        if profile.vm_state[sample] is not VmState.GC:
            last_gc = None
        elif last_gc is None:
            last_gc = len(rows)
            rows.append((tables.strings.index("GC"), time / 1e6, end / 1e6, _INTERVAL, _GC, None))
        else:
            rows[last_gc] = (*rows[last_gc][:2], end / 1e6, *rows[last_gc][3:])
    return _table(("name", "startTime", "endTime", "phase", "category", "data"), rows)
