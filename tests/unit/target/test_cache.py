"""The cache of derived facts: what it keeps, and what it does not believe."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from jsspy.target import cache


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "base"))
    return tmp_path / "base" / "jsspy"


def test_round_trip_and_permissions(directory: Path) -> None:
    assert cache.load("id", "kind-1") is None
    assert not directory.exists()
    cache.store("id", "kind-1", b"data")
    cache.store("id", "kind-2", b"")
    cache.store("id", "kind-1", b"newer")
    assert cache.load("id", "kind-1") == b"newer"
    assert cache.load("id", "kind-2") == b""
    assert cache.load("other", "kind-1") is None
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    files = sorted(directory.iterdir())
    assert [file.name for file in files] == ["id.kind-1", "id.kind-2"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_any_damaged_byte_is_noticed(directory: Path) -> None:
    cache.store("id", "kind", b"some data")
    path = directory / "id.kind"
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        assert cache.load("id", "kind") is None
        path.write_bytes(whole[:index])
        assert cache.load("id", "kind") is None
    path.write_bytes(whole + b"x")
    assert cache.load("id", "kind") is None
    path.write_bytes(whole)
    assert cache.load("id", "kind") == b"some data"


def test_files_and_directories_of_others_are_ignored(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store("id", "kind", b"data")
    euid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: euid + 1)
    assert cache.load("id", "kind") is None
    cache.store("id", "other", b"data")
    assert not (directory / "id.other").exists()


def test_directory_that_others_can_write_is_ignored(directory: Path) -> None:
    cache.store("id", "kind", b"data")
    directory.chmod(0o777)
    assert cache.load("id", "kind") is None


def test_links_are_not_followed(directory: Path, tmp_path: Path) -> None:
    cache.store("id", "kind", b"data")
    (directory / "id.link").symlink_to(directory / "id.kind")
    assert cache.load("id", "link") is None
    elsewhere = tmp_path / "elsewhere"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)
    assert cache.load("id", "kind") is None


def test_failure_to_write_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.store("id", "kind", b"data")
    assert cache.load("id", "kind") is None


def test_size_is_bounded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_ENTRY_SIZE", 1000)
    monkeypatch.setattr(cache, "MAX_TOTAL_SIZE", 3000)
    cache.store("id", "large", bytes(1001))
    assert cache.load("id", "large") is None
    for number in range(5):
        cache.store("id", f"kind-{number}", bytes(900))
        os.utime(directory / f"id.kind-{number}", ns=(number, number))
    assert sum(file.stat().st_size for file in directory.iterdir()) <= 3000
    assert cache.load("id", "kind-0") is None
    assert cache.load("id", "kind-4") == bytes(900)


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".x", "a\0", "x" * 200])
def test_keys_are_plain_names(key: str) -> None:
    with pytest.raises(ValueError, match="cache key"):
        cache.store(key, "kind", b"")
    cache.store("id", "kind", b"")
    with pytest.raises(ValueError, match="cache key"):
        cache.load("id", key)
