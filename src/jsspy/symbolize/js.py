"""Name V8's frames: functions, files, lines, tiers, inlined functions.

The pc decides what a frame is, in this order:

1. A marker in the frame: V8's glue, WebAssembly, or the exit frame of a builtin in C++.
2. pc in the embedded builtins: an interpreted function if the slots hold a BytecodeArray and a
   Smi, else a builtin that is a JavaScript function.
3. pc in generated code: the code object around it says the tier, and which functions were inlined.

**What is trusted.** The words of the frame and the SharedFunctionInfo word of its JSFunction were
copied while the thread could not move. All else is read later, from a running program, so each
object is checked by type when it is read. An answer stands while every SharedFunctionInfo, script
and code object that it came from has the same words; for a whole stack that is looked at in one
batch when the stack is done (`Beliefs`). The answer is not checked against the clock: old code that
is still in place is still right.

A frame whose function does not check out is "(unknown)" and counted; where only the position does
not check out, the function is named without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import NamedTuple

from jsspy.errors import FaultError
from jsspy.model.capture import RawFrame, Registers
from jsspy.model.names import clean
from jsspy.model.stack import Frame, FrameKind, Location, Tier
from jsspy.model.units import Address
from jsspy.symbolize.base import UNKNOWN, UNKNOWN_INLINED, Frames
from jsspy.symbolize.builtins import builtin_frame, is_own_frame
from jsspy.unwind.base import CodeArea, CodeMap, Region
from jsspy.v8.beliefs import Remembered
from jsspy.v8.builtins import Builtin
from jsspy.v8.code import CodeObject, InlinedPosition
from jsspy.v8.frames import FrameWords
from jsspy.v8.function import Script, SharedFunctionInfo
from jsspy.v8.heap import is_smi, smi_value
from jsspy.v8.layout import CodeKind
from jsspy.v8.reader import V8Reader
from jsspy.v8.wasm import url_of_script

_NOTHING: Mapping[int, bytes] = {}
_MAX_CACHED = 1 << 17
"""Answers kept: positions that a large program executes at, 0.5 KiB each."""

_PROLOGUE_SIZE = 128
"""Bytes at the start of code in which nothing of the function runs yet."""

_MAX_TRIES = 4
"""How often a stretch that is to be kept is named again because something had changed."""

_MAX_DISPATCH = 1 << 12
_KEPT_REGIONS = (Region.GENERATED, Region.BUILTINS)
_WORD = Struct("<Q").unpack_from
_TIERS = {
    CodeKind.BASELINE: Tier.BASELINE,
    CodeKind.MAGLEV: Tier.MAGLEV,
    CodeKind.TURBOFAN: Tier.OPTIMIZED,
    CodeKind.FULL_CODEGEN: Tier.BASELINE,
    CodeKind.LEGACY_OPTIMIZED: Tier.OPTIMIZED,
}
_TELL_FUNCTION = frozenset({CodeKind.MAGLEV, CodeKind.TURBOFAN, CodeKind.LEGACY_OPTIMIZED})
_OF_ONE_FUNCTION = _TELL_FUNCTION | {CodeKind.FULL_CODEGEN}
_WITHOUT_POSITIONS = frozenset(
    {CodeKind.OTHER, CodeKind.BYTECODE_HANDLER, CodeKind.BUILTIN_OR_REGEXP}
)
_REGEXP: Frames = (Frame("irregexp", FrameKind.REGEXP),)
_WASM: Frames = (Frame("wasm code", FrameKind.WASM),)
_WASM_EXPORT: Frames = (Frame("[js to wasm frame]", FrameKind.VM_FRAME),)
_UNKNOWN: Frames = (UNKNOWN,)

_Key = tuple[int, int, int]
"""(pc, SharedFunctionInfo word, bytecode offset or whether pc is a return address)."""


class _Answer(NamedTuple):
    """What a frame was resolved to, and what that came from."""

    frames: Frames
    functions: tuple[SharedFunctionInfo, ...]
    code: CodeObject | None
    js_frames: int
    named: int
    is_kept: bool = True


@dataclass(slots=True, eq=False)
class _Kept:
    """An answer that is kept."""

    answer: _Answer
    basis: tuple[Remembered, ...]
    """It holds for as long as none of these is gone."""
    generation: int
    """Of `Beliefs`, when that was last seen to be so."""


_NOT_FOUND = _Answer(_UNKNOWN, (), None, 1, 0, is_kept=False)


@dataclass(slots=True, eq=False)
class Basis:
    """What the names of a stretch of stack follow from."""

    functions: dict[int, SharedFunctionInfo] = field(default_factory=dict)
    """By address."""
    codes: dict[int, CodeObject] = field(default_factory=dict)
    """By the pc that they were found for."""
    is_final: bool = True
    """False if something could not be read that might be the next time."""

    def clear(self) -> None:
        """Begin anew."""
        self.functions.clear()
        self.codes.clear()
        self.is_final = True

    def add(self, pc: int, answer: _Answer) -> None:
        """Note what a frame was resolved to."""
        for function in answer.functions:
            self.functions[function.address] = function
        if answer.code is not None:
            self.codes[pc] = answer.code
        if not answer.is_kept and any(it.script is not None for it in answer.functions):
            self.is_final = False
        if answer.named < answer.js_frames:
            self.is_final = False


class JsSymbolizer:
    """Names the V8 frames of one target.

    Attributes:
        js_frames: JavaScript frames seen, inlined ones included.
        js_frames_named: Those whose function could be read (anonymous functions are named "").
    """

    def __init__(self, v8: V8Reader, code: CodeMap) -> None:
        self.js_frames = 0
        self.js_frames_named = 0
        self._v8 = v8
        self._code = code
        self._beliefs = v8.heap.beliefs
        self._answers: dict[_Key, _Kept] = {}
        self._labels: dict[int, Frames] = {}
        self._vm_frames: dict[str, Frames] = {
            kind.name: (Frame(kind.label, kind.kind),) for kind in v8.decoder.types.values()
        }
        self._interpreting: set[int] = set()
        """Return addresses in generated code of the interpreter: before V8 7.1, when its builtins
        were made at run time. There the bytecode offset, not the pc, says where a function is."""
        self._dispatch: dict[tuple[int, int], int] = {}
        self._late: dict[int, tuple[int, CodeObject | None]] = {}
        """Bytecode, or start of code -> SharedFunctionInfo and that code, of frames that were read
        late."""
        self._belonging: dict[tuple[int, int, int], SharedFunctionInfo] = {}
        """pc, SharedFunctionInfo and bytecode of frames that belong together."""
        self._shared_at = v8.layout.objects.js_function_shared

    def symbolize(
        self,
        stack: Sequence[RawFrame],
        followed: dict[int, bytes],
        registers: Registers | None = None,
        basis: Basis | None = None,
        later: Mapping[int, bytes] = _NOTHING,
    ) -> list[Frames | None]:
        """Name the V8 frames of a stack.

        Args:
            stack: Physical frames, leaf first.
            followed: JSFunctions that were copied with it, by tagged pointer.
            registers: Of the thread, if pc was seen with them: they know the bytecode that is
                executing, which its frame does not. Without them the stack is taken for part of
                one that has its leaf elsewhere.
            basis: What the names follow from is added to it.
            later: JSFunctions that were copied a moment later.

        Returns:
            What each frame expands to, innermost first; None for those of native code.
        """
        if stack and registers is not None:
            stack = self._with_live_offset(stack, registers)
        result, js_frames, named = self._symbolize(stack, followed, basis, later)
        if basis is not None:
            # What is to be kept must hold now, and not only when the whole stack is done.
            for _ in range(_MAX_TRIES):
                if self._beliefs.holds():
                    break
                basis.clear()
                result, js_frames, named = self._symbolize(stack, followed, basis, later)
        self.js_frames += js_frames
        self.js_frames_named += named
        if registers is not None:
            self._drop_own_label(result)
        return result

    def _symbolize(
        self,
        stack: Sequence[RawFrame],
        followed: dict[int, bytes],
        basis: Basis | None,
        later: Mapping[int, bytes],
    ) -> tuple[list[Frames | None], int, int]:
        """Name frames; return the names, how many are JavaScript, and how many could be read."""
        result: list[Frames | None] = []
        late: list[tuple[int, RawFrame, CodeArea]] = []
        find, types, answers = self._code.find, self._v8.decoder.types, self._answers
        shared_at, beliefs = self._shared_at, self._beliefs
        believe, generation = beliefs.add_many, beliefs.generation
        js_frames = named = 0
        for raw in stack:
            pc, is_return, fp, words = raw
            area = find(pc)
            if not words:
                result.append(self._label(raw, area))
                continue
            kind = types.get(words[0])
            if kind is not None and fp:
                frames = self._vm_frames[kind.name]
                if kind.kind is FrameKind.WASM:
                    frames = self._wasm(pc - is_return, words[1]) or frames
                    if basis is not None:
                        basis.is_final = False
                if kind.has_target:
                    frames += self._builtin_in_cpp(words[4], followed, basis)
                result.append(frames)
                continue
            copied = followed.get(words[1])
            if copied is None:
                late.append((len(result), raw, area))
                result.append(None)
                continue
            shared: int = _WORD(copied, shared_at)[0]
            if not fp or area.region not in _KEPT_REGIONS:
                answer = self._answer(raw, area, shared, is_late=False)
            else:
                if area.region is Region.GENERATED:
                    place = words[3] if pc in self._interpreting else is_return - 2
                    key: _Key = (pc, shared, place)
                else:
                    key = (0, shared, words[3])
                kept = answers.get(key)
                if kept is not None and (kept.generation == generation or self._holds(kept)):
                    believe(kept.basis)
                    answer = kept.answer
                else:
                    answer = self._answer(raw, area, shared, is_late=False)
                    if answer.is_kept:
                        self._keep(key, answer)
            js_frames += answer.js_frames
            named += answer.named
            result.append(answer.frames)
            if basis is not None:
                basis.add(pc, answer)
        if late:
            for index, raw, area, shared in self._read_late(late, stack, followed, later):
                answer = self._late_answer(raw, area, shared)
                js_frames += answer.js_frames
                named += answer.named
                result[index] = answer.frames
                if basis is not None:
                    basis.add(raw.pc, answer)
        return result, js_frames, named

    def confirm(
        self, functions: Iterable[SharedFunctionInfo], codes: Iterable[tuple[int, CodeObject]]
    ) -> tuple[dict[int, SharedFunctionInfo], dict[int, CodeObject]]:
        """Return those that are still what they were, all read at once.

        Args:
            functions: Functions.
            codes: Code objects, each with a pc in it.

        Returns:
            Functions by address, code objects by start.
        """
        functions, codes = tuple(functions), tuple(codes)
        self._v8.functions.validate_many([function.address for function in functions])
        if codes:
            self._v8.codes.validate_many([pc for pc, _ in codes])
        read, find = self._v8.functions.read_shared, self._code.find
        return (
            {it.address: it for it in functions if read(it.address) is it},
            {code.start: code for pc, code in codes if self._find_code(pc, find(pc)) is code},
        )

    def _holds(self, kept: _Kept) -> bool:
        """Whether nothing that an answer came from was found to be gone."""
        if any(entry.gone for entry in kept.basis):
            return False
        kept.generation = self._beliefs.generation
        return True

    def _keep(self, key: _Key, answer: _Answer) -> None:
        basis = self._v8.functions.basis(answer.functions)
        if basis is None:
            return
        if answer.code is not None:
            basis += (answer.code,)
        if len(self._answers) >= _MAX_CACHED:
            self._answers.clear()
        self._answers[key] = _Kept(answer, basis, self._beliefs.generation)

    def _find_code(self, pc: int, area: CodeArea) -> CodeObject | None:
        if area.mapping is None or area.region is not Region.GENERATED:
            return None
        return self._v8.codes.find_code(pc, area.mapping)

    # Frames without words

    def _label(self, raw: RawFrame, area: CodeArea) -> Frames | None:
        """Name code that has no frame of V8's around it."""
        if area.region is Region.BUILTINS:
            address = raw.pc - area.bias - raw.is_return_address
            known = self._labels.get(address)
            if known is None:
                if len(self._labels) >= _MAX_CACHED:
                    self._labels.clear()
                frame = builtin_frame(self._v8.builtins.find(address))
                known = self._labels[address] = (frame,)
            return known
        if area.region is not Region.GENERATED:
            return None
        return self._wasm(raw.pc - raw.is_return_address) or _UNKNOWN

    def _wasm(self, pc: int, instance: int = 0) -> Frames:
        """Return the frame of WebAssembly's code; empty if it is not, or not found."""
        found = self._v8.wasm.find(pc, instance)
        if found is None:
            return ()
        name = clean(found.name) or f"wasm-function[{found.number}]"
        place = Location(clean(found.url)) if found.url else None
        return (Frame(name, FrameKind.WASM, location=place),)

    def _drop_own_label(self, result: list[Frames | None]) -> None:
        """Remove the leaf's builtin where the next frame is the same builtin under its own name."""
        if len(result) < 2 or not result[0] or not result[1]:
            return
        own = result[1][0]
        if own.kind is FrameKind.BUILTIN and is_own_frame(result[0][0], own.name):
            result[0] = ()

    def _builtin_in_cpp(
        self, function: int, followed: dict[int, bytes], basis: Basis | None
    ) -> Frames:
        """Return the frame of the function whose builtin exit frame this is; empty if not known.

        Functions of builtins are as old as their context, so not every engine copies them.
        """
        try:
            shared = self._v8.shared_of(function, followed)
            if not shared and function & 1:
                shared = self._v8.heap.read_field(function, self._shared_at)
        except FaultError:
            return ()
        info = self._v8.functions.read_shared(shared)
        if info is not None and basis is not None:
            basis.functions[info.address] = info
        if info is None or info.script is not None or not info.name:
            return ()
        return (Frame(clean(info.name), FrameKind.BUILTIN),)

    # Frames with words

    def _read_late(
        self,
        frames: Sequence[tuple[int, RawFrame, CodeArea]],
        stack: Sequence[RawFrame],
        followed: dict[int, bytes],
        later: Mapping[int, bytes],
    ) -> list[tuple[int, RawFrame, CodeArea, int]]:
        """Find the functions of frames that were not followed with the sample.

        A function that runs the same bytecode as one that was followed is the same function. (The
        GC may have been stopped half-way through the stack, with the closure's old address in the
        older frames.) Others were read later, or are read now.
        """
        known: dict[int, int] = {}
        for raw in stack:
            if raw.words and (copied := followed.get(raw.words[1])) is not None:
                known[raw.words[2]] = _WORD(copied, self._shared_at)[0]
        words = [FrameWords(*raw.words) for _, raw, _ in frames]
        found: list[bytes | None] = [None] * len(words)
        missing, slots = [], []
        for index, word in enumerate(words):
            address = word.function - 1
            if (copied := later.get(word.function)) is not None:
                (first,) = _WORD(copied, 0)
                if first & 1:
                    found[index] = copied[self._shared_at :]
                    continue
                # In place of its map: where the GC has moved it.
                address = first
            missing.append(index)
            slots.append((address + self._shared_at, 8))
        for index, data in zip(missing, self._v8.heap.memory.read_many(slots), strict=True):
            found[index] = data
        result = []
        for frame, word, data in zip(frames, words, found, strict=True):
            shared = known.get(word.bytecode_array, 0)
            if not shared and data is not None and word.function & 3 == 1:
                shared = int.from_bytes(data[:8], "little")
            result.append((*frame, shared))
        return result

    @property
    def generation(self) -> int:
        """Changes whenever something that was remembered is gone."""
        return self._beliefs.generation

    def is_optimized(self, pc: int) -> bool:
        """Say whether `pc` is in optimized code: its frames' slots hold anything."""
        code = self._find_code(pc, self._code.find(pc))
        return code is not None and code.kind in _TELL_FUNCTION

    def belongs(self, raw: RawFrame, shared: int) -> bool:
        """Say whether a frame's own words name the function that its JSFunction led to later."""
        key = (raw.pc, shared, raw.words[2])
        known = self._belonging.get(key)
        if known is not None and self._v8.functions.is_remembered(known):
            # Whoever names the frame looks whether the function is still there.
            return True
        info = self._v8.functions.read_shared(shared) if shared else None
        if info is None:
            return False
        area = self._code.find(raw.pc)
        if not self._corroborates(raw, FrameWords(*raw.words), area, info):
            return False
        if len(self._belonging) >= _MAX_CACHED:
            self._belonging.clear()
        self._belonging[key] = info
        self._learn(raw, area, info)
        return True

    def _late_answer(self, raw: RawFrame, area: CodeArea, shared: int) -> _Answer:
        """Name a frame whose function was not copied with it.

        If the closure was moved since, it may be that the function was met in its new place.
        """
        answer = self._answer(raw, area, shared, is_late=True)
        if answer.named:
            info = self._v8.functions.read_shared(shared)
            if info is not None:
                self._learn(raw, area, info)
            return answer
        code = self._find_own_code(raw, area)
        known = self._late.get(raw.words[2] if code is None else code.start)
        if known is None:
            return answer
        # Code that is what it was then is that function's, even if it has other code by now.
        return self._answer(raw, area, known[0], is_late=code is None or known[1] is not code)

    def _find_own_code(self, raw: RawFrame, area: CodeArea) -> CodeObject | None:
        """Return the code of a frame if it can only be that of one function."""
        code = self._find_code(raw.pc, area)
        return code if code is not None and code.kind in _OF_ONE_FUNCTION else None

    def _learn(self, raw: RawFrame, area: CodeArea, info: SharedFunctionInfo) -> None:
        """Remember whose a frame was, for others of which the function is not found."""
        code = self._find_own_code(raw, area)
        if code is None and raw.words[2] != info.bytecode_array:
            return  # a builtin's frame has anything in that slot
        if len(self._late) >= _MAX_CACHED:
            self._late.clear()
        self._late[raw.words[2] if code is None else code.start] = info.address, code

    def _answer(self, raw: RawFrame, area: CodeArea, shared: int, *, is_late: bool) -> _Answer:
        """Name a frame that has no marker.

        Args:
            raw: The frame.
            area: What `raw.pc` lies in.
            shared: The SharedFunctionInfo word of its function.
            is_late: The function was not copied with the frame. The GC may have put another one in
                its place, so it must be the one that the frame's bytecode or code belongs to.
        """
        words = FrameWords(*raw.words)
        if not raw.fp and area.region is Region.GENERATED and not self._find_code(raw.pc, area):
            # Where WebAssembly makes or takes down its frame, the marker is not there.
            frames = self._wasm(raw.pc - raw.is_return_address)
            if frames:
                return _Answer(frames, (), None, 0, 0, is_kept=False)
        info = self._v8.functions.read_shared(shared) if shared else None
        if is_late and info is not None and not self._corroborates(raw, words, area, info):
            return _NOT_FOUND
        if info is not None and info.script is not None and info.bytecode_array is None:
            script = info.script
            if url_of_script(script.name, script.source_url):
                # An exported function: JavaScript calls it, WebAssembly's code has its own frame.
                return _Answer(_WASM_EXPORT, (info,), None, 0, 0)
        if area.region is Region.GENERATED:
            return self._generated(raw, words, area, info)
        if info is None:
            return _NOT_FOUND
        if info.script is None:
            return _Answer((self._builtin(raw, area, info),), (info,), None, 0, 0, is_kept=False)
        if area.region is Region.BUILTINS and is_smi(words.bytecode_offset):
            answer = self._interpreted(words, info)
            if answer is not None:
                return answer
        builtin = self._builtin_at(raw, area)
        # Builtins that make the frame of baseline code, or that it jumps to to take it down.
        is_baseline = builtin is not None and builtin.name.startswith("Baseline")
        is_entered = builtin is not None and builtin.enters_function
        tier = Tier.BASELINE if is_baseline else None
        frame = _frame(info, info.start if is_entered else None, tier, inlined=False)
        return _Answer((frame,), (info,), None, 1, 1, is_kept=False)

    def _corroborates(
        self, raw: RawFrame, words: FrameWords, area: CodeArea, info: SharedFunctionInfo
    ) -> bool:
        """Whether a frame's own words name the same function as its JSFunction does now."""
        code = self._find_code(raw.pc, area)
        if code is not None and self._v8.layout.code.legacy is not None:
            # One builtin's code, or one function's, unless it is the interpreter's.
            entered = self._v8.read_entry(words.function) == code.start
            if entered and (info.builtin or code.kind not in _WITHOUT_POSITIONS):
                return True
        if info.builtin:
            return area.region is Region.BUILTINS
        if info.bytecode_array == words.bytecode_array:
            return True
        if code is not None and code.kind is CodeKind.FULL_CODEGEN:
            return self._v8.is_unoptimized_code_of(code, info.address)
        if code is None or code.kind not in _TELL_FUNCTION:
            return False
        places = self._v8.codes.positions(code, raw.pc, is_return_address=raw.is_return_address)
        return bool(places) and places[-1].shared == info.address

    def _builtin_at(self, raw: RawFrame, area: CodeArea) -> Builtin | None:
        if area.region is not Region.BUILTINS:
            return None
        return self._v8.builtins.find(raw.pc - area.bias - raw.is_return_address)

    def _bytecode_position(
        self, info: SharedFunctionInfo, array: int, offset_slot: int
    ) -> int | None:
        header = self._v8.layout.code.bytecode_data
        if header is None:
            return None
        offset = smi_value(offset_slot) - (header - 1)
        if offset < 0:
            # The slot has not been pushed yet.
            return info.start
        return self._v8.codes.bytecode_position(array, offset)

    def suspended(self, shared: int, offset_slot: int) -> Frame:
        """Name a function that waits at an `await` or `yield`.

        Args:
            shared: SharedFunctionInfo.
            offset_slot: Where, as an interpreted frame has it.
        """
        self.js_frames += 1
        info = self._v8.functions.read_shared(shared)
        if info is None:
            return UNKNOWN
        self.js_frames_named += 1
        position = None
        if info.bytecode_array and is_smi(offset_slot):
            position = self._bytecode_position(info, info.bytecode_array, offset_slot)
        return _frame(info, position, None, inlined=False)

    def _builtin(self, raw: RawFrame, area: CodeArea, info: SharedFunctionInfo) -> Frame:
        """Return the frame of a JavaScript function that is part of V8."""
        if info.name:
            return Frame(clean(info.name), FrameKind.BUILTIN)
        # Closures of V8's own, such as those that resume an async function.
        builtin = self._builtin_at(raw, area)
        name = builtin.name if builtin is not None else "builtin closure"
        return Frame(f"[{name}]", FrameKind.VM_FRAME)

    def _generated(
        self, raw: RawFrame, words: FrameWords, area: CodeArea, info: SharedFunctionInfo | None
    ) -> _Answer:
        """Name a frame of generated code."""
        code = self._find_code(raw.pc, area)
        if code is None or code.kind in _WITHOUT_POSITIONS:
            return self._without_positions(raw, words, area, code, info)
        if code.kind is CodeKind.REGEXP:
            return _Answer(_REGEXP, (), code, 0, 0)
        array = words.bytecode_array
        if not raw.fp:
            # There is no frame yet, or no longer: the function comes from a register.
            array = (info.bytecode_array or 0) if info is not None else 0
            if code.kind is CodeKind.BASELINE and not self._can_be(code, raw.pc, array):
                return _NOT_FOUND
        elif info is None:
            return _NOT_FOUND
        places = self._v8.codes.positions(
            code,
            raw.pc,
            is_return_address=raw.is_return_address,
            bytecode_array=array,
            shared=info.address if info is not None else 0,
        )
        in_prologue = not raw.is_return_address and raw.pc - code.start < _PROLOGUE_SIZE
        return self._expand(code, places, info, framed=bool(raw.fp), in_prologue=in_prologue)

    def _without_positions(
        self,
        raw: RawFrame,
        words: FrameWords,
        area: CodeArea,
        code: CodeObject | None,
        info: SharedFunctionInfo | None,
    ) -> _Answer:
        """Name a frame that is in no code of a function: of a builtin, a stub, the interpreter."""
        if info is None:
            if code is not None and code.kind is CodeKind.BUILTIN_OR_REGEXP:
                return _Answer(_REGEXP, (), code, 0, 0)
            return _NOT_FOUND
        if info.script is None:
            return _Answer((self._builtin(raw, area, info),), (info,), None, 0, 0, is_kept=False)
        if not raw.fp:
            # What the function is entered by.
            frame = _frame(info, info.start, None, inlined=False)
            return _Answer((frame,), (info,), code, 1, 1, is_kept=False)
        if code is None or not self._is_interpreted(words, info):
            self._interpreting.discard(raw.pc)
            # Without code: it is gone, or in memory so new that it is not on our list of mappings.
            frame = _frame(info, None, None, inlined=False)
            return _Answer((frame,), (info,), None, 1, 1, is_kept=code is not None)
        # Another answer for every offset: kept from the next time on, under the right key.
        is_known = raw.pc in self._interpreting
        if raw.is_return_address:
            if len(self._interpreting) >= _MAX_DISPATCH:
                self._interpreting.clear()
            self._interpreting.add(raw.pc)
        answer = self._interpreted(words, info)
        if answer is None:
            return _NOT_FOUND
        return answer._replace(code=code, is_kept=answer.is_kept and is_known)

    def _interpreted(self, words: FrameWords, info: SharedFunctionInfo) -> _Answer | None:
        """Name a frame of the interpreter; None if its bytecode is gone."""
        array = words.bytecode_array
        if self._v8.heap.instance_type(array) != self._v8.layout.types.bytecode_array:
            # Moved since: the function knows where to.
            array = info.bytecode_array or 0
        if not array:
            return None
        position = self._bytecode_position(info, array, words.bytecode_offset)
        frame = _frame(info, position, Tier.INTERPRETED, inlined=False)
        is_kept = frame.location is not None and frame.location.line is not None
        return _Answer((frame,), (info,), None, 1, 1, is_kept=is_kept)

    def _is_interpreted(self, words: FrameWords, info: SharedFunctionInfo) -> bool:
        """Whether the slots of a frame hold bytecode and an offset in it."""
        array = words.bytecode_array
        return (
            info.bytecode_array is not None
            and is_smi(words.bytecode_offset)
            and (
                array == info.bytecode_array
                or self._v8.heap.instance_type(array) == self._v8.layout.types.bytecode_array
            )
        )

    def _can_be(self, code: CodeObject, pc: int, array: int) -> bool:
        """Whether baseline code without a frame can be that of the function in rdi.

        Before the frame is there it is; after it has been left rdi is anything.
        """
        known = self._v8.bytecode_array_of(code)
        return known == array if known is not None else pc - code.start < _PROLOGUE_SIZE

    def _expand(
        self,
        code: CodeObject,
        places: Sequence[InlinedPosition],
        info: SharedFunctionInfo | None,
        *,
        framed: bool,
        in_prologue: bool,
    ) -> _Answer:
        """Return the frames of a place in code, innermost first."""
        tier = _TIERS[code.kind]
        physical = places[-1].shared if places else 0
        if framed and info is not None and physical not in (0, info.address):
            other = self._v8.functions.read_shared(physical)
            if other is None or (other.script, other.start) != (info.script, info.start):
                # Other code than the frame was made by: the frame is right about its function.
                frame = _frame(info, None, None, inlined=False)
                return _Answer((frame,), (info,), code, 1, 1, is_kept=False)
        frames: list[Frame] = []
        functions: list[SharedFunctionInfo] = []
        for place in places:
            inlined = len(frames) < len(places) - 1
            function = info
            if inlined or info is None or not framed:
                function = self._v8.functions.read_shared(place.shared)
            if function is None:
                frames.append(UNKNOWN_INLINED if inlined else UNKNOWN)
                continue
            functions.append(function)
            position = place.position
            if position is None and (place.bytecode_offset == -1 or in_prologue):
                position = function.start
            frames.append(_frame(function, position, tier, inlined=inlined))
        is_kept = len(functions) == len(frames) and all(
            frame.location is not None and frame.location.line is not None for frame in frames
        )
        return _Answer(
            tuple(frames), tuple(functions), code, len(frames), len(functions), is_kept=is_kept
        )

    # The newest frame

    def _with_live_offset(
        self, stack: Sequence[RawFrame], registers: Registers
    ) -> Sequence[RawFrame]:
        """Put the bytecode offset that is executing into the newest interpreted frame.

        The interpreter keeps it in r9 and stores it only before calls, so a leaf inside a bytecode
        handler has a stale slot: in 4 of 5 samples of a hot loop even the line was wrong. r9 is
        believed if the dispatch table (r15) says that the bytecode at r9 is run by the very
        handler that contains pc; late in a handler r9 may have been used for something else. It was
        r12 in V8 6.2, r9 in 6.8: before 7.1 both are tried. Source:
        kInterpreterBytecodeOffsetRegister in src/x64/macro-assembler-x64.h at 6.2.414 and
        src/codegen/x64/register-x64.h at 7.8.279; running handlers of 6.2 and 6.8.
        """
        start, index = self._find_handler(stack)
        # A handler may have pushed a frame of its own around a call.
        if start and index + 1 < len(stack) and self._is_stub(stack[index]):
            index += 1
        if not start or index >= len(stack):
            return stack
        frame = stack[index]
        layout = self._v8.layout.code
        if not frame.words or layout.bytecode_data is None or layout.bytecode_length is None:
            return stack
        words = FrameWords(*frame.words)
        array = words.bytecode_array
        offsets = (registers.r9,) if layout.legacy is None else (registers.r9, registers.r12)
        try:
            length = smi_value(self._v8.heap.read_field(array, layout.bytecode_length))
            header = layout.bytecode_data - 1
            for offset in offsets:
                if not header <= offset < header + length:
                    continue
                opcode = self._v8.heap.memory.read(Address(array + offset), 1)[0]
                if self._handler_of(registers.r15, opcode) == start:
                    words = words._replace(bytecode_offset=offset << 32)
                    fixed = frame._replace(words=words)
                    return [*stack[:index], fixed, *stack[index + 1 :]]
        except FaultError:
            pass
        return stack

    def _find_handler(self, stack: Sequence[RawFrame]) -> tuple[int, int]:
        """Return the address of the bytecode handler at the leaf, 0 if there is none.

        And the index of the first frame with words: an embedded builtin stands for itself.
        """
        leaf = stack[0]
        area = self._code.find(leaf.pc)
        if area.region is Region.BUILTINS and not leaf.words:
            builtin = self._v8.builtins.find(leaf.pc - area.bias)
            if builtin is not None and builtin.is_handler:
                return builtin.start + area.bias, 1
        elif area.region is Region.GENERATED and self._v8.layout.code.legacy is not None:
            code = self._find_code(leaf.pc, area)
            if code is not None and code.kind is CodeKind.BYTECODE_HANDLER:
                return code.start, 0
        return 0, 0

    def _is_stub(self, raw: RawFrame) -> bool:
        kind = self._v8.decoder.types.get(raw.words[0]) if raw.words else None
        return kind is not None and kind.name == "Stub"

    def _handler_of(self, table: int, opcode: int) -> int:
        """Return the address of the code that runs a bytecode.

        Raises:
            FaultError: `table` does not point at a dispatch table.
        """
        key = (table, opcode)
        known = self._dispatch.get(key)
        if known is None:
            if len(self._dispatch) >= _MAX_DISPATCH:
                self._dispatch.clear()
            known = self._dispatch[key] = self._v8.heap.read_word(table + 8 * opcode)
        return known


def _frame(
    info: SharedFunctionInfo, position: int | None, tier: Tier | None, *, inlined: bool
) -> Frame:
    """Return the frame of a function at a position of its script."""
    script = info.script
    is_builtin = script is None or script.is_native
    return Frame(
        name=clean(info.name),
        kind=FrameKind.BUILTIN if is_builtin else FrameKind.JS,
        tier=tier,
        location=_locate(script, position),
        definition=_locate(script, info.start if info.start >= 0 else None),
        inlined=inlined,
        script_id=script.id if script is not None else 0,
    )


def _locate(script: Script | None, position: int | None) -> Location | None:
    if script is None:
        return None
    place = script.line_column(position) if position is not None else None
    if place is None:
        return Location(clean(script.url))
    return Location(clean(script.url), *place)
