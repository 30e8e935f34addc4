"""Who awaits the code that runs: from the current microtask along promises to async functions.

Code behind an `await` runs from the microtask queue, so its callers are not on the stack. But they
wait, and what they wait for leads to them:

    isolate ─► current microtask, a PromiseReactionJobTask ─► handler, a closure of V8's own
      closure ─► context ─► generator object of the async function that was resumed
      generator ─► promise that its caller awaits ─► its one reaction ─► closure of the caller ...

    JSAsyncFunctionObject    function | ... | bytecode offset of the await | ... | promise
    JSAsyncGeneratorObject   the same with a queue of requests, whose first one has the promise
    JSPromise                reactions | status
    PromiseReaction          next | reject | fulfill | promise or capability
    PromiseCapability        promise

What the handlers of a reaction are tells how to go on: closures of `await` and `yield` have a
generator in their context, those of Promise.all and its kin a capability, a resolve function its
promise; after any other the reaction's own promise is next (`then`). That is how V8 itself makes
asynchronous stack traces. Source: CaptureAsyncStackTrace in src/execution/isolate.cc at 9.4.146 and
13.6.233; src/objects/microtask.tq, promise.tq, js-generator.tq at the same.

A promise that is settled, or that several wait for, ends the chain: there is no caller, or not one.

All of it is young and moves, so it is read while the thread stands still: `AsyncReader.read` walks
the chain there, and every object that it meets goes into the capture; `decode` walks the same way
again through the capture. What V8's own layout is comes from its constants, except the few offsets
below, each of an object that Torque lays out in the order of its source.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple

from jsspy.errors import FaultError, JsspyError
from jsspy.model.units import Address, FileAddress
from jsspy.target.memory import Memory
from jsspy.target.process import V8Binary
from jsspy.v8.heap import Heap, is_heap_object, is_smi, smi_value
from jsspy.v8.layout import Layout
from jsspy.v8.stripped import builtin_symbols

MAX_STEPS = 128
"""Functions and combinators of one chain; V8 has a limit of its own on what is awaited."""

MAX_HOPS = 512
"""Promises and functions of one chain."""

OBJECT_SIZE = 96
"""Bytes looked at of each object: an async generator object has 96."""

BLOCK_SIZE = 4096
"""Bytes read at once. What belongs to one `await` was allocated together: the 60 objects of 8
callers lie in about 10 pages."""

_TYPES = re.compile(rb"v8dbg_type_(?:Promise(?:Fulfill|Reject)ReactionJobTask)__\w+")
_METADATA = re.compile(rb"_ZN2v88internal12_GLOBAL__N_1L?16builtin_metadataE")
_CODE_SIZE = 0x1200
"""Of RunMicrotasks: 0x900 to 0xf60 in V8 7.8 to 14.6; the shortest builtins follow."""

_STORE_ROOT = re.compile(rb"[\x49\x4d]\x89[\x85\x8d\x95\x9d\xa5\xad\xb5\xbd](....)", re.DOTALL)
"""mov [r13+d], reg with a 32-bit displacement"""

_METADATA_SIZE = 24
"""Name, kind, and what depends on the kind. Source: src/builtins/builtins.cc at 7.8.279 and
14.6.202, BuiltinMetadata."""

_MAX_BUILTINS = 1 << 13
_MAX_NAME = 80

_RESUMING = re.compile(
    r"Async(?:Function|Generator)(?:Await|Yield|YieldWithAwait|Return|ReturnClosed)"
    r"(?:Resolve|Reject)Closure"
)
"""Closures whose context has, in its first slot, the generator that they resume."""

_COMBINATORS = {
    "PromiseAllResolveElementClosure": "Promise.all",
    "PromiseAllSettledResolveElementClosure": "Promise.allSettled",
    "PromiseAnyRejectElementClosure": "Promise.any",
}
_RESOLVE = "PromiseCapabilityDefaultResolve"

_EMBEDDER_DATA_SINCE = (12, 0)
"""Reactions and tasks begin with a word for the embedder. Source: V8_ENABLE_CONTINUATION_PRESERVED
_EMBEDDER_DATA in src/objects/promise.tq and microtask.tq, in 12.4 and not in 11.3."""

# Offsets of the fields; those of tasks and reactions without the embedder's word.
_TASK_HANDLER, _TASK_PROMISE = 24, 32
_PROMISE_REACTIONS, _PROMISE_FLAGS = 24, 32
_REACTION_NEXT, _REACTION_REJECT, _REACTION_FULFILL, _REACTION_PROMISE = 8, 16, 24, 32
_CAPABILITY_PROMISE = 8
_GENERATOR_FUNCTION, _GENERATOR_OFFSET, _GENERATOR_CONTINUATION = 24, 48, 64
_ASYNC_FUNCTION_PROMISE = _ASYNC_GENERATOR_QUEUE = 80
_REQUEST_PROMISE = 32
_CONTEXT_SLOTS = range(32, 72, 8)
"""Of a closure's context, behind length, scope info and previous context."""

