"""Writes source maps, for tests."""

from __future__ import annotations

from collections.abc import Sequence

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

Segment = tuple[int, int, int, int, int | None]
"""Generated column, source, original line, original column (all 0-based), name or None."""


def vlq(value: int) -> str:
    number = (-value << 1) | 1 if value < 0 else value << 1
    text = ""
    while True:
        digit, number = number & 31, number >> 5
        text += ALPHABET[digit | (32 if number else 0)]
        if not number:
            return text


def encode(lines: Sequence[Sequence[Segment]]) -> str:
    source = line = column = name = 0
    encoded = []
    for segments in lines:
        generated = 0
        row = []
        for at, s, ol, oc, n in segments:
            text = vlq(at - generated) + vlq(s - source) + vlq(ol - line) + vlq(oc - column)
            generated, source, line, column = at, s, ol, oc
            if n is not None:
                text += vlq(n - name)
                name = n
            row.append(text)
        encoded.append(",".join(row))
    return ";".join(encoded)
