"""Versions of packages, by what package.json says."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.formats.native import Native, NativeReader
from jsspy.linux.files import RootDirectory
from jsspy.model.names import package_of
from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.sample import Sample, ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Stack
from jsspy.model.transform import Grouping, group, merge, show_generated
from jsspy.model.units import Pid, Tid
from jsspy.symbolize import packages
from jsspy.symbolize.original import LiveMapper
from jsspy.symbolize.packages import PackageReader, name_packages, parse_package

US = os.getpid()


def install(root: Path, path: str, text: str | dict[str, object]) -> Frame:
    """Write a package, and return a frame of it."""
    directory = root / path
    directory.mkdir(parents=True, exist_ok=True)
    content = text if isinstance(text, str) else json.dumps(text)
    (directory / "package.json").write_text(content, encoding="utf-8")
    return frame_of(str(directory / "lib" / "index.js"))


def frame_of(url: str) -> Frame:
    return Frame("f", FrameKind.JS, location=Location(url, 2, 1), definition=Location(url, 1, 1))


def profile_of(*frames: Frame) -> Profile:
    profile = Profile()
    thread = profile.intern_thread(ThreadInfo(Pid(US), Tid(US), "main", "node"))
    stack = Stack(frames)
    state = ThreadState.RUNNING, VmState.JS
    profile.add(Sample(Pid(US), Tid(US), 1, 1, *state, stack), thread)
    return profile


def named(profile: Profile) -> list[str]:
    """Return the packages of a profile's frames, from the root on, once it was recorded."""
    root = RootDirectory(US)
    name_packages(profile, {US: root})
    root.close()
    return [package_of(frame) for frame in profile.frames]


def test_every_directory_has_its_own_version(tmp_path: Path) -> None:
    profile = profile_of(
        frame_of(str(tmp_path / "server.js")),
        install(tmp_path, "node_modules/ms", {"name": "ms", "version": "2.1.3"}),
        install(tmp_path, "node_modules/debug/node_modules/ms", {"name": "ms", "version": "2.0.0"}),
        install(tmp_path, "node_modules/@scope/x", {"name": "@scope/x", "version": "1.0.0-rc.1"}),
        install(tmp_path, "node_modules/alias", {"name": "real", "version": "3.0.0"}),
        install(tmp_path, "packages/own", {"name": "own", "version": "1.0.0"}),
        frame_of("node:fs"),
        frame_of("webpack:///node_modules/ms/index.js"),
    )
    names = "(app)", "ms@2.1.3", "ms@2.0.0", "@scope/x@1.0.0-rc.1", "real@3.0.0", "(app)", "node:"
    assert named(profile) == [*names, "ms"]
    # In what is made of the profile, too.
    out = io.BytesIO()
    Native().write(profile, out)
    again = NativeReader().read(io.BytesIO(out.getvalue()))
    assert again.frames == profile.frames
    assert {frame.name for frame in group(again, Grouping.PACKAGE).frames} == {*names, "ms"}
    assert package_of(merge([again, profile]).frames[1]) == "ms@2.1.3"


def test_what_a_file_says_counts_more_than_a_path(tmp_path: Path) -> None:
    path = "node_modules/.pnpm/foo@1.0.0/node_modules/foo"
    frame = install(tmp_path, path, {"name": "foo", "version": "1.0.1"})
    assert package_of(frame) == "foo@1.0.0"
    assert named(profile_of(frame)) == ["foo@1.0.1"]


def test_of_a_bundle_the_original_place_counts(tmp_path: Path) -> None:
    original = install(tmp_path, "node_modules/ms", {"name": "ms", "version": "2.1.3"})
    place = original.location
    bundled = frame_of(str(tmp_path / "dist.js"))._replace(
        original=place, original_definition=place
    )
    profile = profile_of(bundled)
    assert named(profile) == ["ms@2.1.3"]
    assert package_of(show_generated(profile).frames[0]) == "(app)"
    unmapped = profile_of(original)
    named(unmapped)
    assert package_of(show_generated(unmapped).frames[0]) == "ms@2.1.3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"1.0.0"',
        "[" * 200_000,
        '{"version": 1}',
        '{"version": ""}',
        '{"version": "latest"}',
        '{"version": "1.0.0\\nroot:x:0"}',
        '{"version": "1' + "0" * 200 + '"}',
        '{"version": "1.0.0"}' + " " * packages.MAX_FILE_BYTES,
    ],
)
def test_broken_files_leave_the_name_alone(tmp_path: Path, text: str) -> None:
    assert named(profile_of(install(tmp_path, "node_modules/ms", text))) == ["ms"]


