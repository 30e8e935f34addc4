"""`jsspy report`: recordings as any other format, whole or in part."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from jsspy.cli import output
from jsspy.cli.outputs import FILE, choose_format, output_options
from jsspy.cli.reshape import Reshaping, reshape_options
from jsspy.errors import NoSamples
from jsspy.exporters.file import FileExporter, open_destination
from jsspy.formats import load_profile, read_profile
from jsspy.model.profile import Profile


def load_recording(path: str) -> Profile:
    """Read a profile from a file; `-` is standard input. See `load_profile` for what is raised."""
    if path == "-":
        return read_profile(sys.stdin.buffer, "standard input")
    from jsspy.cli.annotate import annotate, is_perf_data

    if is_perf_data(path):
        profile, notes = annotate(path)
        profile.meta.notes += notes
        return profile
    return load_profile(path)


@click.command("report", short_help="Write recordings as any format, whole or in part.")
@click.argument("recordings", type=FILE, metavar="RECORDING...", nargs=-1, required=True)
@output_options
@reshape_options
@output.color_option
def report_command(
    recordings: tuple[str, ...], destination: str | None, form: str | None, **reshaping: Any
) -> int:
    """Write recordings as any format, whole or in part; several are merged into one.

    RECORDING is a file that jsspy or another tool wrote; - is standard input. Lossless are .jsspy
    files only: record to one, and report from it as often as you like.

    What is left out is left out in this order: by time, thread, kind and pattern; then stacks are
    trimmed, folded, grouped and inverted.
    """
    chosen = choose_format(form, destination)
    if destination is None:
        first = recordings[0]
        stem = "report" if first == "-" else Path(first).name.partition(".")[0]
        destination = f"{stem or 'report'}{chosen.suffix}"
    exporter = open_destination(destination)
    exporter.check()
    given = [load_recording(path) for path in recordings]
    profile = Reshaping(**reshaping).apply(given)
    if not len(profile) and any(map(len, given)):
        raise NoSamples(f"none of {sum(map(len, given))} samples is left to show")
    exporter.export(profile, chosen)
    if isinstance(exporter, FileExporter):
        output.note(f"Wrote {destination} ({chosen.name}): {len(profile)} samples")
    return 0
