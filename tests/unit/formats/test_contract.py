"""What every format promises, over the whole table."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from jsspy.formats import _FORMATS, FORMATS, find_format, load_readers, read_profile
from jsspy.formats.output import dump_json
from jsspy.model.profile import Profile
from jsspy.model.sample import VmState
from profiles import PERIOD_NS, counts, deep, empty, hostile, js, profile_of, small, written

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
BINARY = {"jsspy", "pprof"}
VIEWER = {"html"}
"""Formats whose content the browser tests judge."""
SVG = "{http://www.w3.org/2000/svg}"
NOT_GOLDEN = {"jsspy"} | VIEWER


def by_reader(name: str) -> Callable[[bytes], int]:
    """Return the function that sums the weights that a reader of ours finds."""
    reader = next(reader for reader in load_readers() if reader.name == name)
    return lambda data: reader.read(io.BytesIO(data)).total_weight()


def hits(data: bytes) -> int:
    """Sum the hits of a cpuprofile, and compare with its samples."""
    top = json.loads(data)
    total: int = sum(node["hitCount"] for node in top["nodes"])
    assert total == len(top["samples"]) == len(top["timeDeltas"])
    return total


def text_roots(data: bytes) -> int:
    """Sum the counts of the roots of a text tree, and compare with its head."""
    head, *lines = data.decode().splitlines()
    total = sum(int(line.split(" ")[0]) for line in lines if line and line[0] != " ")
    assert head == f"Total samples: {total}"
    return total


def raw_counts(data: bytes) -> int:
    """Sum the counts of DTrace-like stacks."""
    return sum(int(line) for line in data.decode().split("\n")[3:] if re.fullmatch(r"   \d+", line))


def trace_coverage(data: bytes) -> int:
    """Sum the time in microseconds in which a trace has a frame open; check the nesting."""
    total = 0.0
    open_frames: dict[tuple[int, int], list[tuple[str, float]]] = {}
    for event in json.loads(data)["traceEvents"]:
        stack = open_frames.setdefault((event["pid"], event["tid"]), [])
        if event["ph"] == "B":
            stack.append((event["name"], event["ts"]))
        elif event["ph"] == "E":
            name, begin = stack.pop()
            assert name == event["name"]
            assert event["ts"] >= begin
            if not stack:
                total += event["ts"] - begin
    assert not any(open_frames.values())
    return round(total)


def firefox_weights(data: bytes) -> int:
    """Sum the weights of all threads, and check every table."""
    top = json.loads(data)
    shared = top["shared"]
    for table in [shared[name] for name in shared if name != "stringArray"] + [
        part for thread in top["threads"] for part in (thread["samples"], thread["markers"])
    ]:
        for name, column in table.items():
            if name not in {"length", "weightType"}:
                assert len(column) == table["length"], name
    stacks = shared["stackTable"]
    for row, offset in enumerate(stacks["prefixOffset"]):
        assert 0 <= offset <= row
    assert all(0 <= frame < shared["frameTable"]["length"] for frame in stacks["frame"])
    assert all(0 <= func < shared["funcTable"]["length"] for func in shared["frameTable"]["func"])
    names = shared["funcTable"]["name"]
    assert all(0 <= name < len(shared["stringArray"]) for name in names)
    total: int = sum(sum(thread["samples"]["weight"]) for thread in top["threads"])
    return total


def d3_root(data: bytes) -> int:
    """Return the root's value; check that no node is less than its children."""
    root = json.loads(data)
    pending = [root]
    while pending:
        node = pending.pop()
        assert node["value"] >= sum(child["value"] for child in node["children"])
        pending += node["children"]
    assert root["value"] == sum(child["value"] for child in root["children"])
    total: int = root["value"]
    return total


def nested_set_self(data: bytes) -> int:
    """Rebuild the tree from levels and order; return the sum of self."""
    frame = json.loads(data)
    names = [field["name"] for field in frame["schema"]["fields"]]
    columns = dict(zip(names, frame["data"]["values"], strict=True))
    path: list[int] = []
    below = [0] * len(columns["level"])
    for row, level in enumerate(columns["level"]):
        del path[level:]
        assert len(path) == level
        if path:
            below[path[-1]] += columns["value"][row]
        path.append(row)
    for row, own in enumerate(columns["self"]):
        assert columns["value"][row] == own + below[row]
    assert columns["level"].count(0) == 1
    total: int = sum(columns["self"])
    return total


def svg_root(data: bytes) -> int:
    """Return the number in the title of the root."""
    titles = [title.text or "" for title in ET.fromstring(data).iter(f"{SVG}title")]  # noqa: S314  # we wrote it
    found = re.search(r"all \(([\d,]+) samples", titles[0])
    return int(found[1].replace(",", "")) if found else 0


def markdown_share(data: bytes) -> int:
    """Sum the milliseconds, or counts, by package."""
    rows = data.decode().split("## Packages by self time")[1].split("##")[0]
    return sum(int(n.replace(",", "")) for n in re.findall(r"\| ([\d,]+)(?: ms)? \|", rows))


def json_self(data: bytes) -> int:
    """Sum the self weights of functions, and compare with packages and the whole."""
    top = json.loads(data)
    total: int = sum(function["self"] for function in top["functions"])
    assert total == top["weight"] == sum(package["self"] for package in top["packages"])
    assert all(function["total"] <= total for function in top["functions"])
    return total