@pytest.mark.parametrize("name", [1, "", "a b", "../x", "a/b/c", "\u202e", ".hidden", "x" * 300])
def test_names_that_are_none_are_those_of_directories(name: object) -> None:
    data = json.dumps({"name": name, "version": "1.0.0"}).encode()
    assert parse_package(data, "@a/b") == "@a/b@1.0.0"


@given(st.binary())
def test_hostile_files_end_well(data: bytes) -> None:
    assert parse_package(data, "x") == ""


def test_missing_and_special_files(tmp_path: Path) -> None:
    fifo = tmp_path / "node_modules" / "fifo"
    fifo.mkdir(parents=True)
    os.mkfifo(fifo / "package.json")
    frames = [frame_of(str(fifo / "x.js")), frame_of(str(tmp_path / "node_modules/none/x.js"))]
    frames.append(frame_of("/a\0b/node_modules/nul/x.js"))
    assert named(profile_of(*frames)) == ["fifo", "none", "nul"]


def test_links_and_dots_stay_in_the_target_s_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root directory that is not ours: nothing outside of it is read."""
    install(tmp_path, "outside", {"name": "out", "version": "6.6.6"})
    inside = tmp_path / "root"
    install(inside, "etc", {"name": "in", "version": "1.0.0"})
    (inside / "node_modules").mkdir()
    (inside / "node_modules" / "abs").symlink_to("/etc")
    (inside / "node_modules" / "up").symlink_to("../../outside")
    (inside / "node_modules" / "there").symlink_to(tmp_path / "outside")
    root = RootDirectory(US)
    monkeypatch.setattr(root, "_fd", os.open(inside, os.O_PATH))
    reader = PackageReader()

    def name(url: str) -> str:
        return package_of(reader.name_frame(frame_of(url), [US], {US: root}))

    assert name("/node_modules/abs/x.js") == "in@1.0.0"
    assert name("/node_modules/up/x.js") == "up"
    assert name("/node_modules/there/x.js") == "there"
    assert name("/../../node_modules/abs/x.js") == "in@1.0.0"
    assert name("/../outside/node_modules/abs/x.js") == "abs"


def test_processes_that_differ_are_not_mixed_up(tmp_path: Path) -> None:
    frame = install(tmp_path / "a", "node_modules/ms", {"name": "ms", "version": "1.0.0"})
    install(tmp_path / "b", str(tmp_path / "a/node_modules/ms")[1:], {"version": "2.0.0"})
    roots = {1: RootDirectory(US), 2: RootDirectory(US), 3: RootDirectory(US)}
    other, empty = (os.open(tmp_path / name, os.O_PATH) for name in ("b", "a"))
    os.dup2(other, roots[2]._fd)
    os.dup2(empty, roots[3]._fd)
    reader = PackageReader()
    assert reader.name_frame(frame, [1, 2], roots).package == ""
    assert reader.name_frame(frame, [1, 3], roots).package == "ms@1.0.0"
    assert reader.name_frame(frame, [2, 4], roots).package == "ms@2.0.0"


def test_what_is_read_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_DIRECTORIES", 1)
    frames = [
        install(tmp_path, f"node_modules/{name}", {"name": name, "version": "1.0.0"})
        for name in ("a", "b")
    ]
    assert named(profile_of(*frames)) == ["a", "b@1.0.0"]


def test_live_without_source_maps(tmp_path: Path) -> None:
    frame = install(tmp_path, "node_modules/ms", {"name": "ms", "version": "2.1.3"})
    mapper = LiveMapper(maps=False)
    profile = profile_of(frame)
    assert not mapper.map_profile(profile)
    mapper.follow({US: "10.24.1"})
    assert mapper.map_profile(profile)
    assert package_of(profile.frames[0]) == "ms@2.1.3"
    install(tmp_path, "node_modules/ms", {"name": "ms", "version": "3.0.0"})
    assert mapper.map_frame(frame, [US]).package == "ms@2.1.3"
    mapper.follow({US: "22.1.0"})
    assert mapper.map_frame(frame, [US]).package == "ms@3.0.0"


def test_old_readers_skip_and_old_files_lack_packages(tmp_path: Path) -> None:
    profile = profile_of(frame_of(str(tmp_path / "node_modules/ms/x.js")))
    out = io.BytesIO()
    Native().write(profile, out)
    assert b"PKGS" not in out.getvalue()
    assert NativeReader().read(io.BytesIO(out.getvalue())).frames == profile.frames
