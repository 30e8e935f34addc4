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


@pytest.mark.parametrize("version", VERSIONS)
def test_perf_script_shows_our_names(version: str, tmp_path: Path) -> None:
    tool = perf()
    data = tmp_path / "perf.data"
    with nodes.running(version, BUSY) as target:
        record = [tool, "record", "-q", "-e", "cpu-clock", "-F", "199", "-g", "-o", str(data)]
        subprocess.run(
            [*record, "-p", str(target.pid), "--", "sleep", "1.5"], check=True, timeout=60
        )
        done = jsspy("perf-map", "--pid", str(target.pid))
        assert done.returncode == 0, done.stderr
        printed = subprocess.run(
            [tool, "script", "-i", str(data)], check=True, capture_output=True, timeout=60
        ).stdout.decode()
        map_path = f"/tmp/perf-{target.pid}.map"
    try:
        leaf = rf"JS:[*+]leafWork \S*/program\.js:2:18\+0x[0-9a-f]+ \({map_path}\)"
        assert re.search(leaf, printed)
    finally:
        Path(map_path).unlink()
