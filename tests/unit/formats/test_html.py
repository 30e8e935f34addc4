from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zlib
from html.parser import HTMLParser
from importlib import resources
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jsspy.formats.html import GROUPS, Html
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.sample import LossReason, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Module, Stack, Tier, Truncation
from jsspy.model.units import Pid, Tid

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "__proto__",
    "\"';`${1}",
    "a\x00b\nc",
    "\u2028\u2029",
    "\u202egnirts",
    "",
    "x" * 5_000,
    "\ud800",
    "{{data}}",
)


class Page(HTMLParser):
    """The texts of script and style elements, and the policy."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.style = ""
        self.policy = ""
        self.title = ""
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._tag == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        elif self._tag == "style":
            self.style += data
        elif self._tag == "title":
            self.title += data

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 (the name is HTMLParser's)
        self._tag = ""


def write(profile: Profile) -> str:
    out = io.BytesIO()
    Html().write(profile, out)
    return out.getvalue().decode()


def unpack(text: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Read the data back, as the viewer does."""
    (data,) = [body for attributes, body in Page(text).scripts if attributes.get("id") == "data"]
    blob = zlib.decompress(base64.b64decode(data, validate=True))
    at = 4 + int.from_bytes(blob[:4], "little")
    head: dict[str, Any] = json.loads(blob[4:at])
    columns = {}
    for name, count, planes in head["columns"]:
        parts = [blob[at + i * count : at + (i + 1) * count] for i in range(planes)]
        columns[name] = [
            int.from_bytes(bytes(part[i] for part in parts), "little") for i in range(count)
        ]
        at += count * planes
    assert at == len(blob)
    return head, columns


def profile_of(*stacks: tuple[Frame, ...], times: bool = True) -> Profile:
    profile = Profile(ProfileMeta(value_type=ValueType.CPU))
    thread = profile.intern_thread(ThreadInfo(Pid(1), Tid(1), "main"))
    for index, frames in enumerate(stacks):
        row = profile.intern_stack(Stack(frames))
        profile.add_row(row, thread, index * 1_000_000 if times else 0, 10 + index)
    return profile


def js(name: str, line: int = 1, **more: Any) -> Frame:
    return Frame(
        name, FrameKind.JS, location=Location("/a.js", line), definition=Location("/a.js", 1, 2),
        **more,
    )  # fmt: skip


def test_every_row_and_weight_is_kept() -> None:
    profile = profile_of((js("a"), js("b", 2)), (js("a"), js("b", 3)), (js("a", 9),))
    _, columns = unpack(write(profile))
    parent = [row - up for row, up in enumerate(columns["row_up"])]
    assert parent == list(profile.stacks.parent)
    assert columns["row_frame"] == list(profile.stacks.frame)
    assert columns["sample_row"] == list(profile.stack)
    assert columns["sample_weight"] == [10, 11, 12]
    assert columns["sample_gap"] == [0, 1000, 1000]


def test_a_function_is_one_whatever_line_and_tier_it_runs() -> None:
    profile = profile_of(
        (js("a", 1, tier=Tier.INTERPRETED),),
        (js("a", 7, tier=Tier.OPTIMIZED),),
        (js("a", 7, inlined=True),),
    )
    head, columns = unpack(write(profile))
    assert columns["frame_fn"] == [0, 0, 0]
    assert columns["frame_line"] == [1, 7, 7]
    assert [head["tiers"][t] for t in columns["frame_tier"]] == [
        "interpreted",
        "optimized",
        "inlined",
    ]
    assert (columns["fn_line"][0], columns["fn_column"][0]) == (1, 2)


def test_groups_tell_whose_code_it_is() -> None:
    frames = {
        "app": js("a"),
        "dependency": Frame("d", FrameKind.JS, location=Location("/x/node_modules/d/i.js", 1)),
        "core": Frame("c", FrameKind.JS, location=Location("node:fs", 1)),
        "builtin": Frame("ArrayMap", FrameKind.BUILTIN),
        "regexp": Frame("/a+/", FrameKind.REGEXP),
        "wasm": Frame("w", FrameKind.WASM),
        "native": Frame("read", FrameKind.NATIVE, module=Module("/lib/libc.so")),
        "kernel": Frame("do_syscall_64", FrameKind.KERNEL),
        "vm": Frame("(garbage collector)", FrameKind.VM_STATE),
        "glue": Frame("[entry frame]", FrameKind.VM_FRAME),
        "other": Frame("?", FrameKind.UNKNOWN),
    }
    head, columns = unpack(write(profile_of(tuple(frames.values()))))
    assert [GROUPS[group] for group in columns["fn_group"]] == list(frames) == list(GROUPS)
    assert head["strings"][columns["fn_file"][6]] == "/lib/libc.so"


def test_viewer_knows_the_same_groups() -> None:
    script = resources.files("jsspy.ui").joinpath("page.js").read_text("utf-8")
    (table,) = re.findall(r"const GROUPS = \[\n(.*?)\n\];", script, re.DOTALL)
    assert table.count("\n") + 1 == len(GROUPS)


