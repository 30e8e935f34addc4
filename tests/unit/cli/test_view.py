from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

import profiles
from jsspy.cli.main import run
from jsspy.formats.folded import Folded
from jsspy.formats.native import Native
from profiles import written


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file to which a browser of ours writes what it was asked to open."""
    (tmp_path / "pages").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "pages"))
    asked = tmp_path / "asked"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" >> {asked}\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{program} %s")
    return asked


def test_each_recording_is_opened_as_a_page(
    browser: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    native, folded = tmp_path / "a b.jsspy", tmp_path / "c.folded"
    native.write_bytes(written(Native(), profiles.small()))
    folded.write_bytes(written(Folded(), profiles.small()))
    assert run(["view", str(native), str(folded)]) == 0
    pages = sorted((tmp_path / "pages").iterdir())
    assert [re.sub(r"-\w{8}\.", "-*.", page.name) for page in pages] == [
        "jsspy-a_b-*.html",
        "jsspy-c-*.html",
    ]
    for page in pages:
        assert page.read_bytes().startswith(b"<!doctype html>")
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert browser.read_text(encoding="utf-8").split() == [page.as_uri() for page in pages]
    output = capfd.readouterr()
    assert output.out == ""
    assert all(str(page) in output.err for page in pages)


def test_no_open_and_output(browser: Path, tmp_path: Path) -> None:
    recording, page = tmp_path / "a.jsspy", tmp_path / "page.html"
    recording.write_bytes(written(Native(), profiles.small()))
    assert run(["view", "--no-open", "-o", str(page), str(recording)]) == 0
    assert page.exists()
    assert not browser.exists()
    assert list((tmp_path / "pages").iterdir()) == []


def test_without_a_screen_it_says_where_the_page_is(
    browser: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    recording, page = tmp_path / "a.jsspy", tmp_path / "page.html"
    recording.write_bytes(written(Native(), profiles.small()))
    assert run(["view", "-o", str(page), str(recording)]) == 0
    assert page.as_uri() in capfd.readouterr().err
    assert not browser.exists()


def test_what_cannot_be_read_leaves_no_page(browser: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"\x00junk")
    assert run(["view", str(junk)]) == 1
    assert list((tmp_path / "pages").iterdir()) == []
    assert not browser.exists()


def test_usage(tmp_path: Path) -> None:
    assert run(["view"]) == 2
    assert run(["view", "-o", "x.html", "a", "b"]) == 2
    assert run(["view", "-o", "-", str(tmp_path)]) == 2
