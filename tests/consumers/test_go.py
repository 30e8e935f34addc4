"""Go's own pprof reads our pprof files: functions, lines, labels, whole stacks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.commands import file_of, go_pprof, run
from jsspy.formats import FORMATS
from jsspy.model import transform
from jsspy.model.names import VM_KINDS, function_name
from jsspy.model.profile import Profile
from profiles import empty, hostile, small, written

MAKERS = pytest.mark.parametrize("make", [small, hostile, empty], ids=lambda make: make.__name__)
Maker = Callable[[], Profile]


def pprof(directory: Path, profile: Profile, *options: str) -> str:
    """Return a report of a profile; fails if pprof has anything to complain of."""
    path = file_of(directory, "pprof", profile)
    home = {"HOME": str(directory), "PPROF_TMPDIR": str(directory)}
    done = run(*go_pprof(), "-symbolize=none", *options, path, env=home)
    assert not re.search("error|warning|malformed", done.stderr.decode(), re.IGNORECASE)
    return done.stdout.decode()


@MAKERS
def test_raw_has_every_sample_and_its_weight(make: Maker, tmp_path: Path) -> None:
    profile = make()
    raw = pprof(tmp_path, profile, "-raw")
    assert "samples/count cpu/nanoseconds[dflt]" in raw
    samples = re.findall(r"^ +(\d+) +(\d+): [\d ]+$", raw, re.MULTILINE)
    assert sum(int(count) for count, _ in samples) == len(profile)
    assert sum(int(weight) for _, weight in samples) == profile.total_weight()


def test_top_agrees_with_a_count_by_hand(tmp_path: Path) -> None:
    """By function: own and total, a function counted once per stack."""
    profile = small()
    shown = transform.hide(profile, VM_KINDS)
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row, weight in zip(shown.stack, shown.weight, strict=True):
        names = [*map(function_name, shown.iter_frames(row))] or ["(no stack)"]
        own[names[0]] += weight
        for name in set(names):
            total[name] += weight
    top = pprof(tmp_path, profile, "-top", "-unit=ns", "-nodefraction=0", "-nodecount=100000")
    found: dict[str, tuple[int, int]] = {}
    for line in top.partition("cum%\n")[2].splitlines():
        flat, _, _, cum, _, name = line.split(None, 5)
        weights = int(flat.removesuffix("ns")), int(cum.removesuffix("ns"))
        found[name.removesuffix(" (inline)")] = weights
    assert found == {name: (own[name], total[name]) for name in total}


def test_hostile_names_arrive(tmp_path: Path) -> None:
    raw = pprof(tmp_path, hostile(), "-raw")
    for name in ("</script><script>alert(1)</script>", "a->b", "🔥א", "]]>&amp;"):
        assert name in raw


def test_lines_are_where_it_executes(tmp_path: Path) -> None:
    lines = pprof(tmp_path, small(), "-top", "-lines")
    assert re.search(r" 90ms 60\.00%  hot /app/lib/hot\.js:12$", lines, re.MULTILINE)
    assert re.search(r"  inner /app/lib/hot\.js:21 \(inline\)$", lines, re.MULTILINE)
    assert re.search(r"  readFileSync node:fs:436$", lines, re.MULTILINE)


def test_tags_tell_threads_and_states(tmp_path: Path) -> None:
    tags = pprof(tmp_path, small(), "-tags")
    assert re.search(r"120\.0ms \(80\.00%\): main$", tags, re.MULTILINE)
    assert re.search(r"30\.0ms \(20\.00%\): worker 1$", tags, re.MULTILINE)
    assert re.search(r"10\.0ms .*: sleeping$", tags, re.MULTILINE)
    assert re.search(r"10\.0ms .*: gc$", tags, re.MULTILINE)


def test_traces_have_the_stacks_leaf_first(tmp_path: Path) -> None:
    traces = pprof(tmp_path, small(), "-traces")
    blocks = [block.split() for block in re.split(r"-{5,}\+-+\n", traces)]
    stack = ["10ms", "inner", "(inline)", "hot", "(anonymous)", "node::Start(int,", "char**)"]
    assert any(block[-len(stack) :] == stack for block in blocks)


def test_two_recordings_can_be_compared(tmp_path: Path) -> None:
    base = tmp_path / "base.pb.gz"
    base.write_bytes(written(FORMATS["pprof"], small()))
    same = pprof(tmp_path, small(), "-top", f"-diff_base={base}")
    assert "Showing nodes accounting for 0, 0% of 150ms total" in same
