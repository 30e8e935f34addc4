"""Where a profile goes and as what: `--output`, `--format`, default names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from jsspy.formats import FORMATS, find_format
from jsspy.formats.base import Format

_Function = TypeVar("_Function", bound=Callable[..., Any])

DEFAULT_FORMAT = "html"
DEFAULT_STREAM_FORMAT = "folded"
"""Nobody wants a web page on a terminal, and `| flamegraph.pl` is what pipes are for."""

_MAX_NAME = 64


FILE = click.Path(allow_dash=True)
"""Shells complete it; whether there is such a file says whoever opens it."""


def output_options(function: _Function) -> _Function:
    """Add --output and --format."""
    to = click.option(
        "-o",
        "--output",
        "destination",
        type=FILE,
        metavar="FILE",
        help="File to write; - is standard output. Default: <name>-<pid>-<UTC time>.html",
    )
    form = click.option(
        "-f",
        "--format",
        "form",
        metavar="FORMAT",
        callback=_check_format,
        shell_complete=_complete_format,
        help=f"One of {', '.join(FORMATS)}. Default: what the file's name ends in, else "
        f"{DEFAULT_FORMAT}; {DEFAULT_STREAM_FORMAT} on standard output.",
    )
    return to(form(function))


def _check_format(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    del ctx, param
    if value is not None and value not in FORMATS:
        raise click.BadParameter(f"there is no format '{value}'; there are {', '.join(FORMATS)}")
    return value


def _complete_format(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    del ctx, param
    return [name for name in FORMATS if name.startswith(incomplete)]


def choose_format(form: str | None, destination: str | None) -> Format:
    """Return the format that was named, or else the one that the file's name ends in.

    Raises:
        click.UsageError: The file's name ends in nothing that is known.
    """
    if form is not None:
        return FORMATS[form]
    if destination is None:
        return FORMATS[DEFAULT_FORMAT]
    if destination == "-" or destination.startswith(("/dev/", "/proc/self/fd/")):
        return FORMATS[DEFAULT_STREAM_FORMAT]
    found = find_format(destination)
    if found is None:
        suffixes = " ".join(sorted({one.suffix for one in FORMATS.values()}))
        raise click.UsageError(
            f"which format is '{destination}' to have? Name it with --format, or end the file's "
            f"name in one of {suffixes}"
        )
    return found


def default_file_name(name: str, pid: int, unix_s: float, suffix: str) -> str:
    """Return `<name>-<pid>-<UTC time><suffix>`, whatever characters the process has in its name."""
    plain = re.sub(r"[^0-9A-Za-z_.+-]", "_", name)[:_MAX_NAME].lstrip(".-") or "node"
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_s))
    return f"{plain}-{pid}-{stamp}{suffix}"
