"""`App` on aiohttp: sockets, TLS, limits."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from jsspy.errors import JsspyError
from jsspy.server.app import MAX_BODY, App, Request

_SHUTDOWN_S = 1.0
"""How long requests that are under way may take when we end."""

_SILENCE_S = 15.0
"""How long a connection may be open without a whole request: those who wait, and those who send
one byte now and then."""

_READING_S = 120.0
"""How long whoever asked may take to read the answer."""

_PART_BYTES = 1 << 16

_MAX_CONNECTIONS = 256
"""At the same time. More are closed at once: descriptors are needed for other things, too."""


class _Server(web.Server):
    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection, if there are not too many."""
        super().connection_made(handler, transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()


def open_socket(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        JsspyError: It cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or "0.0.0.0",  # noqa: S104 - asked for
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as err:
        raise JsspyError(f"cannot listen on {host}: {err.strerror or err}") from err
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as err:
        listener.close()
        hint = f"--port {port + 1}    or any other that is free" if port else None
        reason = (err.strerror or str(err)).lower()
        raise JsspyError(f"cannot listen on {host}:{port}: {reason}", hint=hint) from err
    return listener


def load_tls(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return what a server with this certificate needs.

    Raises:
        JsspyError: The files cannot be read, or do not fit together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as err:
        raise JsspyError(f"cannot use {certificate} for TLS: {err}") from err
    return context


def url_of(listener: socket.socket, *, is_tls: bool) -> str:
    """Return the address that a listener can be reached at, without a path."""
    host, port = listener.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return f"{'https' if is_tls else 'http'}://{host}:{port}"


async def _send(
    request: web.BaseRequest, answer: web.StreamResponse, body: bytes
) -> web.StreamResponse:
    """Send a body in parts: whoever reads slowly has a part of it in memory, not a copy of all."""
    try:
        async with asyncio.timeout(_READING_S):
            await answer.prepare(request)
            for start in range(0, len(body), _PART_BYTES):
                await answer.write(body[start : start + _PART_BYTES])
            await answer.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return answer


@asynccontextmanager
async def serving(
    app: App, listener: socket.socket, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Answer requests on a socket until the block ends. The socket is closed then."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = await app.handle(
            Request(
                request.method,
                request.rel_url.path,
                request.rel_url.raw_query_string,
                {name.lower(): value for name, value in request.headers.items()},
            )
        )
        headers = dict(response.headers)
        if request.method == "HEAD":
            return web.Response(status=response.status, headers=headers)
        if (request.content_length or 0) > MAX_BODY:
            return web.Response(status=413, text="413 the body is too large\n")
        return await _send(request, web.StreamResponse(status=response.status, headers=headers),
                           response.body)  # fmt: skip

    runner = web.ServerRunner(
        _Server(
            answer,
            # A profile that nobody waits for any more makes room for the next one.
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=_SILENCE_S,
        ),
        shutdown_timeout=_SHUTDOWN_S,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener, ssl_context=tls).start()
        yield
    finally:
        await runner.cleanup()
