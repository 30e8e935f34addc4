"""Capture plans: which words, in which windows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import LAYOUT, OLD_LAYOUT
from jsspy.v8.layout import Layout, MarkerScheme
from jsspy.v8.plan import encode_marker, make_plan, marker_slot


def test_one_window_where_the_words_are_close() -> None:
    plan = make_plan(LAYOUT)
    assert (plan.isolate_start, plan.isolate_size) == (0x120, 0x1F0 - 0x120)
    assert (plan.isolate_start_2, plan.isolate_size_2) == (0, 0)
    assert plan.exit_slots == (0x128, 0x140)
    assert plan.isolate_slots() == {0x128: 8, 0x140: 0x20}
    assert plan.saved_exit_slots == (-64, -72)


def test_two_windows_where_they_are_far_apart() -> None:
    plan = make_plan(OLD_LAYOUT)
    assert (plan.isolate_start, plan.isolate_size) == (0x38, 16)
    assert (plan.isolate_start_2, plan.isolate_size_2) == (0x32F0, 0x3330 - 0x32F0)
    assert plan.isolate_slots() == {0x38: 0, 0x32F0: 16}
    assert plan.saved_exit_slots == (-64,)


@pytest.mark.parametrize("layout", [LAYOUT, OLD_LAYOUT])
def test_what_is_followed_reaches_shared_and_context(layout: Layout) -> None:
    plan = make_plan(layout)
    assert plan.follow_slot == -16
    assert plan.follow_size >= layout.objects.js_function_shared + 8
    assert plan.follow_size >= layout.objects.js_function_context + 8
    assert (plan.tag, plan.tag_mask) == (1, 3)
    assert plan.marker_slot == -8
    assert plan.entry_markers == (2, 4)


def test_markers_of_old_schemes() -> None:
    smi = replace(LAYOUT, frame=replace(LAYOUT.frame, marker_scheme=MarkerScheme.SMI_AT_FUNCTION))
    assert marker_slot(smi) == -16
    assert encode_marker(smi, 1) == 1 << 32
    smi = replace(LAYOUT, frame=replace(LAYOUT.frame, marker_scheme=MarkerScheme.SMI_AT_CONTEXT))
    assert marker_slot(smi) == -8
    assert encode_marker(smi, 2) == 2 << 32
    assert encode_marker(LAYOUT, 2) == 4
