"""perf itself: it takes names from the map that we write."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import nodes
from running import BUSY, jsspy

VERSIONS = nodes.selected(("20.20.2", "24.15.0"))


def perf() -> str:
    """Return the path of perf."""
    path = shutil.which("perf")
    if path is None:
        nodes.missing("perf is not installed: run `make consumers-installed` as root")
    return str(path)


def recorded(target: nodes.NodeProcess, directory: Path) -> Path:
    """Record a process with perf; return the perf.data."""
    data = directory / "perf.data"
    record = [perf(), "record", "-q", "-e", "cpu-clock", "-F", "199", "-g", "-o", str(data)]
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
        leaf = rf"JS:[*+]leafWork \S*/program\.js:2:18\+0x[0-9a-f]+ \({map_path}\)"
        assert re.search(leaf, printed)
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
    assert re.search(r"outerWork \S*program\.js:3;leafWork \S*program\.js:2 \d+", done.stdout)
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
        assert "leafWork" in done.stdout
