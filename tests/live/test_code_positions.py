"""Functions, lines and columns of frames in every tier, on real V8.

The programs know the truth: V8's own `Error.stack` from the same calls, or the one chain of calls
that can be running. The walk here is the plainest there is, along frame pointers; it leaves out
what it cannot tell at the leaf.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

import nodes
from jsspy.linux.ptrace import NotStopped, read_registers, stopped
from jsspy.model.capture import Registers
from jsspy.model.units import Address, Tid
from jsspy.target.maps import Mapping
from jsspy.target.process import Target, V8Binary
from jsspy.v8.code import (
    CodeReader,
    InlinedPosition,
    frame_push_offset,
    return_address_offset,
    returns_after_call,
)
from jsspy.v8.function import FunctionReader
from jsspy.v8.heap import Heap
from jsspy.v8.layout import CodeKind, Layout
from jsspy.v8.metadata import load_layout

CHAIN = ("main", "hot", "step", "mid2", "leaf3")

BLOCKED = """'use strict';
const cell = new Int32Array(new SharedArrayBuffer(4));
function leaf3(value, expected) {
  const outcome =
    Atomics.wait(cell, 0, expected);
  return outcome === 'not-equal' ? value : 2;
}
function mid2(value, expected) {
  const mixed = value ^ 3;
  return leaf3(mixed, expected) | 0;
}
function step(value, expected) {
  return 1 + mid2(value + 1, expected);
}
function hot(count, expected) {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum = (sum + step(i, expected)) | 0;
  }
  return sum;
}
function main(rounds) {
  let sum = 0;
  for (let round = 0; round <= rounds; round++) {
    sum = (sum + hot(50, round < rounds ? 1 : 0)) | 0;
  }
  return sum;
}
// The calls that will block, seen by V8 itself.
const wait = Atomics.wait;
let stack;
Atomics.wait = () => {
  stack = stack || new Error().stack;
  return 'not-equal';
};
main(0);
Atomics.wait = wait;
require('fs').writeSync(1, JSON.stringify(stack.split('\\n').slice(2, 7)) + '\\nready\\n');
main(+process.argv[2]);
"""

RUNNING = """'use strict';
function leaf3(value) {
  let mixed = value;
  for (let i = 0; i < 30; i++) {
    mixed = (mixed * 31 + i) | 0;
  }
  return mixed;
}
function mid2(value) {
  const mixed = value ^ 3;
  const result = leaf3(mixed);
  return result | 1;
}
function step(value) {
  return 1 +
    mid2(value + 1);
}
function hot(count) {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum =
      (sum + step(i)) | 0;
  }
  return sum;
}
function main() {
  let sum = 0;
  for (;;) {
    sum = (sum +
      hot(100)) | 0;
    if (--countdown === 0) require('fs').writeSync(1, 'ready\\n');
  }
}
let countdown = +process.argv[2];
main();
"""

CHURNING = """'use strict';
class Point {
  constructor(x, y) { this.x = x; this.y = y; }
  add(other) { return new Point(this.x + other.x, this.y + other.y); }
  get length() { return Math.sqrt(this.x * this.x + this.y * this.y); }
}
function words(text) {
  const out = [];
  for (const word of text.split(' ')) out.push(word.length > 2 ? word.toUpperCase() : word);
  return out;
}
function count(list) {
  const seen = new Map();
  for (const word of list) seen.set(word, (seen.get(word) || 0) + 1);
  return seen;
}
function tree(depth) {
  return depth === 0 ? null : { left: tree(depth - 1), right: tree(depth - 1), value: depth };
}
function sum(node) {
  return node === null ? 0 : node.value + sum(node.left) + sum(node.right);
}
function sort(list) {
  for (let i = 1; i < list.length; i++) {
    let j = i;
    const x = list[i];
    while (j > 0 && list[j - 1] > x) { list[j] = list[j - 1]; j--; }
    list[j] = x;
  }
  return list;
}
function objects(n) {
  let total = 0;
  for (let i = 0; i < n; i++) {
    const o = { a: i, b: i * 2.5, c: 'k' + (i & 7) };
    total += o.a + o.b + o.c.length;
    if (i % 17 === 0) total -= [o.a, o.b].map((v) => v | 0).reduce((p, v) => p + v, 0);
  }
  return total;
}
let total = 0;
function round(i) {
  let point = new Point(i, 1);
  for (let k = 0; k < 20; k++) point = point.add(new Point(k, k));
  total += point.length + count(words('the quick brown fox jumps over it ' + i)).size;
  total += sum(tree(5)) + sort([5, 3, 9, 1, i % 10, 2, 8])[0] + objects(30);
  if (i % 100 === 0) {
    // Functions that live for a while: their code is made, deoptimized, moved and freed.
    const made = new Function('n', 'let s = 0; for (let i = 0; i < n; i++) s += i ^ n; return s;');
    for (let k = 0; k < 400; k++) total += made(k);
    total += sum({ value: '' + i, left: null, right: null }).length;
  }
  try { if (i % 50 === 0) throw new Error('x'); } catch (error) { total += error.message.length; }
}
for (let i = 0; ; i++) {
  round(i);
  if (i === +process.argv[2]) require('fs').writeSync(1, 'ready\\n');
}
"""

CALL_LINES = {"main": 30, "hot": 22, "step": 16, "mid2": 11}
PEELED_LINES = {("26.10.0", "maglev", "hot"): 20}
"""Where V8 itself is wrong: in a peeled loop the place of a call that it inlined is the loop's."""
BODIES = {
    "main": range(26, 34),
    "hot": range(18, 26),
    "step": range(14, 18),
    "mid2": range(9, 14),
    "leaf3": range(2, 9),
}


