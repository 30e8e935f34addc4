"""Which request gets which answer; and the same through ASGI, mounted in somebody's server."""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import io
import json
import time
import tracemalloc
from array import array

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from jsspy.formats import FORMATS, read_profile
from jsspy.formats.native import Native
from jsspy.server import stream
from jsspy.server.app import App, Options, Request, Response
from jsspy.server.asgi import Asgi
from jsspy.server.collector import Collector, Ended
from jsspy.server.sampling import Sampling
from profiles import HOT, js, profile_of, small, written

TOKEN = "s\u00e9cret"  # noqa: S105 - not a secret
LOCAL = {"host": "127.0.0.1:9142"}


def block(start_ns: int, duration_ns: int = 1_000_000_000) -> bytes:
    """Return a recording whose samples all lie in the middle of it."""
    profile = small()
    profile.meta.start_ns, profile.meta.duration_ns = start_ns, duration_ns
    profile.time_ns = array("q", [start_ns + duration_ns // 2]) * len(profile)
    return written(Native(), profile)


def make_collector(seconds: int = 5) -> Collector:
    """Return a collector to which a sampler spoke for some seconds, until now."""
    collector = Collector(Sampling(pids=(4242,)))
    now = time.monotonic_ns()
    for second in range(seconds):
        collector._take(stream.PROFILE, block(now - (seconds - second) * 1_000_000_000))
    target = {"pid": 4242, "command": "node /app/main.js", "node_version": "", "v8_version": ""}
    message = {"targets": [target], "denied": 0}
    collector._take(stream.TARGETS, json.dumps(message).encode())
    return collector


def ask(
    app: App,
    path: str,
    query: str = "",
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
) -> Response:
    return asyncio.run(app.handle(Request(method, path, query, headers or LOCAL)))


@pytest.fixture
def app() -> App:
    return App(make_collector(), Options(is_local=True))


def test_metrics_are_read_and_have_a_content_type(app: App) -> None:
    for query in ("", "x=1"):
        response = ask(app, "/metrics", query)
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        names = [one.name for one in text_string_to_metric_families(response.body.decode())]
        assert "jsspy_function_cpu_seconds" in names
        assert "promfiler_cpu_profile" not in names
    response = ask(app, "/metrics", method="HEAD")
    assert response.status == 200
    accept = LOCAL | {"accept": "application/openmetrics-text; version=1.0.0"}
    response = ask(app, "/metrics", headers=accept)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert response.body.endswith(b"# EOF\n")


def test_large_text_is_compressed_for_who_wants_it(app: App) -> None:
    plain = ask(app, "/profile.folded")
    packed = ask(app, "/profile.folded", headers=LOCAL | {"accept-encoding": "br, gzip;q=0.5"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["Content-Length"] == str(len(packed.body))


@pytest.mark.parametrize("name", FORMATS)
def test_profiles_come_in_every_format(app: App, name: str) -> None:
    by_name = ask(app, "/profile", f"format={name}&seconds=100")
    assert by_name.status == 200
    assert by_name.headers["Content-Type"]
    by_suffix = ask(app, f"/profile{FORMATS[name].suffix}", "seconds=100")
    assert by_suffix.status == 200


def test_seconds_choose_the_window(app: App) -> None:
    sizes = {}
    for seconds in ("2.9", "100"):
        response = ask(app, "/profile.jsspy", f"seconds={seconds}")
        sizes[seconds] = len(read_profile(io.BytesIO(response.body), "x.jsspy"))
    assert sizes == {"2.9": 3 * len(small()), "100": 5 * len(small())}
    response = ask(app, "/profile.jsspy", "seconds=100&pid=1")
    assert len(read_profile(io.BytesIO(response.body), "x.jsspy")) == 0


NONSENSE = (
    *("seconds=0", "seconds=-1", "seconds=x", "seconds=1e9", "seconds=nan"),
    *("pid=x", "pid=-1", "pid=" + "9" * 99),
)


@pytest.mark.parametrize("query", NONSENSE)
def test_nonsense_is_refused(app: App, query: str) -> None:
    assert ask(app, "/profile.html", query).status == 400


def test_what_is_not_there_is_not_there(app: App) -> None:
    for path in ("/x", "/metrics/", "/profile.nonsense", "/debug/pprof/heap", "/trigger"):
        assert ask(app, path).status == 404, path
    assert ask(app, "/metrics", method="POST").status == 405
    assert ask(app, "/profile.html", "x" * 5000).status == 414


def test_go_waits_for_what_is_to_come() -> None:
    collector = make_collector(2)
    app = App(collector, Options())

    async def go() -> Response:
        asked = asyncio.create_task(
            app.handle(Request("GET", "/debug/pprof/profile", "seconds=0.3", {}))
        )
        await asyncio.sleep(0.2)
        assert not asked.done()
        now = time.monotonic_ns()
        for start in (now - 50_000_000, now + 5_000_000_000):
            collector._take(stream.PROFILE, block(start, 100_000_000))
        return await asked

    response = asyncio.run(go())
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/octet-stream"
    # Only the one that lies within.
    profile = read_profile(io.BytesIO(response.body), "x.pb.gz")
    assert profile.total_weight() == small().total_weight()


def test_too_many_profiles_at_a_time_are_refused() -> None:
    app = App(make_collector(), Options(max_profiles=1))

    async def both() -> list[Response]:
        request = Request("GET", "/profile.html", "", {})
        return list(await asyncio.gather(app.handle(request), app.handle(request)))

    answers = asyncio.run(both())
    assert sorted(answer.status for answer in answers) == [200, 503]
    assert answers[1].headers["Retry-After"]
    assert ask(app, "/profile.html").status == 200


def test_health_tells_whether_it_samples(app: App) -> None:
    assert ask(app, "/healthz", headers={}).status == 200
    app._collector.ended = Ended(error="gone\n")
    response = ask(app, "/healthz", headers={})
    assert response.status == 503
    assert b"gone" in response.body


def test_other_names_for_this_machine_are_refused(app: App) -> None:
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9142", "[::1]:80"):
        assert ask(app, "/metrics", headers={"host": host}).status == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        assert ask(app, "/metrics", headers={"host": host}).status == 403
    assert ask(app, "/metrics", headers=LOCAL | {"origin": "https://evil.example"}).status == 403
    assert ask(app, "/metrics", headers=LOCAL | {"origin": "http://127.0.0.1:9142"}).status == 200


def test_a_token_is_asked_for() -> None:
    app = App(make_collector(1), Options(token=TOKEN))
    refused = ask(app, "/metrics", headers={})
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="jsspy"'
    for header in ("Bearer wrong", "Bearer", f"Basic {TOKEN}", TOKEN):
        assert ask(app, "/profile.html", headers={"authorization": header}).status == 401
    assert ask(app, "/metrics", headers={"authorization": f"bearer  {TOKEN} "}).status == 200
    assert ask(app, "/healthz", headers={}).status == 200


def test_a_password_is_asked_for() -> None:
    app = App(make_collector(1), Options(credentials="me:pass:word"))

    def status(text: str) -> int:
        value = base64.b64encode(text.encode()).decode()
        return ask(app, "/metrics", headers={"authorization": f"Basic {value}"}).status

    assert status("me:pass:word") == 200
    assert status("me:pass") == 401
    assert ask(app, "/metrics", headers={"authorization": "Basic \u00ff!"}).status == 401
    assert ask(app, "/x", headers={}).status == 401


def test_promfiler_answers_like_promfiler() -> None:
    options = Options(path="/stacks", promfiler="promfiler", only_promfiler=True)
    app = App(make_collector(), options)
    response = ask(app, "/stacks", "x=1")
    families = list(text_string_to_metric_families(response.body.decode()))
    assert [family.name for family in families] == ["promfiler_cpu_profile"]
    assert families[0].documentation == "CPU stack trace samples"
    assert sum(sample.value for sample in families[0].samples) == 5 * 13
    assert ask(app, "/stacks").body == response.body
    redirect = ask(app, "/")
    assert redirect.status == 301
    assert redirect.headers["Location"] == "/stacks"
    for path in ("/metrics", "/profile.html", "/debug/pprof/", "/healthz", "/targets"):
        assert ask(app, path).status == 404


def test_live_page_needs_nothing_from_elsewhere(app: App) -> None:
    response = ask(app, "/")
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert b"{{" not in response.body
    assert b"http://" not in response.body
    assert b'href="metrics"' in response.body


def test_it_can_be_mounted() -> None:
    outer = Starlette(routes=[Mount("/jsspy", app=Asgi(App(make_collector())))])

    async def get() -> tuple[httpx.Response, httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(app=outer)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return (
                await client.get("/jsspy/metrics?x=1"),
                await client.get("/jsspy/profile.pb.gz?seconds=100"),
                await client.head("/jsspy/"),
            )

    metrics, profile, head = asyncio.run(get())
    assert metrics.status_code == 200
    assert list(text_string_to_metric_families(metrics.text))
    assert read_profile(io.BytesIO(profile.content), "x.pb.gz").total_weight() > 0
    assert head.status_code == 200
    assert head.content == b""
    assert int(head.headers["content-length"]) > 0


def test_a_scrape_of_5000_stacks_takes_a_fifth_of_a_second() -> None:
    callers = [js(f"callerNumber{depth}", f"/app/{depth}.js") for depth in range(15)]
    leaves = [js(f"leafNumber{index}") for index in range(71)]
    stacks = [(*callers, outer, inner) for outer in leaves for inner in leaves][:5000]
    profile = profile_of(*stacks)
    profile.meta.duration_ns = 1_000_000_000
    collector = Collector(Sampling(pids=(4242,)))
    app = App(collector, Options(promfiler="promfiler"))
    compressed = LOCAL | {"accept-encoding": "gzip"}
    took = []
    for _ in range(5):
        collector._take(stream.PROFILE, written(Native(), profile))
        # CPU time: what else runs here says nothing of us.
        begin = time.process_time()
        response = ask(app, "/metrics", headers=compressed)
        took.append(time.process_time() - begin)
        assert gzip.decompress(response.body).count(b"promfiler_cpu_profile{") > 5000
    assert sorted(took)[2] < 0.2


def test_any_number_of_scrapers_cost_as_much_as_one(app: App) -> None:
    first = ask(app, "/metrics")
    assert ask(app, "/metrics").body is first.body
    app._collector._take(stream.PROFILE, block(time.monotonic_ns()))
    assert ask(app, "/metrics").body != first.body


def test_what_cannot_be_read_is_counted_and_ends_nothing() -> None:
    collector = make_collector()
    collector._take(stream.PROFILE, b"nonsense")
    assert collector.is_running()
    text = collector.metrics()[0].decode()
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["jsspy_unreadable_intervals_total"] == 1


def test_memory_stays_as_it_is() -> None:
    collector = Collector(Sampling(pids=(4242,)), ring_s=5, functions=10)
    collector.signatures.limit = 50
    profile = small()
    profile.meta.duration_ns = 1_000_000_000
    sizes = []
    tracemalloc.start()
    try:
        for second in range(400):
            profile.meta.start_ns = second * 1_000_000_000
            # New functions and threads all the time, as in a program that makes them.
            profile.replace_frame(profile.frames.index(HOT), HOT._replace(name=f"hot{second}"))
            collector._take(stream.PROFILE, written(Native(), profile))
            profile.replace_frame(profile.frames.index(HOT._replace(name=f"hot{second}")), HOT)
            if second in {199, 399}:
                collector.metrics(promfiler="promfiler")
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < 50_000
