"""`jsspy list`: the node processes of this machine."""

from __future__ import annotations

import pwd
from typing import Any, NamedTuple

import click

from jsspy.cli import output
from jsspy.cli.targets import shorten
from jsspy.errors import JsspyError, MalformedData, UnknownV8, UnsupportedTarget
from jsspy.target.elf import ElfFile
from jsspy.target.node import find_node_version
from jsspy.target.process import Target
from jsspy.target.search import NodeProcess, iter_node_processes
from jsspy.v8.isolates import find_threads
from jsspy.v8.metadata import load_layout


class _Row(NamedTuple):
    pid: int
    uid: int
    command: str
    node_version: str | None
    v8_version: str | None
    workers: int | None
    """Threads with an isolate besides the main one; None if that cannot be seen."""
    attachable: bool
    reason: str | None
    """Why it is not attachable, or what will be missing."""
    hint: str | None


@click.command("list", short_help="List the node processes of this machine.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@output.color_option
def list_command(as_json: bool) -> int:
    """List every node process of this machine: version, workers, attachable or why not."""
    rows = [_describe(process) for process in iter_node_processes()]
    if as_json:
        output.echo_json([_value(row) for row in rows])
        return 0
    if not rows:
        output.note("no node process is running")
        return 0
    table = [("PID", "USER", "NODE", "WORKERS", "ATTACH", "COMMAND")]
    table += [
        (
            str(row.pid),
            _user(row.uid),
            row.node_version or "?",
            "?" if row.workers is None else str(row.workers),
            "yes" if row.attachable else "no",
            output.printable(shorten(row.command)),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    for line, row in zip(table, [None, *rows], strict=True):
        cells = [f"{text:<{width}}" for text, width in zip(line, widths, strict=False)]
        if row is None:
            cells = [click.style(cell, bold=True) for cell in cells]
        else:
            cells[4] = click.style(cells[4], fg="green" if row.attachable else "red")
        click.echo("  ".join([*cells, line[5]]))
        if row is not None and row.reason is not None:
            first = output.printable(row.reason).replace("\n", "; ")
            click.echo(f"    {first}" + (f"\n    Try: {row.hint}" if row.hint else ""))
    return 0


def _describe(process: NodeProcess) -> _Row:
    node_version = v8_version = reason = hint = None
    workers = None
    if process.denied is not None:
        reason, hint = process.denied.message, process.denied.hint
        node_version = _version_of_file(process.exe)
    else:
        try:
            target = Target.open(process.pid)
        except JsspyError as err:  # it ended, or changed its user, since it was found
            reason, hint = err.message, err.hint
        else:
            try:
                v8 = target.find_v8()
                if v8 is not None:
                    node_version = find_node_version(v8.elf)
                    layout = load_layout(v8.elf)
                    v8_version = layout.version_text()
                    workers = max(0, len(find_threads(target, v8, layout)) - 1)
            except UnknownV8 as err:
                v8_version, reason = err.version, f"{err.message}: native frames only"
            except JsspyError as err:
                reason, hint = err.message, err.hint
            finally:
                target.close()
    return _Row(
        process.pid,
        process.uid,
        process.command,
        node_version,
        v8_version,
        workers,
        process.denied is None,
        reason,
        hint,
    )


def _version_of_file(path: str) -> str | None:
    if not path:
        return None
    try:
        elf = ElfFile.load(path)
    except (OSError, MalformedData, UnsupportedTarget):
        return None
    try:
        return find_node_version(elf)
    finally:
        elf.close()


def _value(row: _Row) -> dict[str, Any]:
    return row._asdict() | {"user": _user(row.uid)}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
