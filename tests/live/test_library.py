"""Continuous profiling from Python."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

import jsspy
import nodes
from jsspy.errors import JsspyError
from running import BUSY

pytestmark = pytest.mark.soak

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


def test_what_cannot_be_profiled_is_said() -> None:
    with pytest.raises(JsspyError, match="no process") as caught:
        jsspy.start_profiling((1 << 22) + 1)
    assert caught.value.exit_code == 3
