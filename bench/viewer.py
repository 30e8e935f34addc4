"""Measure the flame graph viewer in a headless Chromium, next to speedscope on the same machine.

    python bench/viewer.py [--nodes 5000 20000 200000] [--repeat 3] [--speedscope DIR]

DIR is where `npm install speedscope` was run; without it only our viewer is measured. The rules:

- *first picture*: from the start of navigation to the last frame that the compositor drew before
  450 ms without a frame and without a task over 50 ms on the main thread;
- *zoom*, *search*: from the input event (for search: the last key of "parse") to the last frame
  under the same rule, with 300 ms for search so that the caret does not count;
- *motion*: three seconds of wheel zoom and pan at 60 events a second; frames drawn per second and
  the longest task on the main thread;
- *memory*: JavaScript heap after a collection, buffers of typed arrays, DOM nodes, and the
  resident size of the largest renderer process.

Times on a busy machine are worth little by themselves: compare rows of one run.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "browser"), str(ROOT / "bench" / "viewer")]

from chromium import Chromium  # noqa: E402 (the path is set above)
from generate import make_profile  # noqa: E402

from jsspy.formats.html import Html  # noqa: E402
from jsspy.model.profile import Profile  # noqa: E402

QUIET_MS = 450
CARET_MS = 300
LONG_TASK_MS = 50
MOTION_S = 3.0
CATEGORIES = (
    "-*,blink.user_timing,devtools.timeline,disabled-by-default-devtools.timeline,"
    "disabled-by-default-devtools.timeline.frame"
)


class Viewer(NamedTuple):
    """What is measured: a page, and how its zoom and search are worked."""

    name: str
    url: str
    size_bytes: int
    produce_s: float
    double_click: bool
    search_keys: tuple[dict[str, Any], ...]
    ready: str


class Figures(NamedTuple):
    """One row of the table. Times in seconds, memory in MB."""

    first: float
    first_task: float
    zoom: float
    search: float
    fps: float
    longest_task: float
    heap: float
    buffers: float
    dom_nodes: int
    resident: float


def stop_trace(browser: Chromium) -> list[dict[str, Any]]:
    """End tracing and return its events."""
    browser.send("Tracing.end")
    browser.wait_event("Tracing.tracingComplete")
    events: list[dict[str, Any]] = []
    for event in browser.events:
        if event["method"] == "Tracing.dataCollected":
            events += event["params"]["value"]
    browser.events = [e for e in browser.events if e["method"] != "Tracing.dataCollected"]
    return sorted(events, key=lambda event: event["ts"])


def start_trace(browser: Chromium) -> None:
    """Begin to collect frames, tasks and input events."""
    browser.send(
        "Tracing.start", traceConfig={"includedCategories": CATEGORIES.split(",")[1:]},
        transferMode="ReportEvents",
    )  # fmt: skip


def settled(events: list[dict[str, Any]], start: float, quiet_ms: float) -> float:
    """Return seconds from `start` (trace time) to the last frame before a quiet stretch."""
    frames = [(e["ts"], e["ts"], True) for e in events if e["name"] == "DrawFrame"]
    busy = [
        (e["ts"], e["ts"] + e["dur"], False)
        for e in tasks(events, start)
        if e["dur"] > LONG_TASK_MS * 1e3
    ]
    last = until = start
    for begin, end, is_frame in sorted(frames + busy):
        if begin < start:
            continue
        if begin - until > quiet_ms * 1e3 and last > start:
            break
        until = max(until, end)
        if is_frame:
            last = begin
    return (last - start) / 1e6


def tasks(events: list[dict[str, Any]], start: float) -> list[dict[str, Any]]:
    """Return the tasks of the page's main thread since `start`."""
    main = {
        (e["pid"], e["tid"]) for e in events if e["name"] in ("EventDispatch", "FireAnimationFrame")
    }
    return [
        e
        for e in events
        if e["name"] == "RunTask"
        and "dur" in e
        and e["ts"] >= start
        and (e["pid"], e["tid"]) in main
    ]


