"""The inspector: V8's own profiler, asked over the DevTools protocol.

For targets that cannot be read: on another host, or under another system. It is taken only by name,
for it does what no other engine does:

- The inspector of a local process is opened by SIGUSR1, which node listens for: it starts a thread,
  prints a line on the target's stderr, and listens on a port of the loopback interface. A process
  that has no handler for the signal would be killed by it, and one whose program has its own would
  do something else: they get none.
- V8's profiler runs inside the target: on a thread of its own, with a signal per sample, and with
  the profile in the target's memory.
- A port that we opened is closed again, by `require('inspector').close()` run in the target. If we
  are killed before that, the profiler stops and the port stays open.

It sees JavaScript only: no native frames, no kernel, no thread without an isolate. It samples by
the clock on the wall and knows "idle" (the event loop waits); a blocking call counts as running.

`Inspector` is no `Engine`: there are no samples before V8 hands over the whole profile.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp

from jsspy.errors import EngineUnavailable, JsspyError, MalformedData
from jsspy.linux import libc
from jsspy.linux.procfs import ProcessFiles
from jsspy.linux.sockets import Endpoint, find_listeners, network_namespace
from jsspy.model.names import clean

NAME: Final = "inspector"

DEFAULT_PORT: Final = 9229

MAX_MESSAGE_BYTES: Final = 1 << 30
"""Of one message: a profile of an hour at 1 ms has about 50 MB."""

ANSWER_S: Final = 30.0
"""How long to wait for an answer. A thread answers when it runs JavaScript; not in native code."""

OPEN_S: Final = 10.0
"""How long the inspector may take to listen after the signal."""

MAX_WORKERS: Final = 1000

_POLL_S: Final = 0.02
_FIND_S: Final = 5.0
_MAX_LIST_BYTES: Final = 1 << 20
MAX_COMMAND: Final = 4096
_INTRODUCE = "[process.pid, process.version, process.versions.v8, process.argv]"
_CLOSE = "require('inspector').close()"


class Gone(JsspyError):
    """The other end has closed the connection."""


class Refused(JsspyError):
    """The target said no."""


class ThreadProfile(NamedTuple):
    """What V8 recorded of one thread."""

    number: int
    """Node's worker id; 0 is the main thread."""
    name: str
    profile: dict[str, Any]
    """Of the protocol's type Profiler.Profile; as the target made it, unchecked."""


class TargetWords(NamedTuple):
    """What a target says of itself."""

    pid: int
    """In its own pid namespace, on its own host; 0 if it does not say."""
    node_version: str
    """Without the "v"."""
    v8_version: str
    command: str


class _Worker(NamedTuple):
    session: str
    number: int
    name: str


