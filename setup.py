"""Compile the program for the kernel into the package; all else stands in pyproject.toml.

`build_py` runs for wheels and for `pip install --editable` alike. The object is written beside the
engine that loads it, where it is package data; it is never committed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SOURCE = ROOT / "bpf" / "walk.bpf.c"
OBJECT = ROOT / "src" / "jsspy" / "engines" / "walk.bpf.o"


class BuildBpf(Command):
    """Compile bpf/walk.bpf.c with the C compiler that the ziglang package brings."""

    description = "compile the program for the kernel"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        """Take no options."""

    def finalize_options(self) -> None:
        """Take no options."""

    def run(self) -> None:
        """Compile it."""
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding"]
        command += ["-O2", "-Wall", "-Wextra", "-Werror", "-c", str(SOURCE), "-o", str(OBJECT)]
        with tempfile.TemporaryDirectory() as cache:
            caches = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
            subprocess.run(command, check=True, env=os.environ | caches)


class BuildPy(build_py):
    """Build the package with the program in it."""

    def run(self) -> None:
        """Compile, then do what setuptools does."""
        self.run_command("build_bpf")
        super().run()


setup(cmdclass={"build_bpf": BuildBpf, "build_py": BuildPy})
