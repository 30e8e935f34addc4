"""Who awaits what runs: against V8's own asynchronous stack traces."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import nodes
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.mode import Mode
from jsspy.model.sample import Sample, VmState
from jsspy.model.stack import Frame, FrameKind
from jsspy.resolve import Resolver
from jsspy.symbolize.awaiting import BOUNDARY
from jsspy.target.process import Target
from jsspy.v8.isolates import find_threads
from jsspy.v8.metadata import load_layout
from jsspy.v8.plan import make_plan
from running import jsspy

TIMEOUT_S = 30.0

PRELUDE = """
Error.stackTraceLimit = 50;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const told = new Set();
let waste;
function burn(ms, kind) {
  if (kind && !told.has(kind)) {
    told.add(kind);
    console.log(JSON.stringify([kind, new Error().stack]));
  }
  const end = Date.now() + ms;
  let x = 0;
  while (Date.now() < end) {
    for (let i = 0; i < 1000; i++) x += Math.sqrt(i ^ x);
    if (kind === 'garbage') waste = Array.from({length: 3000}, (_, i) => ({i}));
  }
  return x;
}
"""

CHAIN = (
    PRELUDE
    + """
async function leafA(kind) {
  await sleep(1);
  return burn(12, kind);
}
async function midB(kind) {
  const value = await leafA(kind);
  return value + 1;
}
class Svc {
  async handle(kind) { return 1 + (await midB(kind)); }
}
const svc = new Svc();
async function all3(kind) {
  const values = await Promise.all([svc.handle(kind), 5]);
  return values[0];
}
async function* agen(kind) {
  for (;;) {
    yield await all3(kind);
  }
}
async function top4(kind) {
  let sum = 0;
  for await (const value of agen(kind)) sum += value;
  return sum;
}
async function main5(kind) {
  await top4(kind);
}
main5(process.argv[2]);
"""
)

Site = tuple[str, int | None, int | None]
"""Name, line, column."""


def sites(stack: str) -> list[Site]:
    """Return what V8's own stack says of callers that wait, innermost first."""
    found: list[Site] = []
    for line in stack.split("\n"):
        match = re.fullmatch(
            r"\s+at async (?:(.*) \()?(.*?)(?::(\d+):(\d+)|\(?index \d+)?\)?", line
        )
        if match is None:
            continue
        name = match[1] or ""
        if match[3] is None:
            found.append((line.split()[2], None, None))
        else:
            found.append((name.rpartition(".")[2], int(match[3]), int(match[4])))
    return found


def waiting(sample: Sample) -> list[Frame] | None:
    """Return the callers that wait, innermost first; None without a boundary."""
    frames = sample.stack.frames[::-1]
    if BOUNDARY not in frames:
        return None
    assert frames.count(BOUNDARY) == 1
    rest = frames[frames.index(BOUNDARY) + 1 :]
    result = []
    for frame in rest:
        if frame.kind not in {FrameKind.JS, FrameKind.BUILTIN, FrameKind.UNKNOWN}:
            break
        result.append(frame)
    # What follows is the machinery that runs microtasks.
    after = [frame.name for frame in rest[len(result) :]]
    assert any("RunMicrotasks" in name or "MicrotaskQueue" in name for name in after), after
    return result


def placed(frames: list[Frame]) -> list[Site]:
    return [
        (frame.name, *(frame.location[1:] if frame.location is not None else (None, None)))
        for frame in frames
    ]


@contextmanager
def sampling(pid: int, *, idle: bool = False) -> Iterator[Iterator[Sample]]:
    """Sample a process with callers that wait."""
    target = Target.open(pid)
    try:
        v8 = target.find_v8()
        assert v8 is not None
        layout = load_layout(v8.elf)
        resolver = Resolver(target, v8, layout, async_callers=True)
        reader = resolver.stopped_reader
        assert reader is not None

        def samples() -> Iterator[Sample]:
            end = time.monotonic() + TIMEOUT_S
            with PtraceEngine(300, mode=Mode.WALL if idle else Mode.CPU) as engine:
                engine.set_target(target, make_plan(layout), find_threads(target, v8, layout))
                engine.set_reader(target.pid, reader)
                for batch in engine.samples():
                    for raw in batch:
                        result = resolver.resolve(raw)
                        assert isinstance(result, Sample)
                        yield result
                    assert time.monotonic() < end

        yield samples()
    finally:
        target.close()


def take(pid: int, count: int, leaf: str, *, idle: bool = False) -> list[Sample]:
    """Return samples that have a function on their stack."""
    taken: list[Sample] = []
    with sampling(pid, idle=idle) as samples:
        for sample in samples:
            if any(frame.name == leaf for frame in sample.stack.frames):
                taken.append(sample)
                if len(taken) >= count:
                    break
    return taken


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_the_chain_is_the_one_that_v8_tells(version: str) -> None:
    with nodes.running(version, CHAIN, "quiet", wait=False) as target:
        truth = sites(json.loads(target.line())[1])
        samples = take(target.pid, 60, "burn")
    names = ["midB", "handle", "Promise.all", "all3", "agen", "top4", "main5"]
    assert [name for name, _, _ in truth] == names
    cut = 0
    for sample in samples:
        found = waiting(sample)
        assert found is not None, sample
        if found[-1].kind is FrameKind.UNKNOWN:
            cut += 1  # there is a limit on how long a thread may stand still
            assert placed(found[:-1]) == truth[: len(found) - 1]
            continue
        assert placed(found) == truth, sample
        assert sample.stack.truncated is None
        assert sample.stack.frames[0].name == "_start"
        assert next(f for f in found if f.name == "Promise.all").kind is FrameKind.BUILTIN
    assert cut <= len(samples) // 10


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_objects_on_the_move_never_give_a_wrong_caller(version: str) -> None:
    flags = ["--max-semi-space-size=1"]
    with nodes.running(version, CHAIN, "garbage", flags=flags, wait=False) as target:
        truth = sites(json.loads(target.line())[1])
        samples = take(target.pid, 150, "burn")
    whole = []
    for sample in samples:
        found = placed(waiting(sample) or [])
        if sample.vm_state is not VmState.GC:
            whole.append(found == truth)
        if found and found[-1] == ("(unknown)", None, None):
            found.pop()
        assert found == truth[: len(found)], sample
    assert whole
    assert sum(whole) >= 0.9 * len(whole)