class Inspector:
    """A connection to the inspector of one process. Used as a context manager.

    Args:
        url: `ws://host:port/id`, or `http://host:port`, of which the only target is taken.

    Raises:
        EngineUnavailable: There is no inspector there, or it has more than one target.
    """

    def __init__(self, url: str) -> None:
        self.lost_workers = 0
        """Workers that ended before they could hand over their profile."""
        self._numbers = itertools.count(1)
        self._workers: dict[str, _Worker] = {}
        self._profiled: set[str] = set()
        self._interval_us = 0
        self._runner = asyncio.Runner()
        self._answers: dict[int, dict[str, Any]] = {}
        self._opened = AsyncExitStack()
        try:
            self._runner.run(self._connect(url))
        except BaseException:
            self.close()
            raise

    async def _connect(self, url: str) -> None:
        http = await self._opened.enter_async_context(aiohttp.ClientSession())
        timeout = aiohttp.ClientWSTimeout(ws_close=1.0)
        try:
            if not url.startswith(("ws:", "wss:")):
                url = await self._find_target(http, url)
            self._socket = await self._opened.enter_async_context(
                http.ws_connect(url, max_msg_size=MAX_MESSAGE_BYTES, timeout=timeout)
            )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as err:
            raise EngineUnavailable(NAME, f"no inspector answers at {url}: {err}") from err

    async def _find_target(self, http: aiohttp.ClientSession, url: str) -> str:
        """Return the WebSocket URL of the only target of a server."""
        targets = await _get_json(http, f"{url.rstrip('/')}/json/list")
        match targets:
            case [{"webSocketDebuggerUrl": str(found)}]:
                # Behind a forwarded port it does not know its own address.
                path = found.partition("://")[2].partition("/")[2]
                scheme, _, place = url.rstrip("/").partition("://")
                return f"{'wss' if scheme == 'https' else 'ws'}://{place}/{path}"
            case [_, *_]:
                raise EngineUnavailable(
                    NAME,
                    f"{url} has {len(targets)} targets, or one with a debugger already",
                    hint="--inspect-url ws://HOST:PORT/ID    names one of them",
                )
            case _:
                raise EngineUnavailable(NAME, f"what answers at {url} is no inspector")

    def call(self, method: str, *, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Ask for something, and return the answer's `result`.

        Args:
            method: Of the protocol.
            session: The worker that is asked; "" is the main thread.
            parameters: Of the method.

        Raises:
            Gone: The target, or the worker, has ended.
            Refused: The target says no.
            EngineUnavailable: It does not answer.
            MalformedData: What it says is not of the protocol.
        """
        return self._run(self._call(method, session, parameters))

    async def _call(self, method: str, session: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = outer = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            outer = next(self._numbers)
            parameters = {"sessionId": session, "message": json.dumps(message)}
            method = "NodeWorker.sendMessageToWorker"
            message = {"id": outer, "method": method, "params": parameters}
        try:
            await self._socket.send_str(json.dumps(message))
        except (ConnectionError, aiohttp.ClientError) as err:
            raise Gone(f"the inspector closed the connection: {err}") from err
        deadline = time.monotonic() + ANSWER_S
        while number not in self._answers:
            await self._receive(deadline - time.monotonic())
            if session and (
                session not in self._workers or "error" in self._answers.get(outer, ())
            ):
                raise Gone("a worker has ended")
        answer = self._answers.pop(number)
        self._answers.pop(outer, None)
        match answer:
            case {"result": dict(result)}:
                return result
            case {"error": {"message": str(text)}}:
                raise Refused(f"{method}: {text}")
            case _:
                raise MalformedData("inspector", f"neither result nor error in answer {number}")

    async def _receive(self, timeout_s: float) -> None:
        """Wait for one message, and put it where it belongs.

        Raises:
            TimeoutError: None came.
        """
        message = await asyncio.wait_for(self._socket.receive(), max(timeout_s, 0))
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise Gone("the inspector closed the connection")
        self._sort(message.data)

    def _sort(self, text: str) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise MalformedData("inspector", f"a message is not JSON: {err}") from err
        match message:
            case {"id": int(number)}:
                self._answers[number] = message
            case {
                "method": "NodeWorker.attachedToWorker",
                "params": {"sessionId": str(session), "workerInfo": {"workerId": worker, **info}},
            }:
                number = int(worker) if str(worker).isdecimal() and len(str(worker)) < 10 else 0
                if len(self._workers) < MAX_WORKERS:
                    self._workers[session] = _Worker(session, number, str(info.get("title", "")))
            case {"method": "NodeWorker.detachedFromWorker", "params": {"sessionId": str(session)}}:
                self._workers.pop(session, None)
                if session in self._profiled:
                    self._profiled.discard(session)
                    self.lost_workers += 1
            case {
                "method": "NodeWorker.receivedMessageFromWorker",
                "params": {"message": str(inner)},
            } if not inner.startswith('{"method":"NodeWorker.'):
                self._sort(inner)

    def _run(self, action: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        try:
            return self._runner.run(action)
        except TimeoutError as err:
            reason = f"the target did not answer within {ANSWER_S:g} s: it runs no JavaScript"
            raise EngineUnavailable(NAME, reason) from err

    def introduce(self) -> TargetWords:
        """Ask the target who it is.

        Raises:
            JsspyError: See `call`.
        """
        answer = self.call("Runtime.evaluate", expression=_INTRODUCE, returnByValue=True)
        match answer:
            case {"result": {"value": [int(pid), str(node), str(v8), [*words]]}}:
                command = " ".join(clean(str(word)) for word in words)[:MAX_COMMAND]
                return TargetWords(pid, clean(node).removeprefix("v"), clean(v8), command)
            case _:
                raise EngineUnavailable(NAME, "what answers there is no node")

    @property
    def threads(self) -> int:
        """How many threads are profiled."""
        return len(self._profiled)

    def start(self, interval_us: int) -> None:
        """Start V8's profiler in every thread that runs JavaScript.

        Raises:
            JsspyError: See `call`.
        """
        self._interval_us = interval_us
        self._profile("")
        try:
            self.call("NodeWorker.enable", waitForDebuggerOnStart=False)
        except Refused:
            return  # node before 10.5
        self.watch(0)

    def _profile(self, session: str) -> None:
        self.call("Profiler.enable", session=session)
        self.call("Profiler.setSamplingInterval", session=session, interval=self._interval_us)
        self.call("Profiler.start", session=session)
        self._profiled.add(session)

    def watch(self, seconds: float) -> None:
        """Wait, and start the profiler in workers that appear.

        Raises:
            JsspyError: See `call`; `Gone` if the target has ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            for session in [name for name in self._workers if name not in self._profiled]:
                try:
                    self._profile(session)
                except Gone:
                    if session in self._workers:
                        raise
            left = deadline - time.monotonic()
            if left <= 0:
                return
            try:
                self._runner.run(self._receive(left))
            except TimeoutError:
                continue

    def stop(self) -> list[ThreadProfile]:
        """Stop the profiler and return what it recorded, the main thread first.

        Raises:
            JsspyError: See `call`.
        """
        found = []
        main = _Worker("", 0, "main")
        for worker in [main, *sorted(self._workers.values(), key=lambda it: it.number)]:
            if worker.session not in self._profiled:
                continue
            self._profiled.discard(worker.session)
            try:
                answer = self.call("Profiler.stop", session=worker.session)
                self.call("Profiler.disable", session=worker.session)
            except Gone:
                if not worker.session:
                    raise
                self.lost_workers += 1
                continue
            profile = answer.get("profile")
            if not isinstance(profile, dict):
                raise MalformedData("inspector", "Profiler.stop without a profile")
            found.append(ThreadProfile(worker.number, worker.name, profile))
        return found

    def shut(self) -> None:
        """Close the inspector itself: the target listens no longer.

        Raises:
            JsspyError: See `call`; or it would not.
        """
        try:
            answer = self.call("Runtime.evaluate", expression=_CLOSE, includeCommandLineAPI=True)
        except Gone:
            return
        raise EngineUnavailable(NAME, f"the target would not close it: {str(answer)[:200]}")

    def close(self) -> None:
        """Close the connection: a profiler that still runs stops."""
        try:
            self._runner.run(self._opened.aclose())
        finally:
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Opened(NamedTuple):
    """The inspector of a local process."""

    url: str
    is_ours: bool
    """It was closed before we came."""


def open_inspector(pid: int, objection: str = "") -> Opened:
    """Open the inspector of a process, if it is not open.

    Args:
        pid: The process.
        objection: Why it is not to be opened by a signal; "": it may be.

    Raises:
        EngineUnavailable: It cannot be opened.
        ProcessExited: The process is gone.
        PermissionDenied: It may not be sent a signal, or its sockets may not be listed.
    """
    if network_namespace(pid) != network_namespace("self"):
        raise EngineUnavailable(
            NAME,
            f"process {pid} has a network of its own",
            hint=f"nsenter --target {pid} --net jsspy record --engine {NAME} --pid {pid}",
        )
    before = find_listeners(pid)
    named = _named_ports(pid)
    for endpoint in before:
        if endpoint.port in named and (url := _find_url(endpoint)) is not None:
            return Opened(url, is_ours=False)
    if objection:
        raise EngineUnavailable(NAME, objection)
    _signal(pid)
    deadline = time.monotonic() + OPEN_S
    while time.monotonic() < deadline:
        for endpoint in find_listeners(pid):
            if endpoint not in before and (url := _find_url(endpoint)) is not None:
                return Opened(url, is_ours=True)
        time.sleep(_POLL_S)
    raise EngineUnavailable(
        NAME,
        f"process {pid} did not open its inspector within {OPEN_S:g} s of SIGUSR1: its port is "
        "taken, or it is open at a port that is not known",
        hint=f"ss -ltnp | grep pid={pid},    shows where it listens; then --inspect-url",
    )


def _named_ports(pid: int) -> set[int]:
    """Return the ports at which node was told to open its inspector, and the default."""
    ports = {DEFAULT_PORT}
    files = ProcessFiles(pid)
    try:
        words = list(files.command())
        for variable in files.read("environ", 1 << 20).split(b"\0"):
            if variable.startswith(b"NODE_OPTIONS="):
                words += variable.decode("utf-8", "replace").partition("=")[2].split()
    finally:
        files.close()
    for flag, value in itertools.pairwise([*words, ""]):
        if flag.startswith(("--inspect", "--debug-port")):
            port = (flag.partition("=")[2] or value).rpartition(":")[2]
            if port.isdecimal() and len(port) < 6:
                ports.add(int(port))
    return ports


def _signal(pid: int) -> None:
    """Send SIGUSR1 to a process that listens for it."""
    files = ProcessFiles(pid)
    try:
        caught = files.status().caught
    finally:
        files.close()
    if not caught >> (signal.SIGUSR1 - 1) & 1:
        raise EngineUnavailable(
            NAME, f"process {pid} has no handler for SIGUSR1: the signal would end it"
        )
    try:
        os.kill(pid, signal.SIGUSR1)
    except OSError as err:
        raise libc.failure("send SIGUSR1 to", pid, err.errno or 0) from err


def _find_url(endpoint: Endpoint) -> str | None:
    """Return the WebSocket URL of the inspector that listens at `endpoint`, if it is one."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(endpoint.host, endpoint.host)  # noqa: S104
    url = Endpoint(host, endpoint.port).to_url("/json/list")

    async def ask() -> Any:
        async with aiohttp.ClientSession() as http:
            return await _get_json(http, url)

    try:
        targets = asyncio.run(ask())
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None
    match targets:
        case [{"webSocketDebuggerUrl": str(found)}, *_] if found.startswith("ws://"):
            path = found.removeprefix("ws://").partition("/")[2]
            return Endpoint(host, endpoint.port).to_url(f"/{path}").replace("http:", "ws:", 1)
        case _:
            return None


async def _get_json(http: aiohttp.ClientSession, url: str) -> Any:
    timeout = aiohttp.ClientTimeout(total=_FIND_S)
    async with http.get(url, timeout=timeout, allow_redirects=False) as answer:
        body = await answer.content.read(_MAX_LIST_BYTES)
        return json.loads(body)
