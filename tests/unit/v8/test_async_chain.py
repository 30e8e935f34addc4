"""Chains of promises in made-up heaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import LAYOUT, HeapBuilder, smi
from jsspy.errors import FaultError
from jsspy.model.units import Address
from jsspy.v8.async_chain import MAX_STEPS, AsyncLayout, AsyncReader, Step, StepKind

TYPES = replace(
    LAYOUT.types,
    js_promise=1100,
    js_async_function_object=1101,
    js_async_generator_object=1102,
    promise_reaction=150,
    promise_capability=151,
)
TASK, OTHER_TASK, REQUEST = 132, 133, 152
NAMES = {
    1: "AsyncFunctionAwaitResolveClosure",
    2: "AsyncGeneratorAwaitResolveClosure",
    3: "PromiseAllResolveElementClosure",
    4: "PromiseAnyRejectElementClosure",
    5: "PromiseCapabilityDefaultResolve",
}
WHERE = AsyncLayout(0x40, frozenset({TASK}), NAMES, 8)
ISOLATE = Address(0x5000)


class World(HeapBuilder):
    """A heap with promises in it."""

    def __init__(self) -> None:
        super().__init__(replace(LAYOUT, types=TYPES), base=0x100000)
        self.pages[ISOLATE] = bytearray(4096)
        self.user = self.closure(-1)

    def closure(self, builtin: int, *slots: int) -> int:
        """Return a function of V8's own (or, -1, of a script) with slots in its context."""
        shared = self.shared(0, self.undefined, smi(builtin) if builtin >= 0 else self.undefined)
        made = self.function(shared)
        self.set(made, self.layout.objects.js_function_context, self.array(0, 0, *slots))
        return made

    def promise(self, reactions: int = 0, status: int = 0) -> int:
        return self.object(TYPES.js_promise, 48, {24: reactions, 32: smi(status)})

    def reaction(
        self, fulfill: int, promise: int = 0, *, reject: int = 0, following: int = 0
    ) -> int:
        fields = {16: following, 24: reject, 32: fulfill, 40: promise or self.undefined}
        return self.object(TYPES.promise_reaction, 48, fields)

    def generator(self, promise: int, offset: int, *, state: int = 1, queue: bool = False) -> int:
        """Return an async function, or with `queue` an async generator, that waits."""
        function = self.function(self.shared(0, self.undefined, self.undefined))
        if queue:
            promise = self.object(REQUEST, 40, {32: promise})
        kind = TYPES.js_async_generator_object if queue else TYPES.js_async_function_object
        fields = {24: function, 48: smi(offset), 64: smi(state), 80: promise}
        return self.object(kind, 96, fields)

    def run(self, handler: int, promise: int = 0, kind: int = TASK) -> None:
        """Make a reaction's task the current microtask."""
        task = self.object(kind, 48, {32: handler, 40: promise or self.undefined})
        self.write(ISOLATE + WHERE.microtask, task)

    def chain(self) -> list[Step]:
        """Return the chain that is decoded from what was read, and nothing else."""
        reader = AsyncReader(self.heap(), WHERE)
        memory = self.memory()
        kept: dict[int, bytes] = {}

        def read(address: int, size: int) -> bytes:
            kept[address] = memory.read(Address(address), size)
            return kept[address]

        reader.read(ISOLATE, read)
        return reader.decode(ISOLATE, kept)

    def awaited(self, promise: int, offset: int, **options: bool) -> tuple[int, int]:
        """Return a promise that a new function waits for, and that function's generator."""
        waiting = self.generator(promise, offset, **options)
        return self.promise(self.reaction(self.closure(1, waiting))), waiting


def offsets(steps: list[Step]) -> list[object]:
    return [
        step.name or step.kind if step.kind is not StepKind.FUNCTION else step.offset_slot >> 32
        for step in steps
    ]


def start(world: World, promise: int) -> None:
    """Run a function that `promise` is the result of."""
    world.run(world.closure(1, world.generator(promise, 0, state=-2)))


def test_functions_and_generators_that_wait_for_each_other() -> None:
    world = World()
    last, _ = world.awaited(world.promise(), 30)
    middle, _ = world.awaited(last, 20, queue=True)
    first, waiting = world.awaited(middle, 10)
    start(world, first)
    steps = world.chain()
    assert offsets(steps) == [10, 20, 30]
    heap = world.heap()
    function = heap.read_field(waiting, 24)
    assert steps[0].shared == heap.read_field(function, LAYOUT.objects.js_function_shared)


@pytest.mark.parametrize(
    ("handler", "reject", "name"), [(3, 0, "Promise.all"), (5, 4, "Promise.any")]
)
def test_combinators(handler: int, reject: int, name: str) -> None:
    world = World()
    outer, _ = world.awaited(world.promise(), 10)
    capability = world.object(TYPES.promise_capability, 32, {8: outer})
    fulfill = world.closure(handler, smi(1), capability)
    other = world.closure(reject, smi(1), capability) if reject else 0
    start(world, world.promise(world.reaction(fulfill, reject=other)))
    assert offsets(world.chain()) == [name, 10]


