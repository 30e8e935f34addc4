"""`jsspy report`: a recording as any other format."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from jsspy.cli import output
from jsspy.cli.outputs import choose_format, output_options
from jsspy.exporters.file import FileExporter, open_destination
from jsspy.formats import load_profile, read_profile


@click.command("report", short_help="Write a recording as any format.")
@click.argument("recording", metavar="RECORDING")
@output_options
@output.color_option
def report_command(recording: str, destination: str | None, form: str | None) -> int:
    """Write a recording as any format.

    RECORDING is a file that jsspy or another tool wrote; - is standard input. Lossless are .jsspy
    files only: record to one, and report from it as often as you like.
    """
    chosen = choose_format(form, destination)
    if destination is None:
        stem = "report" if recording == "-" else Path(recording).name.partition(".")[0]
        destination = f"{stem or 'report'}{chosen.suffix}"
    exporter = open_destination(destination)
    exporter.check()
    if recording == "-":
        profile = read_profile(sys.stdin.buffer, "standard input")
    else:
        profile = load_profile(recording)
    exporter.export(profile, chosen)
    if isinstance(exporter, FileExporter):
        output.note(f"Wrote {destination} ({chosen.name}): {len(profile)} samples")
    return 0
