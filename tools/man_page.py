"""Write jsspy.1 from the command line's own help: `man_page.py FILE`.

There is one page for all verbs, so that `man jsspy` and a search in it find everything.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from jsspy import __version__
from jsspy.cli.main import jsspy

EPOCH = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", "0")))


def escape(text: str) -> str:
    """Return text that roff prints as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


def paragraphs(text: str) -> Iterator[str]:
    r"""Yield a help text as roff; a paragraph that begins with \b keeps its lines."""
    for part in re.split(r"\n\s*\n", text.strip()):
        if part.lstrip().startswith("\b"):
            lines = part.strip("\b\n").split("\n")
            yield ".PP\n.nf\n" + "\n".join(escape(line) for line in lines if line.strip()) + "\n.fi"
        else:
            yield ".PP\n" + escape(" ".join(part.split()))


def options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    """Yield a paragraph for each option."""
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            yield f".TP\n.B {escape(record[0])}\n{escape(' '.join(record[1].split()))}"


def page() -> Iterator[str]:
    """Yield the page, part by part."""
    root = click.Context(jsspy, info_name="jsspy", **jsspy.context_settings)
    yield f'.TH JSSPY 1 "{time.strftime("%Y-%m-%d", EPOCH)}" "jsspy {__version__}" "User Commands"'
    yield f".SH NAME\njsspy \\- {escape((jsspy.help or '').rstrip('.').lower())}"
    yield ".SH SYNOPSIS\n.B jsspy\n.I VERB\n[\\fIOPTION\\fR]..."
    yield ".SH DESCRIPTION"
    yield from paragraphs(jsspy.epilog or "")
    yield ".SH VERBS"
    for name in jsspy.list_commands(root):
        command = jsspy.get_command(root, name)
        if command is None:
            raise SystemExit(f"{name}: no such verb")
        ctx = click.Context(command, info_name=name, parent=root)
        usage = " ".join(command.collect_usage_pieces(ctx))
        yield f".SS jsspy {name}\n.B jsspy {name}\n{escape(usage)}"
        yield from paragraphs(command.help or "")
        yield from options(command, ctx)
    yield ".SH SEE ALSO\n.BR perf (1),\n.BR node (1)"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(page()) + "\n", encoding="utf-8")
