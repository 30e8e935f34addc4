"""Outer parts of stacks: found again where what counts is the same, and only there."""

from __future__ import annotations

from struct import pack

from hypothesis import given
from hypothesis import strategies as st

from jsspy.model.recurring import ALL_BITS, Recurring

START = 0x7FFC_0000_1000
WORDS = 12
words = st.lists(st.integers(0, ALL_BITS), min_size=WORDS, max_size=WORDS)
places = st.dictionaries(
    st.integers(0, WORDS - 1), st.sampled_from([3, 0xFF, ALL_BITS]), min_size=1
)


def copy(values: list[int], first: int = 0) -> bytes:
    return pack(f"<{len(values) - first}Q", *values[first:])


@given(words, words, places, st.integers(0, WORDS - 1))
def test_it_is_found_if_what_counts_is_there_and_the_same(
    one: list[int], other: list[int], counted: dict[int, int], first: int
) -> None:
    recurring: Recurring[str] = Recurring()
    looked_at = [(START + 8 * index, bits) for index, bits in counted.items()]
    recurring.keep(START, looked_at, None, copy(one), START, "found")
    assert recurring.find(START, copy(one), START) == "found"
    assert recurring.find(START + 8, copy(one), START) is None
    same = all(one[index] & bits == other[index] & bits for index, bits in counted.items())
    assert recurring.find(START, copy(other), START) == ("found" if same else None)
    mixed = [
        new if index not in counted else old
        for index, (old, new) in enumerate(zip(one, other, strict=True))
    ]
    assert recurring.find(START, copy(mixed), START) == "found"
    is_there = first <= min(counted)
    found = recurring.find(START, copy(one, first), START + 8 * first)
    assert found == ("found" if is_there else None)


def test_what_it_follows_from_further_out_counts_too() -> None:
    recurring: Recurring[str] = Recurring()
    stack = [1, 2, 3, 4]
    recurring.keep(START + 16, [(START + 24, ALL_BITS)], None, copy(stack), START, "outer")
    recurring.keep(START, [(START, ALL_BITS)], START + 16, copy(stack), START, "all")
    assert recurring.find(START, copy([1, 9, 9, 4]), START) == "all"
    assert recurring.find(START, copy([1, 2, 3, 5]), START) is None
    recurring.clear()
    assert recurring.find(START, copy(stack), START) is None


def test_several_variants_are_kept_and_not_without_end() -> None:
    recurring: Recurring[int] = Recurring()
    for value in range(10):
        recurring.keep(START, [(START, ALL_BITS)], None, copy([value]), START, value)
    found = [recurring.find(START, copy([value]), START) for value in range(10)]
    assert found == [None] * 6 + [6, 7, 8, 9]
    for fp in range(START, START + 8 * 1000, 8):
        recurring.keep(fp, [(START, ALL_BITS)], None, copy([1]), START, 1)
    assert len(recurring._parts) <= 64


def test_what_two_walks_found_is_worth_keeping_from_where_they_agree() -> None:
    recurring: Recurring[None] = Recurring()
    assert recurring.compare([(1, "a"), (2, "b"), (3, "c")]) is None
    assert recurring.compare([(1, "x"), (2, "b"), (3, "c")]) == 1
    assert recurring.compare([(9, "x"), (2, "b"), (3, "c")]) == 1
    assert recurring.compare([(2, "b"), (3, "c")]) == 0
    assert recurring.compare([(3, "d")]) is None
    assert recurring.compare([]) is None
