"""Mappings: the kernel's text, names chosen to confuse, look-ups."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from jsspy.model.units import Address
from jsspy.target.maps import AddressSpace, Mapping, decode_maps

MAPS = rb"""00400000-00fee000 r--p 00000000 fe:01 1234                               /usr/bin/node
00fee000-02000000 r-xp 00bee000 fe:01 1234                               /usr/bin/node
7f0000000000-7f0000001000 r-xp 00bee000 fe:01 1234                       /usr/bin/node (deleted)
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
7f0000004000-7f0000005000 rw-s 00000000 00:01 2048                       /dev/zero (deleted)
7f0000006000-7f0000007000 r--p 00000000 fe:01 77                         /tmp/a b\012c (deleted)x
7f0000008000-7f0000009000 r--p 00000000 fe:01 78                         /tmp/\320\264
7ffc51d43000-7ffc51d64000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_decode() -> None:
    mappings = decode_maps(MAPS)
    assert len(mappings) == 9
    assert mappings[1] == Mapping(
        Address(0xFEE000),
        Address(0x2000000),
        "r-xp",
        0xBEE000,
        1234,
        "/usr/bin/node",
        os.makedev(0xFE, 1),
        deleted=False,
    )
    assert mappings[1].is_executable
    assert not mappings[0].is_executable
    assert (mappings[2].path, mappings[2].deleted) == ("/usr/bin/node", True)
    assert (mappings[3].path, mappings[3].is_file) == ("", False)
    assert (mappings[4].path, mappings[4].deleted) == ("/dev/zero", True)
    assert mappings[5].path == "/tmp/a b\nc (deleted)x"
    assert mappings[6].path == r"/tmp/\320\264"
    assert [mapping.path for mapping in mappings[7:]] == ["[stack]", "[vsyscall]"]


def test_bytes_that_are_no_text_survive_in_paths() -> None:
    (mapping,) = decode_maps(b"1000-2000 r--p 0 fe:01 5 /tmp/\xff\n")
    assert os.fsencode(mapping.path) == b"/tmp/\xff"


def test_large_device_numbers() -> None:
    (mapping,) = decode_maps(b"1000-2000 r--p 00000000 103:12345 5 /x\n")
    assert mapping.device == os.makedev(0x103, 0x12345)


@given(st.binary(max_size=300) | st.text(alphabet="0123456789abcdef- rwxp:/\n").map(str.encode))
def test_any_bytes_give_mappings_that_are_not_empty(data: bytes) -> None:
    for mapping in decode_maps(data):
        assert mapping.start < mapping.end
        assert len(mapping.permissions) == 4


def test_find() -> None:
    space = AddressSpace(reversed(decode_maps(MAPS)))
    assert [mapping.start for mapping in space.mappings] == sorted(
        mapping.start for mapping in space.mappings
    )
    for mapping in space.mappings:
        assert space.find(mapping.start) is mapping
        assert space.find(mapping.end - 1) is mapping
    assert space.find(0) is None
    assert space.find(0x2000000) is None
    assert space.find(0x7F0000001000) is None
    assert space.find(1 << 64) is None
    assert AddressSpace([]).find(5) is None


def test_our_own_mappings() -> None:
    data = Path("/proc/self/maps").read_bytes()
    mappings = decode_maps(data)
    assert len(mappings) == len(data.splitlines())
    exe = str(Path("/proc/self/exe").readlink())
    ours = next(mapping for mapping in mappings if mapping.path == exe)
    assert ours.inode == Path(exe).stat().st_ino
