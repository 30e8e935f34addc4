"""What the program in the kernel makes of a stack: `bpf/walk.bpf.c` in Python, without limits."""

from __future__ import annotations

from jsspy.model.capture import ROW, SLOTS, CapturePlan, FrameChain, StackSnapshot
from jsspy.model.units import Address

_ABOVE = 32
_ENTRY_BYTES = 128


def walk(snapshot: StackSnapshot, plan: CapturePlan) -> FrameChain:
    """Return the chain of a stack that was copied as a whole."""
    start, stack = snapshot.stack_start, snapshot.stack
    end = start + len(stack)

    def word(address: int) -> int:
        at = address - start
        return int.from_bytes(stack[at : at + 8], "little") if 0 <= at <= len(stack) - 8 else 0

    def follow(pointer: int) -> int:
        data = snapshot.followed.get(pointer, b"")
        return int.from_bytes(data[plan.follow_word : plan.follow_word + 8], "little")

    places = plan.isolate_slots()
    exits = [
        int.from_bytes(snapshot.isolate_words[places[slot] : places[slot] + 8], "little")
        for slot in plan.exit_slots
    ]
    exit_fp = next((fp for fp in exits if fp), 0)
    if not start < exit_fp < end:
        exit_fp = 0
    leaf_end = exit_fp + _ABOVE if exit_fp else 0
    fp, pc, last = snapshot.registers.rbp, snapshot.registers.rip, start - 1
    rows: list[tuple[int, int, int]] = []
    slots: list[tuple[int, ...]] = []
    bridges: list[tuple[int, bytes]] = []
    is_complete = False
    while True:
        is_usable = last < fp < end - 16 and not fp & 7
        if exit_fp and (not is_usable or fp >= exit_fp):
            if not bridges:
                rows, slots = [], []
            pc = pc if fp == exit_fp and bridges else 0
            fp, exit_fp, is_usable = exit_fp, 0, True
        if not is_usable:
            break
        marker = word(fp + plan.marker_slot)
        words = [word(fp + slot) for slot in plan.frame_slots]
        if marker & plan.tag_mask == plan.tag:
            identity = follow(words[1])
            detail = 0 if words[3] & plan.detail_mask else words[3]
        else:
            identity, detail = marker, follow(words[4])
        rows.append((pc, identity, detail))
        slots.append((fp, *words))
        last = fp
        saved = next((it for slot in plan.saved_exit_slots if (it := word(fp + slot))), 0)
        if marker not in plan.entry_markers or (exit_fp and saved != exit_fp):
            fp, pc = word(fp), word(fp + 8)
            continue
        first = fp - _ENTRY_BYTES
        if exit_fp:
            leaf_end = 0
        if not fp < saved < end:
            bridges.append((first, stack[first - start :]))
            is_complete = True
            break
        bridges.append((first, stack[first - start : saved + _ABOVE - start]))
        fp, pc, exit_fp = saved, 0, 0
    leaf_end = leaf_end or max(start + 2048, snapshot.registers.rbp + _ABOVE)
    registers = snapshot.registers
    return FrameChain(
        registers,
        snapshot.isolate,
        snapshot.isolate_words,
        Address(end),
        b"".join(ROW.pack(*row) for row in rows),
        b"".join(SLOTS.pack(*slot) for slot in slots),
        ((start, stack[: leaf_end - start]), *bridges),
        tuple(follow(getattr(registers, name)) for name in plan.follow_registers),
        is_complete,
        red_zone=snapshot.red_zone,
    )
