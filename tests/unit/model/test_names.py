"""Names: cleaned, spelled, and put down to packages."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.model.names import (
    Origin,
    classic_parts,
    clean,
    display_name,
    display_place,
    function_name,
    function_of,
    origin_of,
    package_of,
    path_of,
)
from jsspy.model.stack import Frame, FrameKind, Location, Module
from profiles import HOT, HOT_ELSEWHERE, js


@given(st.text(st.characters() | st.sampled_from("\0\n\r\t\u202e\ud800\u2028")))
def test_clean_text_is_encodable_and_on_one_line(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert not re.search("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", cleaned)
    assert clean(cleaned) == cleaned
    assert len(cleaned.splitlines()) <= 1


def test_clean_shows_what_it_replaces() -> None:
    assert clean("a\0b\nc\u202ed\ud800") == "a\\x00b\\nc\\u202ed\\ud800"
    assert clean("plain é 🔥 <>;#") == "plain é 🔥 <>;#"


def test_display_names() -> None:
    module = Module("/usr/bin/node")
    cases = {
        "foo /app/a.js:3": js("foo", "/app/a.js", 3),
        "(anonymous) /app/a.js:3": js("", "/app/a.js", 3),
        "(anonymous) /a b/c.mjs:3": js("", "file:///a%20b/c.mjs", 3),
        "read node:fs:3": js("read", "node:fs", 3),
        "Builtin:ArrayMap": Frame("ArrayMap", FrameKind.BUILTIN),
        "RegExp:a+": Frame("a+", FrameKind.REGEXP),
        "uv__io_poll": Frame("uv__io_poll", FrameKind.NATIVE, module=module),
        "(unknown)": Frame(" ", FrameKind.NATIVE, module=module),
        "foo /app/a.js": Frame("foo", FrameKind.JS, location=Location("/app/a.js", 9)),
        "real /src/a.ts": js("min", "/app/a.js", 3)._replace(
            original=Location("/src/a.ts", 77), original_name="real"
        ),
    }
    mapped = cases["real /src/a.ts"]._replace(original_definition=Location("/src/a.ts", 70, 2))
    cases["real /src/a.ts:70"] = mapped
    for name, frame in cases.items():
        assert display_name(frame) == name
    assert "".join(classic_parts(mapped)) == "real:/src/a.ts:70"
    assert function_name(js("", "/a.js")) == "(anonymous)"
    assert display_place(js("f", "/a.js", 4)) == "/a.js:4"


def test_a_function_is_the_same_wherever_it_executes() -> None:
    assert function_of(HOT) == function_of(HOT_ELSEWHERE)
    assert function_of(HOT) == function_of(HOT._replace(inlined=True))
    others = (
        HOT._replace(name="other"),
        HOT._replace(definition=Location("/app/lib/hot.js", 11, 10)),
        HOT._replace(definition=Location("/app/lib/hot.js", 10, 11)),
        HOT._replace(kind=FrameKind.WASM),
        HOT._replace(module=Module("/x")),
    )
    assert len({function_of(frame) for frame in (HOT, *others)}) == len(others) + 1
    assert function_of(function_of(HOT)) == function_of(HOT)


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("/app/a.js", "(app)"),
        ("[eval]", "(app)"),
        ("evalmachine.<anonymous>", "(app)"),
        ("file:///app/a.mjs", "(app)"),
        ("node:fs", "node:"),
        ("node:internal/timers", "node:"),
        ("fs.js", "node:"),
        ("_http_server.js", "node:"),
        ("internal/process/task_queues.js", "node:"),
        ("/app/node_modules/lodash/map.js", "lodash"),
        ("/app/node_modules/@scope/name/lib/x.js", "@scope/name"),
        ("/app/node_modules/a/node_modules/b/x.js", "b"),
        ("file:///app/node_modules/esm/x.mjs", "esm"),
        ("/a/node_modules/.pnpm/foo@1.0.0/node_modules/foo/i.js", "foo@1.0.0"),
        ("/a/node_modules/.pnpm/foo@1.0.0_bar@2.1.0/node_modules/foo/i.js", "foo@1.0.0"),
        ("/a/node_modules/.pnpm/foo@1.0.0(bar@2.1.0)/node_modules/foo/i.js", "foo@1.0.0"),
        ("/a/node_modules/.pnpm/@s+n@1.2.3_r@18.0.0/node_modules/@s/n/x.js", "@s/n@1.2.3"),
        ("/a/node_modules/.pnpm/foo@1.0.0/node_modules/bar/i.js", "bar"),
        (
            "/p/.yarn/cache/ms-npm-2.1.2-ec0c1512ff-673cdb2c31.zip/node_modules/ms/index.js",
            "ms@2.1.2",
        ),
    ],
)
def test_packages(url: str, package: str) -> None:
    assert package_of(js("f", url)) == package


def test_origins() -> None:
    assert origin_of(Frame("x", FrameKind.NATIVE)) is Origin.NATIVE
    assert origin_of(Frame("x", FrameKind.KERNEL)) is Origin.KERNEL
    assert origin_of(Frame("x", FrameKind.REGEXP)) is Origin.BUILTIN
    assert origin_of(Frame("x", FrameKind.UNKNOWN)) is Origin.OTHER
    assert package_of(Frame("x", FrameKind.NATIVE)) == "(native)"


@given(st.text())
def test_hostile_urls_end_well(url: str) -> None:
    for text in (url, "/node_modules/" + url, "file:///" + url, f"/node_modules/.pnpm/{url}/x"):
        frame = js("f", text)
        clean(path_of(text)).encode()
        package_of(frame).encode()
        display_name(frame).encode()
