"""The quick way through native leaves: what it follows, and what it leaves to others."""

from __future__ import annotations

import pytest

from jsspy.unwind.cfi import _decode_kept_rsp


@pytest.mark.parametrize(
    ("expression", "where"),
    [
        (b"\x77\x78\x06\x23\x08", (-8, 8)),
        (b"\x77\x98\x01\x06\x23\x08", (152, 8)),
        (b"\x77\x08\x06\x23\x80\x01", (8, 128)),
        (b"\x77\x08\x06\x06\x23\x08", None),
        (b"\x76\x08\x06\x23\x08", None),
        (b"\x77\x98\x81\x01\x06\x23\x08", None),
        (b"", None),
    ],
)
def test_where_the_caller_of_an_aligned_frame_is(
    expression: bytes, where: tuple[int, int] | None
) -> None:
    assert _decode_kept_rsp(expression) == where
