"""The page of `jsspy serve`: flame graphs that follow each other, and what was chosen stays."""

from __future__ import annotations

import os
import time
from array import array

import pytest

from browser import chromium
from browser.chromium import Chromium
from jsspy.formats.native import Native
from jsspy.server import stream
from jsspy.server.app import Options
from jsspy.server.collector import Collector
from jsspy.server.library import Profiling, Server
from jsspy.server.sampling import Sampling
from profiles import small, written

READY = "document.querySelector('iframe:not(.next)')?.contentDocument.documentElement.dataset.ready"
FRAME = "document.querySelector('iframe:not(.next)').contentWindow"


def speak(collector: Collector) -> None:
    """Say what a sampler says each second."""
    profile = small()
    profile.meta.duration_ns = 1_000_000_000
    profile.meta.start_ns = time.monotonic_ns() - profile.meta.duration_ns
    profile.time_ns = array("q", [profile.meta.start_ns + 1]) * len(profile)
    collector._take(stream.PROFILE, written(Native(), profile))


def test_live_page_keeps_what_was_chosen() -> None:
    if chromium.find() is None:
        assert not os.environ.get("CI"), "chromium is missing"
        pytest.skip("chromium is not installed")
    collector = Collector(Sampling(pids=(4242,)))
    speak(collector)
    options = Options(is_local=True)
    with Chromium() as browser, Server(Profiling(collector), options, "127.0.0.1", 0) as server:
        browser.send("Page.navigate", url=f"{server.url}/")
        browser.wait(READY)
        browser.evaluate(f"{FRAME}.location.hash = 'q=hot'")
        browser.wait(f"{FRAME}.document.querySelector('#found')?.textContent.includes('%')")
        before = browser.evaluate(f"{FRAME}.location.search")
        speak(collector)
        browser.evaluate(
            "(s => { s.value = '60'; s.onchange(); })(document.querySelector('#seconds'))"
        )
        browser.wait(f"{READY} && {FRAME}.location.search !== {before!r}")
        assert "seconds=60" in browser.evaluate(f"{FRAME}.location.search")
        assert "q=hot" in browser.evaluate(f"{FRAME}.location.hash")
        assert browser.evaluate("document.querySelectorAll('iframe').length") == 1
        assert browser.problems() == []
