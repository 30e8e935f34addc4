"""What every verb prints the same way: errors, JSON, colours, numbers with units."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from jsspy.model.names import clean

_Function = TypeVar("_Function", bound=Callable[..., Any])


def show_error(message: str, hint: str | None) -> None:
    """Print what failed on stderr, and below it the command that mends it.

    Args:
        message: What failed, then on further lines why.
        hint: The exact command, or None where there is none.
    """
    first, *reasons = printable(message).split("\n")
    lines = [f"{click.style('jsspy:', fg='red', bold=True)} {first}"]
    lines += [f"  {reason.strip()}" for reason in reasons]
    if hint:
        lines.append(f"  Try: {printable(hint)}")
    click.echo("\n".join(lines), err=True, color=wants_color("auto"))


def note(message: str) -> None:
    """Print a line on stderr: stdout carries data only."""
    click.echo(printable(message), err=True)


def printable(text: str) -> str:
    """Make visible what a name or command line, chosen by others, could do to a terminal."""
    return "\n".join(clean(line) for line in text.split("\n"))


def echo_json(value: object, *, err: bool = False) -> None:
    """Print a value as indented JSON."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=True), err=err)


def wants_color(choice: str) -> bool | None:
    """Say whether to colour: True, False, or None for "if it is a terminal".

    Source: no-color.org and bixense.com/clicolors, as read in 2025.
    """
    if choice != "auto":
        return choice == "always"
    environment = os.environ
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    if environment.get("CLICOLOR_FORCE", "0") != "0":
        return True
    return False if environment.get("CLICOLOR") == "0" else None


def color_option(function: _Function) -> _Function:
    """Add --color; click then colours, or not, everything that this verb prints."""

    def set_color(ctx: click.Context, param: click.Parameter, value: str) -> None:
        del param
        ctx.color = wants_color(value)

    return click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        expose_value=False,
        callback=set_color,
        help="Colours; auto looks at the terminal, NO_COLOR, CLICOLOR and CLICOLOR_FORCE.",
    )(function)


def is_terminal() -> bool:
    """Say whether people are watching stderr."""
    return sys.stderr.isatty()


def format_ns(time_ns: int) -> str:
    """Return a short time: `85 us`, `1.2 ms`, `3.4 s`."""
    if time_ns < 1_000_000:
        return f"{time_ns / 1e3:.0f} us"
    if time_ns < 1_000_000_000:
        return f"{time_ns / 1e6:.1f} ms"
    return f"{time_ns / 1e9:.1f} s"


def format_share(part: int, whole: int) -> str:
    """Return a percentage that says 100 % only where nothing is missing.

    Rounded down to a tenth: 9999 of 10000 is `99.9 %`.
    """
    if whole == 0:
        return "-"
    return f"{part * 1000 // whole / 10:g} %"


def format_size(size_bytes: int) -> str:
    """Return a file's size: `812 B`, `41 KiB`, `3.2 MiB`."""
    if size_bytes < 1 << 10:
        return f"{size_bytes} B"
    if size_bytes < 1 << 20:
        return f"{size_bytes / (1 << 10):.0f} KiB"
    return f"{size_bytes / (1 << 20):.1f} MiB"
