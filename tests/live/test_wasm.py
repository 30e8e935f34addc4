"""WebAssembly's frames: functions, names, modules, on every V8."""

from __future__ import annotations

import re

import pytest

import nodes
from jsspy.model.names import Origin, display_name, origin_of
from jsspy.model.sample import Sample
from jsspy.model.stack import Frame, FrameKind
from recorded import record
from wasm_module import assemble

PROGRAM = """
const load = (hex, env) => new WebAssembly.Instance(
  new WebAssembly.Module(Buffer.from(hex, 'hex')), {env}).exports;
let sum = 0;
function busy(x) {
  const end = process.hrtime.bigint() + 1000000n;
  while (process.hrtime.bigint() < end) sum += Math.sqrt(x ^ sum);
  return x | 0;
}
function forth() { return other.outer(1000000); }
const one = load(%r, {back: forth});
const other = load(%r, {back: busy});
function drive() {
  const end = Date.now() + 50;
  while (Date.now() < end) sum += one.outer(1000000);
  setImmediate(drive);
}
console.log('ready');
drive();
"""
PATH = [
    ("drive", ""),
    ("wasm-function[3]", "first"),
    ("middle", "first"),
    ("forth", ""),
    ("(wasm-function[3]|third)", "second"),
    ("(wasm-function[2]|twice)", "second"),
    ("busy", ""),
]
LEAVES = {3: ("leaf_loop", "first"), 6: ("looping", "second")}
"""What may be called at a depth of PATH instead."""

KINDS = (FrameKind.JS, FrameKind.WASM, FrameKind.UNKNOWN)


def is_at(frame: Frame, name: str, module: str, version: str) -> bool:
    if not re.fullmatch(re.escape(name) if "(" not in name else name, frame.name):
        return False
    if not module:
        return frame.kind is FrameKind.JS
    if frame.kind is not FrameKind.WASM or frame.location is None:
        return False
    # V8 7 leaves out what the module calls itself.
    own = "" if version.startswith("12.") else f"{module}-"
    return re.fullmatch(rf"wasm://wasm/{own}[0-9a-f]{{8}}", frame.location.url) is not None


def check(sample: Sample, version: str) -> int:
    """Verify the frames below `drive`; return how many there are."""
    frames = [frame for frame in sample.stack.frames if frame.kind in KINDS]
    names = [frame.name for frame in frames]
    if "drive" not in names:
        return 0
    frames = frames[names.index("drive") :]
    for depth, frame in enumerate(frames):
        if depth < len(PATH) and is_at(frame, *PATH[depth], version):
            continue
        leaf = LEAVES.get(depth)
        if leaf is not None and is_at(frame, *leaf, version):
            assert depth == len(frames) - 1, names
            return len(frames)
        # The clock and `setImmediate` are JavaScript of node's own.
        assert origin_of(frame) is Origin.CORE, names
    return len(frames)


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_functions_of_two_modules_that_call_each_other(version: str) -> None:
    first = assemble("first").hex()
    second = assemble("second", {1: "looping", 2: "twice", 3: "third"}).hex()
    with nodes.running(version, PROGRAM % (first, second)) as target:
        recording = record(target.pid, 150)
    depths = [check(sample, version) for sample in recording.samples]
    assert sum(depth > 1 for depth in depths) >= 100
    assert {4, 7} <= set(depths)
    leaves = {sample.stack.frames[-1].name for sample in recording.samples}
    assert {"leaf_loop", "looping"} <= leaves
    for sample in recording.samples:
        assert sample.stack.truncated is None
        assert all(frame.name != "(unknown)" for frame in sample.stack.frames), sample
        assert all(frame.name != "wasm code" for frame in sample.stack.frames), sample


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN)[-1:])
def test_a_module_without_names_has_numbers(version: str) -> None:
    plain = assemble("first", {}).hex()
    with nodes.running(version, PROGRAM % (plain, plain)) as target:
        recording = record(target.pid, 80)
    names = {
        display_name(frame)
        for sample in recording.samples
        for frame in sample.stack.frames
        if frame.kind is FrameKind.WASM
    }
    assert {re.sub("[0-9a-f]{8}$", "…", name) for name in names} == {
        f"wasm-function[{number}] wasm://wasm/first-…" for number in (1, 2, 3)
    }
