"""A server that profiles are pushed to, which can be told to be unwell."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Received(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


@dataclass
class Receiver:
    """What arrived, and what is answered."""

    url: str
    status: int = 200
    delay_s: float = 0.0
    """Before each answer."""
    headers: dict[str, str] = field(default_factory=dict)
    accepted: list[Received] = field(default_factory=list)
    """Requests that were answered with 200."""
    refused: list[Received] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, count: int, *, refused: bool = False) -> None:
        """Wait until so many requests were accepted (or refused)."""
        with self.changed:
            which = self.refused if refused else self.accepted
            assert self.changed.wait_for(lambda: len(which) >= count, 30), len(which)


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """Run a server until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with receiver.changed:
                which = receiver.accepted if receiver.status == 200 else receiver.refused
                which.append(Received(self.path, headers, body))
                receiver.changed.notify_all()
                status = receiver.status
            time.sleep(receiver.delay_s)
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
