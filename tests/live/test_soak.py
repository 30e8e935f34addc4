"""promfiler's demo under load, beside a twin that nobody profiles: nothing grows.

The short form of `bench/soak.py`. JSSPY_SOAK_MINUTES=30 makes it the long one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nodes
from running import environment

VERSION = nodes.selected(("22.23.3",))
MINUTES = float(os.environ.get("JSSPY_SOAK_MINUTES", "0.4"))


@pytest.mark.timeout(60 * MINUTES + 120)
@pytest.mark.parametrize("version", VERSION)
def test_promfilers_demo_for_a_while(version: str) -> None:
    modules = Path(os.environ.get("JSSPY_CONSUMERS", nodes.ROOT / ".cache" / "consumers"))
    if not (modules / "node_modules" / "express").exists():
        nodes.missing(f"express is not in {modules}: run `make consumers-installed`")
    done = subprocess.run(
        [
            *(sys.executable, str(nodes.ROOT / "bench" / "soak.py"), "--node", version),
            *("--minutes", str(MINUTES), "--step", "1" if MINUTES < 2 else "10"),
        ],
        capture_output=True,
        text=True,
        env=environment()
        | {"JSSPY_NODES": str(nodes.find(version).parents[2]), "JSSPY_CONSUMERS": str(modules)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
