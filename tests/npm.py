"""The npm packages of tests/programs/package.json."""

from __future__ import annotations

import os
from pathlib import Path

import nodes


def packages() -> Path:
    """Return the directory with the packages of tests/programs/package.json."""
    root = Path(os.environ.get("JSSPY_PROGRAMS", nodes.ROOT / ".cache" / "programs"))
    if not (root / "node_modules").exists():
        nodes.missing(f"no programs in {root}: run `make programs-installed`")
    return root / "node_modules"
