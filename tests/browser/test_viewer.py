"""The viewer, as people use it: in a real browser, from a file, without a network."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import chromium
from browser.chromium import Chromium
from jsspy.formats.difference import DifferenceHtml
from jsspy.formats.html import Html
from jsspy.model.difference import compare
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.sample import LossReason, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Stack, Tier, Truncation
from jsspy.model.units import Pid, Tid

MS = 1_000_000
RULER = 20
ROW = 18

HOSTILE = (
    "</script><script>window.pwned=1</script>",
    "<!--<script>window.pwned=1",
    "<img src=x onerror=window.pwned=1>",
    "__proto__",
    "constructor",
    "\"';`${window.pwned=1}",
    "a\x00b\nc",
    "\u2028\u2029",
    "\u202egnirts",
    "",
    "x" * 5_000,
    "名前 \U0001f525 e\u0301",
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Chromium]:
    if chromium.find() is None:
        assert not os.environ.get("CI"), "chromium is missing"
        pytest.skip("chromium is not installed")
    with Chromium() as browser:
        # No page of ours may need a network: there is none.
        browser.send(
            "Network.emulateNetworkConditions",
            offline=True, latency=0, downloadThroughput=0, uploadThroughput=0,
        )  # fmt: skip
        yield browser


class View:
    """A page that shows a profile, and what can be read off it."""

    def __init__(self, browser: Chromium, path: Path) -> None:
        self.browser = browser
        self.path = path

    def open(self, fragment: str = "") -> None:
        self.browser.open(self.path, fragment)

    def text(self, selector: str) -> str:
        return str(self.browser.evaluate(f"document.querySelector({selector!r}).textContent"))

    def hash(self) -> str:
        """Return the fragment, which is written a moment after a change."""
        self.browser.evaluate("new Promise(done => setTimeout(done, 300))")
        return str(self.browser.evaluate("location.hash"))

    def pane(self, number: int = 0) -> tuple[float, float, float, float]:
        """Return left, top, width and height of a graph."""
        area = self.browser.evaluate(
            f"(r => [r.x, r.y, r.width, r.height])"
            f"(document.querySelectorAll('.pane')[{number}].getBoundingClientRect())"
        )
        return tuple(area)

    def at(self, depth: int, share: float) -> tuple[float, float]:
        """Return where in the page a frame of the icicle is."""
        left, top, width, _ = self.pane()
        return left + share * width, top + RULER + depth * ROW + ROW / 2

    def click(self, depth: int, share: float) -> None:
        self.browser.click(*self.at(depth, share))

    def hover(self, depth: int, share: float) -> str:
        self.browser.mouse("mouseMoved", *self.at(depth, share))
        self.browser.frame()
        return self.text("#detail")

    def search(self, query: str) -> str:
        self.browser.press("/")
        self.browser.send("Input.insertText", text=query)
        self.browser.frame()
        return self.text("#found")

    def table(self) -> list[list[str]]:
        rows: list[list[str]] = self.browser.evaluate(
            "[...document.querySelectorAll('#table tbody tr')]"
            ".map(r => [...r.cells].map(c => c.textContent))"
        )
        return rows

    def pixel(self, x: float, y: float) -> tuple[int, ...]:
        """Return the colour of the first graph's canvas at a place in the page."""
        left, top, *_ = self.pane()
        return self.pixels(round(x - left), round(y - top), 1)[0]

    def pixels(self, x: int, y: int, width: int) -> list[tuple[int, ...]]:
        """Return a row of colours of the first graph's canvas; its own context is left alone."""
        row: list[int] = self.browser.evaluate(
            f"""(() => {{
              const copy = new OffscreenCanvas({width}, 1).getContext('2d');
              const from = document.querySelector('.pane canvas');
              copy.drawImage(from, {x}, {y}, {width}, 1, 0, 0, {width}, 1);
              return [...copy.getImageData(0, 0, {width}, 1).data];
            }})()"""
        )
        return [tuple(row[i : i + 3]) for i in range(0, len(row), 4)]


@pytest.fixture
def view(shared: Chromium, tmp_path: Path) -> Iterator[Any]:
    shared.size(1280, 800)

    def opened(profile: Profile, fragment: str = "") -> View:
        path = tmp_path / "flame graph.html"
        with path.open("wb") as out:
            Html().write(profile, out)
        page = View(shared, path)
        page.open(fragment)
        return page

    yield opened
    assert shared.problems() == []
    assert all(url.startswith(("file:", "about:")) for url in shared.requests())
    assert shared.evaluate("window.pwned") is None


