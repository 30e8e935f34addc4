"""Sockets: answers that nobody reads."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import cast

from jsspy.server.app import App, Request, Response
from jsspy.server.web import open_socket, serving

BODY = os.urandom(1 << 20) * 16
CLIENTS = 20


class Large:
    """Answers whatever is asked with the same large body."""

    async def handle(self, request: Request) -> Response:
        del request
        return Response(200, {"Content-Length": str(len(BODY))}, BODY)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_who_does_not_read_costs_no_memory() -> None:
    async def run() -> tuple[int, bytes]:
        listener = open_socket("127.0.0.1", 0)
        host, port = listener.getsockname()
        async with serving(cast("App", Large()), listener):
            before = resident()
            clients = [await asyncio.open_connection(host, port, limit=1) for _ in range(CLIENTS)]
            for _, writer in clients:
                writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            # The last one reads, and gets all, whatever the others do.
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = await reader.read()
            grown = resident() - before - len(answer)
            for _, each in [*clients, (reader, writer)]:
                each.close()
            return grown, answer

    grown, answer = asyncio.run(run())
    assert answer.endswith(BODY)
    assert grown < CLIENTS * len(BODY) / 2
