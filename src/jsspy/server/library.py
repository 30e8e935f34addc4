"""Continuous profiling for programs in Python: exported by the package `jsspy`.

Sampling is done by a process of its own, so a busy interpreter delays no sample.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from jsspy.errors import JsspyError
from jsspy.formats import FORMATS
from jsspy.model.profile import Profile
from jsspy.server.app import App, Options
from jsspy.server.asgi import Asgi
from jsspy.server.collector import DEFAULT_RING_S, Collector
from jsspy.server.sampling import DEFAULT_RATE_HZ, Sampling
from jsspy.server.wsgi import Wsgi
from jsspy.symbolize.original import LiveMapper

_STOP_TIMEOUT_S = 10.0


class Profiling:
    """One or more processes that are sampled until `stop`."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def collector(self) -> Collector:
        """What reads the sampler."""
        return self._collector

    def is_running(self) -> bool:
        """Say whether there still is something to sample."""
        return self._collector.is_running()

    def metrics(self, accept: str = "", *, promfiler: str | None = None) -> tuple[bytes, str]:
        """Return metrics and their content type; see `Collector.metrics`."""
        return self._collector.metrics(accept, promfiler=promfiler)

    def profile(self, seconds: float) -> Profile:
        """Return what was sampled in the last seconds."""
        return self._collector.profile(time.monotonic_ns() - int(seconds * 1e9))

    def render(self, form: str, seconds: float) -> bytes:
        """Return the last seconds in any format.

        Args:
            form: A name that `jsspy record --format` knows.
            seconds: How far to go back.

        Raises:
            JsspyError: There is no such format.
        """
        if form not in FORMATS:
            raise JsspyError(f"there is no format '{form}'; there are {', '.join(FORMATS)}")
        out = io.BytesIO()
        FORMATS[form].write(self.profile(seconds), out)
        return out.getvalue()

    def asgi(self, options: Options | None = None) -> Asgi:
        """Return an ASGI application for FastAPI, Starlette and their like to mount.

        Who may ask is theirs to say, unless the options name a token or credentials.
        """
        return Asgi(App(self._collector, options))

    def wsgi(self, options: Options | None = None) -> Wsgi:
        """Return a WSGI application for Flask, Django and their like to mount; see `asgi`."""
        return Wsgi(App(self._collector, options))

    def stop(self) -> None:
        """End it. What was sampled can still be asked for."""
        self._collector.stop()


class Server:
    """An HTTP server in a thread of this process, until `close`."""

    def __init__(self, profiling: Profiling, options: Options, host: str, port: int) -> None:
        # Not everybody who profiles serves, and aiohttp takes 150 ms to load.
        from jsspy.server.web import open_socket, serving, url_of

        self._listener = open_socket(host, port)
        self.url = url_of(self._listener, is_tls=False)
        """Without a path and without a slash at its end."""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()

        async def run() -> None:
            async with serving(App(profiling.collector, options), self._listener):
                started.set()
                await self._stop.wait()

        started = threading.Event()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(run(),), name="jsspy-server", daemon=True
        )
        self._thread.start()
        started.wait()

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
        """Stop answering, and give the port back."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_TIMEOUT_S)
        self._loop.close()
        self._listener.close()


def start_profiling(
    pid: int | None = None,
    *,
    command: Sequence[str] = (),
    name: str | None = None,
    everyone: bool = False,
    rate_hz: float = DEFAULT_RATE_HZ,
    engine: str = "auto",
    ring_s: float = DEFAULT_RING_S,
    functions: int = 50,
    subprocesses: bool = False,
) -> Profiling:
    """Begin to sample. Exactly one of `pid`, `command`, `name` and `everyone` says whom.

    Args:
        pid: A process that runs.
        command: Started for this; it has our standard streams.
        name: Regular expression: all whose command line it is found in, also new ones.
        everyone: Every node process, also new ones.
        rate_hz: Samples per second and thread.
        engine: "ebpf", "perf", "ptrace", or "auto" for the first of them that works.
        ring_s: How many seconds profiles reach back.
        functions: How many functions have a metric of their own.
        subprocesses: Child processes too.

    Raises:
        JsspyError: It cannot be sampled; `exit_code` says which kind of reason it is.
        ValueError: None or several were named.
    """
    if sum((pid is not None, bool(command), name is not None, everyone)) != 1:
        raise ValueError("name exactly one of pid, command, name and everyone")
    sampling = Sampling(
        pids=() if pid is None else (pid,),
        command=tuple(command),
        name="" if everyone else name,
        rate_hz=rate_hz,
        engine=engine,
        subprocesses=subprocesses,
    )
    collector = Collector(sampling, ring_s=ring_s, functions=functions, mapper=LiveMapper())
    collector.start()
    return Profiling(collector)


def start_server(
    profiling: Profiling,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    path: str = "/metrics",
    token: str | None = None,
    credentials: str | None = None,
    promfiler: str | None = None,
) -> Server:
    """Answer HTTP requests about what is sampled, as `jsspy serve` does.

    Args:
        profiling: What to answer about.
        host: Address to listen on.
        port: 0 is any that is free; `Server.url` names it.
        path: Where the metrics are.
        token: Bearer token that who asks must have.
        credentials: `user:password`, likewise.
        promfiler: Namespace of promfiler's gauge; None leaves it out.

    Raises:
        JsspyError: The address cannot be had.
    """
    options = Options(
        path=path,
        promfiler=promfiler,
        token=token,
        credentials=credentials,
        is_local=host in {"127.0.0.1", "::1", "localhost"},
    )
    return Server(profiling, options, host, port)


def get_metrics(profiling: Profiling) -> str:
    """Return the metrics in Prometheus' text format."""
    return profiling.metrics()[0].decode()
