"""A file is written whole or not at all, and what cannot be written is found out before."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO, ClassVar

import pytest

from jsspy.errors import ExportError
from jsspy.exporters.file import FileExporter, StreamExporter, open_destination
from jsspy.model.profile import Profile


class Words:
    """A format that writes a few bytes."""

    name: ClassVar[str] = "words"
    suffix: ClassVar[str] = ".txt"
    description: ClassVar[str] = "for these tests"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        out.write(b"whole\n")
        assert isinstance(profile, Profile)


class Breaks(Words):
    """A format that fails half-way, as on a full disk."""

    def write(self, profile: Profile, out: BinaryIO) -> None:
        super().write(profile, out)
        raise OSError(28, "No space left on device")


class Crashes(Words):
    """A format with a bug."""

    def write(self, profile: Profile, out: BinaryIO) -> None:
        super().write(profile, out)
        raise KeyError("bug")


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    exporter = FileExporter(str(tmp_path / "a.txt"))
    exporter.check()
    assert names(tmp_path) == []
    exporter.export(Profile(), Words())
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"whole\n"


def test_new_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        FileExporter(str(tmp_path / "a.txt")).export(Profile(), Words())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_existing_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old and longer than the new one")
    path.chmod(0o604)
    FileExporter(str(path)).export(Profile(), Words())
    assert path.read_bytes() == b"whole\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "real" / "a.txt")
    FileExporter(str(link)).export(Profile(), Words())
    assert link.is_symlink()
    assert (tmp_path / "real" / "a.txt").read_bytes() == b"whole\n"


@pytest.mark.parametrize(("form", "error"), [(Breaks(), ExportError), (Crashes(), KeyError)])
def test_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, form: Words, error: type[Exception]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        FileExporter(str(path)).export(Profile(), form)
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="it is a directory"):
        FileExporter(str(tmp_path)).check()


def test_missing_directory_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        FileExporter(str(tmp_path / "no" / "a.txt")).check()
    assert caught.value.hint == f"mkdir -p {tmp_path / 'no'}"
    assert caught.value.exit_code == 9


def test_file_as_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="is not a directory"):
        FileExporter(str(tmp_path / "file" / "a.txt")).check()


def test_place_that_takes_no_files_is_found_out_before() -> None:
    with pytest.raises(ExportError, match=r"/sys/a\.txt"):
        FileExporter("/sys/a.txt").check()


def test_device_is_written_directly() -> None:
    exporter = FileExporter("/dev/null")
    exporter.check()
    exporter.export(Profile(), Words())
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_named_pipe_is_written_directly(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    exporter = FileExporter(str(path))
    exporter.check()
    writer = threading.Thread(target=exporter.export, args=(Profile(), Words()))
    writer.start()
    assert path.read_bytes() == b"whole\n"
    writer.join()
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("text", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_has_several_names(text: str) -> None:
    exporter = open_destination(text)
    assert isinstance(exporter, StreamExporter)
    assert exporter.descriptor == 1


def test_open_descriptor_is_continued_and_stays_open(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb", buffering=0) as file:
        file.write(b"before ")
        exporter = open_destination(f"/dev/fd/{file.fileno()}")
        exporter.check()
        exporter.export(Profile(), Words())
        file.write(b"after")
    assert (tmp_path / "a.txt").read_bytes() == b"before whole\nafter"


def test_closed_descriptor_is_found_out_before() -> None:
    with pytest.raises(ExportError, match="bad file descriptor"):
        open_destination("/dev/fd/999999").check()


def test_reader_that_left_is_an_export_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        with pytest.raises(ExportError, match="its reader has gone"):
            open_destination(f"/dev/fd/{write_end}").export(Profile(), Words())
    finally:
        os.close(write_end)
