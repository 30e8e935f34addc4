"""Profiles as bytes, and back: the tables of formats and readers."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jsspy.errors import JsspyError, MalformedData
from jsspy.formats.base import Format, Reader
from jsspy.formats.input import read_head, replayed
from jsspy.model.profile import Profile


class _Row(NamedTuple):
    suffix: str
    module: str
    """In this package; loaded when the format is asked for: all of them take 25 ms."""
    class_name: str


_FORMATS = {
    "jsspy": _Row(".jsspy", "native", "Native"),
    "html": _Row(".html", "html", "Html"),
    "speedscope": _Row(".speedscope.json", "speedscope", "Speedscope"),
    "cpuprofile": _Row(".cpuprofile", "cpuprofile", "CpuProfile"),
    "cpuprofile-native": _Row(".cpuprofile", "cpuprofile", "CpuProfileNative"),
    "firefox": _Row(".firefox.json", "firefox", "Firefox"),
    "pprof": _Row(".pb.gz", "pprof", "Pprof"),
    "trace-events": _Row(".trace.json", "trace_events", "TraceEvents"),
    "folded": _Row(".folded", "folded", "Folded"),
    "folded-annotated": _Row(".folded", "folded", "FoldedAnnotated"),
    "folded-time": _Row(".folded", "folded", "FoldedTime"),
    "text": _Row(".txt", "text", "Text"),
    "raw": _Row(".raw", "raw", "Raw"),
    "fullraw": _Row(".fullraw", "raw", "FullRaw"),
    "raw-exact": _Row(".raw", "raw", "RawExact"),
    "fullraw-exact": _Row(".fullraw", "raw", "FullRawExact"),
    "perf-script": _Row(".linux-perf.txt", "perf_script", "PerfScript"),
    "stackvis": _Row(".stackvis", "stackvis", "Stackvis"),
    "d3": _Row(".d3.json", "d3", "D3"),
    "nested-set": _Row(".nested.json", "nested_set", "NestedSet"),
    "svg": _Row(".svg", "svg", "Svg"),
    "markdown": _Row(".md", "summary", "Markdown"),
    "json": _Row(".json", "summary", "JsonSummary"),
}


class _Formats(Mapping[str, Format]):
    def __getitem__(self, name: str) -> Format:
        row = _FORMATS[name]
        module = import_module(f"{__name__}.{row.module}")
        form: Format = getattr(module, row.class_name)()
        return form

    def __contains__(self, name: object) -> bool:
        return name in _FORMATS

    def __iter__(self) -> Iterator[str]:
        return iter(_FORMATS)

    def __len__(self) -> int:
        return len(_FORMATS)


FORMATS: Mapping[str, Format] = _Formats()
"""By the word for `--format`, in the order of `--help`. Of several with one suffix the first is
meant by a file name."""


def load_readers() -> tuple[Reader, ...]:
    """Return the readers in the order in which they are asked; the least choosy come last."""
    from jsspy.formats.cpuprofile import CpuProfileReader
    from jsspy.formats.folded import FoldedReader
    from jsspy.formats.native import NativeReader
    from jsspy.formats.perf_script import PerfScriptReader
    from jsspy.formats.pprof import PprofReader
    from jsspy.formats.raw import DTraceReader
    from jsspy.formats.speedscope import SpeedscopeReader
    from jsspy.formats.stackvis import StackvisReader
    from jsspy.formats.stap import StapReader
    from jsspy.formats.v8_log import V8LogReader

    return (
        NativeReader(),
        SpeedscopeReader(),
        CpuProfileReader(),
        PprofReader(),
        V8LogReader(),
        PerfScriptReader(),
        StapReader(),
        DTraceReader(),
        StackvisReader(),
        FoldedReader(),
    )


_GZIP_MAGIC = b"\x1f\x8b"


def find_format(filename: str) -> Format | None:
    """Return the format whose suffix a file name ends with; the longest suffix wins."""
    matching = [name for name, row in _FORMATS.items() if filename.endswith(row.suffix)]
    best = max(matching, key=lambda name: len(_FORMATS[name].suffix), default=None)
    return None if best is None else FORMATS[best]


def read_profile(source: BinaryIO, filename: str) -> Profile:
    """Read a profile of any format that has a reader, gzipped or not; the content decides which.

    Args:
        source: Open at its start.
        filename: For errors; its ending decides where the content leaves a doubt.

    Raises:
        MalformedData: No reader knows the content, or it is damaged.
    """
    readers = load_readers()
    head = read_head(source)
    source = replayed(head, source)
    try:
        if head.startswith(_GZIP_MAGIC):
            filename = filename.removesuffix(".gz")
            inflated = gzip.GzipFile(fileobj=source)
            head = read_head(inflated)
            source = replayed(head, inflated)
        for reader in readers:
            if reader.matches(head, filename):
                return reader.read(source)
    except (EOFError, gzip.BadGzipFile, zlib.error) as err:
        raise MalformedData(filename, f"damaged gzip data: {err}") from err
    names = ", ".join(reader.name for reader in readers)
    raise MalformedData(filename, f"not a profile that jsspy can read ({names})")


def load_profile(path: str | Path) -> Profile:
    """Read a profile from a file; see `read_profile`.

    Raises:
        JsspyError: The file cannot be opened.
        MalformedData: No reader knows the content, or it is damaged.
    """
    try:
        with Path(path).open("rb") as source:
            return read_profile(source, str(path))
    except OSError as err:
        raise JsspyError(f"cannot read {path}: {(err.strerror or str(err)).lower()}") from err
