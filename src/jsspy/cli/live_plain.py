"""`jsspy top` where there is no terminal: a table every few seconds."""

from __future__ import annotations

import sys
import time

from jsspy.cli.live_maps import OriginalNames
from jsspy.cli.live_text import (
    WIDTHS,
    Update,
    describe_account,
    describe_loop,
    describe_view,
    describe_vm,
    describe_who,
    format_numbers,
    label,
)
from jsspy.cli.pipe import Receiver
from jsspy.model.live import LiveTable

_ROWS = 20
_LABEL_WIDTH = 160


def print_tables(
    receiver: Receiver, originals: OriginalNames, table: LiveTable, rate_hz: int, delay_s: float
) -> None:
    """Print until there is nothing more to come.

    Raises:
        BrokenPipeError: Nobody reads standard output any more.
    """
    next_s = time.monotonic() + delay_s
    while not receiver.is_closed:
        for update in receiver.receive():
            table.add(originals.map(update), update.account)
            if update.end is not None:
                _print(table, update, rate_hz)
                return
            if update.threads and time.monotonic() >= next_s:
                next_s = time.monotonic() + delay_s
                _print(table, update, rate_hz)


def _print(table: LiveTable, update: Update, rate_hz: int) -> None:
    seconds = table.profile.meta.duration_ns / 1e9
    state = table.state()
    rows = table.rows()
    heading = " ".join(column.value.rjust(width) for column, width in WIDTHS.items())
    lines = [
        describe_who(update, rate_hz, f"{seconds:.1f} s"),
        describe_vm(state),
        describe_loop(state),
        f"{describe_view(table)}; {describe_account(table)}",
        f"{heading} Name",
    ]
    for row in rows[:_ROWS]:
        numbers = (
            cell.rjust(width)
            for cell, width in zip(format_numbers(row), WIDTHS.values(), strict=True)
        )
        lines.append(f"{' '.join(numbers)} {label(row, _LABEL_WIDTH)}")
    if len(rows) > _ROWS:
        lines.append(f"and {len(rows) - _ROWS} more")
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()
