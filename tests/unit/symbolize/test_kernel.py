"""Names of kernel code."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jsspy.model.stack import FrameKind
from jsspy.symbolize.kernel import KernelSymbols, load_kernel_symbols

TEXT = b"""\
0000000000000000 A fixed_percpu_data
ffffffff81000100 t do_open.isra.0
ffffffff81000180 d some_data
ffffffff81000200 T do_read
ffffffffc0001000 t ext4_write\t[ext4]
ffffffffc0000000 t ext4_read\t[ext4]
nonsense
"""
BASE = 0xFFFF_FFFF_8100_0000


def test_functions_are_found_by_any_of_their_addresses() -> None:
    symbols = KernelSymbols(TEXT)
    for address, name in ((0x100, "do_open.isra.0"), (0x1FF, "do_open.isra.0"), (0x200, "do_read")):
        frame = symbols.frame(BASE + address, is_return_address=False)
        assert (frame.name, frame.kind) == (name, FrameKind.KERNEL)
        assert frame.address == BASE + address
        assert frame.module is not None
        assert frame.module.path == "[kernel]"


def test_a_return_address_belongs_to_the_call_before_it() -> None:
    symbols = KernelSymbols(TEXT)
    assert symbols.frame(BASE + 0x200, is_return_address=True).name == "do_open.isra.0"


@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=40), st.integers(0, 1 << 20))
def test_the_nearest_function_below_is_found(addresses: list[int], offset: int) -> None:
    addresses = sorted(set(addresses))
    lines = [f"{BASE + at:016x} t f{at}\n{BASE + at:016x} d data\n" for at in addresses]
    frame = KernelSymbols("".join(lines).encode()).frame(BASE + offset, is_return_address=False)
    below = [at for at in addresses if at <= offset]
    assert frame.name == (f"f{below[-1]}" if below else f"{BASE + offset:#x}")


def test_modules_are_named() -> None:
    symbols = KernelSymbols(TEXT)
    assert symbols.frame(0xFFFF_FFFF_C000_1000, is_return_address=False).name == "ext4_write"
    frame = symbols.frame(0xFFFF_FFFF_C000_0010, is_return_address=False)
    assert frame.name == "ext4_read"
    assert frame.module is not None
    assert frame.module.path == "[ext4]"


def test_addresses_of_no_function_stay_addresses() -> None:
    for text in (TEXT, b"", b"0000000000000000 T hidden\n"):
        frame = KernelSymbols(text).frame(0xFFFF_FFFF_F000_0000, is_return_address=False)
        assert frame.name == "0xfffffffff0000000"


@given(st.binary(max_size=300), st.integers(0, (1 << 64) - 1))
def test_any_bytes_give_a_frame(text: bytes, address: int) -> None:
    frame = KernelSymbols(text).frame(address, is_return_address=False)
    assert frame.kind is FrameKind.KERNEL
    assert frame.name
    assert "\n" not in frame.name


def test_the_list_of_this_machine_is_read_once() -> None:
    assert load_kernel_symbols() is load_kernel_symbols()
