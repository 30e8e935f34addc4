"""`jsspy diff`: what changed from one recording to the next."""

from __future__ import annotations

from typing import Any, BinaryIO, ClassVar

import click

from jsspy.cli import output
from jsspy.cli.outputs import FILE
from jsspy.cli.report import load_recording
from jsspy.cli.reshape import Reshaping, reshape_options
from jsspy.exporters.file import FileExporter, open_destination
from jsspy.formats.difference import DIFFERENCE_FORMATS, DifferenceFormat
from jsspy.model.difference import (
    Difference,
    Growth,
    Ignored,
    Normalization,
    Threshold,
    compare,
    judge,
    parse_threshold,
)
from jsspy.model.profile import Profile, ValueType

EXIT_FOUND = 8
_SHOWN = 10

_WORDS = ", ".join(DIFFERENCE_FORMATS)


class _Bound:
    """A comparison as a format: what exporters write."""

    name: ClassVar[str] = "difference"
    suffix: ClassVar[str] = ""
    description: ClassVar[str] = ""

    def __init__(self, form: DifferenceFormat, difference: Difference, *, negate: bool) -> None:
        self._form = form
        self._difference = difference
        self._negate = negate

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        del profile
        self._form.write(self._difference, out, negate=self._negate)


def _ignored(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> set[Ignored]:
    """Return the words of a list, separated by commas."""
    del ctx, param
    words = [word for part in value for word in part.split(",") if word]
    try:
        return {Ignored(word) for word in words}
    except ValueError as err:
        known = ", ".join(one.value for one in Ignored)
        raise click.BadParameter(f"{err}; there are {known}") from err


def _thresholds(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> list[Threshold]:
    del ctx, param
    try:
        return [parse_threshold(text) for text in value]
    except ValueError as err:
        raise click.BadParameter(str(err)) from err


@click.command("diff", short_help="Compare two recordings; fail a build on what grew.")
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@click.option(
    "-o",
    "--output",
    "destination",
    type=FILE,
    metavar="FILE",
    help="File to write; - is standard output.",
)
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(list(DIFFERENCE_FORMATS)),
    help="Default: what the file's name ends in, else html; folded on standard output.",
)
@click.option(
    "--ignore",
    "ignored",
    callback=_ignored,
    multiple=True,
    metavar="WORD[,WORD...]",
    help="What does not make functions different: lines (code that moved in its file), tiers "
    "(V8's marks in names of other tools; bytecode handlers), versions (of packages in paths of "
    "pnpm and Yarn), hashes (addresses; main.3f9a8c1b.js).",
)
@click.option(
    "--normalize",
    type=click.Choice([one.value for one in Normalization]),
    default=Normalization.NONE.value,
    show_default=True,
    help="Scale BEFORE: to as much in all as AFTER, or to as many seconds of recording.",
)
@click.option(
    "--negate",
    is_flag=True,
    help="Show BEFORE, coloured by what will become of it: also what is gone. Of folded stacks "
    "the counts change places, for flamegraph.pl --negate.",
)
@click.option(
    "--fail-on",
    "thresholds",
    callback=_thresholds,
    multiple=True,
    metavar="WHAT",
    help="Exit with 8 if it grew: 'function:NAME +5%', 'package:NAME +5%', 'file:PATH +5%' or "
    "'total +5%'; +1pp is one percentage point of the whole. * and ? stand for anything. May be "
    "repeated.",
)
@reshape_options
@output.color_option
def diff_command(
    before: str,
    after: str,
    destination: str | None,
    form: str | None,
    ignored: set[Ignored],
    normalize: str,
    negate: bool,
    thresholds: list[Threshold],
    **reshaping: Any,
) -> int:
    """Compare two recordings: what grew, what shrank, what is new, what is gone.

    BEFORE and AFTER are files that jsspy or another tool wrote; one of them may be -, standard
    input. In the flame graph widths are AFTER and colours the change: red grew, blue shrank.
    Functions are the same that have the same name, file and line.

    With --fail-on nothing is written unless --output or --format is given. What it fails on is
    time with everything called, and growth beyond what chance makes of two recordings of the same
    program (3 standard deviations): of 100 samples that is 42 or more, of 10000 about 4 %.

    Exit codes: 0 done, 8 something grew more than --fail-on allows.
    """
    reshape = Reshaping(**reshaping)
    chosen = _choose(form, destination)
    old, new = (reshape.apply([load_recording(path)]) for path in (before, after))
    difference = compare(old, new, ignored=ignored, normalization=Normalization(normalize))
    if destination is not None or form is not None or not thresholds:
        exporter = open_destination(destination or f"diff{chosen.suffix}")
        exporter.check()
        exporter.export(difference.profile, _Bound(chosen, difference, negate=negate))
        if isinstance(exporter, FileExporter):
            output.note(
                f"Wrote {exporter.destination} ({chosen.name}): "
                f"{len(old)} samples before, {len(new)} after"
            )
    failed = [_tell(difference, threshold) for threshold in thresholds]
    return EXIT_FOUND if any(failed) else 0


def _choose(form: str | None, destination: str | None) -> DifferenceFormat:
    if form is not None:
        return DIFFERENCE_FORMATS[form]
    if destination is None:
        return DIFFERENCE_FORMATS["html"]
    if destination == "-" or destination.startswith(("/dev/", "/proc/self/fd/")):
        return DIFFERENCE_FORMATS["folded"]
    for one in DIFFERENCE_FORMATS.values():
        if destination.endswith(one.suffix):
            return one
    raise click.UsageError(
        f"which format is '{destination}' to have? Name it with --format: {_WORDS}"
    )


def _tell(difference: Difference, threshold: Threshold) -> bool:
    """Print what became of a threshold, and return whether it fails the build."""
    found = judge(difference, threshold)
    if not found:
        output.note(f"note: {threshold}: in neither recording is there such a {threshold.what}")
        return False
    over = [growth for growth in found if growth.exceeds and not growth.is_noise]
    chance = [growth for growth in found if growth.is_noise]
    output.note(f"{'FAIL' if over else 'ok'}: {threshold}")
    for growth in over[:_SHOWN]:
        output.note(f"  {_describe(difference, growth)}")
    if len(over) > _SHOWN:
        output.note(f"  and {len(over) - _SHOWN} more")
    for growth in chance[:_SHOWN]:
        output.note(f"  {_describe(difference, growth)}: may be chance")
    if not over and not chance:
        output.note(f"  {_describe(difference, found[0])}")
    return bool(over)


def _describe(difference: Difference, growth: Growth) -> str:
    counted = difference.profile.meta.value_type is ValueType.SAMPLES
    old, new = (
        f"{value:,} samples" if counted else output.format_ns(value)
        for value in (growth.before, growth.after)
    )
    change = (
        f"{100 * (growth.after - growth.before) / growth.before:+.1f} %" if growth.before else "new"
    )
    return f"{growth.name}: {old} before, {new} after ({change})"