TOTALS: dict[str, tuple[Callable[[bytes], int], int]] = {
    "jsspy": (by_reader("jsspy"), PERIOD_NS),
    "speedscope": (by_reader("speedscope"), PERIOD_NS),
    "cpuprofile": (hits, 1),
    "cpuprofile-native": (hits, 1),
    "folded": (by_reader("folded"), 1),
    "folded-annotated": (by_reader("folded"), 1),
    "folded-time": (by_reader("folded"), 1),
    "text": (text_roots, 1),
    "raw": (raw_counts, 1),
    "fullraw": (raw_counts, 1),
    "raw-exact": (raw_counts, 1),
    "fullraw-exact": (raw_counts, 1),
    "pprof": (lambda data: by_reader("pprof")(gzip.decompress(data)), PERIOD_NS),
    "firefox": (firefox_weights, 1),
    "trace-events": (trace_coverage, PERIOD_NS // 1000),
    "perf-script": (by_reader("perf-script"), PERIOD_NS),
    "stackvis": (by_reader("stackvis"), 1),
    "d3": (d3_root, 1),
    "nested-set": (nested_set_self, PERIOD_NS),
    "svg": (svg_root, 1),
    "markdown": (markdown_share, PERIOD_NS // 1_000_000),
    "json": (json_self, PERIOD_NS),
}
"""How to read the sum of all weights from a file, and what one sample is in it."""


def one_thread() -> Profile:
    """Return a profile without gaps, of one thread: what every format can hold whole."""
    profile = profile_of(*(small().stack_frames(row) for row in small().stack))
    profile.vm_state = [VmState.JS] * len(profile)
    return profile


def test_the_table_of_formats_says_what_they_are() -> None:
    for name, form in FORMATS.items():
        assert form.name == name
        assert _FORMATS[name].suffix == form.suffix


@pytest.mark.parametrize("name", FORMATS)
def test_weights_are_conserved(name: str) -> None:
    if name in VIEWER:
        return
    total, unit = TOTALS[name]
    profile = one_thread()
    assert total(written(FORMATS[name], profile)) == len(profile) * unit


@pytest.mark.parametrize("name", FORMATS)
def test_imported_counts_are_conserved(name: str) -> None:
    if name in VIEWER:
        return
    profile = counts(((js("a"), js("b")), 40), ((js("a"),), 2))
    expected = 42_000 if name == "trace-events" else 42  # where a count is a microsecond, or a ms
    assert TOTALS[name][0](written(FORMATS[name], profile)) == expected


@pytest.mark.parametrize("name", FORMATS)
def test_golden(name: str) -> None:
    if name in NOT_GOLDEN:
        return
    data = written(FORMATS[name], small())
    data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    expected = GOLDEN / f"small.{name}"
    assert data == expected.read_bytes(), "see tests/golden/write.py"


FORBIDDEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff]"
)


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_names_do_not_get_through(name: str) -> None:
    data = written(FORMATS[name], hostile())
    if name not in BINARY:
        assert not FORBIDDEN.search(data.decode())


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_names_keep_their_weight(name: str) -> None:
    profile = hostile()
    data = written(FORMATS[name], profile)
    if name in VIEWER or name.endswith("-exact"):  # those garble by promise
        return
    total, unit = TOTALS[name]
    assert total(data) == len(profile) * unit


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_profile_is_written(name: str) -> None:
    data = written(FORMATS[name], empty())
    if name not in VIEWER:
        assert TOTALS[name][0](data) == 0


@pytest.mark.parametrize("name", FORMATS)
def test_deep_stacks_need_no_recursion(name: str) -> None:
    class Counter:
        size = 0

        def write(self, data: bytes) -> int:
            self.size += len(data)
            return len(data)

    out = Counter()
    FORMATS[name].write(deep(5000 if name == "text" else 20_000), out)  # type: ignore[arg-type]  # only write is used
    assert out.size > 100


@pytest.mark.parametrize("name", FORMATS)
def test_the_profile_is_not_changed(name: str) -> None:
    profile = small()
    before = written(FORMATS["jsspy"], profile)
    written(FORMATS[name], profile)
    assert written(FORMATS["jsspy"], profile) == before


def test_output_does_not_depend_on_hash_order() -> None:
    program = (
        "import hashlib; from profiles import *; from jsspy.formats import _FORMATS, FORMATS\n"
        "for n, f in FORMATS.items():\n"
        " for p in (small(), hostile()): print(n, hashlib.sha256(written(f, p)).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}",
            },
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_the_table_is_consistent() -> None:
    for name, form in FORMATS.items():
        assert form.name == name
        assert form.suffix.startswith(".")
        assert form.description
        assert len(form.description) <= 75


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("x.jsspy", "jsspy"),
        ("x.html", "html"),
        ("/tmp/x.speedscope.json", "speedscope"),
        ("CPU.20260101.0.1.0.cpuprofile", "cpuprofile"),
        ("x.folded", "folded"),
        ("x.txt", "text"),
        ("x.raw", "raw"),
        ("x.json", "json"),
        ("x.firefox.json", "firefox"),
        ("x.pb.gz", "pprof"),
        ("x.linux-perf.txt", "perf-script"),
        ("x.unknown", None),
    ],
)
def test_find_format_by_file_name(filename: str, name: str | None) -> None:
    form = find_format(filename)
    assert (form.name if form else None) == name


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("reader", [reader.name for reader in load_readers()])
def test_content_decides_which_reader(reader: str, compress: bool) -> None:
    form = {"dtrace": "raw"}.get(reader, reader)
    if form not in FORMATS:
        return
    data = written(FORMATS[form], small())
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    profile = read_profile(io.BytesIO(gzip.compress(data) if compress else data), "-")
    assert profile.meta.engine == ("ptrace" if reader == "jsspy" else reader)


def test_dump_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        dump_json(float("nan"))
