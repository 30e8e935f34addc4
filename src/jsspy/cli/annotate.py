"""`jsspy annotate`: what perf recorded, with the names that perf did not have."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import click

from jsspy.cli import output
from jsspy.cli.outputs import FILE, choose_format, output_options
from jsspy.cli.stack_dumps import Unwound, replace_stacks, unwind_dumps
from jsspy.errors import JsspyError, MalformedData, NotNode, TargetError
from jsspy.exporters.file import FileExporter, open_destination
from jsspy.formats.input import Source
from jsspy.formats.perf_data import MAGIC
from jsspy.formats.perf_script import PerfScriptReader, name_frames
from jsspy.linux.procfs import read_stat
from jsspy.model.profile import Profile
from jsspy.session import Session, open_tested
from jsspy.symbolize.perf_map import CodeLister, EntryTable, decode_map

_HEADER_FIELDS = "comm,pid,tid,time,period,event"
"""Without stacks: to unwind by DWARF takes perf seconds, and nobody needs what comes of it."""
_FIELDS = f"{_HEADER_FIELDS},ip,sym,symoff,dso"
_TRAMPOLINE = "InterpreterEntryTrampoline"
_MAX_MAP_BYTES = 1 << 30
_TICKS_PER_S = 100
"""USER_HZ, in which /proc/PID/stat counts. Source: include/asm-generic/param.h, at v6.12."""


@click.command("annotate", short_help="Name the JIT frames in what perf recorded.")
@click.argument("recording", type=FILE, metavar="PERF.DATA")
@click.option(
    "--map",
    "map_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A perf map to take names from, instead of the processes themselves.",
)
@output_options
@output.color_option
def annotate_command(
    recording: str, map_path: Path | None, destination: str | None, form: str | None
) -> int:
    r"""Name the JIT frames in what perf recorded, and write it as any format.

    PERF.DATA is a perf.data, which `perf script` then reads, or what `perf script` printed; - is
    standard input. Names come from the processes if they still run, or from --map: a file that
    `jsspy perf-map` wrote in time, or node with --perf-basic-prof.

    Interpreted functions are named where perf dumped the stack of a process that still runs:

    \b
        perf record -F 99 --call-graph dwarf,65528 -p 4121 -- sleep 10
        jsspy annotate perf.data -o out.html

    Else they stay Builtins_InterpreterEntryTrampoline: with addresses of code only, nobody can tell
    which function an interpreter runs. `jsspy record` names them.
    """
    chosen = choose_format(form, destination)
    if destination is None:
        destination = f"perf{chosen.suffix}"
    exporter = open_destination(destination)
    exporter.check()
    profile, notes = annotate(recording, map_path)
    exporter.export(profile, chosen)
    for sentence in notes:
        output.note(sentence)
    if isinstance(exporter, FileExporter):
        output.note(f"Wrote {destination} ({chosen.name}): {len(profile)} samples")
    return 0


def is_perf_data(recording: str) -> bool:
    """Whether a file is a perf.data; False if it cannot be read."""
    try:
        with Path(recording).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def annotate(recording: str, map_path: Path | None = None) -> tuple[Profile, list[str]]:
    """Read what perf recorded, with names; return it, and sentences that say what has one.

    Raises:
        JsspyError: It cannot be read, or there is no perf to read it.
        MalformedData: It is damaged.
    """
    names = _Names(map_path)
    # First of all: the longer the process runs on, the less of its code is where it was.
    unwound = _unwind(recording, names) if map_path is None else Unwound({}, is_all=False)
    with tempfile.TemporaryFile() as named:
        _copy(recording, named, names, _HEADER_FIELDS if unwound.is_all else _FIELDS)
        named.seek(0)
        profile = PerfScriptReader().read(named)
    profile, whole = replace_stacks(profile, unwound.stacks)
    notes = [f"note: {sentence}" for sentence in names.notes]
    notes.append(f"{names.named} of {names.asked} nameless JIT frames have a name now")
    if whole:
        notes.append(f"{whole} of {len(profile)} stacks were unwound from what perf dumped of them")
    if any(_TRAMPOLINE in frame.name for frame in profile.frames):
        notes.append("Functions that were interpreted have none: jsspy record names them")
    return profile, notes


class _Names:
    """Names of code by process: from one map, or from the processes that still run."""

    def __init__(self, map_path: Path | None) -> None:
        self.asked = 0
        self.named = 0
        self.notes: list[str] = []
        self._given: EntryTable | None = None
        if map_path is not None:
            try:
                with map_path.open("rb") as file:
                    self._given = decode_map(file.read(_MAX_MAP_BYTES))
            except OSError as err:
                raise JsspyError(f"cannot read {map_path}: {(err.strerror or '').lower()}") from err
        self._tables: dict[int, EntryTable | None] = {}

    def find(self, pid: int, address: int, time_ns: int) -> str | None:
        """Return what code was at an address; see `name_frames`."""
        self.asked += 1
        if pid not in self._tables:
            self._tables[pid] = self._given or self._read(pid, time_ns)
        table = self._tables[pid]
        entry = table.find(address) if table is not None else None
        if entry is None:
            return None
        self.named += 1
        return f"{entry.name}+{address - entry.start:#x}"

    def open_session(self, pid: int, time_ns: int) -> Session | None:
        """Open a process, unless it is gone, or began after the sample was taken."""
        stat = read_stat(pid)
        if stat is None:
            self._note(f"process {pid} is gone: its JIT frames have no names")
            return None
        if stat.start_ticks * (10**9 // _TICKS_PER_S) > time_ns + 10**9:
            self._note(f"process {pid} is not the one that was recorded")
            return None
        try:
            session = open_tested(pid)
        except NotNode:
            return None
        except JsspyError as err:
            self._note(err.message)
            return None
        if session.note is not None:
            self._note(f"process {pid}: {session.note}")
        return session

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _read(self, pid: int, time_ns: int) -> EntryTable | None:
        """List the code of a process, unless it began after the sample was taken."""
        session = self.open_session(pid, time_ns)
        if session is None:
            return None
        try:
            lister = CodeLister(session.target, *session.wait_until_tested())
            return EntryTable(lister.entries())
        except (TargetError, MalformedData) as err:
            self._note(err.message)
            return None
        finally:
            session.close()


def _open(recording: str) -> BinaryIO:
    try:
        return Path(recording).open("rb")
    except OSError as err:
        raise JsspyError(f"cannot read {recording}: {(err.strerror or str(err)).lower()}") from err


def _unwind(recording: str, names: _Names) -> Unwound:
    """Return the stacks that perf dumped, of processes that still run."""
    if recording == "-":
        return Unwound({}, is_all=False)
    with _open(recording) as file:
        return unwind_dumps(file, names.open_session)


def _copy(recording: str, out: BinaryIO, names: _Names, fields: str) -> None:
    """Write the text of a recording with names."""
    if recording == "-":
        _annotate(sys.stdin.buffer, out, names)
        return
    with _open(recording) as file:
        is_data = file.read(len(MAGIC)) == MAGIC
        file.seek(0)
        if not is_data:
            _annotate(file, out, names)
            return
    tool = shutil.which("perf")
    if tool is None:
        raise JsspyError(
            "perf is not installed, and only perf reads a perf.data",
            hint="perf script > perf.txt    where it was recorded, then jsspy annotate perf.txt",
        )
    command = [tool, "script", "--ns", "--no-inline", "-i", recording, "-F", fields]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            _annotate(cast("BinaryIO", process.stdout), out, names)
        if process.returncode:
            errors.seek(0)
            raise JsspyError(
                f"perf script failed: {errors.read(4096).decode('utf-8', 'replace').strip()}"
            )


def _annotate(source: BinaryIO, out: BinaryIO, names: _Names) -> None:
    lines = (line for _, line in Source(PerfScriptReader.name).iter_lines(source))
    out.writelines(line.encode() for line in name_frames(lines, names.find))
