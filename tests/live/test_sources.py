"""Source lines in recordings, from live processes to the viewer."""

from __future__ import annotations

from pathlib import Path

import pytest

import nodes
from browser import chromium
from browser.chromium import Chromium
from jsspy.formats import load_profile
from running import BUSY, jsspy

VERSION = nodes.selected(("22.23.3",))
LINE = BUSY.splitlines()[1]


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_lines_that_ran_are_kept(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    with nodes.running(version, BUSY) as target:
        done = jsspy("record", "--pid", str(target.pid), "-d", "1", "-o", str(path))
    assert done.returncode == 0, done.stderr
    sources = load_profile(path).sources
    (url,) = [url for url in sources if url.endswith("/program.js")]
    lines = sources[url].split("\n")
    kept = {number for number, line in enumerate(lines) if line}
    assert kept & {1, 4}
    # Line 3 is a declaration: nothing of it ever executes.
    assert 2 not in kept
    assert all(lines[number] == BUSY.splitlines()[number] for number in kept)


@pytest.mark.parametrize("version", VERSION)
def test_of_a_process_that_ended_the_file_is_read(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    with nodes.running(version, BUSY + "setTimeout(process.exit, 4000);") as target:
        done = jsspy("record", "--pid", str(target.pid), "-o", str(path))
    assert done.returncode == 0, done.stderr
    sources = load_profile(path).sources
    assert LINE in {line for text in sources.values() for line in text.split("\n")}
    # V8's own copy of its scripts is gone, and they are in no file.
    assert not any(url.startswith("node:") for url in sources)


@pytest.mark.parametrize("version", VERSION)
def test_no_sources(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsspy"
    with nodes.running(version, BUSY) as target:
        arguments = ("--pid", str(target.pid), "-d", "0.5", "-o", str(path), "--no-sources")
        done = jsspy("record", *arguments)
    assert done.returncode == 0, done.stderr
    profile = load_profile(path)
    assert len(profile) > 0
    assert profile.sources == {}


@pytest.mark.chromium
@pytest.mark.parametrize("version", VERSION)
def test_the_viewer_shows_them(version: str, tmp_path: Path) -> None:
    if chromium.find() is None:
        nodes.missing("chromium is not installed")
    recording, page = tmp_path / "a.jsspy", tmp_path / "page.html"
    with nodes.running(version, BUSY) as target:
        done = jsspy("record", "--pid", str(target.pid), "-d", "1", "-o", str(recording))
    assert done.returncode == 0, done.stderr
    done = jsspy("view", str(recording), "--no-open", "-o", str(page))
    assert done.returncode == 0, done.stderr
    with Chromium() as browser:
        browser.open(page)
        browser.press("t")  # the table of functions, the hottest first
        browser.frame()
        texts = browser.evaluate(
            "(() => { const row = [...document.querySelectorAll('#table tbody tr')]"
            ".find(row => row.textContent.includes('leafWork')); row.click();"
            "return [...document.querySelectorAll('#function code')].map(c => c.textContent); })()"
        )
        assert f"2  {LINE.strip()[:40]}" in {text[:43] for text in texts}
        assert browser.problems() == []
