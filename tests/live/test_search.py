"""Node processes are found among others, each file is read once for all that run it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import nodes
from jsspy.cli.discovery import Discovery
from jsspy.target.elf import ElfFile
from jsspy.target.search import iter_node_processes

VERSION = nodes.selected(("22.23.3",))
WAIT = "console.log('ready'); setInterval(function () {}, 1e6);"


@pytest.mark.parametrize("version", VERSION)
def test_only_node_processes_are_found(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: Counter[str] = Counter()
    load = ElfFile.load.__func__  # type: ignore[attr-defined]  # of a class method

    def counting(cls: type[ElfFile], path: str, *, name: str) -> ElfFile:
        loaded[name] += 1
        elf: ElfFile = load(cls, path, name=name)
        return elf

    monkeypatch.setattr(ElfFile, "load", classmethod(counting))
    with (
        nodes.running(version, WAIT) as one,
        nodes.running(version, WAIT) as other,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as python,
    ):
        pids = sorted((one.process.pid, other.process.pid))
        found = list(iter_node_processes([*pids, python.pid, 1 << 30]))
        assert [process.pid for process in found] == pids
        assert all(process.denied is None for process in found)
        assert loaded[str(nodes.find(version).resolve())] == 1
        assert set(pids) <= {process.pid for process in iter_node_processes()}
        python.communicate(b"\n")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("version", VERSION)
def test_who_runs_and_who_comes_is_told_once(version: str) -> None:
    with nodes.running(version, WAIT) as one:
        discovery = Discovery(r"program\.js$")
        try:
            told: list[int] = []
            while one.process.pid not in told:
                told += discovery.poll()
                time.sleep(0.01)
            with nodes.running(version, WAIT) as other:
                while other.process.pid not in told:
                    told += discovery.poll()
                    time.sleep(0.01)
        finally:
            discovery.close()
    assert told.count(one.process.pid) == told.count(other.process.pid) == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("version", nodes.selected(("26.10.0",)))
def test_a_large_binary_that_is_new_leaves_nothing(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with nodes.running(version, WAIT) as target:
        discovery = Discovery(r"program\.js$")
        try:
            while target.process.pid not in discovery.poll():
                time.sleep(0.01)
            rollup = Path(f"/proc/{discovery.pid}/smaps_rollup").read_text(encoding="ascii")
        finally:
            discovery.close()
    anonymous = next(line.split()[1] for line in rollup.splitlines() if line.startswith("Anon"))
    # 10 MB without it, 25 MB while its symbols are read.
    assert int(anonymous) < 14_000