def js(name: str, line: int = 1, **more: Any) -> Frame:
    url = more.pop("url", f"/srv/{name}.js")
    return Frame(
        name, FrameKind.JS, more.pop("tier", Tier.OPTIMIZED), Location(url, line),
        Location(url, 1, 5), **more,
    )  # fmt: skip


def profile_of(*stacks: tuple[int, tuple[Frame, ...]], times: bool = False) -> Profile:
    """Return a profile of (weight in ms, frames) samples."""
    profile = Profile(ProfileMeta(value_type=ValueType.CPU, command="node server.js"))
    thread = profile.intern_thread(ThreadInfo(Pid(7), Tid(7), "main"))
    for index, (weight, frames) in enumerate(stacks):
        profile.add_row(
            profile.intern_stack(Stack(frames)), thread, index * MS if times else 0, weight * MS
        )
    return profile


@pytest.fixture
def small() -> Profile:
    """Make `all > main > (left 60: deep 30, self 30 | right 40)`; left calls itself within deep."""
    main, left, deep, right = js("main"), js("left"), js("deep"), js("right")
    return profile_of(
        (30, (main, left)), (20, (main, left, deep)), (10, (main, left, deep, left)),
        (40, (main, right)),
    )  # fmt: skip


def test_hover_tells_name_place_and_weights(view: Any, small: Profile) -> None:
    page = view(small)
    detail = page.hover(2, 0.3)
    assert "left /srv/left.js:1:5 · App · optimized" in detail
    assert "total 60.0 ms (60.0 %), self 30.0 ms (30.0 %)" in detail
    assert "right" in page.hover(2, 0.8)


def test_click_zooms_and_escape_goes_back(view: Any, small: Profile) -> None:
    page = view(small)
    page.click(2, 0.3)
    assert "left" in page.hover(2, 0.95)
    assert page.hover(3, 0.25).startswith("deep")
    assert "z=" in page.hash()
    page.browser.press("Escape")
    assert page.hover(2, 0.95).startswith("right")
    assert "z=" not in page.hash()


def test_wheel_zooms_about_the_pointer_and_drag_moves(view: Any, small: Profile) -> None:
    page = view(small)
    x, y = page.at(2, 0.7)
    for _ in range(10):
        page.browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-100)
    page.browser.frame()
    assert page.hover(2, 0.1).startswith("right")
    left, _, width, _ = page.pane()
    page.browser.drag((left + 0.1 * width, y), (left + 0.9 * width, y))
    assert page.hover(2, 0.1).startswith("left")
    assert "w=" in page.hash()


def test_search_counts_nested_matches_once(view: Any, small: Profile) -> None:
    page = view(small)
    plain = page.pixel(*page.at(2, 0.3))
    assert page.search("^LEFT$") == "1 function, 2 frames, 60.0 %"
    assert page.pixel(*page.at(2, 0.3)) != plain
    assert [row[2] for row in page.table()] == ["left  left.js:1:5"]
    assert "q=%5ELEFT%24" in page.hash()


def test_search_walks_through_matches(view: Any, small: Profile) -> None:
    page = view(small)
    page.search("left|right")
    page.browser.press("Enter")
    assert page.text("#live").startswith("left, total 60.0 ms")
    page.browser.press("Enter")
    assert page.text("#live").startswith("left, total 10.0 ms")
    page.browser.press("Enter")
    assert page.text("#live").startswith("right")
    page.browser.press("Enter")
    assert page.text("#live").startswith("left, total 60.0 ms")


@pytest.mark.parametrize("query", ["([", "*", "(?<", "a{2,1}", "\\"])
def test_bad_regexp_is_shown_and_searched_as_text(view: Any, query: str) -> None:
    page = view(profile_of((1, (js(f"x{query}y"),)), (3, (js("z"),))))
    found = page.search(query)
    assert found.startswith("Not a regexp (")
    assert found.endswith("25.0 %")


