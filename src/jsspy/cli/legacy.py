"""`jsspy PID <text|flame|raw|fullraw> SECONDS`: node-flame's command line, byte for byte.

The banner goes to stderr and the data to stdout, as there. Its limit of 30 seconds stays, too:
scripts that rely on a mistyped number being refused still can.
"""

from __future__ import annotations

import click

from jsspy.cli import output
from jsspy.cli.engines import make_engine
from jsspy.cli.interrupts import Interrupts
from jsspy.exporters.file import open_destination
from jsspy.formats import FORMATS
from jsspy.model.mode import Mode
from jsspy.recorder import Recorder

MAX_SECONDS = 30
RATE_HZ = 125
"""Every 8 ms, as node-flame."""

_FORMATS = {"text": "text", "flame": "html", "raw": "raw-exact", "fullraw": "fullraw-exact"}


@click.command("PID", short_help="node-flame's command line")
@click.argument("pid", type=click.IntRange(min=1), metavar="PID")
@click.argument("kind", type=click.Choice(list(_FORMATS)), metavar="<text|flame|raw|fullraw>")
@click.argument("seconds", type=click.IntRange(min=1), metavar="SECONDS")
@click.option("--force", is_flag=True, help=f"Allow more than {MAX_SECONDS} seconds.")
def legacy_command(pid: int, kind: str, seconds: int, force: bool) -> int:
    """Sample process PID for SECONDS and write the result to standard output."""
    if seconds > MAX_SECONDS and not force:
        raise click.UsageError(
            f"{seconds} s is more than {MAX_SECONDS} s; add --force if you mean it"
        )
    # Found out before anything is said or stopped.
    exporter = open_destination("-")
    exporter.check()
    with Recorder(make_engine("ptrace", [pid], RATE_HZ, mode=Mode.WALL)) as recorder:
        recorder.add(pid)
        output.note(f"Sampling {pid} for {seconds}s, outputting {kind}.\n")
        with Interrupts() as interrupts:
            for _ in recorder.run(seconds * 1_000_000_000, interrupts.should_stop):
                pass
            exporter.export(recorder.profile, FORMATS[_FORMATS[kind]])
    return 0
