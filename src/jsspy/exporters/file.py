"""Profiles into files and streams.

A regular file is written whole or not at all: a temporary file beside it, renamed at the end.
Devices and pipes cannot be renamed onto, so they are written directly. What a shell passed to us
already open (`-`, `/dev/stdout`, `/dev/fd/N`) is written through that descriptor: opening its
path again would start at offset 0 of the file behind it.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from jsspy.errors import ExportError
from jsspy.exporters.base import Exporter
from jsspy.formats.base import Format
from jsspy.model.profile import Profile

_STANDARD_STREAMS = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,6})")
_BUFFER_BYTES = 1 << 18


def open_destination(text: str) -> Exporter:
    """Return the exporter that `--output TEXT` means; `-` is standard output."""
    descriptor = _STANDARD_STREAMS.get(text)
    if descriptor is None and (match := _DESCRIPTOR.fullmatch(text)):
        descriptor = int(match[1])
    if descriptor is not None:
        return StreamExporter(descriptor, "standard output" if descriptor == 1 else text)
    return FileExporter(text)


class StreamExporter:
    """Writes to a descriptor that is open already."""

    def __init__(self, descriptor: int, destination: str) -> None:
        self.descriptor = descriptor
        self.destination = destination

    def check(self) -> None:
        """See `Exporter.check`."""
        try:
            os.fstat(self.descriptor)
        except OSError as err:
            raise ExportError(self.destination, _reason(err)) from err

    def export(self, profile: Profile, form: Format) -> None:
        """See `Exporter.export`."""
        try:
            with os.fdopen(os.dup(self.descriptor), "wb", _BUFFER_BYTES) as out:
                form.write(profile, out)
        except OSError as err:
            raise ExportError(self.destination, _reason(err)) from err


class FileExporter:
    """Writes a file that is whole or not there."""

    def __init__(self, path: str) -> None:
        self.destination = path
        # A link stays a link: what is replaced is the file that it leads to.
        self._path = Path(os.path.realpath(path))

    def check(self) -> None:
        """See `Exporter.check`."""
        if self._is_special():
            return
        try:
            descriptor, temporary = self._create_temporary()
        except OSError as err:
            raise self._explain(err) from err
        os.close(descriptor)
        temporary.unlink()

    def export(self, profile: Profile, form: Format) -> None:
        """See `Exporter.export`."""
        special = self._is_special()
        temporary = None
        try:
            if special:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            else:
                descriptor, temporary = self._create_temporary()
            with os.fdopen(descriptor, "wb", _BUFFER_BYTES) as out:
                form.write(profile, out)
            if temporary is not None:
                temporary.rename(self._path)
                temporary = None
        except OSError as err:
            raise self._explain(err) from err
        finally:
            if temporary is not None:
                temporary.unlink()

    def size(self) -> int | None:
        """Return the size of the file in bytes; None where there is no regular file."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def _is_special(self) -> bool:
        """Say whether the path is a device or a pipe; refuse what is neither that nor a file."""
        try:
            mode = self._path.stat().st_mode
        except FileNotFoundError:
            return False
        except OSError as err:
            raise self._explain(err) from err
        if stat.S_ISDIR(mode):
            raise ExportError(
                self.destination, "it is a directory", hint="name a file in it, or leave out -o"
            )
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
            raise ExportError(self.destination, "it is neither a file, a pipe nor a terminal")
        # The rename would replace a file that is write-protected without asking.
        if not os.access(self._path, os.W_OK):
            raise ExportError(
                self.destination, "permission denied", hint=f"chmod u+w {self.destination}"
            )
        return not stat.S_ISREG(mode)

    def _create_temporary(self) -> tuple[int, Path]:
        """Create an empty file beside the destination, with the owner and mode it is to have."""
        temporary = self._path.parent / f".jsspy-{os.getpid()}-{os.urandom(4).hex()}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            before = self._path.stat()
        except FileNotFoundError:
            return descriptor, temporary  # a new file: the umask decides
        # Best effort: who may not give files away still gets the contents written.
        with suppress(PermissionError):
            os.fchown(descriptor, before.st_uid, before.st_gid)
        with suppress(PermissionError):
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
        return descriptor, temporary

    def _explain(self, err: OSError) -> ExportError:
        folder = self._path.parent
        if isinstance(err, FileNotFoundError) and not folder.is_dir():
            return ExportError(
                self.destination, f"there is no directory {folder}", hint=f"mkdir -p {folder}"
            )
        if isinstance(err, NotADirectoryError):
            return ExportError(self.destination, f"{folder} is not a directory")
        return ExportError(self.destination, _reason(err))


def _reason(err: OSError) -> str:
    if isinstance(err, BrokenPipeError):
        return "its reader has gone"
    return (err.strerror or str(err)).lower()
