"""Trace events: nested begin and end events per thread, for Perfetto and chrome://tracing.

Frames stay open from one sample to the next as long as stacks agree from the root on, and close
where no sample follows in time. Times are microseconds.

Source: "Trace Event Format", the document of the Chromium project.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar

from jsspy.formats.output import dump_json, separated, write_text
from jsspy.formats.tree import Tree, samples_by_thread, shown_function
from jsspy.model.names import clean, function_name, origin_of, path_of, place_of
from jsspy.model.profile import Profile, ValueType
from jsspy.model.stack import Frame

_COUNT_NS = 1_000_000
"""How long one sample of a profile without times is made to last."""


class TraceEvents:
    """Chrome's trace event format."""

    name: ClassVar[str] = "trace-events"
    suffix: ClassVar[str] = ".trace.json"
    description: ClassVar[str] = "ui.perfetto.dev and chrome://tracing: threads over time"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, _parts(profile))


def _parts(profile: Profile) -> Iterator[str]:
    yield '{"traceEvents":[\n'
    yield from separated(_events(profile))
    measures = profile.meta.value_type.value
    yield f'\n],\n"displayTimeUnit":"ms","otherData":{{"measures":"{measures}"}}}}\n'


def _events(profile: Profile) -> Iterator[str]:
    threads = samples_by_thread(profile)
    processes = {profile.threads[thread].pid: profile.threads[thread] for thread in threads}
    for pid, info in sorted(processes.items()):
        yield _metadata("process_name", pid, pid, info.process_name)
    for thread in threads:
        info = profile.threads[thread]
        yield _metadata("thread_name", info.pid, info.tid, info.name)
    tree = Tree(profile, shown_function, profile.weight)
    opening = [dump_json(_begin(function))[1:] for function in tree.keys]
    names = [dump_json({"name": function_name(function)})[1:-1] for function in tree.keys]
    for thread, samples in threads.items():
        info = profile.threads[thread]
        where = f'"pid":{info.pid},"tid":{info.tid},"ts":'
        path: list[int] = []
        begin = end = 0
        timeless = profile.meta.value_type is ValueType.SAMPLES
        for sample in samples:
            weight = profile.weight[sample] * (_COUNT_NS if timeless else 1)
            begin = end if timeless else max(begin, profile.time_ns[sample])
            leaf = tree.node_of_sample[sample]
            # What lies between two samples that are further apart than one weighs was not seen.
            is_gap = begin - end > weight
            keep = 0 if is_gap else _common(tree, path, leaf)
            at = (end if is_gap else begin) / 1000
            for node in reversed(path[keep:]):
                yield f'{{"ph":"E",{where}{at:.3f},{names[tree.key[node]]}}}'
            del path[keep:]
            fresh = []
            open_leaf = path[-1] if path else -1
            while leaf != open_leaf:
                fresh.append(leaf)
                leaf = tree.parent[leaf]
            for node in reversed(fresh):
                yield f'{{"ph":"B",{where}{begin / 1000:.3f},{opening[tree.key[node]]}'
                path.append(node)
            end = begin + weight
        for node in reversed(path):
            yield f'{{"ph":"E",{where}{end / 1000:.3f},{names[tree.key[node]]}}}'


def _common(tree: Tree[Frame], path: list[int], leaf: int) -> int:
    """Return how many nodes of an open path are also on the way to `leaf`."""
    position = {node: index for index, node in enumerate(path)}
    while leaf >= 0:
        if leaf in position:
            return position[leaf] + 1
        leaf = tree.parent[leaf]
    return 0


def _metadata(name: str, pid: int, tid: int, text: str) -> str:
    return dump_json(
        {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": {"name": clean(text)}}
    )


def _begin(function: Frame) -> dict[str, Any]:
    event: dict[str, Any] = {"name": function_name(function), "cat": origin_of(function).value}
    if place := place_of(function):
        args: dict[str, Any] = {"file": clean(path_of(place.url))}
        if place.line is not None:
            args["line"] = place.line
        event["args"] = args
    return event
