"""What goes into the pipe comes out of it; what does not fit is counted."""

from __future__ import annotations

import io
import json
import os
import struct

import pytest

from jsspy.errors import MalformedData
from jsspy.formats.native import NativeReader
from jsspy.model.sample import LossReason
from jsspy.server.stream import (
    END,
    MAX_MESSAGE,
    MAX_PENDING,
    PROFILE,
    TARGETS,
    StreamWriter,
    iter_messages,
)
from profiles import HOT, MAIN, profile_of, small


def test_messages_arrive_in_order() -> None:
    source, descriptor = os.pipe()
    writer = StreamWriter(descriptor)
    writer.send_json(TARGETS, {"targets": [], "denied": 0})
    writer.send_profile(small())
    writer.send_json(END, {"error": None})
    writer.close()
    with os.fdopen(source, "rb") as file:
        messages = list(iter_messages(file))
    assert [tag for tag, _ in messages] == [TARGETS, PROFILE, END]
    assert json.loads(messages[0][1]) == {"targets": [], "denied": 0}
    assert len(NativeReader().read(io.BytesIO(messages[1][1]))) == len(small())


def test_a_reader_that_stalls_costs_samples_and_they_are_counted() -> None:
    source, descriptor = os.pipe()
    writer = StreamWriter(descriptor)
    count = 0
    requested = 0
    # Enough to fill the pipe, which may have been made larger, and all that is kept beside it.
    big = profile_of(*[(MAIN, HOT)] * 50)
    big.meta.notes = [os.urandom(40_000).hex()]
    while count < 4 * MAX_PENDING:
        big.stats.requested, big.stats.lost = len(big), {}
        writer.send_profile(big)
        requested += len(big)
        count += 1
        assert len(writer._pending) <= MAX_PENDING
    os.set_blocking(source, True)
    reader = os.fdopen(source, "rb")
    messages = []
    for message in iter_messages(reader):
        messages.append(message)
        writer.flush()
        if not writer._pending:
            break
    writer.send_profile(profile_of((MAIN, HOT)))
    writer.close()
    messages += list(iter_messages(reader))
    reader.close()
    profiles = [NativeReader().read(io.BytesIO(content)) for _, content in messages]
    lost = sum(profile.stats.lost.get(LossReason.RING_FULL, 0) for profile in profiles)
    stacks = sum(map(len, profiles))
    assert lost > 0
    assert stacks + lost == requested + 1
    assert sum(profile.stats.requested for profile in profiles) == requested + 1


def test_a_reader_that_is_gone_is_noticed() -> None:
    source, descriptor = os.pipe()
    writer = StreamWriter(descriptor)
    os.close(source)
    writer.send_profile(small())
    assert not writer.is_open
    os.close(descriptor)


@pytest.mark.parametrize("cut", range(12))
def test_a_message_that_is_cut_off_is_none(cut: int) -> None:
    message = struct.pack("<4sI", PROFILE, 4) + b"1234"
    assert list(iter_messages(io.BytesIO(message * 2))) == [(PROFILE, b"1234")] * 2
    assert len(list(iter_messages(io.BytesIO((message * 2)[: 12 + cut])))) == 1


def test_a_size_beyond_reason_is_refused() -> None:
    data = struct.pack("<4sI", PROFILE, MAX_MESSAGE + 1)
    with pytest.raises(MalformedData):
        list(iter_messages(io.BytesIO(data)))