def test_the_viewer_is_small() -> None:
    """Every page carries it."""
    assert len(write(Profile()).encode()) < 65 << 10


def test_samples_without_times_are_merged() -> None:
    a, b = (js("a"),), (js("b"),)
    _, columns = unpack(write(profile_of(a, b, a, times=False)))
    assert columns["sample_row"] == [0, 1]
    assert columns["sample_weight"] == [10 + 12, 11]


def test_an_empty_stack_has_its_weight_shown() -> None:
    head, columns = unpack(write(profile_of((js("a"),), ())))
    function = columns["frame_fn"][columns["row_frame"][columns["sample_row"][1]]]
    assert head["strings"][columns["fn_name"][function]] == "(no stack)"
    assert sum(columns["sample_weight"]) == 21


def test_empty_profile() -> None:
    head, columns = unpack(write(Profile()))
    assert not any(columns.values())
    assert head["meta"]["samples"] == 0


def test_hostile_names_stay_inside_the_data() -> None:
    frames = tuple(Frame(name, FrameKind.JS, location=Location(name or "/", 1)) for name in HOSTILE)
    profile = profile_of(frames)
    profile.meta.command = HOSTILE[0]
    profile.meta.notes = list(HOSTILE)
    text = write(profile)
    page = Page(text)
    assert len(page.scripts) == 2
    assert page.title == f"{HOSTILE[0]} · jsspy"
    assert not re.search(r"[\x00\u2028\u2029\u202e]", text)
    head, columns = unpack(text)
    shown = [head["strings"][i] for i in columns["fn_name"]]
    assert shown[0] == HOSTILE[0]
    assert shown[7] == "\\u202egnirts"
    assert shown[9] == HOSTILE[9]
    assert shown[11] == "{{data}}"


def test_policy_lets_only_our_script_and_style_run() -> None:
    page = Page(write(profile_of((js("a"),))))
    (script,) = [body for attributes, body in page.scripts if "id" not in attributes]
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))

    def source(text: str) -> str:
        digest = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == source(script)
    assert rules["style-src"] == source(page.style)


def test_no_reference_leaves_the_file() -> None:
    text = write(profile_of((js("a"),)))
    assert not re.search(r"""<[^>]*(?:src|href|action)\s*=|@import|url\(|https?://""", text)


def test_code_is_small() -> None:
    text = write(Profile())
    (data,) = [body for attributes, body in Page(text).scripts if attributes.get("id") == "data"]
    assert len(text.encode()) - len(data) <= 64_000


def test_same_profile_same_bytes() -> None:
    stacks = [(js("a"), js("b")), (js("c"),)]
    assert write(profile_of(*stacks)) == write(profile_of(*stacks))


def test_account_of_the_recording() -> None:
    profile = profile_of((js("a"),), (js("a"),))
    profile.stats.requested = 9
    profile.stats.lost = {LossReason.LATE: 3, LossReason.RING_FULL: 0}
    profile.truncated = {1: Truncation.TOO_DEEP}
    head, _ = unpack(write(profile))
    meta = head["meta"]
    assert (meta["requested"], meta["samples"]) == (9, 2)
    assert meta["lost"] == {"late": 3}
    assert meta["truncated"] == {"too-deep": 1}


def test_source_lines_that_run_are_kept_cut_and_clean() -> None:
    profile = profile_of((js("a", 2), js("a", 99)))
    profile.sources = {"/a.js": "one\n  two\u202e " + "x" * 1000, "/b.js": "secret"}
    head, _ = unpack(write(profile))
    ((file, line, text),) = head["lines"]
    assert (head["strings"][file], line) == ("/a.js", 2)
    assert text.startswith("two\\u202e x")
    assert len(text) < 300


def test_vm_states_and_threads() -> None:
    profile = profile_of((js("a"),))
    thread = profile.intern_thread(ThreadInfo(Pid(1), Tid(2), "worker\x00"))
    profile.add_row(0, thread, 5, 5, vm_state=VmState.GC)
    head, columns = unpack(write(profile))
    assert head["threads"] == [[1, 1, "main", "node"], [1, 2, "worker\\x00", "node"]]
    assert head["vmStates"][columns["sample_vm"][1]] == "gc"
    assert columns["sample_thread"] == [0, 1]


def test_deep_stacks_need_no_recursion() -> None:
    profile = profile_of(tuple(js(f"f{i}") for i in range(20_000)))
    _, columns = unpack(write(profile))
    assert len(columns["row_up"]) == 20_000


@given(st.lists(st.integers(0, 2**60), max_size=50))
def test_weights_of_any_size_survive(weights: list[int]) -> None:
    profile = Profile()
    thread = profile.intern_thread(ThreadInfo(Pid(1), Tid(1), "main"))
    row = profile.intern_stack(Stack((js("a"),)))
    for time, weight in enumerate(weights):
        profile.add_row(row, thread, time * 1000, weight)
    _, columns = unpack(write(profile))
    assert sum(columns["sample_weight"]) == sum(weights)