def test_resolve_functions_and_thens_lead_on() -> None:
    world = World()
    outer, _ = world.awaited(world.promise(), 10)
    resolved = world.promise(world.reaction(world.closure(5, outer)))
    then = world.promise(world.reaction(world.user, resolved))
    capability = world.object(TYPES.promise_capability, 32, {8: then})
    world.run(world.user, capability)
    assert offsets(world.chain()) == [10]


def both(world: World) -> int:
    one = world.reaction(world.closure(1, world.generator(world.promise(), 10)))
    return world.promise(
        world.reaction(world.closure(1, world.generator(world.promise(), 11)), following=one)
    )


ENDS: dict[str, Callable[[World], int]] = {
    "nobody waits": lambda world: world.promise(),
    "settled": lambda world: world.promise(world.string("value"), status=1),
    "several wait": both,
    "no promise": lambda world: world.string("x"),
}


@pytest.mark.parametrize("end", ENDS)
def test_chains_end(end: str) -> None:
    world = World()
    start(world, ENDS[end](world))
    assert world.chain() == []
    world = World()
    first, _ = world.awaited(ENDS[end](world), 10)
    start(world, first)
    assert offsets(world.chain()) == [10]


def test_what_is_no_reaction_has_no_callers() -> None:
    world = World()
    assert world.chain() == []
    world.write(ISOLATE + WHERE.microtask, world.undefined)
    assert world.chain() == []
    first, _ = world.awaited(world.promise(), 10)
    world.run(world.user, first, OTHER_TASK)
    assert world.chain() == []


def test_what_is_not_as_it_must_be_is_lost_and_not_guessed() -> None:
    world = World()
    gone, waiting = world.awaited(world.promise(), 20)
    first, _ = world.awaited(gone, 10)
    start(world, first)
    world.set(waiting, 64, smi(-1))
    assert offsets(world.chain()) == [10, StepKind.LOST]
    world.set(waiting, 0, world.map_of(TYPES.oddball))
    assert offsets(world.chain()) == [10, StepKind.LOST]


def test_a_reaction_that_cannot_be_followed_may_have_callers() -> None:
    world = World()
    world.run(0x7FFF00000001)
    assert offsets(world.chain()) == [StepKind.LOST]


def test_endless_chains_are_cut() -> None:
    world = World()
    circle = world.promise()
    world.set(circle, 24, world.reaction(world.user, circle))
    first, _ = world.awaited(circle, 10)
    start(world, first)
    assert offsets(world.chain()) == [10, StepKind.LOST]
    world = World()
    promise = world.promise()
    for offset in range(MAX_STEPS + 10):
        promise, _ = world.awaited(promise, offset)
    start(world, promise)
    steps = offsets(world.chain())
    assert len(steps) == MAX_STEPS + 1
    assert steps[-1] is StepKind.LOST


def test_an_object_at_the_end_of_memory_is_read() -> None:
    world = World()
    world.top = (world.top | 0xFFF) + 1 - 48
    at_end = world.allocate(48)
    world.set(at_end, 0, world.maps.get(TYPES.js_promise) or world.map_of(TYPES.js_promise))
    first, _ = world.awaited(at_end, 10)
    start(world, first)
    assert offsets(world.chain()) == [10]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0x1800), st.integers(0, 2**64 - 1)), max_size=8))
def test_damaged_heaps_end_well(damage: list[tuple[int, int]]) -> None:
    world = World()
    last, _ = world.awaited(world.promise(), 30)
    capability = world.object(TYPES.promise_capability, 32, {8: last})
    both_of = world.promise(world.reaction(world.closure(3, smi(1), capability)))
    first, _ = world.awaited(both_of, 10, queue=True)
    start(world, first)
    for at, word in damage:
        place = 0x100000 + at // 8 * 8
        if place + 8 <= world.top:
            world.write(place, word)
    assert len(world.chain()) <= MAX_STEPS + 1


def test_without_what_was_read_there_is_nothing() -> None:
    world = World()
    first, _ = world.awaited(world.promise(), 10)
    start(world, first)
    reader = AsyncReader(world.heap(), WHERE)

    def refuse(address: int, size: int) -> bytes:
        raise FaultError(Address(address), size)

    reader.read(ISOLATE, refuse)
    assert reader.decode(ISOLATE, {}) == []
    word = world.read(ISOLATE + WHERE.microtask, 8)
    assert reader.decode(ISOLATE, {ISOLATE + WHERE.microtask: word, 0: b""}) == []


def test_a_task_that_there_was_no_time_to_read_may_have_callers() -> None:
    world = World()
    first, _ = world.awaited(world.promise(), 10)
    start(world, first)
    word = {ISOLATE + WHERE.microtask: world.read(ISOLATE + WHERE.microtask, 8)}
    reader = AsyncReader(world.heap(), WHERE)
    # Until it is known what stands there when nothing runs, it might be that.
    assert reader.decode(ISOLATE, word) == []
    nothing = world.undefined.to_bytes(8, "little")
    kept = {ISOLATE + WHERE.microtask: nothing}

    def read(address: int, size: int) -> bytes:
        kept[address] = nothing if address in kept else world.read(address, size)
        return kept[address]

    reader.read(ISOLATE, read)
    assert reader.decode(ISOLATE, kept) == []
    assert offsets(reader.decode(ISOLATE, word)) == [StepKind.LOST]
