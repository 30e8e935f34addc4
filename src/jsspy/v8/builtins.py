"""The table of V8's embedded builtins: which one contains an address.

The builtins' code is linked into the binary as one blob with a symbol `Builtins_*` for each, which
is found also where it was stripped: see `jsspy.v8.stripped`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from jsspy.errors import FaultError
from jsspy.model.units import FileAddress
from jsspy.target.elf import ElfFile
from jsspy.v8.code import frame_push_offset, return_address_offset
from jsspy.v8.stripped import PREFIX, builtin_symbols

_PROLOGUE_SIZE = 512
"""How far into a function to look for the push: checks of all kinds precede it."""


_ENTERING = frozenset({"InterpreterEntryTrampoline", "BaselineOutOfLinePrologue"})


class Builtin(NamedTuple):
    """One builtin: name without "Builtins_", and its code, as linked."""

    name: str
    start: int
    end: int

    @property
    def runs_on_interpreter_frame(self) -> bool:
        """Whether this runs without a frame of its own, on that of an interpreted function."""
        return self.is_handler or self.name.startswith("Interpreter")

    @property
    def enters_function(self) -> bool:
        """Whether it builds the frame of a function of a script, which is in rdi meanwhile."""
        return self.name in _ENTERING

    @property
    def is_handler(self) -> bool:
        """Whether this is the interpreter's code for a bytecode."""
        return self.name.endswith("Handler")


class BuiltinTable:
    """Finds builtins by FileAddress."""

    def __init__(self, elf: ElfFile, blob: tuple[int, int]) -> None:
        self._elf = elf
        symbols = sorted(
            (symbol.address, name)
            for name, symbol in builtin_symbols(elf).items()
            if blob[0] <= symbol.address < blob[1]
        )
        # Sizes are 0 in V8 7.8 and padding belongs to nobody: a builtin ends where the next starts.
        ends = [address for address, _ in symbols[1:]] + [blob[1]] * bool(symbols)
        self._builtins = [
            Builtin(name[len(PREFIX) :], address, end)
            for (address, name), end in zip(symbols, ends, strict=True)
        ]
        self._starts = [builtin.start for builtin in self._builtins]
        self._pushes: dict[int, int | None] = {}

    def __iter__(self) -> Iterator[Builtin]:
        return iter(self._builtins)

    def find(self, address: int) -> Builtin | None:
        """Return the builtin that contains the FileAddress `address`."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        builtin = self._builtins[index]
        return builtin if address < builtin.end else None

    def frame_push(self, builtin: Builtin) -> int | None:
        """Return the FileAddress of `push rbp; mov rbp, rsp` near the builtin's start.

        Code before it runs on the caller's frame. None: the builtin never makes a frame, or does
        so in one of several branches.
        """
        if builtin.start in self._pushes:
            found = self._pushes[builtin.start]
        else:
            size = min(_PROLOGUE_SIZE, builtin.end - builtin.start)
            try:
                code = self._elf.read(FileAddress(builtin.start), size)
            except FaultError:
                code = b""
            found = self._pushes[builtin.start] = frame_push_offset(code)
        return builtin.start + found if found is not None else None

    def return_address_offset(self, address: int) -> int | None:
        """Return where above rsp the return address is; see `jsspy.v8.code.return_address_offset`.

        None: the instruction at the FileAddress says nothing.
        """
        try:
            code = self._elf.read(FileAddress(address - 1), 5)
        except FaultError:
            return None
        return return_address_offset(code[:1], code[1:])
