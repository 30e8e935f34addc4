"""Layouts, functions, scripts and isolates of real V8.

What is true of a function is computed here from the text of its program: the program's fragments
carry a mark where V8 lets the function begin.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import nodes
from jsspy.errors import FaultError
from jsspy.linux.ptrace import NotStopped, read_registers
from jsspy.model.units import Address
from jsspy.target.elf import ElfFile
from jsspy.target.process import Target
from jsspy.v8.function import FunctionReader, SharedFunctionInfo, find_line_ends
from jsspy.v8.heap import Heap
from jsspy.v8.isolates import ThreadFinder, find_threads, isolate_from_registers
from jsspy.v8.layout import Layout
from jsspy.v8.metadata import derive_layout, load_layout
from jsspy.v8.strings import read_characters

EVERY_VERSION = pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
MARK = "¦"
"""In a fragment: where the function begins."""

LARGEST_HEAP_AREA = 64 << 20

READS_S = 20.0
"""For how long registers are read until a thread that was just started runs JavaScript."""

FACTS = {
    # V8, c_entry_fp, js_entry_sp, fast fp, fast pc, SharedFunctionInfo type, its script,
    # JSFunction.shared, Script.source_url, kinds
    "12.22.12": ("7.8.279.23", 0x3110, 0x3138, 0x9278, 0x9280, 160, 32, 24, 104, {0, 4}),
    "14.21.3": ("8.4.371.23", 0x32F0, 0x3318, 0x38, 0x40, 173, 32, 24, 104, {0, 4}),
    "16.20.2": ("9.4.146.26", 0x36B8, 0x36E0, 0x20, 0x28, 179, 32, 24, 104, {3, 11, 12, 13}),
    "18.20.8": ("10.2.154.26", 0x4538, 0x4558, 0x100, 0x108, 257, 32, 24, 104, {3, 11, 12, 13}),
    "20.20.2": ("11.3.244.8", 0x180, 0x1A0, 0xE8, 0xF0, 262, 32, 24, 112, {3, 11, 12, 13}),
    "22.23.3": ("12.4.254.21", 0x110, 0x1A8, 0xF0, 0xF8, 274, 32, 32, 112, {3, 10, 11, 12}),
    "24.15.0": ("13.6.233.17", 0x140, 0x1D8, 0x128, 0x120, 282, 40, 32, 112, {3, 10, 11, 12}),
    "26.10.0": ("14.6.202.34", 0x148, 0x1E0, 0x130, 0x128, 288, 40, 32, 112, {4, 11, 12, 13}),
}
"""As measured on stopped processes, by other means than jsspy's."""


@dataclass
class Watched:
    """A node process with the readers of its heap."""

    target: Target
    layout: Layout
    heap: Heap
    reader: FunctionReader
    isolate: int

    def functions(self) -> list[int]:
        """Return tagged pointers to every SharedFunctionInfo in memory.

        Their first word is a map that is among the roots of the isolate.
        """
        types = self.layout.types
        roots = self.heap.memory.read(Address(self.isolate), 0x8000)
        maps = {
            word
            for (word,) in struct.iter_unpack("<Q", roots)
            if self.heap.instance_type(word) == types.map
            and self.heap.map_type(word) == types.shared_function_info
        }
        assert len(maps) == 1
        wanted = struct.pack("<Q", maps.pop())
        found = []
        for mapping in self.target.address_space(refresh=True).mappings:
            size = mapping.end - mapping.start
            if mapping.path or mapping.permissions[0] != "r" or size > LARGEST_HEAP_AREA:
                continue
            try:
                data = self.heap.memory.read(mapping.start, size)
            except FaultError:
                continue
            at = data.find(wanted)
            while at >= 0:
                if at % 8 == 0:
                    found.append(mapping.start + at + 1)
                at = data.find(wanted, at + 1)
        return found

    def infos(self) -> list[SharedFunctionInfo]:
        """Return every function. A few are garbage that was not swept: what they need is gone."""
        pointers = self.functions()
        infos = [info for info in map(self.reader.read_shared, pointers) if info is not None]
        assert len(infos) > 1000
        assert len(infos) >= 0.99 * len(pointers)
        return infos


