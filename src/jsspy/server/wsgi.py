"""`App` as a WSGI application, to be mounted in a server that exists: Flask, Django, gunicorn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from jsspy.server.app import App, Request


class Wsgi:
    """A WSGI application: `DispatcherMiddleware(app, {"/jsspy": Wsgi(App(collector))})`.

    Each request runs an event loop of its own in the server's thread, which is that thread's for as
    long as a profile takes: WSGI has no other way to wait.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(
        self,
        environ: dict[str, Any],
        start_response: Callable[[str, list[tuple[str, str]]], object],
    ) -> Iterable[bytes]:
        """Answer one request."""
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        request = Request(
            str(environ["REQUEST_METHOD"]),
            # PEP 3333: bytes of the path, each as one character.
            str(environ.get("PATH_INFO", "")).encode("latin-1").decode("utf-8", "replace") or "/",
            str(environ.get("QUERY_STRING", "")),
            headers,
        )
        response = asyncio.run(self._app.handle(request))
        status = HTTPStatus(response.status)
        start_response(f"{status.value} {status.phrase}", list(response.headers.items()))
        return [] if request.method == "HEAD" else [response.body]
