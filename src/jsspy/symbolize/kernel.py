"""Names of kernel code, from /proc/kallsyms.

The list is read when the first kernel address has to be named, and once per boot: 200,000 names in
three flat arrays. Where the kernel hides addresses (kernel.kptr_restrict, no CAP_SYSLOG) they all
read as 0, and frames are named by their address.
"""

from __future__ import annotations

from array import array
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
_CODE: Final = b"tTwW"


class KernelSymbols:
    """The functions of the running kernel.

    Args:
        text: What /proc/kallsyms says: address, type, name and [module] on each line.
    """

    def __init__(self, text: bytes) -> None:
        rows = []
        for match in text.split(b"\n"):
            fields = match.split(None, 3)
            if len(fields) < 3 or fields[1] not in _CODE:
                continue
            try:
                address = int(fields[0], 16)
            except ValueError:
                continue
            if 0 < address < 1 << 64:
                rows.append((address, b"\t".join(fields[2:])))
        rows.sort()
        self._addresses = array("Q", [address for address, _ in rows])
        self._names = b"\n".join([name for _, name in rows])
        ends = array("I", [0])
        for _, name in rows:
            ends.append(ends[-1] + len(name) + 1)
        self._starts = ends
        self._frames: dict[int, Frame] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def frame(self, address: int, *, is_return_address: bool) -> Frame:
        """Return the frame of kernel code at `address`."""
        known = self._frames.get(address)
        if known is None:
            if len(self._frames) >= _MAX_CACHED:
                self._frames.clear()
            known = self._frames[address] = self._make_frame(address, address - is_return_address)
        return known

    def _make_frame(self, address: int, looked_up: int) -> Frame:
        index = bisect_right(self._addresses, looked_up) - 1
        if index < 0 or looked_up - self._addresses[index] > _MAX_FUNCTION_BYTES:
            return Frame(f"{address:#x}", FrameKind.KERNEL, address=address)
        name = self._names[self._starts[index] : self._starts[index + 1] - 1]
        function, _, module = name.decode("utf-8", "replace").partition("\t")
        return Frame(
            clean(function),
            FrameKind.KERNEL,
            module=Module(clean(module) or "[kernel]"),
            address=address,
        )


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
