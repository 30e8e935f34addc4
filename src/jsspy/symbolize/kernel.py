"""Names of kernel code, from /proc/kallsyms.

The list has 200,000 lines in the order of their addresses, those of modules behind them. It is read
when the first kernel address has to be named, once per boot, and searched as it is: to take it
apart would cost four times as much as to read it.

Where the kernel hides addresses (kernel.kptr_restrict, no CAP_SYSLOG) they all read as 0, and
frames are named by their address.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import Final

from jsspy.model.names import clean
from jsspy.model.stack import Frame, FrameKind, Module

_KALLSYMS: Final = Path("/proc/kallsyms")
_MAX_BYTES: Final = 64 << 20
"""A kernel with all its modules has about 15 MiB."""

_MAX_FUNCTION_BYTES: Final = 1 << 20
"""Addresses farther behind the last symbol belong to no function."""

_MAX_CACHED: Final = 1 << 16
_CODE: Final = (b"t", b"T", b"w", b"W")
_MAX_LINES_BACK: Final = 1000
"""Labels and data between an address and its function."""


class KernelSymbols:
    """The functions of the running kernel.

    Args:
        text: What /proc/kallsyms says: address, type, name and [module] on each line.
    """

    def __init__(self, text: bytes) -> None:
        # Names of modules are in brackets behind a tab.
        first = text.find(b"\t[")
        cut = text.rfind(b"\n", 0, first) + 1 if first >= 0 else len(text)
        self._text = text[:cut]
        rows = [_decode_line(line) for line in text[cut:].split(b"\n")]
        self._modules = sorted(row for row in rows if row[0] and row[1])
        self._frames: dict[int, Frame] = {}

    def frame(self, address: int, *, is_return_address: bool) -> Frame:
        """Return the frame of kernel code at `address`."""
        known = self._frames.get(address)
        if known is None:
            if len(self._frames) >= _MAX_CACHED:
                self._frames.clear()
            known = self._frames[address] = self._make_frame(address, address - is_return_address)
        return known

    def _make_frame(self, address: int, looked_up: int) -> Frame:
        found = self._find(looked_up)
        index = bisect_right(self._modules, (looked_up, b"\xff")) - 1
        if index >= 0:
            found = max(found, self._modules[index])
        if not found[1] or looked_up - found[0] > _MAX_FUNCTION_BYTES:
            return Frame(f"{address:#x}", FrameKind.KERNEL, address=address)
        function, _, module = found[1].decode("utf-8", "replace").partition("\t")
        return Frame(
            clean(function),
            FrameKind.KERNEL,
            module=Module(clean(module) or "[kernel]"),
            address=address,
        )

    def _find(self, address: int) -> tuple[int, bytes]:
        """Return the last function of the kernel itself at or below an address; (0, b"") if none.

        Lines before `low` begin at or below the address, those from `high` on above it.
        """
        text = self._text
        low, high = 0, len(text)
        while low < high:
            start = text.rfind(b"\n", low, (low + high) // 2) + 1 or low
            end = text.find(b"\n", start, high)
            end = high if end < 0 else end + 1
            if _decode_address(text[start:end]) <= address:
                low = end
            else:
                high = start
        for _ in range(_MAX_LINES_BACK):
            if not low:
                break
            start = text.rfind(b"\n", 0, low - 1) + 1
            row = _decode_line(text[start:low])
            if row[1]:
                return row
            low = start
        return 0, b""


def _decode_address(line: bytes) -> int:
    try:
        return int(line[:16], 16)
    except ValueError:
        return 0


def _decode_line(line: bytes) -> tuple[int, bytes]:
    """Return address and name of a function, with its module behind a tab; b"" if it is none."""
    fields = line.split(None, 3)
    if len(fields) < 3 or fields[1] not in _CODE:
        return 0, b""
    return _decode_address(line), b"\t".join(field.strip() for field in fields[2:])


_loaded: dict[str, KernelSymbols] = {}
"""By boot id: one entry."""


def load_kernel_symbols() -> KernelSymbols:
    """Return the functions of the running kernel, read the first time; empty if it hides them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    symbols = _loaded.get(boot)
    if symbols is None:
        try:
            with _KALLSYMS.open("rb") as file:
                text = file.read(_MAX_BYTES)
        except OSError:
            text = b""
        _loaded.clear()
        symbols = _loaded[boot] = KernelSymbols(text)
    return symbols