def _flags(mode: str, version: str) -> tuple[str, ...]:
    major = int(version.partition(".")[0])
    no_maglev = ("--no-maglev",) if major >= 24 else ()
    no_sparkplug = ("--no-sparkplug",) if major >= 16 else ()
    return {
        "default": (),
        "interpreted": ("--no-opt", *no_sparkplug, *no_maglev),
        "baseline": ("--no-opt", "--always-sparkplug", *no_maglev),
        "maglev": ("--maglev", "--no-turbofan"),
        "turbofan": no_maglev,
    }[mode]


def _cases() -> list[tuple[str, str]]:
    modes = {
        "default": nodes.MODERN,
        "interpreted": nodes.MODERN,
        "baseline": nodes.MODERN[2:],
        # The official builds of 20 and 22 have the flag, but "Maglev is not enabled" in them.
        "maglev": nodes.MODERN[6:],
        "turbofan": nodes.MODERN,
    }
    return [
        (version, mode) for mode, versions in modes.items() for version in nodes.selected(versions)
    ]


class Place(NamedTuple):
    """A frame as it is compared with the truth."""

    name: str
    line: int | None
    column: int | None
    kind: CodeKind | None
    """None: interpreted."""


@dataclass
class Reader:
    """Everything that the walk needs of one process."""

    target: Target
    v8: V8Binary
    layout: Layout
    heap: Heap
    functions: FunctionReader
    codes: CodeReader
    isolate: int
    placed: list[int]
    """Positions in generated code: not known, known."""

    def word(self, address: int) -> int:
        return int.from_bytes(self.target.memory.read(Address(address), 8), "little")

    def code_mapping(self, pc: int) -> Mapping | None:
        """Return the mapping of `pc` if it is generated code."""
        space = self.target.address_space()
        mapping = space.find(pc)
        if mapping is None or (not mapping.path and not mapping.is_executable):
            # V8 before 11 makes pages executable and writable in turn.
            mapping = self.target.address_space(refresh=True).find(pc)
        return mapping if mapping is not None and not mapping.path else None

    def is_builtin(self, pc: int) -> bool:
        """Whether `pc` is in the embedded builtins, which may be mapped a second time."""
        mapping = self.target.address_space().find(pc)
        blob = self.layout.embedded_blob
        assert blob is not None
        if mapping is None or not mapping.is_file:
            return False
        at = self.v8.elf.to_address(pc - mapping.start + mapping.offset)
        return at is not None and blob[0] <= at < blob[1]

    def check(self, at: InlinedPosition) -> bool:
        """Check that a position lies in its function; say whether there is one."""
        function = self.functions.read_shared(at.shared)
        assert function is not None
        if at.position is None:
            return False
        assert function.start <= at.position <= function.end, (function.name, at)
        return True

    def place(self, shared: int, position: int | None, kind: CodeKind | None) -> Place | None:
        function = self.functions.read_shared(shared)
        if function is None or function.script is None:
            return None
        if not function.script.url.endswith("program.js") or function.name not in CHAIN:
            return None
        found = None if position is None else function.script.line_column(position)
        line, column = found or (None, None)
        return Place(function.name, line, column, kind)

    def frame(self, pc: int, fp: int, *, is_return_address: bool) -> list[Place]:
        """Return the program's own functions of one JS frame, innermost first."""
        layout = self.layout
        function = self.word(fp + layout.frame.function)
        if not self.heap.is_js_function(function):
            return []
        shared = self.heap.read_field(function, layout.objects.js_function_shared)
        array_slot, offset_slot = layout.frame.bytecode_array, layout.frame.bytecode_offset
        assert array_slot is not None
        assert offset_slot is not None
        mapping = self.code_mapping(pc)
        if mapping is not None:
            code = self.codes.find_code(pc, mapping)
            assert code is not None, f"no code object at {pc:#x}"
            assert code.start <= pc <= code.end
            array = self.word(fp + array_slot) if code.kind is CodeKind.BASELINE else 0
            places = self.codes.positions(
                code,
                pc,
                is_return_address=is_return_address,
                bytecode_array=array,
                shared=shared,
            )
            if places and places[-1].shared != shared:
                # At the leaf rbp may be the caller's: between `pop rbp` and `ret`, for one.
                assert not is_return_address
                return []
            for at in places:
                self.placed[self.check(at)] += 1
            found = [self.place(at.shared, at.position, code.kind) for at in places]
        else:
            array = self.word(fp + array_slot)
            position = None
            if is_return_address and self.heap.instance_type(array) == layout.types.bytecode_array:
                assert layout.code.bytecode_data is not None
                offset = (self.word(fp + offset_slot) >> 32) - (layout.code.bytecode_data - 1)
                position = self.codes.bytecode_position(array, offset)
            found = [self.place(shared, position, None)]
        return [place for place in found if place is not None]

    def walk(self, pc: int, fp: int, *, is_return_address: bool) -> list[Place]:
        """Follow frame pointers, through entry frames, to the root. pc 0: not in V8's code."""
        frame = self.layout.frame
        result: list[Place] = []
        for _ in range(100):
            if fp == 0:
                break
            marker = self.word(fp + frame.context)
            if marker & 1:
                if pc:
                    result += self.frame(pc, fp, is_return_address=is_return_address)
            elif frame.types.get(marker >> 1) in ("Entry", "ConstructEntry"):
                pc, fp = 0, self.word(fp + frame.entry_saved_c_entry_fp)
                continue
            pc, fp, is_return_address = self.word(fp + 8), self.word(fp), True
        return result


