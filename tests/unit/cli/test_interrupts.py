"""The first signal stops, the second gives up; afterwards everything is as before."""

from __future__ import annotations

import os
import signal

import pytest

from jsspy.cli.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_stops_and_second_gives_up(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts.should_stop()
        os.kill(os.getpid(), number)
        assert interrupts.should_stop()
        assert interrupts.stop_signal == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before


def test_snapshot_is_asked_for_once() -> None:
    with Interrupts() as interrupts:
        assert not interrupts.take_snapshot_request()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not interrupts.should_stop()
        assert interrupts.take_snapshot_request()
        assert not interrupts.take_snapshot_request()
