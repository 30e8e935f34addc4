"""Native chains against perf, which unwinds the same binary by its DWARF tables.

perf knows nothing of V8's frames and stops at them; between the leaf and the first frame of V8's
code it must see the very functions that we see, on the same process at the same time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import nodes
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.profile import Profile
from jsspy.model.stack import FrameKind
from jsspy.recorder import Recorder

FLAGS = ("--perf-basic-prof", "--interpreted-frames-native-stack")
"""V8's own help for perf. (We need neither, and must not mind them.)"""

DURATION_S = 3
RATE_HZ = 499
LEAST_SHARE = 0.04
"""Chains rarer than this may be missed by one of the two."""
WAKING = "uv_cond_signal"
"""Where a thread wakes another it is often put off its CPU: we see it there, perf does not."""
LOADS = ("JsonParse", "deflate", "HashUpdate", "uv__fs_", "Heap::")
"""What is in the chains, by load of the program."""
LEAST_CHAINS = 100

Chain = tuple[str, ...]
"""Native functions of node's own, leaf first, up to V8's code."""

_FRAME = re.compile(r"^\s*[0-9a-f]+ (.*) \((.*)\)$")


def perf_chains(path: Path, binary: Path) -> Iterator[Chain]:
    """Yield the native chains of a perf.data that lead to V8's code."""
    fields = ("--fields", "ip,sym,dso", "--no-inline")
    done = subprocess.run(
        ["perf", "script", "-i", path, *fields], capture_output=True, text=True, check=True
    )
    for sample in done.stdout.split("\n\n"):
        chain: list[str] = []
        for line in sample.splitlines():
            match = _FRAME.match(line)
            if match is None or match[2].startswith("[kernel") or match[2].endswith(".ko"):
                continue
            name, module = match[1], match[2]
            if name.startswith("Builtins_") or module.endswith(".map") or module == "//anon":
                if chain:
                    yield tuple(chain)
                break
            if module == str(binary):
                chain.append(plain(name))
            elif name == "[unknown]" and module == "[unknown]":
                break


def our_chains(profile: Profile, binary: Path) -> Iterator[Chain]:
    """Yield the native chains of a profile."""
    for row in profile.stack:
        chain: list[str] = []
        for frame in profile.iter_frames(row):
            if frame.kind is not FrameKind.NATIVE:
                if chain:
                    yield tuple(chain)
                break
            if frame.module is not None and Path(frame.module.path).resolve() == binary:
                chain.append(plain(frame.name))


def whole(chains: Counter[Chain]) -> Iterator[Chain]:
    """Yield every chain as often as it was seen."""
    return chains.elements()


def calls(chains: Counter[Chain]) -> Iterator[Chain]:
    """Yield (callee, caller) for every call in every chain."""
    for chain in chains.elements():
        yield from pairwise(chain)


def plain(name: str) -> str:
    """Return a function's name without arguments, which the two spell and shorten differently."""
    name = re.sub(r"\s+|@plt|\.(cold|part|isra|constprop)[.\d]*|\[clone[^]]*\]", "", name)
    name = name.replace("(anonymousnamespace)", "anonymous").replace("operator()", "operator")
    name = re.sub(r"operator[<>=-]+", "operator", name)
    for brackets in (r"<[^<>]*>", r"\([^()]*\)(const)?"):
        before = ""
        while before != name:
            before, name = name, re.sub(brackets, "", name)
    return name


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_native_chains_are_those_of_perf(version: str, tmp_path: Path) -> None:
    if shutil.which("perf") is None:
        nodes.missing("perf (Debian: linux-perf)")
    binary = nodes.find(version).resolve()
    data = tmp_path / "perf.data"
    with nodes.running(version, nodes.TARGETS / "natives.js", flags=FLAGS) as target:
        maps = Path(f"/tmp/perf-{target.pid}.map")
        try:
            with Recorder(PtraceEngine(RATE_HZ)) as recorder:
                recorder.add(target.pid)
                command = ["perf", "record", "--quiet", "--event", "cpu-clock", "-F", str(RATE_HZ)]
                command += ["--call-graph", "dwarf,16384", "--pid", str(target.pid)]
                perf = subprocess.Popen(
                    [*command, "-o", str(data), "sleep", str(DURATION_S)],
                    env=os.environ | {"DEBUGINFOD_URLS": ""},
                )
                for _ in recorder.run(should_stop=lambda: perf.poll() is not None):
                    pass
            assert perf.returncode == 0
            theirs = Counter(perf_chains(data, binary))
        finally:
            maps.unlink(missing_ok=True)
    ours = Counter(our_chains(recorder.profile, binary))
    assert min(ours.total(), theirs.total()) >= LEAST_CHAINS
    ours = Counter({chain: count for chain, count in ours.items() if WAKING not in chain})
    for table in (whole, calls):
        for these, those in ((theirs, ours), (ours, theirs)):
            counts, others = Counter(table(these)), set(table(those))
            missed = {
                part: f"{count} of {these.total()}"
                for part, count in counts.items()
                if count >= LEAST_SHARE * these.total() and part not in others
            }
            assert not missed, f"{'perf' if these is theirs else 'jsspy'} has them alone: {missed}"
    common = " ".join({name for it in ours for name in it} & {name for it in theirs for name in it})
    for load in LOADS:
        assert load in common