_STATUS_MASK = 3
"""Of a promise's flags; 0 is pending. Source: src/objects/js-promise.h at 7.8.279 and 13.6.233."""


class StepKind(Enum):
    """What a step of a chain is."""

    FUNCTION = "function"
    COMBINATOR = "combinator"
    LOST = "lost"
    """The chain goes on, but could not be followed: something was not as it must be."""


class Step(NamedTuple):
    """A caller that waits. Sequences are innermost first."""

    kind: StepKind
    shared: int = 0
    """SharedFunctionInfo of a function; tagged."""
    offset_slot: int = 0
    """Where it waits, as an interpreted frame has it: a Smi."""
    name: str = ""
    """Of a combinator."""


_LOST = Step(StepKind.LOST)
_WORDS = struct.Struct(f"<{OBJECT_SIZE // 8}Q").unpack_from

Words = tuple[int, ...]


class AsyncLayout(NamedTuple):
    """What is needed besides `Layout`."""

    microtask: int
    """Offset of the current microtask from the isolate."""
    tasks: frozenset[int]
    """Instance types of PromiseReactionJobTask; empty if not known (V8 7)."""
    builtins: dict[int, str]
    """Builtin id -> name, of those that matter."""
    shift: int
    """Bytes by which the fields of tasks and reactions are further back."""


def derive_async_layout(v8: V8Binary, layout: Layout, memory: Memory) -> AsyncLayout | None:
    """Return where to read chains; None if this binary does not say.

    The current microtask is a root that only RunMicrotasks writes, once the task and once
    undefined: the one displacement that it stores to exactly twice.
    Source: src/builtins/builtins-microtask-queue-gen.cc at 7.8.279 and 13.6.233.

    Args:
        v8: The binary.
        layout: Its layout.
        memory: Of a process that runs it: the table of builtins' names has pointers in it, which a
            position-independent file does not contain.
    """
    try:
        run = builtin_symbols(v8.elf).get("Builtins_RunMicrotasks")
        table = next(iter(v8.elf.find_symbols(_METADATA).values()), None)
        if run is None or table is None:
            return None
        size = run.size or _CODE_SIZE
        stores = Counter(
            match[1] for match in _STORE_ROOT.finditer(v8.elf.read(run.address, min(size, 1 << 14)))
        )
        twice = [displacement for displacement, count in stores.items() if count == 2]
        if len(twice) != 1:
            return None
        builtins = _read_builtins(memory, v8.bias + table.address, table.size)
        types = [
            int.from_bytes(v8.elf.read(FileAddress(symbol.address), 4), "little")
            for symbol in v8.elf.find_symbols(_TYPES).values()
        ]
    except JsspyError:
        return None
    if not builtins:
        return None
    return AsyncLayout(
        microtask=struct.unpack("<i", twice[0])[0] + layout.isolate.root_register_bias,
        tasks=frozenset(types),
        builtins=builtins,
        shift=8 if layout.v8_version >= _EMBEDDER_DATA_SINCE else 0,
    )


