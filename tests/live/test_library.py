"""Continuous profiling from Python."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, cast
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

import jsspy
import nodes
from jsspy.errors import JsspyError
from running import BUSY

VERSION = nodes.selected(("20.20.2",))


def wait_samples(profiling: jsspy.Profiling) -> None:
    end = time.monotonic() + 30
    while len(profiling.profile(60)) < 50:
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("version", VERSION)
def test_a_process_is_profiled_and_served(version: str) -> None:
    with nodes.running(version, BUSY) as target:
        with jsspy.start_profiling(target.pid) as profiling:
            wait_samples(profiling)
            with jsspy.start_server(profiling, promfiler="mine") as server:
                text = httpx.get(f"{server.url}/metrics").text
            families = {family.name: family for family in text_string_to_metric_families(text)}
            assert {"jsspy_samples", "mine_cpu_profile"} <= families.keys()
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{server.url}/metrics")
            server.close()
            assert "jsspy_samples_total" in jsspy.get_metrics(profiling)
            assert b"leafWork" in profiling.render("folded", 60)
            with pytest.raises(JsspyError, match="no format"):
                profiling.render("nonsense", 60)

            outer = Starlette(routes=[Mount("/jsspy", app=profiling.asgi())])

            async def get() -> httpx.Response:
                transport = httpx.ASGITransport(app=outer)
                async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                    return await client.get("/jsspy/debug/pprof/profile?seconds=1", timeout=20)

            assert asyncio.run(get()).content.startswith(b"\x1f\x8b")
        assert not profiling.is_running()
        assert target.process.poll() is None


@pytest.mark.parametrize("version", VERSION)
def test_fastapi_example(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "jsspy-fastapi-target.js"
    program.write_text(BUSY, encoding="utf-8")
    monkeypatch.setenv("NODE_PROCESSES", str(program))
    spec = spec_from_file_location("example", nodes.ROOT / "examples" / "fastapi" / "main.py")
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)

    async def look() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(app=example.app)
        async with (
            example.lifespan(example.app),
            httpx.AsyncClient(transport=transport, base_url="http://app", timeout=20) as client,
        ):
            assert (await client.get("/")).json()["metrics"] == "/jsspy/metrics"
            end = time.monotonic() + 40
            while 'function="leafWork"' not in (await client.get("/jsspy/metrics")).text:
                assert time.monotonic() < end
                await asyncio.sleep(0.1)
            page = await client.get("/jsspy/")
            return page, await client.get("/jsspy/profile.folded?seconds=60")

    with nodes.running(version, program):
        page, folded = asyncio.run(look())
    assert page.text.startswith("<!doctype html>")
    assert b"leafWork" in folded.content


@pytest.mark.parametrize("version", VERSION)
def test_wsgi(version: str) -> None:
    with nodes.running(version, BUSY) as target, jsspy.start_profiling(target.pid) as profiling:
        wait_samples(profiling)
        application = validator(profiling.wsgi())

        def ask(path: str, query: str = "", method: str = "GET") -> tuple[str, bytes]:
            environ: dict[str, object] = {
                "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query,
                "SCRIPT_NAME": "/jsspy",
            }  # fmt: skip
            setup_testing_defaults(environ)
            said: list[str] = []

            def start(status: str, headers: object, error: object = None) -> Callable[..., None]:
                del headers, error
                said.append(status)
                return lambda _: None

            # The validator wants it to be closed.
            with closing(cast("Any", application(environ, start))) as body:
                return said[0], b"".join(body)

        status, text = ask("/metrics")
        assert status == "200 OK"
        assert b"jsspy_samples_total" in text
        assert ask("/metrics", method="HEAD") == ("200 OK", b"")
        assert ask("/debug/pprof/profile", "seconds=1")[1].startswith(b"\x1f\x8b")
        assert ask("/nothing")[0] == "404 Not Found"


def test_what_cannot_be_profiled_is_said() -> None:
    with pytest.raises(JsspyError, match="no process") as caught:
        jsspy.start_profiling((1 << 22) + 1)
    assert caught.value.exit_code == 3