FORMS = {
    # Program below `burn`, and the callers that wait.
    "returned": (
        (
            "async function inner() { await sleep(1); burn(9, 'it'); }\n"
            "async function passes() { return inner(); }\n"
            "async function outer() { for (;;) await passes(); }\nouter();"
        ),
        ["outer"],
    ),
    "then": (
        "async function outer() { for (;;) await sleep(1).then(() => burn(9, 'it')); }\nouter();",
        ["outer"],
    ),
    "thenable": (
        (
            "async function outer() {\n"
            "const later = () => sleep(1).then(() => burn(9, 'it'));\n"
            "  for (;;) await new Promise((resolve) => resolve(later()));\n"
            "}\nouter();"
        ),
        ["outer"],
    ),
    "allSettled": (
        (
            "async function inner() { await null; burn(9, 'it'); }\n"
            "async function outer() { for (;;) await Promise.allSettled([inner()]); }\nouter();"
        ),
        ["Promise.allSettled", "outer"],
    ),
    "any": (
        (
            "async function inner() { await null; burn(9, 'it'); }\n"
            "async function outer() { for (;;) await Promise.any([inner()]); }\nouter();"
        ),
        ["Promise.any", "outer"],
    ),
    "race": (
        (
            "async function inner() { await null; burn(9, 'it'); }\n"
            "async function outer() { for (;;) await Promise.race([inner()]); }\nouter();"
        ),
        ["outer"],
    ),
    "rejected": (
        (
            "async function inner() {\n"
            "  try { await Promise.reject(new Error('no')); } catch { burn(9, 'it'); }\n}\n"
            "async function outer() { for (;;) { await inner(); await sleep(1); } }\nouter();"
        ),
        ["outer"],
    ),
    "nested calls": (
        (
            "function down(n) { return n ? down(n - 1) : burn(9, 'it'); }\n"
            "async function inner() { await null; down(20); }\n"
            "async function outer() { for (;;) { await inner(); await sleep(1); } }\nouter();"
        ),
        ["outer"],
    ),
    "several wait": (
        (
            "async function inner() { await sleep(1); burn(9, 'it'); }\n"
            "async function outer(shared) { await shared; }\n"
            "async function loop() {\n"
            "  for (;;) { const it = inner(); await Promise.all([outer(it), outer(it)]); }\n"
            "}\nloop();"
        ),
        None,
    ),
    "nobody waits": (
        "async function inner() { await sleep(1); burn(9, 'it'); inner(); }\ninner();",
        None,
    ),
    "timer": ("setInterval(() => burn(9, 'it'), 1);", None),
    "microtask": (
        "function go() { burn(9, 'it'); setImmediate(queueMicrotask, go); }\ngo();",
        None,
    ),
    "tick": ("function go() { burn(9, 'it'); setImmediate(process.nextTick, go); }\ngo();", None),
    "before any await": (
        (
            "async function inner() { burn(9, 'it'); await sleep(1); }\n"
            "function outer() { inner(); setTimeout(outer, 1); }\nouter();"
        ),
        None,
    ),
    "top level": ("for (;;) burn(9, 'it');", None),
}
LACKING = {"any": 16, "then": 14, "thenable": 14}
"""Forms that older versions do not have, or where V8 does not say what the microtask is."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_forms(version: str, form: str) -> None:
    if int(version.split(".", maxsplit=1)[0]) < LACKING.get(form, 0):
        return
    program, expected = FORMS[form]
    with nodes.running(version, PRELUDE + program, wait=False) as target:
        truth = sites(json.loads(target.line())[1])
        samples = take(target.pid, 15, "burn")
    # While the first one was taken the program may have begun.
    found = [waiting(sample) for sample in samples[1:]]
    whole = [one for one in found if not one or one[-1].kind is not FrameKind.UNKNOWN]
    assert len(whole) > len(found) // 2
    for one in whole:
        if expected is None:
            assert one is None
        else:
            assert one is not None
            assert [frame.name for frame in one] == expected
            if truth:
                assert placed(one) == truth


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN)[-1:])
def test_whoever_sleeps_is_awaited_too(version: str) -> None:
    program = (
        PRELUDE
        + """
const shared = new Int32Array(new SharedArrayBuffer(4));
function nap() { Atomics.wait(shared, 0, 0, 1000); }
async function inner() { await sleep(1); console.log('ready'); for (;;) nap(); }
async function outer() { await inner(); }
outer();
"""
    )
    with nodes.running(version, program) as target:
        samples = take(target.pid, 10, "nap", idle=True)
    for sample in samples:
        assert [frame.name for frame in waiting(sample) or []] == ["outer"]


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN)[-1:])
def test_the_command_line_shows_them_if_asked(version: str) -> None:
    with nodes.running(version, CHAIN, "quiet", wait=False) as target:
        target.line()
        arguments = ("record", "--pid", str(target.pid), "-d", "0.5", "-o", "-")
        asked = jsspy(*arguments, "--async")
        plain = jsspy(*arguments)
    assert "main5 " in asked.stdout
    assert ";⋯ await;leafA " in asked.stdout
    assert "⋯ await" not in plain.stdout
    assert "main5 " not in plain.stdout