def _read_builtins(memory: Memory, address: int, size: int) -> dict[int, str]:
    """Return id -> name of the builtins that chains lead through.

    Raises:
        FaultError: The table cannot be read.
    """
    count = min(size // _METADATA_SIZE, _MAX_BUILTINS)
    table = memory.read(Address(address), count * _METADATA_SIZE)
    pointers = [words[0] for words in struct.iter_unpack("<3Q", table)]
    result = {}
    for number, data in enumerate(memory.read_many([(at, _MAX_NAME) for at in pointers])):
        name = (data or b"").partition(b"\0")[0].decode("ascii", "replace")
        if name in _COMBINATORS or name == _RESOLVE or _RESUMING.fullmatch(name):
            result[number] = name
    return result


class AsyncReader:
    """Walks chains of one target; implements `jsspy.model.capture.StoppedReader`."""

    def __init__(self, heap: Heap, layout: AsyncLayout) -> None:
        self._heap = heap
        self._layout = layout
        self._types = heap.layout.types
        self._undefined = 0

    def read(self, isolate: Address, read: Callable[[int, int], bytes]) -> None:
        """Read the chain of a thread that stands still.

        Args:
            isolate: Of the thread.
            read: Returns bytes at an address; keeps them for `decode`. Raises FaultError.
        """
        try:
            microtask = int.from_bytes(read(isolate + self._layout.microtask, 8), "little")
        except FaultError:
            return
        if microtask != self._undefined:
            _Walk(self, read).run(microtask)

    def decode(self, isolate: Address, kept: Mapping[int, bytes]) -> list[Step]:
        """Return the callers that `read` met, innermost first.

        Args:
            isolate: Of the thread.
            kept: Address -> bytes that were read.
        """
        word = kept.get(isolate + self._layout.microtask)
        if word is None:
            return []

        def read(address: int, size: int) -> bytes:
            data = kept.get(address)
            if data is None or len(data) != size:
                raise FaultError(Address(address), size)
            return data

        return _Walk(self, read).run(int.from_bytes(word, "little"))

    def is_task(self, instance_type: int | None, word: int) -> bool:
        """Whether a current microtask is a reaction of a promise; remembers what is none at all."""
        if instance_type == self._types.oddball:
            self._undefined = word
        tasks = self._layout.tasks
        return instance_type is not None and (not tasks or instance_type in tasks)

    def is_known_task(self, word: int) -> bool:
        """Whether a word that could not be followed is a microtask, of whatever kind."""
        return is_heap_object(word) and self._undefined not in (0, word)

    @property
    def heap(self) -> Heap:
        """Reads maps, which do not move while a program runs."""
        return self._heap

    @property
    def layout(self) -> AsyncLayout:
        """Where things are."""
        return self._layout


class _End(Exception):
    """The chain ends here, as chains do."""


class _Walk:
    """One chain."""

    def __init__(self, reader: AsyncReader, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._heap = reader.heap
        self._reader = reader
        self._types = reader.heap.layout.types
        objects = reader.heap.layout.objects
        self._shared = objects.js_function_shared >> 3
        self._context = objects.js_function_context >> 3
        self._code = (objects.sfi_untrusted_function_data or objects.sfi_function_data) >> 3
        self._length, self._data = objects.fixed_array_length, objects.fixed_array_data
        self._shift = reader.layout.shift
        self._builtins = reader.layout.builtins
        self._blocks: dict[int, bytes] = {}
        self._names: dict[int, str] = {}
        self._steps: list[Step] = []

    def run(self, microtask: int) -> list[Step]:
        """Return the steps from a microtask on."""
        try:
            task = self._object(microtask)
        except FaultError:
            return [_LOST] if self._reader.is_known_task(microtask) else []
        if not self._reader.is_task(self._type(task), microtask):
            return []
        try:
            promise = self._start(task)
            seen = set()
            for _ in range(MAX_HOPS):
                if promise in seen or len(self._steps) >= MAX_STEPS:
                    break
                seen.add(promise)
                promise = self._next(promise)
            self._steps.append(_LOST)
        except _End:
            pass
        except FaultError:
            # Unreadable, on the move, or out of time: there may be callers, and there may be none.
            self._steps.append(_LOST)
        return self._steps

    def _start(self, task: Words) -> int:
        """Return the promise that whoever waits for the running code waits for."""
        handler = task[(_TASK_HANDLER + self._shift) >> 3]
        generator = self._generator_of(handler)
        if generator is not None:
            return self._promise_of(generator)
        if not self._reader.layout.tasks:
            raise _End
        return self._promise_or_capability(task[(_TASK_PROMISE + self._shift) >> 3])

    def _next(self, pointer: int) -> int:
        """Append who waits for a promise; return the promise that is waited for next."""
        promise = self._object(pointer)
        if self._type(promise) != self._types.js_promise:
            raise _End
        flags = promise[_PROMISE_FLAGS >> 3]
        reaction_word = promise[_PROMISE_REACTIONS >> 3]
        if not is_smi(flags) or smi_value(flags) & _STATUS_MASK or is_smi(reaction_word):
            raise _End
        reaction = self._object(reaction_word)
        if self._types.promise_reaction not in (-1, self._type(reaction)):
            raise _End
        shift = self._shift
        if not is_smi(reaction[(_REACTION_NEXT + shift) >> 3]):
            raise _End
        fulfill = reaction[(_REACTION_FULFILL + shift) >> 3]
        generator = self._generator_of(fulfill)
        if generator is not None:
            self._append(generator)
            return self._promise_of(generator)
        reject = reaction[(_REACTION_REJECT + shift) >> 3]
        for handler in (reject, fulfill):
            name = self._builtin_of(handler)
            if name in _COMBINATORS:
                self._steps.append(Step(StepKind.COMBINATOR, name=_COMBINATORS[name]))
                return self._promise_in_context(handler, with_capability=True)
        if self._builtin_of(fulfill) == _RESOLVE:
            return self._promise_in_context(fulfill, with_capability=False)
        return self._promise_or_capability(reaction[(_REACTION_PROMISE + shift) >> 3])

    # Objects

    def _object(self, pointer: int) -> Words:
        """Return the words of an object.

        Raises:
            FaultError: It cannot be read, or is none.
        """
        if pointer & 3 != 1:
            raise FaultError(Address(pointer), OBJECT_SIZE)
        at = (pointer - 1) % BLOCK_SIZE
        start = pointer - 1 - at
        block = self._blocks.get(start)
        if block is None:
            block = self._blocks[start] = self._read(start, BLOCK_SIZE)
        if at <= BLOCK_SIZE - OBJECT_SIZE:
            return _WORDS(block, at)
        end = start + BLOCK_SIZE
        after = self._blocks.get(end)
        if after is None:
            try:
                after = self._blocks[end] = self._read(end, BLOCK_SIZE)
            except FaultError:
                # The last object of a page may have nothing behind it.
                after = self._blocks[end] = bytes(BLOCK_SIZE)
        return _WORDS(block[at:] + after[:OBJECT_SIZE], 0)

    def _type(self, words: Words) -> int | None:
        return self._heap.map_type(words[0])

    def _builtin_of(self, function: int) -> str:
        """Return the name of the builtin that a function is; "" for all others."""
        if function & 3 != 1:
            return ""
        shared = self._object(function)[self._shared]
        known = self._names.get(shared)
        if known is not None:
            return known
        name = ""
        if is_heap_object(shared):
            words = self._object(shared)
            word = words[self._code]
            if self._type(words) == self._types.shared_function_info and is_smi(word):
                name = self._builtins.get(smi_value(word), "")
        self._names[shared] = name
        return name

    def _context_of(self, function: int) -> Words:
        return self._object(self._object(function)[self._context])

    def _generator_of(self, handler: int) -> Words | None:
        """Return the generator that a closure resumes; None if it is no such closure."""
        if not _RESUMING.fullmatch(self._builtin_of(handler)):
            return None
        generator = self._object(self._context_of(handler)[_CONTEXT_SLOTS.start >> 3])
        types = self._types
        found = self._type(generator)
        if types.js_async_function_object != -1:
            is_generator = found in (
                types.js_async_function_object,
                types.js_async_generator_object,
            )
        else:
            is_generator = found is not None and found > types.first_nonstring
        if not is_generator or not is_smi(generator[_GENERATOR_CONTINUATION >> 3]):
            raise FaultError(Address(handler), OBJECT_SIZE)
        return generator

    def _append(self, generator: Words) -> None:
        shared = self._object(generator[_GENERATOR_FUNCTION >> 3])[self._shared]
        offset = generator[_GENERATOR_OFFSET >> 3]
        if smi_value(generator[_GENERATOR_CONTINUATION >> 3]) < 0:
            # Not suspended: nobody waits there.
            raise FaultError(Address(0), OBJECT_SIZE)
        self._steps.append(Step(StepKind.FUNCTION, shared, offset if is_smi(offset) else -1))

    def _promise_of(self, generator: Words) -> int:
        """Return the promise that the caller of an async function or generator has."""
        word = generator[_ASYNC_FUNCTION_PROMISE >> 3]
        if not is_heap_object(word):
            raise _End
        found = self._object(word)
        instance_type = self._type(found)
        if instance_type == self._types.js_promise:
            return word
        if instance_type == self._types.oddball:
            # An async generator that nobody has asked for anything.
            raise _End
        return found[_REQUEST_PROMISE >> 3]

    def _promise_in_context(self, function: int, *, with_capability: bool) -> int:
        """Return the promise, or that of the capability, in the context of a function of V8's."""
        words = self._context_of(function)
        length = words[self._length >> 3]
        count = smi_value(length) if is_smi(length) else 0
        # A context begins as a FixedArray does: length, then slots.
        last = self._data + 8 * count
        for offset in _CONTEXT_SLOTS:
            word = words[offset >> 3]
            if offset >= last or not is_heap_object(word):
                continue
            found = self._object(word)
            if not with_capability and self._type(found) == self._types.js_promise:
                return word
            if with_capability and self._is_capability(found):
                return found[_CAPABILITY_PROMISE >> 3]
        raise FaultError(Address(function), OBJECT_SIZE)

    def _is_capability(self, words: Words) -> bool:
        wanted, found = self._types.promise_capability, self._type(words)
        if wanted != -1:
            return found == wanted
        promise = words[_CAPABILITY_PROMISE >> 3]
        return (
            found is not None
            and is_heap_object(promise)
            and self._type(self._object(promise)) == self._types.js_promise
            and self._type(self._object(self._object(words[2])[self._shared]))
            == self._types.shared_function_info
        )

    def _promise_or_capability(self, word: int) -> int:
        """Return the promise that a reaction settles."""
        if not is_heap_object(word):
            raise _End
        found = self._object(word)
        if self._type(found) == self._types.js_promise:
            return word
        if self._is_capability(found):
            return found[_CAPABILITY_PROMISE >> 3]
        raise _End