@contextmanager
def watching(version: str, program: Path, *arguments: str) -> Iterator[Watched]:
    with nodes.running(version, program, *arguments) as process:
        target = Target.open(process.pid)
        try:
            v8 = target.find_v8()
            assert v8 is not None
            layout = load_layout(v8.elf)
            heap = Heap(target.memory, layout)
            isolate = find_threads(target, v8, layout)[0].isolate
            yield Watched(target, layout, heap, FunctionReader(heap), isolate)
        finally:
            target.close()


WAIT = "console.log('ready'); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);\n"

LONG_NAME = "long" + "Name" * 40

SCRIPT = [
    ("plain", f"function plain{MARK}(a, b) {{ return a + b; }} plain(1, 2);"),
    ("имя", f"function имя{MARK}() {{ return 'кириллица'; }} имя();"),
    ("函数", f"function 函数{MARK}() {{ return 1; }} 函数();"),
    ("\U0001d4bb", f"function \U0001d4bb{MARK}() {{ return '😀'; }} /* 😀 */ \U0001d4bb();"),
    (LONG_NAME, f"function {LONG_NAME}{MARK}() {{ return 1; }} {LONG_NAME}();"),
    ("arrow", f"const arrow = {MARK}(a) => a + 1; arrow(1);"),
    ("bare", f"const bare = {MARK}a => a + 1; bare(1);"),
    ("later", f"async function later{MARK}() {{ await null; return 1; }} later();"),
    ("steps", f"function* steps{MARK}() {{ yield 1; }} [...steps()];"),
    ("both", f"async function* both{MARK}() {{ yield 1; }} both().next();"),
    ("outer", f"function outer{MARK}() {{ return () => 1; }} outer()();"),
    ("inner", f"(function () {{ return function inner{MARK}() {{ return 2; }}; }})()();"),
    ("o.made", f"const o = {{}}; o.made = function {MARK}() {{ return 1; }}; o.made();"),
    ("never", f"function never{MARK}() {{ return 'is compiled'; }}"),
]
CLASSES = [
    ("method", f"class A {{ method{MARK}() {{ return 1; }} }} new A().method();"),
    ("fixed", f"class B {{ static fixed{MARK}() {{ return 1; }} }} B.fixed();"),
    ("get prop", f"class C {{ get prop{MARK}() {{ return 1; }} }} new C().prop;"),
    ("set prop", f"class D {{ set prop{MARK}(v) {{ this.v = v; }} }} new D().prop = 1;"),
    ("E", f"class E {{ constructor{MARK}() {{ this.x = 1; }} }} new E();"),
    ("F", f"class F extends E {{ constructor{MARK}() {{ super(); this.y = 1; }} }} new F();"),
    ("wait", f"class G {{ async wait{MARK}() {{ await 1; }} }} new G().wait();"),
]
PRIVATE = [
    ("#secret", (f"class H {{ #secret{MARK}() {{ return 1; }} ask() {{ return this.#secret(); }} }}"
     "new H().ask();")),
]  # fmt: skip
EVALUATED = [("evaluated", f"(function evaluated{MARK}() {{ return 1; }})()")]
NAMED_EVAL = [
    ("named", (f"(function named{MARK}() {{ return 1; }})()\n//# sourceURL=made-up.js\n"
     "//# sourceMappingURL=made-up.js.map")),
]  # fmt: skip


def captured(count: int) -> str:
    """Return a function that captures many variables of the one around it."""
    names = [f"v{index}" for index in range(count)]
    inner = f"function reader{count}() {{ return {' + '.join(names)}; }}"
    body = "".join(f"let {name} = 1; " for name in names)
    return f"function holder{count}{MARK}() {{ {body}return {inner}; }} holder{count}()();"


MANY = [(f"holder{count}", captured(count)) for count in (1, 7, 40, 74, 75, 90)]


@dataclass
class Truth:
    """A program without marks, and what is true of its functions."""

    text: str
    functions: dict[str, tuple[int, int]]
    """Name -> line and column, from 1."""


