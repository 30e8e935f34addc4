"""Where other people's readers are, and how to run them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

import nodes
from jsspy.formats import FORMATS
from jsspy.model.profile import Profile
from profiles import written

NODE = "24.15.0"
"""What the newest of them, profiler-cli, needs."""
NYTPROF = Path("/usr/share/perl5/Devel/NYTProf")
"""Debian's libdevel-nytprof-perl carries a flamegraph.pl."""


def npm(path: str) -> Path:
    """Return a file of the packages in package.json, installed by `make consumers`."""
    root = Path(os.environ.get("JSSPY_CONSUMERS", nodes.ROOT / ".cache" / "consumers"))
    file = root / "node_modules" / path
    if not file.exists():
        nodes.missing(f"{path} is not in {root}: run `make consumers-installed`")
    return file


def flamegraph(script: str) -> Path:
    """Return one of FlameGraph's scripts, from a copy of it that JSSPY_FLAMEGRAPH names.

    No package registry carries them all. What they printed is kept in tests/golden, and is compared
    where they are not at hand.
    """
    directory = os.environ.get("JSSPY_FLAMEGRAPH")
    if directory:
        return Path(directory) / script
    if (NYTPROF / script).exists():
        return NYTPROF / script
    if script == "flamegraph.pl":
        nodes.missing("flamegraph.pl: set JSSPY_FLAMEGRAPH, or install libdevel-nytprof-perl")
    pytest.skip(f"{script}: JSSPY_FLAMEGRAPH does not name a copy of FlameGraph")


def go_pprof() -> tuple[str, ...]:
    """Return the command that runs Go's own pprof."""
    go = shutil.which("go")
    if go is None:
        nodes.missing("go is not installed: run `make consumers-installed` as root")
    return (str(go), "tool", "pprof")


def run(
    *command: str | Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; fails the test unless it exits with 0."""
    result = subprocess.run(
        list(map(str, command)),
        input=stdin,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        capture_output=True,
        check=False,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr.decode() + result.stdout.decode()
    return result


def node(
    program: Path,
    *arguments: str | Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a JavaScript program, and return what it printed."""
    binary = nodes.find(NODE)
    return run(binary, program, *arguments, stdin=stdin, env=env, cwd=cwd).stdout.decode()


def file_of(directory: Path, name: str, profile: Profile) -> Path:
    """Write a profile into a file with the ending of its format."""
    path = directory / f"profile{FORMATS[name].suffix}"
    path.write_bytes(written(FORMATS[name], profile))
    return path
