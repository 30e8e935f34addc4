"""The words and numbers of `jsspy top`, for the screen and for plain text."""

from __future__ import annotations

from typing import NamedTuple

from jsspy.cli import output
from jsspy.cli.targets import shorten
from jsspy.model.growth import Growth
from jsspy.model.live import Account, Column, LiveTable, Row, State, View
from jsspy.model.profile import ValueType
from jsspy.model.sample import VmState
from jsspy.recorder import End
from jsspy.session import TargetInfo

END_WORDS = {
    End.TARGET_ENDED: "the process ended",
    End.DURATION: "the time is up",
    End.STOPPED: "stopped",
}
"""Why nothing comes any more."""

_MIN_SHARE = 0.005
"""Less is shown as 0 %, so it is not shown."""

_NOT_IDLE = frozenset(VmState) - {VmState.IDLE}


class Update(NamedTuple):
    """What the process that samples tells the one that draws."""

    growth: Growth
    account: Account
    targets: tuple[TargetInfo, ...]
    threads: int
    """Threads that are sampled now."""
    end: End | None
    """Why this is the last one; None as long as it is not."""


_CLOCKS = {ValueType.WALL: " wall-clock", ValueType.OFF_CPU: " off-CPU"}


def describe_who(update: Update, rate_hz: int, elapsed: str) -> str:
    """Return who is sampled, and how; the command line, which may be long, comes last."""
    meta = update.account.meta
    if not update.targets:
        return "waiting for V8"
    first = update.targets[0]
    words = [f"pid {first.pid}", f"Node.js {first.node_version or '(unknown)'}"]
    if len(update.targets) > 1:
        words[0] += f" and {len(update.targets) - 1} more"
    if update.threads > 1:
        words.append(f"{update.threads} threads")
    rate = round(1e9 / meta.period_ns) if meta.period_ns else rate_hz
    words += [f"{meta.engine} {rate} Hz{_CLOCKS.get(meta.value_type, '')}", elapsed]
    if update.end is not None:
        words.append(END_WORDS[update.end])
    return output.printable(f"{', '.join(words)}: {shorten(first.command)}")


def describe_vm(state: State) -> str:
    """Return what V8 does: `js 61 %  gc 8 %  idle 20 %`."""
    idle = state.idle + state.vm.get(VmState.IDLE, 0.0)
    words = _shares({what.value: share for what, share in state.vm.items() if what in _NOT_IDLE})
    return "  ".join(["V8:", *words, f"idle {_percent(idle)}"])


def describe_loop(state: State) -> str:
    """Return what the event loop does: `timers 40 %  poll 30 %`."""
    phases = {phase.value: share for phase, share in state.phases.items()}
    return "  ".join(["loop:", *_shares(phases)])


def _shares(shares: dict[str, float]) -> list[str]:
    return [f"{what} {_percent(share)}" for what, share in shares.items() if share >= _MIN_SHARE]


def describe_account(table: LiveTable) -> str:
    """Return the account: samples, truncated, lost, pauses."""
    profile = table.profile
    stats = profile.stats
    lost = sum(stats.lost.values())
    taken = stats.requested - lost
    text = f"{taken} samples, {len(profile.truncated)} truncated, {lost} lost"
    if stats.requested:
        text += f" ({lost / stats.requested:.1%})".replace("%", " %")
    if stats.pauses.count:
        text += f"; pauses p99 {output.format_ns(stats.pauses.p99_ns)}"
        text += f", max {output.format_ns(stats.pauses.max_ns)}"
    return text


def describe_view(table: LiveTable) -> str:
    """Return what the rows are: `by function, last 5 s, all threads`."""
    thread = "all threads"
    if table.thread is not None:
        info = table.profile.threads[table.thread]
        thread = output.printable(f"thread {info.name} {info.pid}/{info.tid}")
    only = ", JavaScript only" if table.only_js and table.view is not View.THREAD else ""
    seconds = f"last {table.window_ns / 1e9:g} s"
    return f"by {table.view.value}, {seconds}, {thread}{only}"


def format_numbers(row: Row) -> tuple[str, ...]:
    """Return the cells of a row in front of its name, in the order of `Column`."""
    return (
        f"{row.own_share:.1%}",
        f"{row.total_share:.1%}",
        format_time(row.own_ns),
        format_time(row.total_ns),
        f"{row.gc_share:.1%}",
    )


WIDTHS = {Column.OWN_SHARE: 6, Column.TOTAL_SHARE: 6, Column.OWN: 8, Column.TOTAL: 9, Column.GC: 6}
"""Of the numbers, in characters: `100.0%` with one thread, times up to 27 hours."""


def format_time(time_ns: int) -> str:
    """Return a time in seconds, and from 100,000 on in hours."""
    seconds = time_ns / 1e9
    return f"{seconds:.2f}s" if seconds < 1e5 else f"{seconds / 3600:.1f}h"


def label(row: Row, width: int) -> str:
    """Return name and place of a row, cut to a width: of a place, its end says most."""
    name, place = row.name, row.place
    if not place:
        return _cut_end(name, width)
    room = width - len(name) - 1
    if len(place) <= room:
        return f"{name} {place}"
    if room < min(len(place), 12):
        name = _cut_end(name, max(width - min(len(place), width // 2) - 1, 1))
        room = width - len(name) - 1
    return f"{name} {_cut_start(place, room)}"


def _cut_end(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "\N{HORIZONTAL ELLIPSIS}"


def _cut_start(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return "\N{HORIZONTAL ELLIPSIS}" + text[len(text) - max(width - 1, 0) :]


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
