"""The Node.js binaries that live tests run against, and processes made from them."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ROOT / "tests" / "targets"

LEGACY = ("0.10.48", "0.12.18", "4.9.1", "6.17.1", "8.17.0", "10.24.1")
MODERN = (
    "12.22.12",
    "14.21.3",
    "16.20.2",
    "18.20.8",
    "20.20.2",
    "22.23.3",
    "24.15.0",
    "26.10.0",
)
VERSIONS = LEGACY + MODERN

READY_TIMEOUT_S = 60.0


def selected(versions: Sequence[str]) -> list[str]:
    """Return those of `versions` that the environment variable NODES (if set) asks for."""
    wanted = os.environ.get("NODES", "").replace(",", " ").split()
    return [
        version
        for version in versions
        if not wanted or any(version == want or version.startswith(want + ".") for want in wanted)
    ]


def find(version: str) -> Path:
    """Return the node binary of `version`; skip the test without it, or fail in CI."""
    node = _path(version)
    if not node.exists():
        missing(f"node {version} is not at {node}: run `make nodes`")
    return node


def find_optional(version: str) -> Path:
    """Return the node binary of a version that no test insists on; skip the test without it."""
    node = _path(version)
    if not node.exists():
        pytest.skip(f"node {version} is not at {node}")
    return node


def directory() -> Path:
    """Return where the binaries are."""
    return Path(os.environ.get("JSSPY_NODES", ROOT / ".cache" / "nodes"))


def _path(version: str) -> Path:
    return directory() / f"v{version}" / "bin" / "node"


def missing(what: str) -> None:
    """Skip the running test because something is not installed; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@dataclass
class NodeProcess:
    """A node process that a test owns."""

    process: subprocess.Popen[str]
    version: str

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def line(self) -> str:
        """Return the next line that the program printed; fails the test if it ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"node {self.version} ended with {self.process.wait()}"
        return line.rstrip("\n")

    def wait_ready(self) -> None:
        """Wait until the program prints the line `ready`."""
        while self.line() != "ready":
            pass


@contextmanager
def running(
    version: str,
    program: str | Path,
    *arguments: str,
    flags: Sequence[str] = (),
    wait: bool = True,
    cwd: Path | None = None,
) -> Iterator[NodeProcess]:
    """Run a program under node `version` until the block ends.

    Args:
        version: One of VERSIONS.
        program: A path, or JavaScript source (anything with a line break or a `;`).
        arguments: Passed to the program.
        flags: Passed to node, before the program.
        wait: Wait for the program to print `ready` first.
        cwd: Working directory.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(program, str) and ("\n" in program or ";" in program):
            path = Path(scratch) / "program.js"
            path.write_text(program, encoding="utf-8")
        else:
            path = Path(program)
        process = subprocess.Popen(
            [str(find(version)), *flags, str(path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            text=True,
            cwd=cwd or scratch,
            start_new_session=True,
        )
        target = NodeProcess(process, version)
        try:
            if wait:
                target.wait_ready()
            yield target
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
