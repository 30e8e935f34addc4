"""What the client of the inspector makes of servers that do not do as they should."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web

from jsspy.engines import inspector
from jsspy.engines.inspector import Gone, Inspector, Refused
from jsspy.errors import EngineUnavailable, MalformedData

Answer = Callable[[web.WebSocketResponse, dict[str, Any]], Awaitable[None]]


@contextmanager
def serving(answer: Answer, targets: Any = None) -> Iterator[str]:
    """Serve `/json/list` and a WebSocket at `/id`; yield the address."""

    async def talk(request: web.Request) -> web.WebSocketResponse:
        peer = web.WebSocketResponse()
        await peer.prepare(request)
        async for message in peer:
            await answer(peer, json.loads(message.data))
        return peer

    async def show(_: web.Request) -> web.Response:
        default = [{"webSocketDebuggerUrl": "ws://elsewhere:1/id"}]
        return web.json_response(default if targets is None else targets)

    loop = asyncio.new_event_loop()
    application = web.Application()
    application.add_routes([web.get("/id", talk), web.get("/json/list", show)])
    runner = web.AppRunner(application, shutdown_timeout=0)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def agree(peer: web.WebSocketResponse, request: dict[str, Any]) -> None:
    await peer.send_json({"id": request["id"], "result": {"asked": request["method"]}})


async def stay_silent(peer: web.WebSocketResponse, request: dict[str, Any]) -> None:
    del peer, request


async def refuse(peer: web.WebSocketResponse, request: dict[str, Any]) -> None:
    await peer.send_json({"id": request["id"], "error": {"code": 1, "message": "no"}})


async def babble(peer: web.WebSocketResponse, request: dict[str, Any]) -> None:
    del request
    await peer.send_str("not json")


async def answer_oddly(peer: web.WebSocketResponse, request: dict[str, Any]) -> None:
    await peer.send_json([1, 2])
    await peer.send_json({"id": request["id"], "result": 5})


async def hang_up(peer: web.WebSocketResponse, request: dict[str, Any]) -> None:
    del request
    await peer.close()


def test_the_address_that_was_given_is_used_and_not_the_one_that_the_target_says() -> None:
    with serving(agree) as url, Inspector(url) as target:
        assert target.call("Any.thing") == {"asked": "Any.thing"}
    with serving(agree) as url, Inspector(url.replace("http", "ws") + "/id") as target:
        assert target.call("Any.thing") == {"asked": "Any.thing"}


@pytest.mark.parametrize("targets", [[], {}, "x", [{}], [{"webSocketDebuggerUrl": 5}]])
def test_what_is_no_inspector(targets: Any) -> None:
    with serving(agree, targets) as url, pytest.raises(EngineUnavailable):
        Inspector(url)


def test_more_than_one_target_is_not_guessed() -> None:
    two = [{"webSocketDebuggerUrl": "ws://a/1"}, {"webSocketDebuggerUrl": "ws://a/2"}]
    with serving(agree, two) as url, pytest.raises(EngineUnavailable, match="2 targets"):
        Inspector(url)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refuse, Refused),
        (babble, MalformedData),
        (answer_oddly, MalformedData),
        (hang_up, Gone),
        (stay_silent, EngineUnavailable),
    ],
)
def test_answers_that_are_none(
    answer: Answer, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "ANSWER_S", 0.3)
    with serving(answer) as url, Inspector(url) as target, pytest.raises(error):
        target.call("Any.thing")


def test_a_worker_that_ends_is_counted() -> None:
    async def worker(peer: web.WebSocketResponse, request: dict[str, Any]) -> None:
        if request["method"] == "NodeWorker.enable":
            info = {"workerId": "3", "title": "Worker 3", "type": "worker", "url": "x"}
            event = {"sessionId": "s", "workerInfo": info, "waitingForDebugger": False}
            await peer.send_json({"method": "NodeWorker.attachedToWorker", "params": event})
        await peer.send_json({"id": request["id"], "result": {"profile": {}}})
        if request["method"] != "NodeWorker.sendMessageToWorker":
            return
        inner = json.loads(request["params"]["message"])
        if inner["method"] == "Profiler.stop":
            gone = {"sessionId": "s"}
            await peer.send_json({"method": "NodeWorker.detachedFromWorker", "params": gone})
            return
        text = json.dumps({"id": inner["id"], "result": {}})
        parameters = {"sessionId": "s", "message": text}
        event = {"method": "NodeWorker.receivedMessageFromWorker", "params": parameters}
        await peer.send_json(event)

    with serving(worker) as url, Inspector(url) as target:
        target.start(1000)
        assert target.threads == 2
        (main,) = target.stop()
        assert main.number == 0
        assert target.lost_workers == 1


def test_who_is_there_is_not_node() -> None:
    with (
        serving(agree) as url,
        Inspector(url) as target,
        pytest.raises(EngineUnavailable, match="no node"),
    ):
        target.introduce()
