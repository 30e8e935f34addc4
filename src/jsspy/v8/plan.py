"""What an engine must copy so that the stacks of a given V8 can be walked afterwards.

The newest JavaScript frame of a thread that is in C++ is found through its Isolate: the frame that
called C++ slowly (an exit frame, c_entry_fp) or fast. Both words, the state of the VM and what
lies between them are copied; where V8 keeps them far apart (12 and 14: 25 KiB), in two windows.
"""

from __future__ import annotations

from jsspy.model.capture import CapturePlan
from jsspy.v8.frames import EXIT_TARGET
from jsspy.v8.layout import FrameLayout, IsolateLayout, Layout, MarkerScheme

_WORD = 8
_WINDOW = 256
"""Bytes that one window may have; engines in the kernel have room for two of these."""

_ENTRY_TYPES = ("Entry", "ConstructEntry", "EntryConstruct")


def make_plan(layout: Layout) -> CapturePlan:
    """Return the plan for stacks of a V8."""
    isolate, frame, objects = layout.isolate, layout.frame, layout.objects
    windows = _make_windows(isolate)
    start, size = windows[0]
    start_2, size_2 = windows[1] if len(windows) > 1 else (0, 0)
    saved = (frame.entry_saved_c_entry_fp, frame.entry_saved_fast_c_call_fp)
    return CapturePlan(
        isolate_start=start,
        isolate_size=size,
        isolate_start_2=start_2,
        isolate_size_2=size_2,
        exit_slots=tuple(
            offset
            for offset in (isolate.fast_c_call_caller_fp, isolate.c_entry_fp)
            if offset is not None
        ),
        marker_slot=marker_slot(layout),
        entry_markers=tuple(
            encode_marker(layout, number)
            for number, name in sorted(frame.types.items())
            if name in _ENTRY_TYPES
        ),
        saved_exit_slots=tuple(offset for offset in saved if offset is not None),
        follow_slot=frame.function,
        follow_size=max(
            objects.js_function_shared,
            objects.js_function_context,
            # Which code is being entered; later code says itself whose it is.
            (objects.js_function_code or 0) if layout.code.legacy is not None else 0,
        )
        + _WORD,
        # The callee, before a frame has been built. Source: src/codegen/x64/register-x64.h at
        # 7.8.279 and 13.6.233, kJSFunctionRegister.
        follow_registers=("rdi",),
        frame_slots=frame_slots(frame),
        follow_word=objects.js_function_shared,
    )


def frame_slots(frame: FrameLayout) -> tuple[int, ...]:
    """Return the slots of `FrameWords`; 0 for those that this V8 lacks."""
    slots = (frame.context, frame.function, frame.bytecode_array, frame.bytecode_offset)
    return (*(slot if slot is not None else 0 for slot in slots), EXIT_TARGET)


def marker_slot(layout: Layout) -> int:
    """Return where, relative to fp, a frame that is not a JavaScript frame has its marker."""
    if layout.frame.marker_scheme is MarkerScheme.SMI_AT_FUNCTION:
        return layout.frame.function
    return layout.frame.context


def encode_marker(layout: Layout, frame_type: int) -> int:
    """Return the word that marks frames of a type."""
    is_shifted_by_one = layout.frame.marker_scheme is MarkerScheme.TYPE_SHL_1
    return frame_type << (1 if is_shifted_by_one else 32)


def _make_windows(isolate: IsolateLayout) -> list[tuple[int, int]]:
    """Return one or two (start, size) that cover the words of exit frames and the VM state."""
    offsets = sorted(
        offset
        for offset in (
            isolate.c_entry_fp,
            isolate.js_entry_sp,
            isolate.vm_state,
            isolate.handler,
            isolate.fast_c_call_caller_fp,
            isolate.fast_c_call_caller_pc,
        )
        if offset is not None
    )
    windows: list[tuple[int, int]] = []
    for offset in offsets:
        start = windows[-1][0] if windows else 0
        if windows and offset + _WORD - start <= _WINDOW:
            windows[-1] = (start, offset + _WORD - start)
        else:
            windows.append((offset, _WORD))
    return windows[:2]
