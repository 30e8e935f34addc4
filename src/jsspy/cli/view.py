"""`jsspy view`: a recording in the browser."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import click

from jsspy.cli import output
from jsspy.cli.outputs import FILE
from jsspy.cli.report import load_recording
from jsspy.exporters.file import FileExporter
from jsspy.formats.html import Html

_MAX_STEM = 64


@click.command("view", short_help="Open recordings of any format in the browser.")
@click.argument("recordings", type=FILE, nargs=-1, required=True, metavar="RECORDING...")
@click.option(
    "-o",
    "--output",
    "destination",
    type=FILE,
    metavar="FILE",
    help="Page to write. Default: a new file in the directory for temporary files.",
)
@click.option("--no-open", is_flag=True, help="Write the page only.")
@output.color_option
def view_command(recordings: tuple[str, ...], destination: str | None, no_open: bool) -> int:
    """Open recordings in the browser, each as a page of its own that needs no network.

    RECORDING is a file that jsspy or another tool wrote, of any format that can be read; - is
    standard input. The pages stay where they are: remove them when you like.
    """
    if destination is not None and len(recordings) > 1:
        raise click.UsageError("--output is one page, and there are several recordings")
    if destination == "-":
        raise click.UsageError("a browser cannot open standard output: name a file")
    for recording in recordings:
        profile = load_recording(recording)
        path = destination or _new_page(recording)
        exporter = FileExporter(path)
        exporter.export(profile, Html())
        output.note(f"Wrote {path}: {len(profile)} samples")
        if not no_open:
            _open(Path(path).resolve())
    return 0


def _new_page(recording: str) -> str:
    """Make an empty file that nobody else can read, with the recording's name in its own."""
    stem = "stdin" if recording == "-" else Path(recording).name.partition(".")[0]
    plain = re.sub(r"[^0-9A-Za-z_+-]", "_", stem)[:_MAX_STEM]
    descriptor, path = tempfile.mkstemp(prefix=f"jsspy-{plain}-", suffix=".html")
    os.close(descriptor)
    return path


def _open(page: Path) -> None:
    """Open a page in a browser, or say what to do where there is none."""
    environment = os.environ
    # Without a screen webbrowser would start a text browser on this terminal.
    if environment.keys() & {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"}:
        import webbrowser

        if webbrowser.open(page.as_uri()):
            return
    output.note(f"No browser could be opened here. The page is {page.as_uri()}")
