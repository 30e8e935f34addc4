"""Options that choose what of a recording is shown, and as what: for `report` and `diff`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from jsspy.model import transform
from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import FrameKind
from jsspy.model.transform import Grouping

_Function = TypeVar("_Function", bound=Callable[..., Any])

_KINDS = [kind.value for kind in FrameKind]
_VM_STATES = [state.value for state in VmState]
_STATES = [state.value for state in ThreadState]


@dataclass(frozen=True, slots=True)
class Reshaping:
    """What to keep of a profile, and how to look at it."""

    from_s: float | None = None
    to_s: float | None = None
    threads: re.Pattern[str] | None = None
    kinds: tuple[str, ...] = ()
    vm_states: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    include: re.Pattern[str] | None = None
    exclude: re.Pattern[str] | None = None
    trim_root: re.Pattern[str] | None = None
    fold_recursion: bool = False
    by: str | None = None
    invert: bool = False
    generated: bool = False

    def apply(self, profiles: Iterable[Profile]) -> Profile:
        """Return the profiles as one: cut each, merge, filter, trim, fold, group, invert.

        A profile that does not show all of its samples has a note that says so.

        Raises:
            JsspyError: The profiles do not go together, or have no times and are to be cut.
        """
        given = list(profiles)
        parts = [self._cut(profile) for profile in given]
        if self.generated:
            parts = [transform.show_generated(profile) for profile in parts]
        result = parts[0] if len(parts) == 1 else transform.merge(parts)
        conditions = (self.threads, self.kinds, self.vm_states, self.states)
        if any(conditions) or self.include or self.exclude:
            threads = self.threads
            result = transform.filter_samples(
                result,
                threads=None if threads is None else lambda info: _names(threads, info),
                kinds=[FrameKind(kind) for kind in self.kinds] or None,
                vm_states={VmState(state) for state in self.vm_states} or None,
                states={ThreadState(state) for state in self.states} or None,
                include=self.include,
                exclude=self.exclude,
            )
        whole = sum(map(len, given))
        if len(result) < whole:
            result.meta.notes.append(f"{len(result)} of {whole} samples are shown.")
        if self.trim_root is not None:
            result = transform.trim_root(result, self.trim_root)
        if self.fold_recursion:
            result = transform.fold_recursion(result)
        if self.by is not None:
            result = transform.group(result, Grouping(self.by))
        return transform.invert(result) if self.invert else result

    def _cut(self, profile: Profile) -> Profile:
        if self.from_s is None and self.to_s is None:
            return profile
        start_ns = round((self.from_s or 0) * 1e9)
        end_ns = None if self.to_s is None else round(self.to_s * 1e9)
        return transform.cut(profile, start_ns, end_ns)


def _names(pattern: re.Pattern[str], info: ThreadInfo) -> bool:
    """Whether a pattern means a thread: it is found in its name, or is all of its tid or pid."""
    return (
        pattern.search(info.name) is not None
        or pattern.fullmatch(str(info.tid)) is not None
        or pattern.fullmatch(str(info.pid)) is not None
    )


def _pattern(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> re.Pattern[str] | None:
    del ctx, param
    if value is None:
        return None
    try:
        return re.compile(value)
    except re.error as err:
        raise click.BadParameter(f"'{value}' is no regular expression: {err}") from err


def reshape_options(function: _Function) -> _Function:
    """Add the options that make a `Reshaping`; they arrive as keywords of its fields' names."""
    seconds = click.FloatRange(min=0)
    for option in reversed(
        (
            click.option(
                "--from",
                "from_s",
                type=seconds,
                metavar="SECONDS",
                help="Leave out what was before.",
            ),
            click.option(
                "--to",
                "to_s",
                type=seconds,
                metavar="SECONDS",
                help="Leave out what came later. Both count from the start of each recording.",
            ),
            click.option(
                "--include",
                callback=_pattern,
                metavar="REGEXP",
                help="Only stacks in which this is found in a frame: in `name /path/file.js:line`.",
            ),
            click.option(
                "--exclude",
                callback=_pattern,
                metavar="REGEXP",
                help="Only stacks in which this is not found in any frame.",
            ),
            click.option(
                "--thread",
                "threads",
                callback=_pattern,
                metavar="REGEXP",
                help="Only threads whose name this is found in, or whose tid or pid it is.",
            ),
            click.option(
                "--kind",
                "kinds",
                type=click.Choice(_KINDS),
                multiple=True,
                metavar="KIND",
                help="Only stacks with a frame of this kind, which may be repeated: "
                f"{', '.join(_KINDS)}.",
            ),
            click.option(
                "--vm-state",
                "vm_states",
                type=click.Choice(_VM_STATES),
                multiple=True,
                metavar="STATE",
                help="Only samples in which V8 did this, which may be repeated: "
                f"{', '.join(_VM_STATES)}.",
            ),
            click.option(
                "--state",
                "states",
                type=click.Choice(_STATES),
                multiple=True,
                metavar="STATE",
                help="Only samples in which the thread ran, or waited, in this way, which may be "
                f"repeated: {', '.join(_STATES)}.",
            ),
            click.option(
                "--trim-root",
                callback=_pattern,
                metavar="REGEXP",
                help="Begin stacks at their outermost frame in which this is found.",
            ),
            click.option(
                "--fold-recursion", is_flag=True, help="One frame for a function that calls itself."
            ),
            click.option(
                "--by",
                type=click.Choice([by.value for by in Grouping]),
                help="What is one frame: a function, line, file or package.",
            ),
            click.option("--invert", is_flag=True, help="Callers above callees: leaves are roots."),
            click.option(
                "--generated",
                is_flag=True,
                help="Show what ran, and not what source maps say that it was compiled from.",
            ),
        )
    ):
        function = option(function)
    return function
