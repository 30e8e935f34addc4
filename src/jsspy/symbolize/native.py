"""Names of native code: node itself, shared libraries, addons.

A pc belongs to a mapping, the mapping to a file, and the file's symbol table says which function
reaches over it. Where there is no symbol the frame is named by its place, `libfoo.so+0x1234`, in
the file's own addresses, so that it means the same in every process. V8's builtins come out under
their symbol, `Builtins_ArrayMap`: what they stand for in JavaScript is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from jsspy.errors import MalformedData
from jsspy.model.mode import NativeFrames
from jsspy.model.names import clean
from jsspy.model.stack import Frame, FrameKind, Module
from jsspy.model.units import Address, FileAddress
from jsspy.symbolize.demangle import short_name
from jsspy.target.elf import ElfFile
from jsspy.target.maps import Mapping
from jsspy.target.process import Target

MAX_CACHED = 1 << 16
"""Frames that are kept by pc; beyond that the cache starts anew."""

NO_SCRIPT = Frame("(native)", FrameKind.NATIVE)
"""Stands for a stack of which nothing is left without its native frames."""

_NATIVE_KINDS = frozenset({FrameKind.NATIVE, FrameKind.KERNEL, FrameKind.VM_FRAME})
"""Native code, and V8's glue on the way to it and back."""

_KERNEL_OBJECTS = frozenset(("[vdso]", "[vsyscall]"))


def select_frames(frames: Sequence[Frame], native: NativeFrames) -> Sequence[Frame]:
    """Return what is to be shown of a stack, leaf first."""
    if native is NativeFrames.FULL:
        return frames
    scripts = [frame for frame in frames if frame.kind not in _NATIVE_KINDS]
    if native is NativeFrames.OFF:
        return scripts or (NO_SCRIPT,)
    if not scripts:
        return frames
    newest = next(at for at, frame in enumerate(frames) if frame.kind not in _NATIVE_KINDS)
    return [*frames[:newest], *scripts]


class NativeSymbolizer:
    """Names native frames of one target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._frames: dict[int, tuple[Mapping, Frame]] = {}

    def frame(self, pc: Address, *, is_return_address: bool) -> Frame | None:
        """Return the frame of native code at `pc`; None where no file is mapped.

        Mappings are those that the target last read: who finds an unknown pc refreshes them.
        """
        lookup = pc - 1 if is_return_address else pc
        mapping = self._target.address_space().find(Address(lookup))
        if mapping is None:
            return None
        # A library that was unloaded may have left its place to another one.
        known = self._frames.get(lookup)
        if known is not None and known[0] == mapping:
            return known[1]
        frame = self._make_frame(lookup, mapping)
        if frame is not None:
            if len(self._frames) >= MAX_CACHED:
                self._frames.clear()
            self._frames[lookup] = mapping, frame
        return frame

    def _make_frame(self, pc: int, mapping: Mapping) -> Frame | None:
        if mapping.path in _KERNEL_OBJECTS:
            module = Module(mapping.path)
            return Frame(mapping.path, FrameKind.NATIVE, module=module, address=pc - mapping.start)
        if not mapping.is_file:
            return None
        elf = self._target.elf(mapping)
        offset = pc - mapping.start + mapping.offset
        address = None if elf is None else elf.to_address(offset)
        if elf is None or address is None:
            return _unnamed(Module(mapping.path), offset)
        return elf.derive(_FileFrames, mapping.path).frame(address)


class _FileFrames:
    """Frames of one file, the same ones in all processes that run it."""

    def __init__(self, elf: ElfFile, path: str) -> None:
        self._elf = elf
        self._module = Module(path, elf.build_id)
        self._frames: dict[FileAddress, Frame] = {}

    def frame(self, address: FileAddress) -> Frame:
        """Return the frame of the code at an address."""
        frame = self._frames.get(address)
        if frame is None:
            if len(self._frames) >= MAX_CACHED:
                self._frames.clear()
            name = _find_name(self._elf, address)
            if name is None:
                frame = _unnamed(self._module, address)
            else:
                frame = Frame(clean(name), FrameKind.NATIVE, module=self._module, address=address)
            self._frames[address] = frame
        return frame


def _unnamed(module: Module, address: int) -> Frame:
    file_name = clean(module.path.rpartition("/")[2])
    return Frame(f"{file_name}+{address:#x}", FrameKind.NATIVE, module=module, address=address)


def _find_name(elf: ElfFile, address: FileAddress) -> str | None:
    try:
        symbol = elf.functions().find(address)
    except MalformedData:
        return None
    return short_name(symbol.name) or None if symbol else None
