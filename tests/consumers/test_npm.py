"""Readers from npm: speedscope's schema, pprof-format, stackvis, 0x, Firefox Profiler."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest

import nodes
from consumers.commands import NODE, file_of, node, npm
from jsspy.formats import FORMATS
from jsspy.formats.text import classic_name
from jsspy.model import transform
from jsspy.model.names import VM_KINDS, function_name
from jsspy.model.profile import Profile
from profiles import empty, hostile, small, written

MAKERS = pytest.mark.parametrize("make", [small, hostile, empty], ids=lambda make: make.__name__)
Maker = Callable[[], Profile]


@MAKERS
def test_speedscope_schema(make: Maker) -> None:
    schema = next(npm("speedscope").rglob("file-format-schema*.json"))
    document = json.loads(written(FORMATS["speedscope"], make()))
    jsonschema.validate(document, json.loads(schema.read_text("utf-8")))
    for part in document["profiles"]:
        assert len(part["samples"]) == len(part["weights"])
        assert part["endValue"] == sum(part["weights"])


PPROF = """
const fs = require('fs'), zlib = require('zlib')
const { Profile } = require(process.argv[2])
const p = Profile.decode(zlib.gunzipSync(fs.readFileSync(process.argv[3])))
const text = i => p.stringTable.strings[Number(i)]
const byId = list => new Map(list.map(item => [Number(item.id), item]))
const locations = byId(p.location), functions = byId(p.function), mappings = byId(p.mapping)
console.log(JSON.stringify({
  types: p.sampleType.map(t => [text(t.type), text(t.unit)]),
  default: text(p.defaultSampleType),
  mappings: p.mapping.map(m => [text(m.filename), Number(m.memoryStart), Number(m.memoryLimit)]),
  samples: p.sample.map(s => ({
    values: s.value.map(Number),
    labels: s.label.map(l => [text(l.key), text(l.str) || Number(l.num)]),
    stack: s.locationId.map(id => {
      const l = locations.get(Number(id))
      if (Number(l.mappingId)) mappings.get(Number(l.mappingId)).id
      return l.line.map(n => text(functions.get(Number(n.functionId)).name))
    }),
  })),
}))
"""


@MAKERS
def test_pprof_format_decodes(make: Maker, tmp_path: Path) -> None:
    profile = make()
    program = tmp_path / "decode.cjs"
    program.write_text(PPROF, "utf-8")
    package = npm("pprof-format")
    decoded = json.loads(node(program, package, file_of(tmp_path, "pprof", profile)))
    assert decoded["types"] == [["samples", "count"], ["cpu", "nanoseconds"]]
    assert decoded["default"] == "cpu"
    samples = decoded["samples"]
    assert sum(sample["values"][0] for sample in samples) == len(profile)
    assert sum(sample["values"][1] for sample in samples) == profile.total_weight()
    found: Counter[tuple[str, ...]] = Counter()
    for sample in samples:
        frames = [name for location in sample["stack"] for name in location]
        found[tuple(reversed(frames))] += sample["values"][0]
    shown = transform.hide(profile, VM_KINDS)
    expected = Counter(
        tuple(map(function_name, shown.stack_frames(row))) or ("(no stack)",) for row in shown.stack
    )
    assert found == expected


def stackvis(reader: str, data: bytes) -> Counter[str]:
    """Return what stackvis makes of its input."""
    printed = node(npm("stackvis/cmd/stackvis"), reader, "collapsed", stdin=data)
    counts: Counter[str] = Counter()
    for line in printed.splitlines():
        stack, _, count = line.rpartition(" ")
        counts[stack] += int(count)
    return counts


def test_stackvis_reads_its_own_format() -> None:
    data = written(FORMATS["stackvis"], small())
    printed = node(npm("stackvis/cmd/stackvis"), "collapsed", "collapsed", stdin=data)
    assert sorted(printed.splitlines()) == sorted(data.decode().splitlines())


@pytest.mark.parametrize("name", ["raw", "raw-exact"])
def test_stackvis_reads_raw(name: str) -> None:
    stacks = stackvis("dtrace", written(FORMATS[name], small()))
    assert stacks.total() == len(small())
    file = "file:server.mjs" if name == "raw-exact" else "server.mjs"
    assert stacks[f"[entry frame],handler:{file}:30,hot:hot.js:10"] == 2


def test_stackvis_reads_perf_text() -> None:
    stacks = stackvis("perf", written(FORMATS["perf-script"], small()))
    assert stacks.total() == len(small())


def test_0x_draws_a_cpuprofile(tmp_path: Path) -> None:
    path = file_of(tmp_path, "cpuprofile", small())
    node(npm("0x/cmd.js"), "--visualize-cpu-profile", path, cwd=tmp_path)
    page = next(tmp_path.rglob("flamegraph.html")).read_text("utf-8")
    assert "hot" in page


FIREFOX = {
    "firefox": ["hot", "f-", "RegExp:^(a+)+$", "do_syscall_64"],
    "cpuprofile": ["file:///app/lib/hot.js!hot", "(garbage collector)"],
    "perf-script": ["hot /app/lib/hot.js:10", "[kernel.kallsyms]!do_syscall_64"],
    "folded-annotated": ["hot /app/lib/hot.js:10", "Builtin:ArrayMap"],
    "trace-events": ["hot", "Lazy.map"],
}
"""Format -> what the Firefox Profiler's engine shows of it."""


