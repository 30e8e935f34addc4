"""Completion scripts, the manual page, and the command lines in the documentation."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import nodes
from jsspy.cli import main
from jsspy.cli.completion import SHELLS
from jsspy.cli.main import jsspy, run
from running import environment

DOCS = nodes.ROOT / "docs"


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_JSSPY_COMPLETE={shell}_complete" in script
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=script.encode(), check=True)


def complete(*words: str) -> list[str]:
    """Return what bash would be told to offer for the last word."""
    done = subprocess.run(
        [sys.executable, "-m", "jsspy"],
        env=environment()
        | {
            "_JSSPY_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("jsspy", *words)),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_completion() -> None:
    assert complete("re") == ["record", "report"]
    assert "--fold-recursion" in complete("report", "--fold")
    assert complete("report", "--by", "f") == ["function", "file"]
    assert complete("record", "--format", "speed") == ["speedscope"]


def test_manual_page(tmp_path: Path) -> None:
    page = tmp_path / "jsspy.1"
    tool = nodes.ROOT / "tools" / "man_page.py"
    env = environment() | {"SOURCE_DATE_EPOCH": "1767323045"}
    subprocess.run([sys.executable, str(tool), str(page)], env=env, check=True)
    text = page.read_text("utf-8")
    assert text.startswith('.TH JSSPY 1 "2026-01-02"')
    for verb in main.VERBS:
        assert f"\n.SS jsspy {verb}\n" in text
    if shutil.which("groff"):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-z", "-Tutf8", str(page)],
            capture_output=True,
            check=True,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )
        assert done.stderr == b""


def documented() -> list[str]:
    """Return each jsspy command line in a code block of the documentation."""
    texts = [page.read_text("utf-8") for page in DOCS.glob("*.md")]
    blocks = [b for text in texts for b in re.findall(r"```console\n(.*?)```", text, re.DOTALL)]
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    parts = [part for line in lines for part in re.split(r"\s[|>&]\s|\s#\s", line)]
    found = [re.match(r"(?:sudo )?jsspy (\S.*)", part.strip()) for part in parts]
    return sorted({match[1] for match in found if match})


@pytest.mark.parametrize("line", documented())
def test_documented_command_lines_are_right(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dist").mkdir()
    (tmp_path / "saved.map").touch()
    name, *arguments = shlex.split(line)
    # With the group's settings: click keeps the help option that it first made for a command.
    root = click.Context(jsspy, **jsspy.context_settings)
    command = jsspy.get_command(root, name)
    assert command is not None, name
    command.make_context(name, arguments, parent=root)
