"""FlameGraph's scripts, and what they made of the golden profile."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pytest

from consumers.commands import flamegraph, run
from jsspy.formats import FORMATS
from jsspy.formats.difference import DIFFERENCE_FORMATS
from jsspy.model.difference import Normalization, compare
from jsspy.model.profile import Profile
from profiles import HOT, MAIN, hostile, profile_of, small, written

GOLDEN = Path(__file__).parent.parent / "golden"


def folded(data: bytes) -> Counter[str]:
    """Return stack -> count."""
    counts: Counter[str] = Counter()
    for line in data.decode().splitlines():
        stack, _, count = line.rpartition(" ")
        counts[stack] += int(count)
    return counts


@pytest.mark.parametrize("name", ["folded", "folded-annotated", "folded-time"])
@pytest.mark.parametrize("make", [small, hostile], ids=lambda make: make.__name__)
def test_flamegraph_takes_every_line(name: str, make: object) -> None:
    assert callable(make)
    profile: Profile = make()
    script = flamegraph("flamegraph.pl")
    options = ["--color=js", "--hash"]
    # Debian's copy is older than --flamechart, and reads the same lines.
    if name == "folded-time" and "--flamechart" in Path(script).read_text(encoding="utf-8"):
        options = ["--flamechart"]
    result = run("perl", script, *options, stdin=written(FORMATS[name], profile))
    complaints = result.stderr.decode().splitlines()
    assert not [line for line in complaints if not line.startswith("Stack count is low")]
    titles = result.stdout.decode(errors="replace").count("<title>")
    assert titles > 10


def test_flamegraph_draws_every_function() -> None:
    data = written(FORMATS["folded-annotated"], small())
    prefixes = {
        ";".join(stack.split(";")[: depth + 1])
        for stack in folded(data)
        for depth in range(stack.count(";") + 1)
    }
    svg = run("perl", flamegraph("flamegraph.pl"), "--color=js", "--hash", stdin=data).stdout
    assert svg.count(b"<title>") == len(prefixes) + 1


@pytest.mark.parametrize("name", ["raw", "fullraw"])
def test_stackcollapse_gives_back_what_we_wrote(name: str) -> None:
    data = written(FORMATS[name], small())
    collapsed = run("perl", flamegraph("stackcollapse.pl"), stdin=data).stdout
    assert collapsed == (GOLDEN / f"collapsed.{name}").read_bytes()


def test_stackcollapse_keeps_every_hostile_sample() -> None:
    data = written(FORMATS["fullraw"], hostile())
    collapsed = run("perl", flamegraph("stackcollapse.pl"), stdin=data).stdout
    assert folded(collapsed).total() == len(hostile())


def test_stackcollapse_perf_agrees_with_folded() -> None:
    data = written(FORMATS["perf-script"], small())
    result = run("perl", flamegraph("stackcollapse-perf.pl"), "--all", stdin=data)
    assert not result.stderr
    assert result.stdout == (GOLDEN / "collapsed.perf-script").read_bytes()


def test_stackcollapse_perf_understands_hostile_names() -> None:
    data = written(FORMATS["perf-script"], hostile())
    result = run("perl", flamegraph("stackcollapse-perf.pl"), "--all", stdin=data)
    assert not result.stderr
    assert folded(result.stdout).total() == hostile().total_weight()


AFTER = profile_of((MAIN,), (MAIN, HOT, HOT), (MAIN, HOT), (MAIN, HOT), (MAIN, HOT))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (profile_of((MAIN, HOT), (MAIN, HOT), (MAIN,)), AFTER),
        (small(), AFTER),
        (hostile(), small()),
        (small(), profile_of((MAIN,))),
    ],
    ids=["few", "small", "hostile", "one"],
)
def test_difffolded(tmp_path: Path, before: Profile, after: Profile, normalize: bool) -> None:
    paths = []
    for name, profile in (("a", before), ("b", after)):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(written(FORMATS["folded"], profile))
    out = io.BytesIO()
    scale = Normalization.SAMPLES if normalize else Normalization.NONE
    difference = compare(before, after, normalization=scale)
    DIFFERENCE_FORMATS["folded"].write(difference, out, negate=False)
    script = flamegraph("difffolded.pl")
    result = run("perl", script, *(["-n"] if normalize else []), *paths)
    assert out.getvalue().splitlines() == sorted(result.stdout.splitlines())
    assert re.fullmatch(rb"(.* \d+ \d+\n)+", out.getvalue())
