"""`--source-maps`: the option, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])


class SourceMaps(NamedTuple):
    """What --source-maps says."""

    wanted: bool
    directory: str | None


def source_maps_option(function: _Function) -> _Function:
    """Add --source-maps."""
    option = click.option(
        "--source-maps",
        callback=_parse,
        default="auto",
        show_default=True,
        metavar="auto|off|DIR",
        help="Show original files, lines and names where scripts have source maps. With DIR, maps "
        "that are not where the scripts say are searched below it by name. Nothing is downloaded.",
    )
    return option(function)


def _parse(ctx: click.Context, param: click.Parameter, value: str) -> SourceMaps:
    del ctx, param
    if value in {"auto", "off"}:
        return SourceMaps(value == "auto", None)
    if not os.path.isdir(value):  # noqa: PTH112 - pathlib takes 4 ms to load
        raise click.BadParameter(f"'{value}' is neither auto nor off nor a directory")
    return SourceMaps(wanted=True, directory=os.path.abspath(value))  # noqa: PTH100 - see above
