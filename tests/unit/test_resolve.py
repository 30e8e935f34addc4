"""Resolver on a hand-made target."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chains import walk
from jsspy.errors import ProcessExited
from jsspy.model.capture import (
    Capture,
    Registers,
    RepeatedChain,
    ResolvedChain,
    StackSnapshot,
)
from jsspy.model.mode import NativeFrames
from jsspy.model.sample import LossReason, RawSample, Sample, ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Truncation
from jsspy.model.units import Address, Pid, Tid
from jsspy.resolve import Resolver
from jsspy.unwind.hybrid import HybridUnwinder
from jsspy.v8.plan import make_plan
from stack_world import EXIT, HANDLER, LAYOUT_HERE, RUNTIME, START, World, build_nested


def raw(capture: Capture) -> RawSample:
    return RawSample(Pid(1), Tid(2), 3, 4, ThreadState.RUNNING, capture)


def sample_of(result: Sample | LossReason) -> Sample:
    assert isinstance(result, Sample)
    return result


class Captured:
    """A snapshot of `build_nested` with a native leaf."""

    def __init__(self) -> None:
        self.world = World()
        _, exit_fp = build_nested(self.world)
        self.world.push(EXIT + 16)
        self.snapshot = self.world.snapshot(RUNTIME + 4, exit_fp, exit_fp)

    def resolver(self, version: tuple[int, int, int, int] = (13, 6, 233, 17)) -> Resolver:
        layout = replace(LAYOUT_HERE, v8_version=version)
        return Resolver(self.world.target, self.world.v8, layout)

    def with_state(self, state: int) -> StackSnapshot:
        plan, slot = make_plan(LAYOUT_HERE), LAYOUT_HERE.isolate.vm_state
        assert slot is not None
        words = bytearray(self.snapshot.isolate_words)
        words[slot - plan.isolate_start] = state
        return self.snapshot._replace(isolate_words=bytes(words))


@pytest.fixture
def captured() -> Captured:
    return Captured()


def test_the_root_comes_first(captured: Captured) -> None:
    resolver = captured.resolver()
    sample = sample_of(resolver.resolve(raw(captured.snapshot)))
    assert [frame.name for frame in sample.stack.frames] == [
        "_start",
        "call",
        "[entry frame]",
        "(unknown)",
        "[exit frame]",
        "runtime",
    ]
    assert sample[:5] == (1, 2, 3, 4, ThreadState.RUNNING)
    assert sample.stack.truncated is None
    # The function of the JS frame is not a JSFunction: counted, and not named.
    assert (resolver.js_frames, resolver.js_frames_named) == (1, 0)


def test_truncations_are_counted(captured: Captured) -> None:
    resolver = captured.resolver()
    cut = captured.snapshot._replace(stack=captured.snapshot.stack[:40])
    sample = sample_of(resolver.resolve(raw(cut)))
    assert sample.stack.truncated is Truncation.UNREADABLE
    assert resolver.truncated == {Truncation.UNREADABLE: 1}


class Changed:
    """Something remembered that is not there any more."""

    def __init__(self) -> None:
        self.guards = {0xDEAD_0000: b"gone"}
        self.gone = False
        self.forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1


def test_a_stack_is_done_again_if_what_was_remembered_has_changed(captured: Captured) -> None:
    resolver = captured.resolver()
    assert resolver._v8 is not None
    beliefs, changed = resolver._v8.heap.beliefs, Changed()
    beliefs.add(changed)
    cut = captured.snapshot._replace(stack=captured.snapshot.stack[:40])
    sample_of(resolver.resolve(raw(cut)))
    assert (changed.forgotten, changed.gone) == (1, True)
    # Counted once.
    assert (resolver.js_frames, sum(resolver.truncated.values())) == (0, 1)
    beliefs.add(Changed())
    sample_of(resolver.resolve(raw(captured.snapshot)))
    assert resolver.js_frames == 1


def test_a_stack_that_never_holds_is_lost(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = captured.resolver()
    assert resolver._v8 is not None
    monkeypatch.setattr(resolver._v8.heap.beliefs, "confirm", lambda: False)
    assert resolver.resolve(raw(captured.snapshot)) is LossReason.UNRESOLVED
    assert resolver.js_frames == 0


@pytest.mark.parametrize(
    ("version", "number", "state"),
    [
        ((13, 6, 0, 0), 1, VmState.GC),
        ((13, 6, 0, 0), 7, VmState.ATOMICS_WAIT),
        ((13, 6, 0, 0), 8, VmState.IDLE),
        ((13, 6, 0, 0), 9, VmState.UNKNOWN),
        ((7, 8, 279, 0), 7, VmState.IDLE),
        ((7, 8, 279, 0), 8, VmState.UNKNOWN),
        ((11, 3, 0, 0), 6, VmState.EXTERNAL),
        # The newest V8 frame is a plain exit frame: a call into V8 itself.
        ((13, 6, 0, 0), 0, VmState.JS),
    ],
)
def test_vm_states(
    captured: Captured, version: tuple[int, int, int, int], number: int, state: VmState
) -> None:
    sample = sample_of(captured.resolver(version).resolve(raw(captured.with_state(number))))
    assert sample.vm_state is state


def test_without_isolate_words_the_state_is_not_known(captured: Captured) -> None:
    snapshot = captured.snapshot._replace(isolate_words=b"")
    assert sample_of(captured.resolver().resolve(raw(snapshot))).vm_state is VmState.UNKNOWN


def test_an_unknown_v8_gives_native_frames(captured: Captured) -> None:
    resolver = Resolver(captured.world.target, captured.world.v8, None)
    sample = sample_of(resolver.resolve(raw(captured.snapshot)))
    kinds = {frame.kind for frame in sample.stack.frames}
    assert kinds <= {FrameKind.NATIVE, FrameKind.UNKNOWN}
    assert sample.stack.frames[-1].name == "runtime"
    assert sample.vm_state is VmState.UNKNOWN
    assert resolver.js_frames_named == 0


def test_names_that_arrive_are_kept_and_turned_around(captured: Captured) -> None:
    leaf, root = Frame("leaf", FrameKind.JS), Frame("root", FrameKind.JS)
    sample = sample_of(captured.resolver().resolve(raw(ResolvedChain((leaf, root)))))
    assert sample.stack.frames == (root, leaf)


def test_a_chain_walked_in_the_kernel(captured: Captured) -> None:
    resolver = captured.resolver()
    expected = sample_of(resolver.resolve(raw(captured.with_state(1))))
    chain = walk(captured.with_state(1), make_plan(LAYOUT_HERE))
    sample = sample_of(resolver.resolve(raw(chain)))
    assert sample == expected
    assert sample.vm_state is VmState.GC


def test_a_chain_that_was_cut_says_so(captured: Captured) -> None:
    chain = walk(captured.snapshot, make_plan(LAYOUT_HERE))
    cut = chain._replace(complete=False, too_deep=True, pieces=chain.pieces[:1])
    sample = sample_of(captured.resolver().resolve(raw(cut)))
    assert sample.stack.truncated is Truncation.TOO_DEEP
    assert sample.stack.frames[-1].name == "runtime"
    assert "[exit frame]" in [frame.name for frame in sample.stack.frames]


def test_a_stack_can_be_repeated_for_a_while(captured: Captured) -> None:
    resolver = captured.resolver()
    chain = walk(captured.with_state(1), make_plan(LAYOUT_HERE))
    second = 1_000_000_000
    samples = {}
    for key in range(1, 101):
        sent = raw(chain._replace(key=key))._replace(time_ns=key * second)
        samples[key] = sample_of(resolver.resolve(sent))
    again = RawSample(Pid(1), Tid(2), 0, 70, ThreadState.RUNNING, RepeatedChain(99))
    assert resolver.resolve(again) == samples[99]._replace(weight_ns=70)
    assert resolver.resolve(again._replace(capture=RepeatedChain(50))) is LossReason.UNRESOLVED
    assert len(resolver._repeatable) <= 6


def test_kernel_frames_are_the_leaf(captured: Captured) -> None:
    kernel = raw(captured.snapshot)._replace(kernel_chain=(Address(0xFFF1), Address(0xFFF2)))
    sample = sample_of(captured.resolver().resolve(kernel))
    assert [frame.address for frame in sample.stack.frames[-2:]] == [0xFFF2, 0xFFF1]
    assert sample.stack.frames[-1].kind is FrameKind.KERNEL


def test_nothing_at_all_is_a_loss(captured: Captured) -> None:
    nowhere = captured.snapshot._replace(
        registers=Registers(rip=8, rsp=captured.snapshot.stack_start), isolate_words=b""
    )
    assert captured.resolver().resolve(raw(nowhere)) is LossReason.UNRESOLVED


FULL = ["_start", "call", "[entry frame]", "(unknown)", "[exit frame]", "runtime"]
SELECTED = {
    NativeFrames.FULL: FULL,
    NativeFrames.LEAF: ["(unknown)", "[exit frame]", "runtime"],
    NativeFrames.OFF: ["(unknown)"],
}


@pytest.mark.parametrize("is_chain", [False, True])
@pytest.mark.parametrize("native", NativeFrames)
def test_native_frames_as_wanted(
    captured: Captured, native: NativeFrames, is_chain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(captured.world.target, captured.world.v8, LAYOUT_HERE, native=native)
    if native is NativeFrames.OFF:
        monkeypatch.delattr(HybridUnwinder, "table")
    capture: Capture = captured.with_state(1)
    if is_chain:
        capture = walk(captured.with_state(1), make_plan(LAYOUT_HERE))
    sample = sample_of(resolver.resolve(raw(capture)))
    assert [frame.name for frame in sample.stack.frames] == SELECTED[native]
    assert (sample.stack.truncated, sample.vm_state) == (None, VmState.GC)


@pytest.mark.parametrize("native", NativeFrames)
def test_native_frames_where_there_are_no_others(native: NativeFrames) -> None:
    world = World()
    world.push(0, START + 9, RUNTIME + 9)
    resolver = Resolver(world.target, world.v8, LAYOUT_HERE, native=native)
    sample = sample_of(resolver.resolve(raw(world.snapshot(RUNTIME + 4, 0))))
    assert sample.stack.truncated is None
    names = [frame.name for frame in sample.stack.frames]
    assert names == (
        ["(native)"] if native is NativeFrames.OFF else ["_start", "runtime", "runtime"]
    )


def test_a_target_that_ends_is_a_loss(captured: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = captured.resolver()

    def gone(*_: object) -> list[bytes | None]:
        raise ProcessExited("process 1 is gone")

    monkeypatch.setattr(captured.world.heap, "read_many", gone)
    frame = captured.snapshot
    assert resolver.resolve(raw(frame)) is LossReason.THREAD_GONE


def test_a_leaf_in_a_bytecode_handler_is_labelled() -> None:
    world = World()
    js_fp, _ = build_nested(world)
    resolver = Resolver(world.target, world.v8, LAYOUT_HERE)
    sample = sample_of(resolver.resolve(raw(world.snapshot(HANDLER + 8, js_fp))))
    assert sample.stack.frames[-1] == Frame("LdaHandler", FrameKind.BYTECODE_HANDLER)
