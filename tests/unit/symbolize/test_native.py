"""NativeSymbolizer over a stand-in target: mappings and files are given, no process is needed."""

from __future__ import annotations

from typing import cast

from elf_builder import TEXT_ADDRESS, Sym, build
from jsspy.model.stack import Frame, FrameKind, Module
from jsspy.model.units import Address
from jsspy.symbolize.native import NativeSymbolizer
from jsspy.target.elf import ElfFile
from jsspy.target.maps import AddressSpace, Mapping
from jsspy.target.process import Target

LIBRARY = Mapping(Address(0x7000_0000), Address(0x7000_1000), "r-xp", 0x1000, 11, "/l/libx.so")
STRIPPED = Mapping(Address(0x7100_0000), Address(0x7100_1000), "r-xp", 0x1000, 12, "/l/liby.so")
UNREADABLE = Mapping(Address(0x7200_0000), Address(0x7200_1000), "r-xp", 0x3000, 13, "/l/z\n.so")
VDSO = Mapping(Address(0x7300_0000), Address(0x7300_1000), "r-xp", 0, 0, "[vdso]")
ANONYMOUS = Mapping(Address(0x7400_0000), Address(0x7400_1000), "rwxp", 0, 0, "")


class StandIn:
    """What NativeSymbolizer uses of a Target."""

    def __init__(self) -> None:
        symbols = [
            Sym("_ZN4node3RunEi.cold", TEXT_ADDRESS + 0x10, 0x10),
            Sym("Builtins_ArrayMap", TEXT_ADDRESS + 0x20, 0x10),
        ]
        self.mappings = [LIBRARY, STRIPPED, UNREADABLE, VDSO, ANONYMOUS]
        self.files = {
            11: ElfFile("libx.so", build(symbols, build_id=b"\x12\x34")),
            12: ElfFile("liby.so", build(build_id=b"\x56")),
        }
        self.opened = 0

    def address_space(self) -> AddressSpace:
        return AddressSpace(self.mappings)

    def elf(self, mapping: Mapping) -> ElfFile | None:
        self.opened += 1
        return self.files.get(mapping.inode)


def symbolizer(target: StandIn | None = None) -> NativeSymbolizer:
    return NativeSymbolizer(cast("Target", target or StandIn()))


def frame(pc: int, *, is_return_address: bool = False) -> Frame | None:
    return symbolizer().frame(Address(pc), is_return_address=is_return_address)


def test_name_module_and_address() -> None:
    module = Module("/l/libx.so", "1234")
    assert frame(LIBRARY.start + 0x14) == Frame(
        "node::Run", FrameKind.NATIVE, module=module, address=TEXT_ADDRESS + 0x14
    )
    assert frame(LIBRARY.start + 0x20) == Frame(
        "Builtins_ArrayMap", FrameKind.NATIVE, module=module, address=TEXT_ADDRESS + 0x20
    )


def test_return_address_belongs_to_the_instruction_before_it() -> None:
    found = frame(LIBRARY.start + 0x20, is_return_address=True)
    assert found is not None
    assert (found.name, found.address) == ("node::Run", TEXT_ADDRESS + 0x1F)
    assert frame(LIBRARY.start, is_return_address=True) is None


def test_places_without_a_name() -> None:
    assert frame(LIBRARY.start + 0x500) == Frame(
        f"libx.so+{TEXT_ADDRESS + 0x500:#x}",
        FrameKind.NATIVE,
        module=Module("/l/libx.so", "1234"),
        address=TEXT_ADDRESS + 0x500,
    )
    assert frame(STRIPPED.start + 0x20) == Frame(
        f"liby.so+{TEXT_ADDRESS + 0x20:#x}",
        FrameKind.NATIVE,
        module=Module("/l/liby.so", "56"),
        address=TEXT_ADDRESS + 0x20,
    )
    assert frame(UNREADABLE.start + 0x20) == Frame(
        "z\\n.so+0x3020", FrameKind.NATIVE, module=Module("/l/z\n.so"), address=0x3020
    )


def test_vdso_and_what_is_no_file() -> None:
    assert frame(VDSO.start + 0x20) == Frame(
        "[vdso]", FrameKind.NATIVE, module=Module("[vdso]"), address=0x20
    )
    assert frame(ANONYMOUS.start + 0x20) is None
    assert frame(0x10) is None


def test_frames_are_kept_until_the_mapping_changes() -> None:
    target = StandIn()
    native = symbolizer(target)
    pc = Address(LIBRARY.start + 0x14)
    first = native.frame(pc, is_return_address=False)
    assert native.frame(pc, is_return_address=False) is first
    assert target.opened == 1
    target.mappings = [LIBRARY._replace(inode=12, path="/l/liby.so")]
    second = native.frame(pc, is_return_address=False)
    assert second is not None
    assert second.name == f"liby.so+{TEXT_ADDRESS + 0x14:#x}"


def test_processes_share_the_frames_of_a_file() -> None:
    one, other = StandIn(), StandIn()
    moved = LIBRARY._replace(start=Address(0x5000_0000), end=Address(0x5000_1000))
    other.mappings, other.files = [moved], one.files
    first = symbolizer(one).frame(Address(LIBRARY.start + 0x14), is_return_address=False)
    second = symbolizer(other).frame(Address(moved.start + 0x14), is_return_address=False)
    assert first is not None
    assert first is second
