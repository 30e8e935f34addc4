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

import pytest

from jsspy.formats import FORMATS, READERS, find_format, read_profile
from jsspy.formats.output import dump_json
from jsspy.model.profile import Profile
from jsspy.model.sample import VmState
from profiles import PERIOD_NS, counts, deep, empty, hostile, js, profile_of, small, written

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
BINARY = {"jsspy", "pprof"}
VIEWER = {"html"}
"""Formats whose content the browser tests judge."""
NOT_GOLDEN = {"jsspy"} | VIEWER


def by_reader(name: str) -> Callable[[bytes], int]:
    """Return the function that sums the weights that a reader of ours finds."""
    reader = next(reader for reader in READERS if reader.name == name)
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
}
"""How to read the sum of all weights from a file, and what one sample is in it."""


def one_thread() -> Profile:
    """Return a profile without gaps, of one thread: what every format can hold whole."""
    profile = profile_of(*(small().stack_frames(row) for row in small().stack))
    profile.vm_state = [VmState.JS] * len(profile)
    return profile


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
    assert TOTALS[name][0](written(FORMATS[name], profile)) == 42


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
        "import hashlib; from profiles import *; from jsspy.formats import FORMATS\n"
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
        ("x.unknown", None),
    ],
)
def test_find_format_by_file_name(filename: str, name: str | None) -> None:
    form = find_format(filename)
    assert (form.name if form else None) == name


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("reader", [reader.name for reader in READERS])
def test_content_decides_which_reader(reader: str, compress: bool) -> None:
    if reader not in FORMATS:
        return
    data = written(FORMATS[reader], small())
    profile = read_profile(io.BytesIO(gzip.compress(data) if compress else data), "-")
    assert profile.meta.engine == ("ptrace" if reader == "jsspy" else reader)


def test_dump_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        dump_json(float("nan"))