def test_everything_by_keyboard(view: Any, small: Profile) -> None:
    page = view(small)
    press = page.browser.press
    press("g", "ArrowDown", "ArrowDown")
    assert page.text("#live").startswith("left, total 60.0 ms (60.0 %), self 30.0 ms")
    press("ArrowRight")
    assert page.text("#live").startswith("right")
    press("ArrowLeft", "ArrowDown")
    assert page.text("#live").startswith("deep")
    press("Enter")
    assert page.hover(3, 0.9).startswith("deep")
    press("Escape", "ArrowUp", "ArrowUp")
    assert page.text("#live").startswith("main")
    press("i")
    assert "flame=1" in page.hash()
    press("t", "Home", "ArrowDown")
    assert page.browser.evaluate("document.activeElement.id") == "table"
    assert "row 2 of 4" in page.text("#live")
    press("Enter")
    assert page.browser.evaluate("document.querySelectorAll('.pane').length") == 2
    press("?")
    assert page.browser.evaluate("document.querySelector('dialog').open")
    press("Escape")
    assert page.browser.evaluate("document.querySelector('dialog')") is None


def test_focus_is_visible_on_every_stop(view: Any, small: Profile) -> None:
    page = view(small)
    stops = set()
    for _ in range(40):
        page.browser.press("Tab")
        seen = page.browser.evaluate(
            "(e => [e.id || e.className || e.textContent,"
            " getComputedStyle(e).outlineStyle])(document.activeElement)"
        )
        if seen[0] not in stops and page.browser.evaluate(
            "document.activeElement !== document.body"
        ):
            stops.add(seen[0])
            assert seen[1] == "solid", seen
    assert {"search", "pane", "table", "flame", "info"} <= stops


