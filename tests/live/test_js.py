"""The package for JavaScript: promfiler's calls in a program that profiles itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import nodes
from running import AS_NOBODY, environment

VERSIONS = nodes.selected(("8.17.0", "12.22.12", "24.15.0"))
VERSION = nodes.selected(("24.15.0",))

PROGRAM = """
const jsspy = require(process.argv[2]);
function burn() { const end = Date.now() + 300; let n = 0; while (Date.now() < end) n++; return n; }
function sum(text) {
  return text.split('\\n').filter((line) => line.includes('#burn"'))
    .map((line) => +line.split(' ').pop()).reduce((a, b) => a + b, 0);
}
const later = () => new Promise((resolve) => setTimeout(resolve, 20));
async function sampled() {
  for (;;) {
    burn();
    await later();
    const text = await jsspy.getMetrics();
    if (sum(text) > 10) return sum(text);
  }
}
async function main() {
  await jsspy.getMetrics().catch((error) => console.log(error.message));
  const first = jsspy.startProfiling({ samplingInterval: 5000 });
  const address = await jsspy.startServer({ hostname: '127.0.0.1', port: 0, path: '/stacks' });
  console.log((await first) === address, /^http:..127.0.0.1:[0-9]+.stacks$/.test(address));
  console.log(await sampled() > 10);
  await jsspy.resetProfiler();
  console.log(sum(await jsspy.getMetrics()) < 10);
  console.log(await sampled() > 10);
  await jsspy.stopProfiling();
  await jsspy.getMetrics().catch((error) => console.log('stopped'));
  await jsspy.startServer();
  console.log('ends by itself');
}
main().catch((error) => { console.error(error.message); process.exitCode = 1; });
"""


@pytest.fixture
def executable(tmp_path: Path) -> str:
    """Return a program that is jsspy from this working copy."""
    path = tmp_path / "jsspy"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m jsspy "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def run_node(
    version: str, program: Path, executable: str, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, str(nodes.find(version)), str(program), str(nodes.ROOT / "js")],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment() | {"JSSPY": executable},
        check=False,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_program_profiles_itself(version: str, tmp_path: Path, executable: str) -> None:
    program = tmp_path / "program.js"
    program.write_text(PROGRAM, encoding="utf-8")
    done = run_node(version, program, executable)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "nothing is profiled: call startProfiling() first",
        *("true true", "true", "true", "true", "stopped", "ends by itself"),
    ]


@pytest.mark.parametrize("version", VERSION)
def test_what_is_missing_is_said(version: str, tmp_path: Path, executable: str) -> None:
    program = tmp_path / "program.js"
    text = "require(process.argv[2]).startServer({ port: 0 }).catch((e) => console.log(e.message));"
    program.write_text(text, encoding="utf-8")
    done = run_node(version, program, str(tmp_path / "nothing"))
    assert "pip install jsspy" in done.stdout
    # A process of root that became somebody else may not be looked at: as under yama 1.
    if os.geteuid() == 0:
        Path(executable).write_text(
            f'#!/bin/sh\nexec {" ".join(AS_NOBODY)} "{sys.executable}" -m jsspy "$@"\n',
            encoding="utf-8",
        )
        done = run_node(version, program, executable)
        assert "jsspy promfiler app.js" in done.stdout


@pytest.mark.parametrize("version", VERSION)
def test_express(version: str, executable: str) -> None:
    modules = Path(os.environ.get("JSSPY_CONSUMERS", nodes.ROOT / ".cache" / "consumers"))
    if not (modules / "node_modules" / "express").exists():
        nodes.missing(f"express is not in {modules}: run `make consumers-installed`")
    process = subprocess.Popen(
        [str(nodes.find(version)), str(nodes.ROOT / "examples" / "express" / "server.js")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment()
        | {
            "JSSPY": executable,
            "NODE_PATH": str(modules / "node_modules"),
            "PORT": "0",
            "METRICS_PORT": "0",
        },
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        port, address = words[3].rstrip(","), words[-1]
        end = time.monotonic() + 40
        text = ""
        while "#fibonacci" not in text:
            assert time.monotonic() < end
            assert get(f"http://127.0.0.1:{port}/slow") == "2178309"
            text = get(f"http://127.0.0.1:{port}/stacks")
        assert "promfiler_cpu_profile" in get(address)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def get(url: str) -> str:
    return httpx.get(url, timeout=20).text
