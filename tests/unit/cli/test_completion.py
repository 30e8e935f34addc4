"""Completion scripts, the manual page, and the command lines in the documentation."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
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


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a directory with a program `jsspy` in it."""
    path = tmp_path / "bin" / "jsspy"
    path.parent.mkdir()
    module = f"PYTHONPATH={shlex.quote(environment()['PYTHONPATH'])} exec {sys.executable} -m jsspy"
    path.write_text(f'#!/bin/sh\n{module} "$@"\n', "utf-8")
    path.chmod(0o755)
    return path.parent


SETUP = {
    "bash": ("bash --norc --noprofile -i", 'eval "$(jsspy completion bash)"'),
    "zsh": ("zsh -f -i", 'autoload -Uz compinit; compinit -u -D; eval "$(jsspy completion zsh)"'),
}
TYPED = {
    "jsspy repo": "rt",
    "jsspy report --fold-": "recursion",
    "jsspy record --format speed": "scope",
    "jsspy report a_recor": "ding.jsspy",
}
"""What is typed before Tab, and what the shell adds to it."""


@pytest.mark.parametrize("shell", SETUP)
def test_shells_complete_what_is_typed(shell: str, program: Path, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        nodes.missing(f"{shell} is not installed: run `make shells-installed` as root")
    (tmp_path / "a_recording.jsspy").touch()
    start, setup = SETUP[shell]
    env = {"PATH": f"{program}:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(tmp_path)}
    env |= {"LC_ALL": "C.UTF-8", "PS1": "ready> "}
    terminal, ours = pty.openpty()
    process = subprocess.Popen(
        shlex.split(start), stdin=ours, stdout=ours, stderr=ours, env=env, cwd=tmp_path,
        start_new_session=True,
    )  # fmt: skip
    os.close(ours)
    seen = b""

    def until(pattern: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while not re.search(pattern.encode(), seen):
            assert time.monotonic() < deadline, seen.decode(errors="replace")
            if select.select([terminal], [], [], 1)[0]:
                seen += os.read(terminal, 1 << 16)

    try:
        os.write(terminal, f"PS1='ready> '\n{setup}; echo set''up\n".encode())
        until("setup\\r?\\n")
        for typed, added in TYPED.items():
            seen = b""
            os.write(terminal, f"{typed}\t".encode())
            # Between what was typed and what was added the line editor may move the cursor.
            last = typed.split()[-1]
            until(rf"{re.escape(last)}[^a-z]*{re.escape(added)}")
            os.write(terminal, b"\x15")  # Ctrl-U
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def test_fish_completes(program: Path, tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        nodes.missing("fish is not installed: run `make shells-installed` as root")
    (tmp_path / "a_recording.jsspy").touch()
    env = os.environ | {"PATH": f"{program}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for typed, added in TYPED.items():
        script = f"jsspy completion fish | source; complete -C {shlex.quote(typed)}"
        done = subprocess.run(
            ["fish", "-c", script],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        offers = [line.partition("\t")[0] for line in done.stdout.splitlines()]
        assert offers == [typed.split()[-1] + added], typed


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
