"""Object files of programs for the kernel, made by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsspy.errors import MalformedData
from jsspy.linux import bpf

LOAD_MAP = struct.pack("<BBhiBBhi", 0x18, 0x01, 0, 0, 0, 0, 0, 0)
RETURN = struct.pack("<BBhi", 0x95, 0, 0, 0)
CODE = RETURN + LOAD_MAP + RETURN


def make_object(*, relocation: int = 1, place: int = 8, machine: int = 247) -> bytes:
    """Return an object with one program, `perf_event/x`, that loads the map `ring` at 8."""
    names = b"\0perf_event/x\0.symtab\0.strtab\0.rel\0ring\0"

    def name(text: str) -> int:
        return names.index(text.encode())

    symbols = bytes(24) + struct.pack("<IBBHQQ", name("ring"), 0x10, 0, 0, 0, 0)
    relocations = struct.pack("<QQ", place, 1 << 32 | relocation)
    bodies = [b"", CODE, symbols, names, relocations]
    offsets, at = [], 64
    for body in bodies:
        offsets.append(at)
        at += len(body) + -len(body) % 8
    rows = [
        struct.pack("<IIQQQQIIQQ", *row)
        for row in (
            (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
            (name("perf_event/x"), 1, 4, 0, offsets[1], len(CODE), 0, 0, 8, 0),
            (name(".symtab"), 2, 0, 0, offsets[2], len(symbols), 3, 1, 8, 24),
            (name(".strtab"), 3, 0, 0, offsets[3], len(names), 0, 0, 1, 0),
            (name(".rel"), 9, 0, 0, offsets[4], len(relocations), 2, 1, 8, 16),
        )
    ]
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, machine, 1, 0, 0, at, 0, 64, 0, 0, 64, 5, 3)
    data = header
    for offset, body in zip(offsets, bodies, strict=True):
        data = data.ljust(offset, b"\0") + body
    return data.ljust(at, b"\0") + b"".join(rows)


def load(data: bytes, directory: Path) -> bpf.Object:
    path = directory / "x.o"
    path.write_bytes(data)
    return bpf.Object(path)


def test_descriptors_of_maps_are_put_into_the_code(tmp_path: Path) -> None:
    it = load(make_object(), tmp_path)
    assert list(it.programs) == ["perf_event/x"]
    code, functions = it.code("perf_event/x", {"ring": 77})
    assert functions == (0,)
    assert code[:8] == RETURN
    assert code[24:] == RETURN
    # BPF_PSEUDO_MAP_FD in the source register, the descriptor in the first immediate.
    assert struct.unpack("<BBhiBBhi", code[8:24]) == (0x18, 0x11, 0, 77, 0, 0, 0, 0)


def test_what_the_loader_does_not_do_is_refused(tmp_path: Path) -> None:
    it = load(make_object(), tmp_path)
    with pytest.raises(MalformedData, match="no map ring"):
        it.code("perf_event/x", {})
    with pytest.raises(MalformedData, match="no program y"):
        it.code("y", {"ring": 1})
    with pytest.raises(MalformedData, match="not of a map"):
        load(make_object(relocation=10), tmp_path)
    with pytest.raises(MalformedData, match="not of a map"):
        load(make_object(place=0), tmp_path)
    with pytest.raises(MalformedData, match="not of a map"):
        load(make_object(place=1 << 40), tmp_path)
    with pytest.raises(MalformedData, match="BPF object"):
        load(make_object(machine=62), tmp_path)


@settings(max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    size=st.integers(0, 2000),
)
def test_any_bytes_are_an_object_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], size: int
) -> None:
    data = bytearray(make_object())
    for at, value in changes:
        data[at % len(data)] = value
    for bytes_ in (bytes(data), bytes(data[:size])):
        try:
            it = load(bytes_, tmp_path_factory.getbasetemp())
            for name in it.programs:
                it.code(name, {"ring": 3})
        except MalformedData:
            pass


def test_the_programs_of_the_package() -> None:
    from jsspy.engines.ebpf_kernel import _ABI, OBJECT

    if not OBJECT.exists():
        pytest.skip("not built: make bpf")
    it = bpf.Object(OBJECT)
    programs = {"perf_event/sample", "perf_event/send", "raw_tp/switched"}
    loops = {"loops/sample", "loops/send"}
    assert set(it.programs) == programs | loops
    maps = {name for _, loads in it.programs.values() for _, name in loads}
    assert maps - loops == {
        *("plans", "threads", "scratch", "steps", "ring", "stats", "naps", "tasks", "counts"),
    }
    assert it.data["abi"] == _ABI


def test_loops_are_put_behind_their_program() -> None:
    from jsspy.engines.ebpf_kernel import OBJECT

    if not OBJECT.exists():
        pytest.skip("not built: make bpf")
    it = bpf.Object(OBJECT)
    maps = dict.fromkeys(("plans", "threads", "scratch", "steps", "ring", "stats", "counts"), 3)
    maps |= {"naps": 3, "tasks": 3}
    for name in ("sample", "send"):
        code, functions = it.code(f"perf_event/{name}", maps)
        own, bodies = it.programs[f"perf_event/{name}"][0], it.programs[f"loops/{name}"][0]
        assert len(code) == len(own) + len(bodies)
        # BPF_PSEUDO_FUNC in the source register of a 64-bit load: relative to what comes after it.
        loaded = {
            at // 8 + 1 + struct.unpack_from("<i", code, at + 4)[0]
            for at in range(0, len(own), 8)
            if code[at] == 0x18 and code[at + 1] >> 4 == 4
        }
        assert loaded == {*functions} - {0}
        assert len(own) // 8 in loaded
        # A function ends before the next begins.
        assert all(code[8 * start - 8] in (0x95, 0x05) for start in loaded)


def test_possible_cpus() -> None:
    assert bpf.possible_cpus() >= 1
