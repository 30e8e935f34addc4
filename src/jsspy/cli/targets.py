"""Which processes are meant: `--pid`, `--name`, or the only one there is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from jsspy.cli.started import StartedCommand, describe_exit
from jsspy.errors import (
    NotNode,
    PermissionDenied,
    ProcessExited,
    ProcessNotFound,
    TargetError,
)
from jsspy.recorder import Recorder
from jsspy.target.process import Target
from jsspy.target.search import NodeProcess, iter_node_processes

_Function = TypeVar("_Function", bound=Callable[..., Any])

_SHOWN_CANDIDATES = 10
_SHOWN_COMMAND = 60


def pattern(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> re.Pattern[str] | None:
    """Compile a regular expression of the command line."""
    del ctx, param
    if value is None:
        return None
    try:
        return re.compile(value)
    except re.error as err:
        raise click.BadParameter(f"'{value}' is no regular expression: {err}") from err


def _complete_pid(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the node processes, each with its command line."""
    del ctx, param
    return [
        CompletionItem(str(process.pid), help=shorten(process.command))
        for process in iter_node_processes()
        if str(process.pid).startswith(incomplete)
    ]


def targeting_options(function: _Function) -> _Function:
    """Add --pid and --name."""
    by_pid = click.option(
        "-p",
        "--pid",
        "pids",
        type=click.IntRange(min=1),
        multiple=True,
        metavar="PID",
        shell_complete=_complete_pid,
        help="Process to look at. May be repeated.",
    )
    by_name = click.option(
        "--name",
        callback=pattern,
        metavar="PATTERN",
        help="Every node process whose command line this regular expression is found in.",
    )
    return by_pid(by_name(function))


all_option = click.option(
    "--all", "everyone", is_flag=True, help="Every node process, new ones too."
)


def check_command(
    command: tuple[str, ...], pids: tuple[int, ...], name: re.Pattern[str] | None
) -> None:
    """Check that COMMAND starts something, and nothing that runs is asked for beside it."""
    if command and (pids or name is not None):
        raise click.UsageError("--pid and --name look at what runs; COMMAND starts something new")
    if len(command) == 1 and command[0].isdecimal():
        raise click.UsageError(f"a process is named with --pid {command[0]}")


def choose_pids(pids: tuple[int, ...], name: re.Pattern[str] | None, verb: str) -> list[int]:
    """Return the processes that the options ask for; with no option, this user's only node process.

    Args:
        pids: From --pid.
        name: From --name.
        verb: For the commands that errors propose.

    Raises:
        ProcessNotFound: There is nothing that matches.
        TargetError: There is more than one candidate, and no option says which.
    """
    chosen = list(dict.fromkeys(pids))
    if name is not None:
        matches = [process for process in iter_node_processes() if name.search(process.command)]
        if not matches and not chosen:
            raise ProcessNotFound(
                f"no node process has a command line that matches '{name.pattern}'",
                hint="jsspy list    shows the node processes of this machine",
            )
        chosen += [process.pid for process in matches if process.pid not in chosen]
    return chosen or [choose_only_one(list(iter_node_processes()), os.geteuid(), verb).pid]


def add_targets(
    recorder: Recorder, pids: list[int], verb: str, *, by_name: bool = False
) -> list[Target]:
    """Add processes to a recorder; see `Recorder.add`. Hints name the verb that was typed.

    Args:
        recorder: To this one.
        pids: All of them; of several that a pattern named those that are not gone.
        verb: What was typed.
        by_name: A pattern named them.
    """
    added = []
    for pid in pids:
        try:
            added.append(recorder.add(pid))
        except PermissionDenied as err:
            if err.hint is not None:
                err.hint = err.hint.replace("sudo jsspy record ", f"sudo jsspy {verb} ")
            raise
        except (ProcessExited, ProcessNotFound):
            if not by_name or (pid == pids[-1] and not added):
                raise
    return added


def add_started(recorder: Recorder, started: StartedCommand, verb: str) -> Target:
    """Add a command that was started just now.

    Raises:
        NotNode: It is over already, and no V8 was seen in it.
    """
    try:
        return recorder.add(started.pid, starting=True)
    except (ProcessExited, ProcessNotFound) as err:
        raise never_node(started, verb) from err


def never_node(started: StartedCommand, verb: str) -> NotNode:
    """Return what there is to say of a command that had no V8 in it while it ran."""
    command = " ".join(started.command)
    return NotNode(
        f"no V8 was seen in '{shorten(command)}' while it ran\n"
        f"  it {describe_exit(started.poll())}",
        hint=f"jsspy {verb} --subprocesses -- {command}    if node is a child of it",
    )


def choose_only_one(everyone: list[NodeProcess], uid: int, verb: str) -> NodeProcess:
    """Return the only process of user `uid`; where it is not the only one, nothing is guessed.

    Raises:
        ProcessNotFound: There is none.
        TargetError: There are several, or the only ones are somebody else's.
    """
    mine = [process for process in everyone if process.uid == uid]
    if len(mine) == 1:
        return mine[0]
    if not everyone:
        raise ProcessNotFound(
            "no node process is running",
            hint="jsspy record -- node server.js    starts one" if verb == "record" else None,
        )
    shown = mine or everyone
    whose = "are yours" if mine else "run, none of them is yours"
    lines = [f"{len(shown)} node processes {whose}; say which one:"]
    if len(shown) == 1:
        lines = ["the only node process is not yours; name it if you mean it:"]
    lines += [
        f"  {process.pid:>7}  {shorten(process.command)}" for process in shown[:_SHOWN_CANDIDATES]
    ]
    if len(shown) > _SHOWN_CANDIDATES:
        lines.append(f"  and {len(shown) - _SHOWN_CANDIDATES} more (jsspy list)")
    raise TargetError("\n".join(lines), hint=f"jsspy {verb} --pid {shown[0].pid}")


def shorten(command: str) -> str:
    """Cut a command line to what fits beside other things."""
    if len(command) <= _SHOWN_COMMAND:
        return command
    return command[: _SHOWN_COMMAND - 1] + "\N{HORIZONTAL ELLIPSIS}"