@pytest.mark.parametrize("name", FIREFOX)
def test_firefox_profiler_loads(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("ff")
    with profiler(file_of(directory, name, small()), directory) as ask:
        shown = ask("thread", "markers" if name == "trace-events" else "samples-top-down")
        for text in FIREFOX[name]:
            assert text in shown
        if name == "firefox":
            info = ask("profile", "info")
            assert "worker 1" in info
            assert "node /app/main.js" in info


def test_firefox_reads_a_gzipped_hostile_profile(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("ff")
    path = directory / "p.json.gz"
    path.write_bytes(gzip.compress(written(FORMATS["firefox"], hostile())))
    with profiler(path, directory) as ask:
        assert "#priv" in ask("thread", "functions")


@contextmanager
def profiler(path: Path, directory: Path) -> Iterator[Callable[..., str]]:
    """Load a file into the Firefox Profiler's engine; yield a function that asks it.

    The daemon is started by us: `profiler-cli load` gives it half a second, too little on a busy
    machine.
    """
    tool = npm("@firefox-devtools/profiler-cli/dist/profiler-cli.js")
    env = {
        **os.environ,
        "HOME": str(directory),
        "PROFILER_CLI_SESSION_DIR": str(directory),
        "PROFILER_CLI_NO_SYMBOLICATE": "1",
    }
    assert len(os.fsencode(directory)) < 80, "the socket's path must be short"
    command = [str(nodes.find(NODE)), str(tool)]

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments, "--session", "s"],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def answer(*arguments: str) -> str:
        result = ask(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    daemon = subprocess.Popen([*command, "--daemon", str(path), "--session", "s"], env=env)
    try:
        # A question before it listens makes the client clear the session away for good.
        log = directory / "s.log"
        deadline = time.monotonic() + 60
        while "Profile loaded successfully" not in (
            said := log.read_text() if log.exists() else ""
        ):
            assert daemon.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        yield answer
    finally:
        daemon.terminate()
        daemon.wait(30)


def test_node_stap_prints_the_same_tree(tmp_path: Path) -> None:
    directory = os.environ.get("JSSPY_NODE_STAP")
    if not directory:
        pytest.skip(
            "JSSPY_NODE_STAP does not name a copy of node-stap; its golden text is asserted"
        )
    program = tmp_path / "print.cjs"
    program.write_text(
        "const { aggregate } = require(process.argv[2] + '/lib/aggregation.js')\n"
        "const stacks = JSON.parse(require('fs').readFileSync(0))\n"
        "console.log(aggregate(stacks).display())\n",
        "utf-8",
    )
    # JavaScript puts keys that look like an array index first, so names of digits only stay out.
    named = transform.filter_samples(hostile(), exclude=re.compile("^[0-9]+$"))
    for profile in (small(), named):
        stacks = [
            [classic_name(frame) for frame in profile.stack_frames(row)] for row in profile.stack
        ]
        printed = node(
            program,
            directory,
            stdin=json.dumps(stacks).encode(),
            env={"NODE_PATH": str(npm("underscore").parent)},
        )
        assert printed.encode() == written(FORMATS["text"], profile)


def test_there_is_no_lock_file() -> None:
    assert not list((nodes.ROOT / "tests" / "consumers").glob("*lock*"))
