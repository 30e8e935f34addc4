"""What is answered to which request: HTTP without a framework.

`App.handle` takes a `Request` and returns a `Response`; `web.py` and `asgi.py` carry them. Nothing
here can delay a sample: sampling is another process.

Who may ask: everyone, if neither a token nor a password is set. Then, on a loopback address, names
other than the machine's own are refused in the Host header, so that no page on the internet can
make its name mean 127.0.0.1 and read answers in the user's browser.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import gzip
import hmac
import html
import io
import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from jsspy.errors import JsspyError
from jsspy.formats import FORMATS, find_format
from jsspy.formats.base import Format
from jsspy.model.names import clean
from jsspy.model.profile import Profile
from jsspy.server.collector import Collector
from jsspy.server.live import LIVE_PAGE, LIVE_POLICY

DEFAULT_PATH = "/metrics"
MAX_BODY = 1 << 16
"""No request needs a body; this is what one may have."""

MAX_QUERY = 4096

_POLL_S: Final = 0.1
_GRACE_S: Final = 5.0
"""How much longer than asked for a profile may take to be complete."""
_GZIP_FROM: Final = 1 << 10
_LOOPBACK: Final = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_TEXT = "text/plain; charset=utf-8"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
    "markdown": "text/markdown; charset=utf-8",
    "pprof": "application/octet-stream",
    "jsspy": "application/octet-stream",
}
_DEFAULT_GO_SECONDS = 30.0
_DEFAULT_WINDOW_SECONDS = 60.0


class Request(NamedTuple):
    """A request, decoded as far as is needed here."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """Names in lower case."""


class Response(NamedTuple):
    """An answer. HEAD is answered as GET is, and whoever sends it leaves the body out."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Refused(Exception):
    """Ends the handling of a request with an error."""

    def __init__(
        self, status: HTTPStatus, reason: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Options:
    """How to answer."""

    path: str = DEFAULT_PATH
    """Where the metrics are."""
    promfiler: str | None = None
    """The namespace of promfiler's gauge, which is then among the metrics."""
    only_promfiler: bool = False
    """Answer what promfiler answers and nothing else."""
    token: str | None = None
    """What `Authorization: Bearer` must say."""
    credentials: str | None = None
    """`user:password` for `Authorization: Basic`."""
    is_local: bool = False
    """Bound to a loopback address."""
    max_profiles: int = 4
    """Profiles that are made at the same time."""
    max_seconds: float = 600.0
    """How long a profile may take."""
    trigger: Callable[[str], str] | None = None
    """Writes a recording of what came before, for a reason, and returns its file name."""


class App:
    """Answers requests about one collector."""

    def __init__(self, collector: Collector, options: Options | None = None) -> None:
        self._collector = collector
        self._options = options or Options()
        self._making = 0
        # Threads come and go with memory of their own that is never given back: one has to do.
        self._encoder = ThreadPoolExecutor(1, "jsspy-metrics")
        self._packed: dict[bytes, bytes] = {}
        """The last metrics that were compressed: many scrapers ask for the same."""

    async def handle(self, request: Request) -> Response:
        """Answer a request; never raises for what the request says."""
        try:
            response = await self._route(request)
        except _Refused as refused:
            body = f"{refused.status.value} {refused.reason}\n".encode()
            response = Response(refused.status, {"Content-Type": _TEXT, **refused.headers}, body)
        headers = {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            **response.headers,
        }
        body = response.body
        accepts = re.split(r"[,;]\s*", request.headers.get("accept-encoding", "").lower())
        is_packed = headers.get("Content-Type") == "application/octet-stream"
        if "gzip" in accepts and len(body) >= _GZIP_FROM and not is_packed:
            body = await self._pack(body, keep=request.path == self._options.path)
            headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        headers["Content-Length"] = str(len(body))
        return Response(int(response.status), headers, body)

    async def _pack(self, body: bytes, *, keep: bool) -> bytes:
        packed = self._packed.get(body)
        if packed is None:
            loop = asyncio.get_running_loop()
            pack = partial(gzip.compress, body, 3, mtime=0)
            packed = await loop.run_in_executor(self._encoder, pack)
            if keep:
                self._packed = {body: packed}
        return packed

    async def _route(self, request: Request) -> Response:
        options, path = self._options, request.path
        if path == "/healthz" and not options.only_promfiler:
            return self._health()
        self._authorize(request)
        is_trigger = path == "/trigger" and options.trigger is not None
        allowed = ("POST",) if is_trigger else ("GET", "HEAD")
        known = path in {"/", options.path} or (
            not options.only_promfiler
            and (is_trigger or path.startswith(("/debug/pprof", "/profile", "/targets")))
        )
        if not known:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        if request.method not in allowed:
            raise _Refused(
                HTTPStatus.METHOD_NOT_ALLOWED, "not with this method", {"Allow": ", ".join(allowed)}
            )
        if path == options.path:
            return await self._metrics(request)
        if options.only_promfiler:
            return self._redirect(options.path)
        query = _query(request)
        if path == "/":
            return Response(
                200,
                {"Content-Type": _TYPES["html"], "Content-Security-Policy": LIVE_POLICY},
                LIVE_PAGE.replace(b"{{metrics}}", html.escape(options.path.lstrip("/")).encode()),
            )
        if path == "/trigger" and options.trigger is not None:
            return await self._trigger(options.trigger, query)
        if path == "/targets":
            return _json({"targets": self._collector.state.targets})
        if path.startswith("/profile"):
            return await self._recent(path, query)
        return await self._go(path, query)

    def _authorize(self, request: Request) -> None:
        """Let through who may ask.

        Raises:
            _Refused: All others.
        """
        options = self._options
        if options.token is None and options.credentials is None:
            host = request.headers.get("host", "")
            if options.is_local and not _LOOPBACK.fullmatch(host):
                raise _Refused(HTTPStatus.FORBIDDEN, "this host name is not known here")
            origin = request.headers.get("origin")
            if origin is not None and origin.partition("://")[2] != host:
                raise _Refused(HTTPStatus.FORBIDDEN, "not for other sites")
            return
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        value = value.strip()
        if options.token is not None and scheme.lower() == "bearer":
            if hmac.compare_digest(value.encode(), options.token.encode()):
                return
        elif options.credentials is not None and scheme.lower() == "basic":
            try:
                given = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                given = b""
            if hmac.compare_digest(given, options.credentials.encode()):
                return
        challenge = "Bearer" if options.credentials is None else "Basic"
        raise _Refused(
            HTTPStatus.UNAUTHORIZED,
            "who are you?",
            {"WWW-Authenticate": f'{challenge} realm="jsspy"'},
        )

    def _health(self) -> Response:
        ended = self._collector.ended
        if ended is None:
            return Response(200, {"Content-Type": _TEXT}, b"ok\n")
        reason = ended.error or "there is nothing left to sample"
        body = f"not sampling: {clean(reason)}\n".encode()
        return Response(HTTPStatus.SERVICE_UNAVAILABLE, {"Content-Type": _TEXT}, body)

    async def _metrics(self, request: Request) -> Response:
        options = self._options
        encode = partial(
            self._collector.metrics,
            request.headers.get("accept", ""),
            promfiler=options.promfiler,
            own=not options.only_promfiler,
        )
        loop = asyncio.get_running_loop()
        body, content_type = await loop.run_in_executor(self._encoder, encode)
        return Response(200, {"Content-Type": content_type}, body)

    def _redirect(self, path: str) -> Response:
        body = f'<a href="{html.escape(path)}">{html.escape(path)}</a>\n'.encode()
        return Response(
            HTTPStatus.MOVED_PERMANENTLY, {"Location": path, "Content-Type": _TYPES["html"]}, body
        )

    async def _trigger(self, trigger: Callable[[str], str], query: dict[str, str]) -> Response:
        reason = re.sub(r"[^0-9A-Za-z_-]", "_", query.get("reason", "http"))[:40] or "http"
        try:
            name = await asyncio.to_thread(trigger, reason)
        except JsspyError as err:
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, clean(err.message)) from err
        return _json({"file": name}, HTTPStatus.CREATED)

    async def _recent(self, path: str, query: dict[str, str]) -> Response:
        """Answer /profile.<ext>?seconds=N: the last N seconds, at once."""
        form = FORMATS.get(query["format"]) if "format" in query else find_format(path)
        if form is None:
            suffixes = " ".join(sorted({one.suffix for one in FORMATS.values()}))
            raise _Refused(
                HTTPStatus.NOT_FOUND, f"/profile must end in one of {suffixes}, or have ?format="
            )
        seconds = self._seconds(query, _DEFAULT_WINDOW_SECONDS)
        start = time.monotonic_ns() - int(seconds * 1e9)
        return await self._make(form, start, 1 << 62, query, wait=False)

    async def _go(self, path: str, query: dict[str, str]) -> Response:
        """Answer what net/http/pprof answers; `seconds` begin now."""
        match path:
            case "/debug/pprof":
                return self._redirect("/debug/pprof/")
            case "/debug/pprof/":
                body = _GO_INDEX
                return Response(200, {"Content-Type": _TYPES["html"]}, body)
            case "/debug/pprof/cmdline":
                commands = [str(one["command"]) for one in self._collector.state.targets]
                return Response(200, {"Content-Type": _TEXT}, clean(" ".join(commands)).encode())
            case "/debug/pprof/profile":
                seconds = self._seconds(query, _DEFAULT_GO_SECONDS)
                start = time.monotonic_ns()
                end = start + int(seconds * 1e9)
                response = await self._make(FORMATS["pprof"], start, end, query, wait=True)
                response.headers["Content-Disposition"] = 'attachment; filename="profile"'
                return response
            case _:
                raise _Refused(HTTPStatus.NOT_FOUND, "there is no such profile")

    def _seconds(self, query: dict[str, str], default: float) -> float:
        limit = min(self._options.max_seconds, self._collector.ring.duration_ns / 1e9)
        text = query.get("seconds")
        if text is None:
            return min(default, limit)
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= limit:
            raise _Refused(
                HTTPStatus.BAD_REQUEST, f"seconds must be a number above 0, up to {limit:g}"
            )
        return seconds

    async def _make(
        self, form: Format, start_ns: int, end_ns: int, query: dict[str, str], *, wait: bool
    ) -> Response:
        pid = None
        if "pid" in query:
            if not re.fullmatch(r"[1-9][0-9]{0,9}", query["pid"]):
                raise _Refused(HTTPStatus.BAD_REQUEST, "pid must be a number")
            pid = int(query["pid"])
        if self._making >= self._options.max_profiles:
            raise _Refused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self._making} profiles are being made already",
                {"Retry-After": "5"},
            )
        self._making += 1
        try:
            if wait:
                await self._wait_until(end_ns)
            body = await asyncio.to_thread(self._write, form, start_ns, end_ns, pid)
        finally:
            self._making -= 1
        content_type = _TYPES.get(form.name)
        if content_type is None:
            content_type = "application/json" if form.suffix.endswith("json") else _TEXT
        if form.suffix.endswith(".gz"):
            content_type = "application/octet-stream"
        headers = {"Content-Type": content_type}
        if form.name == "html":
            headers["Content-Security-Policy"] = "frame-ancestors 'self'"
        return Response(200, headers, body)

    async def _wait_until(self, end_ns: int) -> None:
        """Wait until the ring reaches beyond a time, or the sampler is late or has ended."""
        give_up = end_ns + int(_GRACE_S * 1e9)
        while self._collector.is_running() and self._collector.ring.end_ns < end_ns:
            if time.monotonic_ns() > give_up:
                return
            await asyncio.sleep(_POLL_S)

    def _write(self, form: Format, start_ns: int, end_ns: int, pid: int | None) -> bytes:
        profile: Profile = self._collector.profile(start_ns, end_ns, pid=pid)
        out = io.BytesIO()
        form.write(profile, out)
        return out.getvalue()


_GO_INDEX = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>/debug/pprof/</title>
<h1>/debug/pprof/</h1>
<ul><li><a href="profile?seconds=30">profile</a>: CPU profile of the next 30 seconds (or
<code>?seconds=N</code>, <code>&amp;pid=N</code>), for <code>go tool pprof</code>, Parca, Pyroscope
<li><a href="cmdline">cmdline</a>: the command lines of the processes that are sampled</ul>
"""


def _query(request: Request) -> dict[str, str]:
    if len(request.query) > MAX_QUERY:
        raise _Refused(HTTPStatus.REQUEST_URI_TOO_LONG, "the query is too long")
    return dict(parse_qsl(request.query, keep_blank_values=True))


def _json(value: object, status: int = 200) -> Response:
    return Response(
        status, {"Content-Type": "application/json"}, json.dumps(value).encode() + b"\n"
    )
