"""The recording: lossless, and safe to open."""

from __future__ import annotations

import io
import json
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import MalformedData
from jsspy.formats import native
from jsspy.formats.native import Native, NativeReader
from jsspy.model.profile import PauseStats, Profile
from jsspy.model.stack import Location
from profiles import deep, empty, hostile, small, written

GOLDEN = Path(__file__).parents[2] / "golden"


def read(data: bytes) -> Profile:
    return NativeReader().read(io.BytesIO(data))


def everything(profile: Profile) -> tuple[object, ...]:
    return (
        profile.meta,
        profile.stats,
        profile.frames,
        profile.stacks.parent,
        profile.stacks.frame,
        profile.threads,
        profile.stack,
        profile.thread,
        profile.time_ns,
        profile.weight,
        profile.state,
        profile.vm_state,
        profile.truncated,
        profile.sources,
    )


@pytest.mark.parametrize("make", [small, hostile, empty, deep])
def test_what_is_read_is_what_was_written(make: object) -> None:
    assert callable(make)
    profile = make()
    profile.stats.pauses = PauseStats(1, 2, 3, 4, 5)
    again = read(written(Native(), profile))
    assert everything(again) == everything(profile)
    assert written(Native(), again) == written(Native(), profile)


def test_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_BLOCK_SAMPLES", 4)
    data = written(Native(), small())
    assert data.count(b"SAMP") == 4
    assert everything(read(data)) == everything(small())


def test_recordings_of_version_1_stay_readable() -> None:
    assert everything(read((GOLDEN / "small.v1.jsspy").read_bytes())) == everything(small())


def sections(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return tag and decompressed data of each section."""
    result = []
    at = 10
    while at < len(data):
        tag, stored, _, _ = struct.unpack_from("<4sIII", data, at)
        result.append((tag, zlib.decompress(data[at + 16 : at + 16 + stored])))
        at += 16 + stored
    return result


def packed(parts: list[tuple[bytes, bytes]], version: int = 1) -> bytes:
    """Undo `sections`."""
    out = io.BytesIO()
    out.write(native.MAGIC + struct.pack("<H", version))
    for tag, data in parts:
        native._write_section(out, tag, data)
    return out.getvalue()


VALID = written(Native(), small())
PARTS = sections(VALID)


def test_unknown_sections_are_skipped() -> None:
    data = packed([(b"NEWS", b"?"), *PARTS])
    assert everything(read(data)) == everything(small())


def test_a_newer_version_is_refused_by_name() -> None:
    with pytest.raises(MalformedData, match="version 2 is newer"):
        read(packed(PARTS, version=2))


def test_any_cut_is_noticed() -> None:
    for size in range(len(VALID)):
        with pytest.raises(MalformedData):
            read(VALID[:size])


def test_any_flipped_byte_is_noticed_or_harmless() -> None:
    for at in range(len(VALID)):
        damaged = bytearray(VALID)
        damaged[at] ^= 0x40
        try:
            profile = read(bytes(damaged))
        except MalformedData:
            continue
        pytest.fail(f"byte {at} changed in silence: {len(profile)} samples")


@pytest.mark.parametrize("tag", [tag for tag, _ in PARTS])
@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\xff" * 64, b"\0" * 4096, b"{}", b"[" * 100_000, b"\x7f" * 51]
)
def test_nonsense_in_a_section(tag: bytes, content: bytes) -> None:
    parts = [(name, content if name == tag else data) for name, data in PARTS]
    with suppress(MalformedData):
        read(packed(parts)).check()


@pytest.mark.parametrize("missing", [tag for tag, _ in PARTS if tag != b"SAMP"])
def test_missing_sections(missing: bytes) -> None:
    with pytest.raises(MalformedData):
        read(packed([part for part in PARTS if part[0] != missing]))


@pytest.mark.parametrize("doubled", [tag for tag, _ in PARTS if tag not in {b"SAMP", b"DONE"}])
def test_doubled_sections(doubled: bytes) -> None:
    with pytest.raises(MalformedData):
        read(packed([part for part in PARTS for _ in range(1 + (part[0] == doubled))]))


def test_a_bomb_is_not_inflated() -> None:
    stored = zlib.compress(b"\0" * (1 << 26))
    for size in (0, 100, native.MAX_SECTION_BYTES, 0xFFFFFFFF):
        header = struct.pack("<4sII", b"STAK", len(stored), size)
        header += struct.pack("<I", zlib.crc32(stored, zlib.crc32(header)))
        with pytest.raises(MalformedData):
            read(VALID[:10] + header + stored)
    header = struct.pack("<4sIII", b"STAK", 0xFFFFFFF0, 1, 0)
    with pytest.raises(MalformedData, match="larger than"):
        read(VALID[:10] + header)


def test_sum_of_sections_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "MAX_TOTAL_BYTES", 1000)
    with pytest.raises(MalformedData, match="too large"):
        read(VALID)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("meta", "value_type"), "apples"),
        (("meta", "period_ns"), -1),
        (("meta", "period_ns"), 1e300),
        (("meta", "period_ns"), True),
        (("meta", "engine"), None),
        (("meta", "notes"), [1]),
        (("stats", "pauses"), [1, 2]),
        (("stats", "lost"), {"aliens": 1}),
        (("threads",), [[1, 1, "a", "b", 0], [1, 1, "a", "b", 0]]),
        (("threads",), [[1, 1]]),
        (("threads",), []),
        (("words", "kinds"), ["js"]),
        (("words", "kinds"), ["future"]),
        (("words",), {}),
    ],
)
def test_wrong_meta(path: tuple[str, ...], value: object) -> None:
    meta = json.loads(dict(PARTS)[b"META"])
    inner = meta
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    parts = [(tag, json.dumps(meta).encode() if tag == b"META" else data) for tag, data in PARTS]
    with pytest.raises(MalformedData):
        read(packed(parts))


@given(tag=st.sampled_from([tag for tag, _ in PARTS]), data=st.data())
def test_mutated_sections_end_well(tag: bytes, data: st.DataObject) -> None:
    content = bytearray(dict(PARTS)[tag])
    for _ in range(data.draw(st.integers(1, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    parts = [(name, bytes(content) if name == tag else part) for name, part in PARTS]
    with suppress(MalformedData):
        read(packed(parts)).check()


def test_mapped_definitions_are_kept() -> None:
    profile = small()
    place = Location("/src/written.ts", 7, 3)
    mapped = profile.frames[0]._replace(original=place, original_definition=place)
    profile.replace_frame(0, mapped)
    again = read(written(Native(), profile))
    assert again.frames == profile.frames
    assert again.frames[0].original_definition == place
    assert again.frames[1].original_definition is None
