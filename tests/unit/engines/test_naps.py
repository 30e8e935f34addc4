"""Naps: their time is told once, whatever the order in which it becomes known."""

from __future__ import annotations

import pytest

from jsspy.engines.naps import Naps, napping_state, waiting_state
from jsspy.model.capture import ResolvedChain
from jsspy.model.sample import RawSample, ThreadState
from jsspy.model.units import Pid, Tid

SAMPLE = RawSample(Pid(1), Tid(1), 0, 0, ThreadState.EPOLL, ResolvedChain(()))


def told(sample: RawSample | None) -> tuple[int, int]:
    assert sample is not None
    return sample.time_ns, sample.weight_ns


def test_a_nap_weighs_its_time() -> None:
    naps = Naps()
    naps.begin(7, SAMPLE, 100)
    assert 7 in naps
    assert told(naps.end(7, 350)) == (100, 250)
    assert 7 not in naps
    assert naps.end(7, 400) is None


def test_a_long_nap_is_told_of_piece_by_piece() -> None:
    naps = Naps()
    naps.begin(7, SAMPLE, 100, scale=8)
    assert [told(sample) for sample in naps.tell(300)] == [(100, 200)]
    assert [told(sample) for sample in naps.tell(350)] == [(300, 50)]
    assert naps.tell(350) == []
    assert told(naps.end(7, 360, short_ns=10)) == (350, 10)


def test_a_nap_that_ended_before_it_was_looked_at_has_no_time() -> None:
    naps = Naps()
    naps.begin(7, SAMPLE, 100)
    assert naps.tell(90) == []
    assert naps.end(7, 100) is None


def test_short_naps_stand_for_those_that_were_not_taken() -> None:
    naps = Naps()
    for duration, weight in ((10, 80), (99, 792), (100, 100)):
        naps.begin(7, SAMPLE, 100, scale=8)
        assert told(naps.end(7, 100 + duration, short_ns=100)) == (100, weight)


def test_what_is_forgotten_is_not_told() -> None:
    naps = Naps()
    naps.begin(7, SAMPLE, 100)
    naps.forget(7)
    assert naps.tell(200) == []


@pytest.mark.parametrize(
    ("bits", "call", "preempted", "state"),
    [
        (0, 0, True, ThreadState.RUNNABLE),
        (1, 202, True, ThreadState.RUNNABLE),
        (0, -1, False, ThreadState.RUNNABLE),
        (0, 281, False, ThreadState.EPOLL),
        (1, 232, False, ThreadState.EPOLL),
        (1, 202, False, ThreadState.FUTEX),
        (1, 0, False, ThreadState.SLEEPING),
        (2, 17, False, ThreadState.DISK),
        (0x102, 0, False, ThreadState.DISK),
        (0x108, 281, False, ThreadState.STOPPED),
    ],
)
def test_states(bits: int, call: int, preempted: bool, state: ThreadState) -> None:
    assert napping_state(bits, call, preempted=preempted) is state


def test_what_can_be_interrupted() -> None:
    assert waiting_state(441) is ThreadState.EPOLL
    assert waiting_state(449) is ThreadState.FUTEX
    assert waiting_state(61) is ThreadState.SLEEPING