def _find_isolate(target: Target, v8: V8Binary, layout: Layout, fs_base: int) -> int:
    if layout.isolate_tls_offset is not None:
        assert v8.elf.tls is not None
        size, alignment = v8.elf.tls.memory_size, v8.elf.tls.alignment
        at = fs_base - (size + alignment - 1) // alignment * alignment + layout.isolate_tls_offset
    else:
        assert layout.isolate_key_address is not None
        key_address = Address(layout.isolate_key_address + v8.bias)
        key = int.from_bytes(target.memory.read(key_address, 4), "little")
        at = fs_base + 0x310 + 16 * key + 8  # pthread_getspecific of glibc
    return int.from_bytes(target.memory.read(Address(at), 8), "little")


@contextmanager
def _reading(pid: int) -> Iterator[Reader]:
    target = Target.open(pid)
    try:
        v8 = target.find_v8()
        assert v8 is not None
        layout = load_layout(v8.elf)
        heap = Heap(target.memory, layout)
        isolate = _find_isolate(target, v8, layout, read_registers(Tid(pid)).fs_base)
        functions = FunctionReader(heap)
        codes = CodeReader(heap, functions)
        codes.learn_isolate(isolate)
        yield Reader(target, v8, layout, heap, functions, codes, isolate, [0, 0])
    finally:
        target.close()


def _wait_until_blocked(pid: int) -> None:
    """Wait until the thread sleeps and has used no CPU time for a while."""
    deadline = time.monotonic() + nodes.READY_TIMEOUT_S
    last, same = "", 0
    while same < 5:
        assert time.monotonic() < deadline, "the program did not block"
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        now = " ".join((fields[0], fields[11], fields[12]))
        same = same + 1 if now == last and fields[0] == "S" else 0
        last = now
        time.sleep(0.02)


@pytest.mark.parametrize(("version", "mode"), _cases())
def test_blocked_chain_is_exact(version: str, mode: str) -> None:
    wanted = {
        "interpreted": None,
        "baseline": CodeKind.BASELINE,
        "maglev": CodeKind.MAGLEV,
    }.get(mode, CodeKind.TURBOFAN)
    # V8 compiles on another thread, which a busy machine may let wait.
    for rounds in (30,) if mode in ("interpreted", "baseline") else (8000, 40000, 200000):
        tier = _check_blocked_chain(version, mode, rounds)
        if tier is wanted:
            return
    pytest.fail(f"leaf3 is in {tier} instead of {wanted}")


