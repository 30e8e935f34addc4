"""What stderr shows while a recording runs.

On a terminal a line that is redrawn at most four times a second, from the loop that samples: a
drawing thread of its own would hold the interpreter lock while a target waits to be let go.
Elsewhere one line at the start; the end is the summary's.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from jsspy.cli import output
from jsspy.cli.summary import Recording, describe_targets
from jsspy.recorder import Status

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_REDRAW_NS = 250_000_000


class Progress(Protocol):
    """Shows how a recording stands. Used as `with make_progress(…) as progress:`."""

    def show(self, status: Status, recorder: Recording) -> None:
        """Show a status; cheap when called too often."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def make_progress(
    duration_s: float | None, rate_hz: int, *, color: bool | None, is_shared: bool
) -> Progress:
    """Return what suits stderr.

    Args:
        duration_s: How long the recording is to take; None is without end.
        rate_hz: What is shown as the rate.
        color: False draws without colour; None and True leave it to the terminal.
        is_shared: A command that we started writes to the terminal, too: nothing is redrawn there.
    """
    if output.is_terminal() and not is_shared:
        return _Bar(duration_s, color=color)
    return _OneLine(duration_s, rate_hz)


class _OneLine:
    def __init__(self, duration_s: float | None, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._until = "until it ends or Ctrl-C" if duration_s is None else f"for {duration_s:g} s"
        self._said = False

    def show(self, status: Status, recorder: Recording) -> None:
        if not self._said and status.threads:
            self._said = True
            who = describe_targets(recorder)
            output.note(f"Sampling {who} at {self._rate_hz} Hz {self._until}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class _Bar:
    def __init__(self, duration_s: float | None, *, color: bool | None) -> None:
        # Loaded before sampling begins, and only where something is drawn: it takes 50 ms.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
        from rich.table import Column

        one_line = Column(no_wrap=True, overflow="ellipsis")
        end = "" if duration_s is None else f" / {duration_s:g} s"
        self._rich: RichProgress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=one_line),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[seconds]:.1f} s" + end, markup=False),
            TextColumn("{task.fields[counts]}", markup=False),
            console=Console(stderr=True, no_color=color is False, highlight=False),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._rich.add_task(
            "waiting for V8", total=duration_s, seconds=0.0, counts="Ctrl-C ends it"
        )
        self._next_ns = 0

    def show(self, status: Status, recorder: Recording) -> None:
        now = time.monotonic_ns()
        if now < self._next_ns:
            return
        self._next_ns = now + _REDRAW_NS
        counts = f"{status.samples} samples, {status.truncated} truncated, {status.lost} lost"
        self._rich.update(
            self._task,
            description=output.printable(describe_targets(recorder))
            if status.threads
            else "waiting for V8",
            completed=status.elapsed_ns / 1e9,
            seconds=status.elapsed_ns / 1e9,
            counts=counts,
        )
        self._rich.refresh()

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rich.stop()
