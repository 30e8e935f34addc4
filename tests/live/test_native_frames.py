"""Native frames: addons, libraries without symbols, and as many of them as are wanted."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

import nodes
from jsspy.engines import ENGINES
from jsspy.model.mode import NativeFrames
from jsspy.model.sample import Sample, VmState
from jsspy.model.stack import FrameKind
from recorded import record, require
from running import jsspy

SOURCES = nodes.TARGETS / "addon"
VERSIONS = ("8.17.0", "10.24.1", *nodes.MODERN)
PROGRAM = """
const addon = require(process.argv[2]);
function inner() { return addon(); }
function outer() { return addon(inner) + 1; }
function drive() { for (;;) outer(); }
console.log('ready');
drive();
"""
FEW_VERSIONS = ("10.24.1", "16.20.2", "26.10.0")
SAMPLES = 40
NATIVE = (FrameKind.NATIVE, FrameKind.KERNEL, FrameKind.VM_FRAME)
HIDDEN = r"libdeep\.so\+0x[0-9a-f]+"


@pytest.fixture(scope="session")
def addon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the addon without frame pointers, and a stripped library that it calls."""
    if shutil.which("g++") is None:
        nodes.missing("g++")
    path = tmp_path_factory.mktemp("addon")
    flags = ("-shared", "-fPIC", "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls")
    library, module = path / "libdeep.so", path / "addon.node"
    subprocess.run(["gcc", *flags, "-s", SOURCES / "deep.c", "-o", library], check=True)
    subprocess.run(
        ["g++", *flags, SOURCES / "addon.cc", "-o", module, f"-Wl,-rpath,{path}", library],
        check=True,
    )
    return module


def has_path(sample: Sample, path: tuple[str, ...]) -> bool:
    """Whether frames of these names, as patterns, are on a stack in this order, root first."""
    names = iter([frame.name for frame in sample.stack.frames])
    return all(any(re.fullmatch(wanted, name) for name in names) for wanted in path)


@pytest.mark.parametrize("version", nodes.selected(VERSIONS))
def test_an_addon_and_a_stripped_library_down_to_the_start(version: str, addon: Path) -> None:
    with nodes.running(version, PROGRAM, str(addon)) as target:
        samples = record(target.pid, SAMPLES).samples
    path = (
        *("_start", "node::Start", "drive", "outer", "either", "napi_call_function"),
        *("inner", "either", "work::Loop<int>::run", "deep_loop", HIDDEN),
    )
    for sample in samples:
        assert sample.stack.truncated is None
        assert sample.stack.frames[0].name == "_start"
    found = [sample for sample in samples if has_path(sample, path)]
    assert len(found) >= 0.8 * SAMPLES, samples[0]
    for sample in found:
        leaf = sample.stack.frames[-1]
        assert leaf.module is not None
        assert leaf.module.path.endswith("libdeep.so")
        assert sample.vm_state is VmState.EXTERNAL, sample


@pytest.mark.parametrize("engine", ["ptrace", "ebpf", "perf"])
@pytest.mark.parametrize("native", [NativeFrames.LEAF, NativeFrames.OFF])
@pytest.mark.parametrize("version", nodes.selected(FEW_VERSIONS))
def test_native_frames_as_wanted(
    version: str, native: NativeFrames, engine: str, addon: Path
) -> None:
    kind = ENGINES[engine]
    with nodes.running(version, PROGRAM, str(addon)) as target:
        require(kind, target.pid)
        samples = record(target.pid, SAMPLES, engine=kind(300), native=native).samples
    is_leaf = native is NativeFrames.LEAF
    own = ("drive", "outer", "inner")
    path = (*own, "work::Loop<int>::run", "deep_loop", HIDDEN) if is_leaf else own
    found = 0
    for sample in samples:
        assert sample.stack.truncated is None
        kinds = [frame.kind in NATIVE for frame in sample.stack.frames]
        # Root first: no native frame has a caller of its own kind gone, none calls JavaScript.
        assert not any(first > second for first, second in pairwise(kinds)), sample
        assert is_leaf or not any(kinds), sample
        found += has_path(sample, path)
    assert found >= 0.8 * SAMPLES, samples[0]
    states = [sample.vm_state for sample in samples]
    # A dump of the stack does not say what V8 does.
    assert states.count(VmState.EXTERNAL) >= 0.8 * SAMPLES or engine == "perf"


@pytest.mark.parametrize(
    ("native", "first", "last"),
    [
        ("full", "_start", HIDDEN),
        ("leaf", r"\(anonymous\)", HIDDEN),
        ("off", r"\(anonymous\)", "inner|Builtin:spin"),
    ],
)
def test_what_the_command_line_asks_for(native: str, first: str, last: str, addon: Path) -> None:
    """The outermost function is Node's own that starts programs, which has no name."""
    with nodes.running("20.20.2", PROGRAM, str(addon)) as target:
        done = jsspy("dump", "--pid", str(target.pid), "--native", native, "--json")
    assert done.returncode == 0, done.stderr
    (process,) = json.loads(done.stdout)
    names = [frame["name"] for frame in process["threads"][0]["frames"]]
    assert re.fullmatch(first, names[-1]), names
    assert re.fullmatch(last, names[0]), names
