"""Profiles as bytes, and back: the tables of formats and readers."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO

from jsspy.errors import JsspyError, MalformedData
from jsspy.formats.base import Format, Reader
from jsspy.formats.cpuprofile import CpuProfile, CpuProfileNative, CpuProfileReader
from jsspy.formats.d3 import D3
from jsspy.formats.firefox import Firefox
from jsspy.formats.folded import Folded, FoldedAnnotated, FoldedReader, FoldedTime
from jsspy.formats.html import Html
from jsspy.formats.input import read_head, replayed
from jsspy.formats.native import Native, NativeReader
from jsspy.formats.nested_set import NestedSet
from jsspy.formats.perf_script import PerfScript, PerfScriptReader
from jsspy.formats.pprof import Pprof, PprofReader
from jsspy.formats.raw import DTraceReader, FullRaw, FullRawExact, Raw, RawExact
from jsspy.formats.speedscope import Speedscope, SpeedscopeReader
from jsspy.formats.stackvis import Stackvis, StackvisReader
from jsspy.formats.stap import StapReader
from jsspy.formats.summary import JsonSummary, Markdown
from jsspy.formats.svg import Svg
from jsspy.formats.text import Text
from jsspy.formats.trace_events import TraceEvents
from jsspy.formats.v8_log import V8LogReader
from jsspy.model.profile import Profile

_FORMATS: tuple[Format, ...] = (
    Native(),
    Html(),
    Speedscope(),
    CpuProfile(),
    CpuProfileNative(),
    Firefox(),
    Pprof(),
    TraceEvents(),
    Folded(),
    FoldedAnnotated(),
    FoldedTime(),
    Text(),
    Raw(),
    FullRaw(),
    RawExact(),
    FullRawExact(),
    PerfScript(),
    Stackvis(),
    D3(),
    NestedSet(),
    Svg(),
    Markdown(),
    JsonSummary(),
)
FORMATS: dict[str, Format] = {form.name: form for form in _FORMATS}
"""By the word for `--format`, in the order of `--help`. Of several with one suffix the first is
meant by a file name."""

READERS: tuple[Reader, ...] = (
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
"""In the order in which they are asked; the least choosy come last."""

_GZIP_MAGIC = b"\x1f\x8b"


def find_format(filename: str) -> Format | None:
    """Return the format whose suffix a file name ends with; the longest suffix wins."""
    matching = [form for form in FORMATS.values() if filename.endswith(form.suffix)]
    return max(matching, key=lambda form: len(form.suffix), default=None)


def read_profile(source: BinaryIO, filename: str) -> Profile:
    """Read a profile of any format in `READERS`, gzipped or not; the content decides which.

    Args:
        source: Open at its start.
        filename: For errors; its ending decides where the content leaves a doubt.

    Raises:
        MalformedData: No reader knows the content, or it is damaged.
    """
    head = read_head(source)
    source = replayed(head, source)
    try:
        if head.startswith(_GZIP_MAGIC):
            filename = filename.removesuffix(".gz")
            inflated = gzip.GzipFile(fileobj=source)
            head = read_head(inflated)
            source = replayed(head, inflated)
        for reader in READERS:
            if reader.matches(head, filename):
                return reader.read(source)
    except (EOFError, gzip.BadGzipFile, zlib.error) as err:
        raise MalformedData(filename, f"damaged gzip data: {err}") from err
    names = ", ".join(reader.name for reader in READERS)
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