def dispatched(events: list[dict[str, Any]], kind: str) -> float:
    """Return when the last DOM event of this type was dispatched, in trace time."""
    times = [
        e["ts"]
        for e in events
        if e["name"] == "EventDispatch" and e.get("args", {}).get("data", {}).get("type") == kind
    ]
    if not times:
        raise RuntimeError(f"no {kind} event in the trace")
    return float(times[-1])


def measure(browser: Chromium, viewer: Viewer) -> Figures:
    """Measure one viewer once."""
    browser.send("Page.navigate", url="about:blank")
    browser.wait("location.href === 'about:blank'")
    browser.send("HeapProfiler.collectGarbage")
    time.sleep(0.3)
    start_trace(browser)
    browser.send("Page.navigate", url=viewer.url)
    browser.wait(viewer.ready, timeout_s=60)
    time.sleep(3.0)
    browser.frame()
    time.sleep(1.0)
    events = stop_trace(browser)
    origin = max(
        e["ts"] for e in events
        if e["name"] == "navigationStart"
        and e["args"]["data"].get("documentLoaderURL", "") == viewer.url
    )  # fmt: skip
    first = settled(events, origin, QUIET_MS)
    first_task = max((e["dur"] for e in tasks(events, origin)), default=0) / 1e6

    browser.send("HeapProfiler.collectGarbage")
    usage = browser.send("Runtime.getHeapUsage")
    metrics = browser.send("Performance.getMetrics")["metrics"]
    nodes = next(m["value"] for m in metrics if m["name"] == "Nodes")
    resident = browser.renderer_bytes() / 1e6

    start_trace(browser)
    clicks = (1, 2) if viewer.double_click else (1,)
    browser.mouse("mouseMoved", 200, 250)
    for count in clicks:
        for kind in ("mousePressed", "mouseReleased"):
            browser.mouse(kind, 200, 250, button="left", clickCount=count)
    time.sleep(1.5)
    events = stop_trace(browser)
    zoom = settled(events, dispatched(events, "dblclick" if len(clicks) == 2 else "mouseup"), 450)

    for key in viewer.search_keys:
        browser.send("Input.dispatchKeyEvent", type="rawKeyDown", **key)
        browser.send("Input.dispatchKeyEvent", type="keyUp", **key)
    browser.frame()
    browser.press(*"pars")
    time.sleep(1.0)
    start_trace(browser)
    browser.send("Input.dispatchKeyEvent", type="keyDown", key="e", text="e")
    browser.send("Input.dispatchKeyEvent", type="keyUp", key="e")
    time.sleep(1.5)
    events = stop_trace(browser)
    search = settled(events, dispatched(events, "keydown"), CARET_MS)

    browser.press("Escape", "Escape", "Escape")
    time.sleep(0.5)
    start_trace(browser)
    begin = time.monotonic()
    step = 0
    while (now := time.monotonic()) < begin + MOTION_S:
        zooming = step % 60 < 40
        delta = {"deltaX": 0, "deltaY": -12 if step % 40 < 20 else 12, "modifiers": 2} if zooming \
            else {"deltaX": 25 if step % 20 < 10 else -25, "deltaY": 0}  # fmt: skip
        browser.post("Input.dispatchMouseEvent", type="mouseWheel", x=500, y=420, **delta)
        step += 1
        time.sleep(max(0.0, begin + step / 60 - now))
    events = stop_trace(browser)
    frames = [e["ts"] for e in events if e["name"] == "DrawFrame"]
    fps = (len(frames) - 1) / ((frames[-1] - frames[0]) / 1e6) if len(frames) > 1 else 0.0
    longest = max((e["dur"] for e in tasks(events, 0)), default=0) / 1e6
    return Figures(
        first, first_task, zoom, search, fps, longest,
        usage["usedSize"] / 1e6, usage.get("backingStorageSize", 0) / 1e6, int(nodes), resident,
    )  # fmt: skip