def _check_blocked_chain(version: str, mode: str, rounds: int) -> CodeKind | None:
    """Run the program until it blocks and check all frames; return the tier of the leaf."""
    with nodes.running(
        version, BLOCKED, str(rounds), flags=_flags(mode, version), wait=False
    ) as process:
        expected = []
        for line in json.loads(process.line()):
            name, _, rest = line.strip().removeprefix("at ").partition(" ")
            _, row, column = rest.rstrip(")").rsplit(":", 2)
            expected.append((name, int(row), int(column)))
        assert tuple(name for name, _, _ in expected) == CHAIN[::-1]
        process.wait_ready()
        _wait_until_blocked(process.pid)
        with _reading(process.pid) as reader:
            exit_fp = reader.word(reader.isolate + reader.layout.isolate.c_entry_fp)
            found = reader.walk(0, exit_fp, is_return_address=True)
            assert [place[:3] for place in found] == expected
            # Once more from the caches: nothing has changed meanwhile.
            assert reader.walk(0, exit_fp, is_return_address=True) == found
            assert reader.heap.beliefs.confirm()
            return found[0].kind


def _sample(reader: Reader, registers: Registers) -> list[Place]:
    """Return the frames of a thread that is stopped anywhere."""
    pc, fp, sp = registers.rip, registers.rbp, registers.rsp
    mapping = reader.code_mapping(pc)
    stack = reader.target.address_space().find(sp)
    assert stack is not None
    if (mapping is not None or reader.is_builtin(pc)) and not sp <= fp < stack.end:
        return []  # on the way in from C++, whose rbp it still is, or on the way out
    if mapping is None:
        if not reader.is_builtin(pc):
            isolate = reader.layout.isolate
            assert isolate.fast_c_call_caller_fp is not None
            assert isolate.fast_c_call_caller_pc is not None
            fp = reader.word(reader.isolate + isolate.fast_c_call_caller_fp)
            if fp:
                pc = reader.word(reader.isolate + isolate.fast_c_call_caller_pc)
                return reader.walk(pc, fp, is_return_address=True)
            fp = reader.word(reader.isolate + isolate.c_entry_fp)
            return reader.walk(0, fp, is_return_address=True)
        marker = reader.word(fp + reader.layout.frame.context)
        if marker & 1:
            # A builtin without a frame, or a bytecode handler: the newest frame's place is open.
            return reader.walk(reader.word(fp + 8), reader.word(fp), is_return_address=True)
        return reader.walk(pc, fp, is_return_address=False)
    code = reader.codes.find_code(pc, mapping)
    assert code is not None, f"no code object at {pc:#x}"
    data = reader.target.memory.read(code.start, min(code.size, 64))
    around = reader.target.memory.read(Address(pc - 8), 16)
    push = frame_push_offset(data)
    open_frame = None
    if push is not None and pc - code.start <= push:
        open_frame = 0
    elif return_address_offset(around[:8], around[8:]) is not None:
        open_frame = return_address_offset(around[:8], around[8:])
    if open_frame is not None:
        return_address = reader.word(sp + open_frame)
        before = reader.target.memory.read(Address(return_address - 8), 8)
        assert returns_after_call(before)
        return reader.walk(return_address, fp, is_return_address=True)
    if fp - sp < -reader.layout.frame.function + 24:
        # Slots of the frame are not all written: leave the leaf out.
        return reader.walk(reader.word(fp + 8), reader.word(fp), is_return_address=True)
    return reader.walk(pc, fp, is_return_address=False)


def _stop_and_sample(reader: Reader, pid: int) -> list[Place]:
    while True:
        try:
            with stopped(Tid(pid)) as tracee:
                return _sample(reader, Registers._make(tracee.read_registers()))
        except NotStopped:
            # A busy machine had no CPU for it; it stops when it gets one.
            time.sleep(0.01)


@pytest.mark.parametrize(("version", "mode"), _cases())
def test_running_chains_are_true(version: str, mode: str) -> None:
    rounds = "30" if mode in ("interpreted", "baseline") else "2000"
    with (
        nodes.running(version, RUNNING, rounds, flags=_flags(mode, version)) as process,
        _reading(process.pid) as reader,
    ):
        leaves = 0
        for _ in range(80):
            found = _stop_and_sample(reader, process.pid)
            names = tuple(place.name for place in found)
            assert names == CHAIN[: len(names)][::-1], found
            for place in found[1:]:
                peeled = PEELED_LINES.get((version, mode, place.name))
                assert place.line in (CALL_LINES[place.name], peeled), found
            if found and found[0].line is not None:
                assert found[0].line in BODIES[found[0].name], found
                leaves += names[0] == "leaf3"
            time.sleep(0.001)
        if mode != "interpreted":
            assert leaves > 10


@pytest.mark.parametrize(("version", "mode"), _cases())
def test_positions_lie_within_their_functions(version: str, mode: str) -> None:
    with (
        nodes.running(version, CHURNING, "300", flags=_flags(mode, version)) as process,
        _reading(process.pid) as reader,
    ):
        for _ in range(120):
            _stop_and_sample(reader, process.pid)
            time.sleep(0.002)
        unknown, known = reader.placed
        if mode != "interpreted":
            assert known > 50
            assert unknown <= known // 20