def assemble(fragments: list[tuple[str, str]], newline: str = "\n", head: str = "") -> Truth:
    """Join fragments, with some lines between, and find where their functions begin."""
    text, functions = head, {}
    for index, (name, fragment) in enumerate(fragments):
        text += newline * (index % 3)
        before, mark, after = fragment.partition(MARK)
        assert mark
        line = (text + before).count(newline) + 1
        column = len((text + before).rpartition(newline)[2].encode("utf-16-le")) // 2 + 1
        functions[name] = (line, column)
        text += before + after + newline
    return Truth(text, functions)


def check(infos: list[SharedFunctionInfo], url: str, truth: Truth) -> None:
    """Compare what was read of a script's functions with the truth."""
    scripts = {info.script for info in infos if info.script and info.script.url == url}
    assert len(scripts) == 1, url
    script = scripts.pop()
    assert script.source() == truth.text
    found = {info.name: script.line_column(info.start) for info in infos if info.script is script}
    assert {name: found.get(name) for name in truth.functions} == truth.functions
    for info in infos:
        if info.script is script:
            assert 0 <= info.start <= info.end <= len(truth.text.encode("utf-16-le")) // 2
            assert not info.builtin


@EVERY_VERSION
def test_layout(version: str) -> None:
    layout = derive_layout(ElfFile.load(nodes.find(version)))
    isolate, objects = layout.isolate, layout.objects
    assert FACTS[version] == (
        layout.version_text(),
        isolate.c_entry_fp,
        isolate.js_entry_sp,
        isolate.fast_c_call_caller_fp,
        isolate.fast_c_call_caller_pc,
        layout.types.shared_function_info,
        objects.sfi_script,
        objects.js_function_shared,
        objects.script_source_url,
        set(layout.code.kinds),
    )
    assert isolate.vm_state == isolate.js_entry_sp + 16
    assert len(layout.code.bytecode_sizes) in range(500, 700)
    assert layout.frame.entry_saved_c_entry_fp == -64


@EVERY_VERSION
def test_functions_and_scripts(version: str, tmp_path: Path) -> None:
    major = int(version.partition(".")[0])
    fragments = SCRIPT + CLASSES + MANY + (PRIVATE if major >= 14 else [])
    main = assemble(fragments)
    windows = assemble(CLASSES, newline="\r\n")
    module = assemble([("exported", f"export function exported{MARK}() {{ return 1; }}"), *CLASSES])
    evaluated, named = assemble(EVALUATED), assemble(NAMED_EVAL)
    (tmp_path / "windows.js").write_bytes(windows.text.encode())
    (tmp_path / "module.mjs").write_text(module.text + "exported();\n", encoding="utf-8")
    module.text += "exported();\n"
    (tmp_path / "eval.txt").write_text(evaluated.text)
    (tmp_path / "named.txt").write_text(named.text)
    main.text += """
      require('./windows.js');
      const read = (name) => require('fs').readFileSync(__dirname + '/' + name, 'utf8');
      (0, eval)(read('eval.txt'));
      (0, eval)(read('named.txt'));
      new Function('first', 'return first + 1')(1);
      try { never(...{}); } catch (error) { error.stack; }
      import('./module.mjs').then(() => setTimeout(() => {
    """
    main.text += WAIT + "}));\n"
    program = tmp_path / "main.js"
    program.write_text(main.text, encoding="utf-8")
    with watching(version, program) as watched:
        infos = watched.infos()
        check(infos, str(program), main)
        check(infos, str(tmp_path / "windows.js"), windows)
        check(infos, f"file://{tmp_path}/module.mjs", module)
        check(infos, "made-up.js", named)
        named_scripts = {i.script for i in infos if i.script and i.script.url == "made-up.js"}
        assert [script.source_mapping_url for script in named_scripts] == ["made-up.js.map"]
        anonymous = [info for info in infos if info.script and info.script.url == ""]
        evals = [info for info in anonymous if info.name == "evaluated"]
        assert len(evals) == 1
        assert evals[0].script is not None
        assert evals[0].script.source() == evaluated.text
        assert evals[0].script.line_column(evals[0].start) == evaluated.functions["evaluated"]
        made = [info for info in anonymous if info.script and "first + 1" in info.script.source()]
        # V8 gives the function a property `name`, and keeps no name of its own.
        begins = {info.script.line_column(info.start) for info in made if info.script}
        assert begins == {(1, 1), (1, len("(function anonymous") + 1)}
        ids = {info.script.address: info.script.id for info in infos if info.script}
        assert len(set(ids.values())) == len(ids)
        builtins = {info.name for info in infos if info.builtin}
        assert {"map", "sort", "next", "then", "parse"} <= builtins


