"""A Chromium that tests drive over its debugging pipe: no port, no driver, no package needed.

The protocol is JSON messages that end in NUL, on file descriptors 3 (to the browser) and 4 (from
it). Source: Chromium's content/public/common/content_switches.cc, `--remote-debugging-pipe`.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

KEY_CODES = {
    "Enter": 13, "Escape": 27, "Backspace": 8, "Tab": 9, "Home": 36, "End": 35, "PageUp": 33,
    "PageDown": 34, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip


def find() -> str | None:
    """Return the path of a Chromium, or None if there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Chromium:
    """A headless browser with one page. Use in `with`."""

    def __init__(self, *, width: int = 1280, height: int = 800) -> None:
        path = find()
        assert path is not None
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._number = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        arguments = [
            path, *FLAGS, f"--window-size={width},{height}",
            f"--user-data-dir={self._profile.name}", "about:blank",
        ]  # fmt: skip
        read_end, self._out = os.pipe()
        self._in, write_end = os.pipe()
        # Above 9, so that putting one where the browser looks for it does not close the other.
        to_browser, from_browser = (
            fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (read_end, write_end)
        )
        self._pid = os.posix_spawn(
            path,
            arguments,
            os.environ,
            file_actions=[
                *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)),
                (os.POSIX_SPAWN_DUP2, to_browser, 3),
                (os.POSIX_SPAWN_DUP2, from_browser, 4),
            ],
            setpgroup=0,
        )
        for end in (read_end, write_end, to_browser, from_browser):
            os.close(end)
        self._session = ""
        target = self.send("Target.createTarget", url="about:blank")
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self.size(width, height)
        for domain in ("Page", "Runtime", "Log", "Network", "Performance"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and all its processes."""
        os.close(self._out)
        os.close(self._in)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._profile.cleanup()

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise ConnectionError("the browser has gone")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def post(self, method: str, **parameters: Any) -> int:
        """Call a method of the protocol without waiting; return the number of the call."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._out, data) :]
        return self._number

    def send(self, method: str, *, timeout_s: float = 60, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events are kept in `events`."""
        number = self.post(method, **parameters)
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            if "method" in answer:
                self.events.append(answer)

    def wait_event(self, method: str, *, timeout_s: float = 60) -> dict[str, Any]:
        """Return the parameters of the first event of this name, waiting for it if need be."""
        deadline = time.monotonic() + timeout_s
        while True:
            for position, event in enumerate(self.events):
                if event["method"] == method:
                    del self.events[position]
                    parameters: dict[str, Any] = event["params"]
                    return parameters
            answer = self._receive(deadline)
            if "method" in answer:
                self.events.append(answer)

    def size(self, width: int, height: int) -> None:
        """Set the size of the page in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def evaluate(self, expression: str, *, timeout_s: float = 60) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        answer = self.send(
            "Runtime.evaluate", timeout_s=timeout_s, expression=expression,
            returnByValue=True, awaitPromise=True, userGesture=True,
        )  # fmt: skip
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def wait(self, expression: str, *, timeout_s: float = 30) -> None:
        """Wait, frame by frame, until a JavaScript expression is true."""
        self.evaluate(
            f"new Promise(done => {{ const look = () => ({expression}) ? done(true)"
            " : requestAnimationFrame(look); look(); })",
            timeout_s=timeout_s,
        )

    def frame(self) -> None:
        """Wait until what is due has been drawn."""
        self.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file and wait until its viewer is ready."""
        self.send("Page.navigate", url="about:blank")
        self.events.clear()
        self.send("Page.navigate", url=path.as_uri() + fragment)
        self.wait("document.documentElement?.dataset.ready")
        self.frame()

    def press(self, *keys: str) -> None:
        """Press keys: names as in `KeyboardEvent.key`."""
        for key in keys:
            code = KEY_CODES.get(key, ord(key.upper()) if len(key) == 1 and key.isalnum() else 0)
            text: dict[str, Any] = (
                {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            )
            common: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code}
            kind = "keyDown" if text else "rawKeyDown"
            self.send("Input.dispatchKeyEvent", type=kind, **common, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **common)
        self.frame()

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send a mouse event: mouseMoved, mousePressed, mouseReleased or mouseWheel."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float) -> None:
        """Click with the left button."""
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)
        self.frame()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag with the left button."""
        self.mouse("mousePressed", *start, button="left", clickCount=1)
        for part in (1, 2, 3, 4):
            x, y = (a + (b - a) * part / 4 for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", x, y, button="left", buttons=1)
        self.mouse("mouseReleased", *end, button="left", clickCount=1)
        self.frame()

    def screenshot(self, path: Path) -> None:
        """Write a PNG picture of the page."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def renderer_bytes(self) -> int:
        """Return the resident size of the largest renderer process."""
        sizes = [0]
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = os.getpgid(int(directory.name)) == self._pid
                if ours and b"--type=renderer" in (directory / "cmdline").read_bytes():
                    pages = int((directory / "statm").read_text().split()[1])
                    sizes.append(pages * os.sysconf("SC_PAGE_SIZE"))
        return max(sizes)

    def problems(self) -> list[str]:
        """Return what the page complained of: exceptions, console errors, policy violations."""
        readers: dict[str, Callable[[dict[str, Any]], str]] = {
            "Runtime.exceptionThrown": lambda p: json.dumps(p["exceptionDetails"]),
            "Runtime.consoleAPICalled": lambda p: json.dumps(p["args"]),
            "Log.entryAdded": lambda p: str(p["entry"]["text"]),
            "Page.javascriptDialogOpening": lambda p: f"dialog: {p['message']}",
        }
        return [
            readers[event["method"]](event["params"])
            for event in self.events
            if event["method"] in readers
        ]

    def requests(self) -> list[str]:
        """Return the URLs that the page asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