def write_ours(profile: Profile, directory: Path, nodes: int) -> Viewer:
    """Write our file."""
    path = directory / f"{nodes}.html"
    start = time.process_time()
    with path.open("wb") as out:
        Html().write(profile, out)
    produce = time.process_time() - start
    slash = {"key": "/", "windowsVirtualKeyCode": 191}
    return Viewer(
        "jsspy", path.as_uri(), path.stat().st_size, produce, False, (slash,),
        "document.documentElement?.dataset.ready",
    )  # fmt: skip


def write_speedscope(profile: Profile, directory: Path, nodes: int, package: Path) -> Viewer:
    """Write what `speedscope FILE` would, and open it as that does."""
    start = time.process_time()
    parent, frame = profile.stacks.parent, profile.stacks.frame
    weights: dict[int, int] = {}
    for row, weight in zip(profile.stack, profile.weight, strict=True):
        weights[row] = weights.get(row, 0) + weight
    stacks = []
    for row in weights:
        stack, up = [], row
        while up >= 0:
            stack.append(frame[up])
            up = parent[up]
        stacks.append(stack[::-1])
    data = json.dumps(
        {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "shared": {
                "frames": [
                    {"name": f.name}
                    | ({"file": f.definition.url} if f.definition else {})
                    for f in profile.frames
                ]
            },
            "profiles": [
                {
                    "type": "sampled", "name": "bench", "unit": "nanoseconds", "startValue": 0,
                    "endValue": profile.total_weight(),
                    "samples": stacks,
                    "weights": list(weights.values()),
                }
            ],
        },
        separators=(",", ":"),
    ).encode()  # fmt: skip
    script = directory / f"{nodes}.js"
    text = base64.b64encode(data).decode()
    script.write_text(f'speedscope.loadFileFromBase64("bench", "{text}")')
    produce = time.process_time() - start
    release = package / "node_modules" / "speedscope" / "dist" / "release"
    size = script.stat().st_size + sum(
        f.stat().st_size for f in release.iterdir() if f.suffix in (".js", ".css", ".html")
    )
    url = f"{(release / 'index.html').as_uri()}#localProfilePath={script}"
    find = {"key": "f", "code": "KeyF", "windowsVirtualKeyCode": 70, "modifiers": 2}
    return Viewer(
        "speedscope", url, size, produce, True, (find,), "document.querySelector('canvas')"
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[5_000, 20_000, 200_000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--speedscope", type=lambda text: Path(text).resolve())
    options = parser.parse_args()
    head = ("viewer", "nodes", "file MB", "made s", "first s", "its task", "zoom s", "search s",
            "fps", "max task", "heap MB", "buffers", "DOM", "RSS MB")  # fmt: skip
    print(("{:>11} " + "{:>8} " * 13).format(*head))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for nodes in options.nodes:
            profile = make_profile(nodes)
            viewers = [write_ours(profile, directory, nodes)]
            if options.speedscope:
                viewers.append(write_speedscope(profile, directory, nodes, options.speedscope))
            for viewer in viewers:
                runs = []
                for _ in range(options.repeat):
                    with Chromium() as browser:
                        runs.append(measure(browser, viewer))
                row = [statistics.median(values) for values in zip(*runs, strict=True)]
                print(
                    f"{viewer.name:>11} {nodes:>8} {viewer.size_bytes / 1e6:>8.2f} "
                    f"{viewer.produce_s:>8.2f} " + "".join(f"{v:>8.3f} " for v in row[:4])
                    + f"{row[4]:>8.1f} {row[5]:>8.3f} {row[6]:>8.2f} {row[7]:>8.2f} "
                    f"{row[8]:>8.0f} {row[9]:>8.0f}",
                    flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