@EVERY_VERSION
def test_line_ends_are_those_of_v8(version: str, tmp_path: Path) -> None:
    text = "// é\r\n\r'\u2028';\n\n'\u2029😀';throw1();function throw1(){ new Error().stack; }\n"
    program = tmp_path / "main.js"
    program.write_bytes(text.encode())
    (tmp_path / "start.js").write_text("require('./main.js');" + WAIT)
    with watching(version, tmp_path / "start.js") as watched:
        compared = set()
        objects, heap = watched.layout.objects, watched.heap
        scripts = {info.script for info in watched.infos() if info.script}
        for script in scripts:
            word = heap.read_field(script.address, objects.script_line_ends)
            if heap.instance_type(word) == watched.layout.types.fixed_array:
                theirs = [end >> 32 for end in heap.read_fixed_array(word)]
                source = heap.read_field(script.address, objects.script_source)
                assert find_line_ends(*read_characters(heap, source)).tolist() == theirs
                compared.add(script.url)
        assert str(program) in compared


@EVERY_VERSION
def test_function_with_a_breakpoint(version: str, tmp_path: Path) -> None:
    """V8 puts a DebugInfo where the script was (until V8 12)."""
    program = tmp_path / "main.js"
    program.write_text(
        "function stopHere() {\n  return 1;\n}\n"
        "const session = new (require('inspector').Session)();\n"
        "session.connect();\nsession.post('Debugger.enable');\n"
        "session.post('Debugger.setBreakpointByUrl',\n"
        "  { lineNumber: 1, urlRegex: '.*main.js', condition: 'false' });\n"
        "stopHere();\n" + WAIT
    )
    with watching(version, program) as watched:
        infos = [info for info in watched.infos() if info.name == "stopHere"]
        assert infos
        for info in infos:
            assert info.script is not None
            assert info.script.url == str(program)
            assert info.script.line_column(info.start) == (1, 18)


WORKERS = """
const { Worker } = require('worker_threads');
const spin = process.argv[2] === 'run';
const body = spin ? 'for (;;);' : 'setInterval(() => {}, 1 << 30);';
let online = 0;
require('fs').readFile(__filename, () => {
  for (let index = 0; index < 3; index++) {
    new Worker(body, { eval: true }).on('online', () => {
      if (++online < 3) return;
      console.log('ready');
      if (spin) for (;;);
    });
  }
});
"""


@EVERY_VERSION
@pytest.mark.parametrize("state", ["sleep", "run"])
def test_every_thread_has_its_isolate(version: str, state: str, tmp_path: Path) -> None:
    program = tmp_path / "main.js"
    program.write_text(WORKERS)
    with nodes.running(version, program, state) as process:
        target = Target.open(process.pid)
        try:
            v8 = target.find_v8()
            assert v8 is not None
            layout = load_layout(v8.elf)
            finder = ThreadFinder(target, v8, layout)
            plans = finder.find()
            assert finder.find() == plans
            assert plans[0].tid == process.pid
            assert len(plans) == 4
            assert len({plan.isolate for plan in plans}) == 4
            # The C library's own threads, those of V8 and those of libuv have none.
            assert len(target.threads()) > 8
            heap = Heap(target.memory, layout)
            for plan in plans:
                told = 0
                deadline = time.monotonic() + (READS_S if state == "run" else 0)
                while not told:
                    with suppress(NotStopped):
                        registers = read_registers(plan.tid)
                        mapping = target.address_space().find(registers.rsp)
                        assert mapping is not None
                        assert mapping.start <= registers.rsp < plan.stack_end <= mapping.end
                        told = isolate_from_registers(heap, registers)
                        assert told in {0, plan.isolate}
                    if time.monotonic() > deadline:
                        break
                assert told or state == "sleep"
        finally:
            target.close()
