from __future__ import annotations

import os

import pytest

from jsspy.cli.pipe import Receiver, Sender


def test_values_arrive_whole_and_in_order_however_they_are_cut() -> None:
    reading, writing = os.pipe()
    sender, receiver = Sender(writing), Receiver(reading)
    values = ["x" * size for size in (0, 10, 3_000_000, 1)]
    received: list[str] = []
    for value in values:
        sender.send(value)  # does not wait, though nobody has read yet
    assert not sender.flush()
    while len(received) < len(values) and not receiver.is_closed:
        received += receiver.receive()
        sender.flush()
    assert received == values
    assert sender.flush()
    os.close(writing)
    assert receiver.receive() == []
    os.close(reading)
    assert receiver.is_closed


def test_a_reader_that_went_away_is_noticed() -> None:
    reading, writing = os.pipe()
    sender = Sender(writing)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        sender.send(1)
    os.close(writing)
