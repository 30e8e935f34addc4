"""perf itself: it takes names from the map that we write."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import nodes
from running import BUSY, jsspy

VERSIONS = nodes.selected(("20.20.2", "24.15.0"))
COMPILED = "[*+^]"
"""Marks of the tiers that have code of their own."""


def perf() -> str:
    """Return the path of perf."""
    path = shutil.which("perf")
    if path is None:
        nodes.missing("perf is not installed: run `make consumers-installed` as root")
    return str(path)


def recorded(target: nodes.NodeProcess, directory: Path, *graph: str) -> Path:
    """Record a process with perf; return the perf.data."""
    data = directory / "perf.data"
    record = [perf(), "record", "-q", "-e", "cpu-clock", "-F", "199", "-o", str(data)]
    record += graph or ("-g",)
    subprocess.run([*record, "-p", str(target.pid), "--", "sleep", "1.5"], check=True, timeout=60)
    return data


@pytest.mark.parametrize("version", VERSIONS)
def test_perf_script_shows_our_names(version: str, tmp_path: Path) -> None:
    with nodes.running(version, BUSY) as target:
        data = recorded(target, tmp_path)
        done = jsspy("perf-map", "--pid", str(target.pid))
        assert done.returncode == 0, done.stderr
        printed = subprocess.run(
            [perf(), "script", "-i", str(data)], check=True, capture_output=True, timeout=60
        ).stdout.decode()
        map_path = f"/tmp/perf-{target.pid}.map"
    try:
        place = r"(?:leafWork \S*/program\.js:2:18|outerWork \S*/program\.js:3:19)"
        assert re.search(rf"JS:{COMPILED}{place}\+0x[0-9a-f]+ \({map_path}\)", printed), printed
    finally:
        Path(map_path).unlink()


@pytest.mark.parametrize("version", VERSIONS)
def test_annotate_names_what_perf_could_not(version: str, tmp_path: Path) -> None:
    with nodes.running(version, BUSY) as target:
        data = recorded(target, tmp_path)
        done = jsspy("annotate", str(data), "-o", "-")
        saved = tmp_path / "some.map"
        saved.write_text(jsspy("perf-map", "-p", str(target.pid), "--stdout").stdout, "utf-8")
    assert done.returncode == 0, done.stderr
    # Code has one name: where V8 compiled the inner function into the outer one it is that.
    assert re.search(r"(?:outerWork \S*program\.js:3|leafWork \S*program\.js:2) \d+", done.stdout)
    named, asked = re.findall(r"\d+", done.stderr)[:2]
    assert 0 < int(named) <= int(asked)
    # The process is gone: its map has to do.
    done = jsspy("annotate", str(data), "-o", "-")
    assert "leafWork" not in done.stdout
    assert f"process {target.pid} is gone" in done.stderr
    text = subprocess.run(
        [perf(), "script", "-i", str(data)], check=True, capture_output=True, timeout=60
    ).stdout
    for source, stdin in ((str(data), b""), ("-", text)):
        done = jsspy("annotate", source, "--map", str(saved), "-o", "-", stdin=stdin)
        assert done.returncode == 0, done.stderr
        assert re.search(r"(?:outerWork|leafWork) \S*program\.js", done.stdout)


@pytest.mark.parametrize("version", VERSIONS)
def test_perf_report_names_javascript(version: str, tmp_path: Path) -> None:
    """The recipe with perf report at its end, and none of node's flags."""
    with nodes.running(version, BUSY) as target:
        data = recorded(target, tmp_path)
        done = jsspy("perf-map", "--pid", str(target.pid))
        assert done.returncode == 0, done.stderr
        map_path = Path(f"/tmp/perf-{target.pid}.map")
        try:
            command = [perf(), "report", "-i", str(data), "--stdio", "--no-children", "-g", "none"]
            printed = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
        finally:
            map_path.unlink()
    # Either is inlined into the other's caller, sooner or later.
    name = rf"JS:{COMPILED}(?:leaf|outer)Work \S*/program\.js:[23]:\d+"
    assert re.search(rf"\d+\.\d+%.*\[\.\] {name}", printed.decode()), printed.decode()


@pytest.mark.parametrize("version", nodes.selected(("12.22.12", "26.10.0")))
def test_interpreted_functions_are_named_from_stack_dumps(version: str, tmp_path: Path) -> None:
    flags = ("--no-opt", "--no-sparkplug") if version == "26.10.0" else ("--no-opt",)
    with nodes.running(version, BUSY, flags=flags) as target:
        data = recorded(target, tmp_path, "--call-graph", "dwarf,32768")
        done = jsspy("annotate", str(data), "-o", "-")
        assert done.returncode == 0, done.stderr
    unwound, samples = map(int, re.findall(r"(\d+) of (\d+) stacks were unwound", done.stderr)[0])
    counts: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        stack, _, count = line.rpartition(" ")
        counts[stack] += int(count)
    whole = sum(
        count
        for stack, count in counts.items()
        if re.search(r"outerWork \S*program\.js:3;leafWork \S*program\.js:2(;|$)", stack)
        and stack.startswith("_start;")
    )
    # It does little else.
    assert unwound == samples
    assert whole >= 0.8 * samples, done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_the_map_that_node_writes_itself_is_read(version: str, tmp_path: Path) -> None:
    """A map outlives its process, and annotate knows how V8 writes names."""
    flags = ("--perf-basic-prof", "--interpreted-frames-native-stack")
    with nodes.running(version, BUSY, flags=flags) as target:
        data = recorded(target, tmp_path)
        refused = jsspy("perf-map", "--pid", str(target.pid))
        assert refused.returncode != 0
        assert "the process writes it itself" in refused.stderr
    try:
        done = jsspy("annotate", str(data), "-o", "-")
    finally:
        Path(f"/tmp/perf-{target.pid}.map").unlink()
    assert done.returncode == 0, done.stderr
    # leafWork may be part of it: a map says nothing of what was inlined.
    assert re.search(r";outerWork \S*program\.js:3(;| )", done.stdout)