def test_copy_needs_one_key(view: Any, small: Profile) -> None:
    page = view(small)
    page.browser.send("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    page.hover(2, 0.3)
    page.browser.press("c")
    page.browser.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.browser.evaluate("navigator.clipboard.readText()") == "left /srv/left.js:1:5"


def test_flame_has_its_root_at_the_bottom(view: Any, small: Profile) -> None:
    page = view(small, "#flame=1")
    left, top, width, height = page.pane()
    page.browser.mouse("mouseMoved", left + width / 2, top + height - ROW / 2 - 2)
    page.browser.frame()
    assert page.text("#detail").startswith("all: node server.js")
    page.browser.mouse("mouseMoved", left + 0.8 * width, top + height - 2.5 * ROW - 2)
    page.browser.frame()
    assert page.text("#detail").startswith("right")


def test_table_sorts_and_selects(view: Any, small: Profile) -> None:
    page = view(small)
    rows = [(r[0], r[1], r[2].split()[0]) for r in page.table()]
    assert rows == [
        ("40.0 %", "60.0 %", "left"),
        ("40.0 %", "40.0 %", "right"),
        ("20.0 %", "30.0 %", "deep"),
        ("0 %", "100 %", "main"),
    ]
    page.browser.evaluate("document.querySelectorAll('th button')[1].click()")
    assert [r[1] for r in page.table()] == ["100 %", "60.0 %", "40.0 %", "30.0 %"]
    assert page.browser.evaluate("document.querySelectorAll('th')[1].ariaSort") == "descending"
    page.browser.evaluate("document.querySelectorAll('#table tbody tr')[2].click()")
    assert page.text("#function h2") == "right"
    assert page.text("#detail").startswith("right")


def test_table_of_many_functions_keeps_few_elements(view: Any) -> None:
    page = view(profile_of(*((1, (js(f"f{i:05}"),)) for i in range(3_000))))
    assert page.browser.evaluate("document.querySelectorAll('*').length") < 300
    assert page.browser.evaluate("document.querySelector('table').ariaRowCount") == "3001"
    page.browser.press("t", "End")
    assert page.text("#function h2") == "f02999"
    assert page.table()[-1][2].startswith("f02999")


def test_sandwich_shows_callers_and_callees(view: Any, small: Profile) -> None:
    page = view(small)
    page.click(3, 0.1)
    page.browser.press("s")
    left, top, width, height = page.pane(0)
    page.browser.mouse("mouseMoved", left + width / 2, top + height - 1.5 * ROW)
    page.browser.frame()
    assert page.text("#detail").startswith("left")
    left, top, width, _ = page.pane(1)
    page.browser.mouse("mouseMoved", left + 10, top + RULER + 1.5 * ROW)
    page.browser.frame()
    assert page.text("#detail").startswith("left")
    assert "total 10.0 ms" in page.text("#detail")
    page.browser.press("Escape")
    assert page.browser.evaluate("document.querySelectorAll('.pane').length") == 1


def test_folded_recursion_keeps_the_weight(view: Any, small: Profile) -> None:
    page = view(small)
    page.browser.press("r")
    assert "total 60.0 ms (60.0 %), self 40.0 ms" in page.hover(2, 0.3)
    assert "fold=1" in page.hash()


def test_glue_is_hidden_until_asked_for(view: Any) -> None:
    entry = Frame("[entry frame]", FrameKind.VM_FRAME)
    page = view(profile_of((5, (js("a"), entry, js("b")))))
    assert page.hover(2, 0.5).startswith("b")
    page.browser.press("v")
    assert page.hover(2, 0.5).startswith("[entry frame]")
    assert page.hover(3, 0.5).startswith("b")


def test_kinds_can_be_hidden_and_their_weight_goes_to_the_caller(view: Any) -> None:
    native = Frame("read", FrameKind.NATIVE)
    page = view(profile_of((5, (js("a"), native)), (5, (js("a"),))))
    labels = page.browser.evaluate(
        "[...document.querySelectorAll('#legend button')].map(b => b.textContent)"
    )
    assert labels == ["App 50.0 %", "Native 50.0 %"]
    page.browser.evaluate("document.querySelectorAll('#legend button')[1].click()")
    assert "total 10.0 ms (100 %), self 10.0 ms" in page.hover(1, 0.5)


def test_threads_and_times_can_be_chosen(view: Any) -> None:
    profile = profile_of(*((1, (js("a" if i < 50 else "b"),)) for i in range(100)), times=True)
    other = profile.intern_thread(ThreadInfo(Pid(7), Tid(8), "worker"))
    profile.add_row(0, other, 99 * MS, 100 * MS, vm_state=VmState.GC)
    page = view(profile)
    page.browser.evaluate(
        "(s => { s.value = 1; s.dispatchEvent(new Event('change')); })"
        "(document.querySelector('#thread'))"
    )
    assert "100 ms" in page.text("#summary")
    page.open("#thread=0")
    area = page.browser.evaluate(
        "(r => [r.x, r.y, r.width, r.height])"
        "(document.querySelector('#time').getBoundingClientRect())"
    )
    x, y, width, height = area
    page.browser.drag((x + 2, y + height / 2), (x + width * 0.4, y + height / 2))
    assert [row[2].split()[0] for row in page.table()] == ["a"]
    assert "time=" in page.hash()
    page.browser.evaluate("document.querySelector('#time').focus()")
    page.browser.press("Escape")
    assert len(page.table()) == 2
    page.browser.press(*["ArrowRight"] * 15)
    assert [row[2].split()[0] for row in page.table()] == ["b"]


def timeline(*samples: tuple[int, tuple[Frame, ...]], thread: str = "main") -> Profile:
    """Return a profile of one thread, of (time in ms, frames) samples that weigh 10 ms each."""
    meta = ProfileMeta(value_type=ValueType.CPU, command="node server.js", period_ns=10 * MS)
    profile = Profile(meta)
    index = profile.intern_thread(ThreadInfo(Pid(7), Tid(7), thread))
    for time_ms, frames in samples:
        row = profile.intern_stack(Stack(frames))
        profile.add_row(row, index, time_ms * MS, 10 * MS)
    return profile


def test_time_order_shows_calls_one_after_the_other(view: Any) -> None:
    main, work, leaf = js("main"), js("work"), js("leaf")
    page = view(timeline(
        (0, (main, work)), (10, (main, work, leaf)), (21, (main,)), (30, (main, work)),
        (70, (main, work)), (90, (main, leaf)),
    ))  # fmt: skip
    page.browser.press("o")
    page.browser.frame()
    # 100 ms: main runs from 0 to 40, from 70 to 80 and from 90 to 100.
    assert page.hover(0, 0.5).startswith("all")
    assert "100 ms (100 %), from 0" in page.text("#detail")
    assert "40.0 ms (40.0 %), from 0" in page.hover(1, 0.2)
    assert "10.0 ms (10.0 %), from 70.0 ms" in page.hover(1, 0.75)
    assert page.hover(2, 0.1).startswith("work")
    assert "21.0 ms (21.0 %), from 0" in page.text("#detail")
    assert "10.0 ms (10.0 %), from 30.0 ms" in page.hover(2, 0.35)
    assert "11.0 ms (11.0 %), from 10.0 ms" in page.hover(3, 0.15)
    # Gaps are nothing: what is hovered there is what is chosen, the root.
    assert page.hover(1, 0.6).startswith("all")
    assert page.hover(2, 0.25).startswith("all")
    page.click(2, 0.35)
    page.browser.frame()
    assert "order=1" in page.hash()
    assert page.hover(2, 0.9).startswith("work")
    page.browser.press("Escape", "o")
    page.browser.frame()
    assert "total 60.0 ms (100 %)" in page.hover(0, 0.5)


def test_time_order_goes_with_range_thread_kind_and_fold(view: Any) -> None:
    main, work = js("main"), js("work")
    native = Frame("read", FrameKind.NATIVE)
    profile = timeline(*((time, (main, work, main, native)) for time in range(0, 100, 10)))
    worker = profile.intern_thread(ThreadInfo(Pid(7), Tid(8), "worker"))
    for time in range(50, 100, 10):
        profile.add_row(profile.intern_stack(Stack((work,))), worker, time * MS, 10 * MS)
    page = view(profile, "#order=1&time=20000-45000&fold=1&hide=64")
    assert "30.0 ms (100 %)" in page.hover(0, 0.5)
    assert page.hover(1, 0.5).startswith("main")
    assert page.hover(2, 0.5).startswith("work")
    assert page.hover(3, 0.5).startswith("all")
    page.open("#order=1&thread=1")
    assert "from 50.0 ms" in page.hover(1, 0.8)
    page.open("#q=read&only=1&order=1")
    assert page.hover(1, 0.5).startswith("main")


def test_time_order_of_deep_stacks(view: Any) -> None:
    frames = tuple(js(f"f{depth}") for depth in range(20_000))
    page = view(timeline((0, frames), (10, frames[:10_000]), (20, frames)), "#order=1")
    assert page.hover(1, 0.5).startswith("f0")
    assert "30.0 ms (100 %)" in page.text("#detail")


def test_there_is_no_time_order_without_times(view: Any, small: Profile) -> None:
    page = view(small, "#order=1")
    assert page.browser.evaluate("document.getElementById('order').hidden")
    assert page.hover(1, 0.5).startswith("main")


def test_only_matches_leaves_out_other_stacks(view: Any, small: Profile) -> None:
    page = view(small)
    assert page.browser.evaluate("document.getElementById('only').disabled")
    assert page.search("deep") == "1 function, 1 frames, 30.0 %"
    page.browser.press("Enter", "Escape", "Escape")
    page.search("deep")
    page.browser.evaluate("document.activeElement.blur()")
    page.browser.press("m")
    page.browser.frame()
    assert "total 30.0 ms (100 %)" in page.hover(0, 0.5)
    assert page.hover(2, 0.9).startswith("left")
    assert "right" not in {row[2].split()[0] for row in page.table()}
    page.browser.press("m")
    page.browser.frame()
    assert "total 100 ms (100 %)" in page.hover(0, 0.5)


def test_packages_are_found_and_chosen(view: Any) -> None:
    path = "/srv/node_modules/.pnpm/lodash@4.17.21/node_modules/lodash/map.js"
    lodash = js("map", url=path)
    page = view(profile_of((30, (js("main"), lodash)), (70, (js("main"), js("own")))))
    assert page.search("^lodash@4") == "1 function, 1 frames, 30.0 %"
    assert "lodash@4.17.21" in page.hover(2, 0.9)
    page.click(2, 0.9)
    page.browser.evaluate(
        "[...document.querySelectorAll('#function button')]"
        ".find(b => b.textContent === 'Only lodash@4.17.21').click()"
    )
    page.browser.frame()
    assert "total 30.0 ms (100 %)" in page.hover(0, 0.5)
    assert "only=1" in page.hash()


def test_truncated_stacks_stand_apart(view: Any) -> None:
    profile = profile_of((60, (js("main"), js("work"))), (40, (js("work"),)))
    profile.truncated[1] = Truncation.TOO_DEEP
    page = view(profile)
    assert page.hover(1, 0.3).startswith("main")
    assert page.hover(1, 0.8).startswith("(truncated: too-deep)")
    assert "total 40.0 ms" in page.text("#detail")
    assert page.hover(2, 0.8).startswith("work")


def test_address_keeps_zoom_and_search(view: Any, small: Profile) -> None:
    page = view(small)
    page.search("deep")
    page.click(2, 0.3)
    fragment = page.hash()
    page.open(fragment)
    assert page.text("#found") == "1 function, 1 frames, 30.0 %"
    assert page.hover(2, 0.95).startswith("left")
    for bad in ("#z=99999&w=2-1&time=x&hide=-1&thread=9&fn=1e9", "#%", "#q=%ff"):
        page.open(bad)
        assert page.text("#detail").startswith("all")


def test_hostile_names_do_no_harm(view: Any) -> None:
    frames = tuple(Frame(n, FrameKind.JS, location=Location(n or "/", 1)) for n in HOSTILE)
    profile = profile_of((5, frames), *((1, (frame,)) for frame in frames))
    profile.meta.command = HOSTILE[0]
    profile.meta.notes = list(HOSTILE)
    page = view(profile)
    assert page.text("#title") == HOSTILE[0]
    for depth, name in enumerate(HOSTILE, start=1):
        detail = page.hover(depth, 0.01)
        assert "\u202e" not in detail
        if name.isascii() and name.isprintable() and name:
            assert detail.startswith(name)
    assert "\\u202egnirts" in page.hover(9, 0.01)
    assert "(anonymous)" in page.hover(10, 0.01)
    page.browser.press("I")
    assert HOSTILE[2] in page.text("dialog")
    page.browser.press("Escape")
    assert page.search("__proto__").startswith("1 function")
    assert page.browser.evaluate("document.querySelectorAll('img, b script').length") == 0


def test_twenty_thousand_deep(view: Any) -> None:
    deep = tuple(js(f"f{i}", url="/deep.js") for i in range(20_000))
    page = view(profile_of((1, deep), (99, (js("wide"),))))
    assert page.hover(0, 0.5).startswith("all")
    assert page.hover(1, 0.5).startswith("wide")
    assert page.browser.evaluate("document.querySelector('.pane canvas').height") < 800
    page.click(1, 0.999)
    assert page.hover(5, 0.5).startswith("f4")
    page.search("^f19999$")
    page.browser.press("Enter")
    assert page.text("#detail").startswith("f19999")
    page.browser.press("Escape", "Escape", "i")
    page.browser.press("g", "Home")
    assert page.text("#live").startswith("all")


def test_slivers_are_drawn(view: Any) -> None:
    """Ten thousand frames in a row, none of a pixel's width, still colour the whole row."""
    page = view(profile_of(*((1, (js(f"f{i}"),)) for i in range(10_000))))
    background = page.pixel(*page.at(3, 0.5))
    for share in (0.001, 0.1, 0.33, 0.5, 0.9, 0.998):
        assert page.pixel(*page.at(1, share)) != background
    page.search("^f5000$")
    colours = page.pixels(0, RULER + ROW + ROW // 2, 900)
    assert min(colours.count(colour) for colour in set(colours)) == 1


def test_hot_lines_show_their_source(view: Any) -> None:
    profile = profile_of(
        (7, (js("a", 3), js("b"))),
        (2, (js("a", 2),)),
        (1, (js("a", 3, tier=Tier.BASELINE),)),
        (4, (js("a", 3), js("a", 2))),
    )
    profile.sources["/srv/a.js"] = "function a() {\n  one();\n  b(); // <b>\n}"
    page = view(profile)
    page.click(1, 0.5)
    lines = page.browser.evaluate(
        "[...document.querySelectorAll('#function tr')].map(r => r.textContent)"
    )
    assert lines == ["85.7 %3  b(); // <b>", "14.3 %2  one();"]
    assert "optimized, baseline" in page.text("#function p")


def test_account_of_the_recording_is_shown(view: Any, small: Profile) -> None:
    small.stats.requested = 10
    small.stats.lost = {LossReason.LATE: 6}
    small.truncated = {2: Truncation.TOO_DEEP}
    small.meta.notes = ["The clock was odd."]
    page = view(small)
    assert page.text("#info") != "Recording"
    page.browser.press("I")
    text = page.text("dialog")
    assert "Truncated1 (10.0 %), 1 too-deep" in text
    assert "Lost6 (60.0 %), 6 late" in text
    assert "The clock was odd." in text
    page.browser.press("Escape")


def test_theme_follows_the_system_and_the_switch(view: Any, small: Profile) -> None:
    page = view(small)
    empty = page.at(6, 0.5)
    assert page.pixel(*empty) == (255, 255, 255)
    page.browser.send(
        "Emulation.setEmulatedMedia",
        features=[{"name": "prefers-color-scheme", "value": "dark"}],
    )
    page.browser.frame()
    assert page.pixel(*empty) != (255, 255, 255)
    page.browser.send("Emulation.setEmulatedMedia", features=[])
    page.browser.frame()
    assert page.pixel(*empty) == (255, 255, 255)
    page.browser.press("d")
    assert page.pixel(*empty) != (255, 255, 255)
    assert "theme=dark" in page.hash()


@pytest.mark.parametrize("fragment", ["", "#theme=dark", "#safe=1", "#theme=dark&safe=1"])
def test_text_has_contrast(view: Any, small: Profile, fragment: str) -> None:
    """WCAG 2.1 AA, 4.5:1, for what is written in the page (the graph picks its ink by contrast)."""
    page = view(small, fragment)
    worst = page.browser.evaluate(
        """(() => {
          const rgb = text => text.match(/[\\d.]+/g).map(Number);
          const light = c => c.slice(0, 3).map(v => v / 255)
            .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
          let worst = 21;
          const parts = 'header *, #tools *, #legend *, aside *, footer *';
          const back = e => rgb(getComputedStyle(e).backgroundColor);
          for (const e of document.querySelectorAll(parts)) {
            if (!e.textContent || e.disabled || !e.checkVisibility()) continue;
            let under = e;
            while (under && back(under)[3] === 0) under = under.parentElement;
            const a = light(rgb(getComputedStyle(e).color));
            const b = light(back(under || document.body));
            worst = Math.min(worst, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
          }
          return worst;
        })()"""
    )
    assert worst >= 4.5


def test_empty_profile(view: Any) -> None:
    page = view(Profile())
    assert page.text("#detail").startswith("all")
    page.browser.press("g", "ArrowDown", "Enter", "s", "t", "ArrowDown", "Enter")


@pytest.mark.parametrize("size", [(800, 600), (360, 640)])
def test_small_windows_show_the_graph(view: Any, small: Profile, size: tuple[int, int]) -> None:
    page = view(small)
    page.browser.size(*size)
    page.open()
    _, top, width, height = page.pane()
    assert width >= size[0] - 20
    assert height >= 150
    assert top + height <= size[1]
    assert page.hover(1, 0.5).startswith("main")


def test_weights_agree_with_a_count_by_hand(view: Any) -> None:
    """Self and total of a tangle of recursion, hidden glue and shared prefixes."""
    rng = random.Random(5)
    frames = [js(f"f{i}") for i in range(9)] + [Frame("[glue]", FrameKind.VM_FRAME)]
    stacks = [
        (rng.randrange(1, 50), tuple(rng.choices(frames, k=rng.randrange(1, 14))))
        for _ in range(400)
    ]
    own: dict[str, int] = {}
    whole: dict[str, int] = {}
    for weight, stack in stacks:
        names = [frame.name for frame in stack if frame.kind is FrameKind.JS]
        for name in set(names):
            whole[name] = whole.get(name, 0) + weight
        if names:
            own[names[-1]] = own.get(names[-1], 0) + weight
    page = view(profile_of(*stacks))
    titles = page.browser.evaluate(
        "[...document.querySelectorAll('#table tbody tr')].map(r => r.title)"
    )
    found = {}
    for title in titles:
        name, _, numbers = title.split("\n")
        found[name] = numbers
    assert len(found) == 9

    def amount(weight: int) -> str:
        ms = f"{weight:.0f} ms" if weight >= 100 else f"{weight:.1f} ms"
        seconds = f"{weight / 1000:.2f} s" if weight < 10_000 else f"{weight / 1000:.1f} s"
        return seconds if weight >= 1000 else ms

    expected = {n: f"self {amount(own[n])}, total {amount(whole[n])}" for n in whole}
    assert found == expected


# A comparison of two recordings


@pytest.fixture
def diff_view(shared: Chromium, tmp_path: Path) -> Iterator[Any]:
    shared.size(1280, 800)

    def opened(
        before: Profile, after: Profile, *, negate: bool = False, fragment: str = ""
    ) -> View:
        path = tmp_path / "diff.html"
        with path.open("wb") as out:
            DifferenceHtml().write(compare(before, after), out, negate=negate)
        page = View(shared, path)
        page.open(fragment)
        return page

    yield opened
    assert shared.problems() == []


@pytest.fixture
def pair() -> tuple[Profile, Profile]:
    """Make: grew 10 -> 50, shrank 50 -> 10, same 20 -> 20, gone 20 -> 0, fresh 0 -> 20."""
    main = js("main")
    before = profile_of(
        (10, (main, js("grew"))), (50, (main, js("shrank"))), (20, (main, js("same"))),
        (20, (main, js("same"), js("gone"))),
    )  # fmt: skip
    after = profile_of(
        (50, (main, js("grew"))), (10, (main, js("shrank"))), (20, (main, js("same"))),
        (20, (main, js("fresh"))),
    )  # fmt: skip
    return before, after


def plain(text: str) -> str:
    """Return a text with a hyphen for each minus sign."""
    return text.replace("\N{MINUS SIGN}", "-")


def hue(color: tuple[int, ...]) -> str:
    red, _, blue = color
    return "red" if red - blue > 30 else "blue" if blue - red > 30 else "grey"


def test_diff_colours_say_what_grew(diff_view: Any, pair: tuple[Profile, Profile]) -> None:
    page = diff_view(*pair)
    # By weight, then name: grew 50, fresh 20, same 20, shrank 10.
    places = {"grew": 0.45, "fresh": 0.65, "same": 0.85, "shrank": 0.97}
    shown = {name: page.hover(2, share).split()[0] for name, share in places.items()}
    assert shown == {name: name for name in places}
    page.browser.mouse("mouseMoved", 2, 2)
    page.browser.frame()
    hues = {name: hue(page.pixel(*page.at(2, share))) for name, share in places.items()}
    assert hues == {"grew": "red", "fresh": "red", "same": "blue", "shrank": "blue"}
    # 100 before and after: neither hue.
    assert hue(page.pixel(*page.at(1, 0.97))) == "grey"
    detail = page.hover(2, 0.45)
    assert "total 50.0 ms, 10.0 ms before: +40.0 ms, +400 %" in detail
    assert "total 20.0 ms, 0 before: +20.0 ms, new" in page.hover(2, 0.65)
    assert "total 20.0 ms, 40.0 ms before: -20.0 ms, -50.0 %" in plain(page.hover(2, 0.85))
    assert "self 20.0 ms, 20.0 ms before: 0, 0 %" in page.hover(2, 0.85)


def test_diff_table_has_what_is_gone(diff_view: Any, pair: tuple[Profile, Profile]) -> None:
    page = diff_view(*pair)
    rows = {row[2].split()[0]: list(map(plain, row[:2])) for row in page.table()}
    assert rows == {
        "grew": ["+40.0 %", "50.0 %"],
        "shrank": ["-40.0 %", "10.0 %"],
        "fresh": ["+20.0 %", "20.0 %"],
        "gone": ["-20.0 %", "0 %"],
        "main": ["0 %", "100 %"],
        "same": ["0 %", "20.0 %"],
    }
    assert next(iter(rows)) in {"grew", "shrank"}


def test_diff_shows_the_earlier_widths(diff_view: Any, pair: tuple[Profile, Profile]) -> None:
    page = diff_view(*pair)
    page.browser.press("b")
    page.browser.frame()
    # shrank 50, same 40 (of it gone 20), grew 10.
    assert page.hover(2, 0.2).startswith("shrank")
    assert page.hover(3, 0.55).startswith("gone")
    assert "total 20.0 ms, 0 after: -20.0 ms, -100 %" in plain(page.hover(3, 0.55))
    assert hue(page.pixel(*page.at(2, 0.4))) == "blue"
    assert page.hover(2, 0.95).startswith("grew")
    page.browser.mouse("mouseMoved", 2, 2)
    page.browser.frame()
    assert hue(page.pixel(*page.at(2, 0.99))) == "red"
    assert "before=1" in page.hash()
    again = diff_view(*pair, fragment="#before=1")
    assert again.hover(3, 0.55).startswith("gone")
    negated = diff_view(*pair, negate=True)
    assert negated.hover(3, 0.55).startswith("gone")
    assert "before" not in negated.hash()


def test_diff_of_callers_and_callees(diff_view: Any, pair: tuple[Profile, Profile]) -> None:
    page = diff_view(*pair)
    page.click(2, 0.85)
    page.browser.press("s")
    page.browser.frame()
    # Callers are above: same 20, before 40; its callee is gone.
    assert "20.0 ms, 40.0 ms before" in page.hover(0, 0.5)
    assert "20.0 ms, 40.0 ms before" in page.hover(1, 0.5)


def test_a_profile_alone_has_nothing_of_a_diff(view: Any, small: Profile) -> None:
    page = view(small)
    page.browser.press("b")
    assert page.browser.evaluate("document.querySelector('#before').hidden") is True
    assert page.browser.evaluate("document.querySelector('#scale').hidden") is True
    assert "before" not in page.hash()
