"""The structures that C and Python share are the same in both: a compiler compares them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from struct import Struct, calcsize

import pytest

import nodes
from jsspy.engines import ebpf_kernel as ebpf
from jsspy.engines.ebpf import _NO_PLAN
from jsspy.model.capture import ROW, SLOTS, CapturePlan

BPF = nodes.ROOT / "bpf"

SIZES: dict[str, int] = {
    "struct plan": ebpf.PLAN.size,
    "struct thread": ebpf.THREAD.size,
    "struct nap": ebpf.NAP.size,
    "struct wake": ebpf.WAKE.size,
    "struct header": ebpf.HEADER.size,
    "struct row": ROW.size,
    "struct slots": SLOTS.size,
    "struct piece": ebpf.PIECE.size,
    "struct scratch": ebpf.SCRATCH_BYTES,
}
CONSTANTS = {
    "MAX_THREADS": ebpf.MAX_THREADS,
    "MAX_PLANS": ebpf.MAX_PLANS,
    "MAX_COUNTED": ebpf.MAX_COUNTED,
    "MAX_ISOLATE_BYTES": ebpf.MAX_ISOLATE_BYTES,
    "WINDOW_BYTES": ebpf.WINDOW_BYTES,
    "WINDOW_BELOW": ebpf.WINDOW_BELOW,
    "RED_ZONE_BYTES": ebpf.RED_ZONE_BYTES,
    "RED_ZONE": ebpf.RED_ZONE,
    "SWITCHED": ebpf.SWITCHED,
    "NAP_PREEMPTED": ebpf.NAP_PREEMPTED,
    "NAP_DEAD": ebpf.NAP_DEAD,
    "SWITCH_COOKIE": ebpf.SWITCH_COOKIE,
    "COMPLETE": ebpf.COMPLETE,
    "TOO_DEEP": ebpf.TOO_DEEP,
    "STEP_SEND": ebpf.STEP_SEND,
    "STAT_TICKS": ebpf.STAT_TICKS,
    "STAT_RING_FULL": ebpf.STAT_RING_FULL,
    "STAT_NO_USER": ebpf.STAT_NO_USER,
    "STAT_COUNT": ebpf.STAT_COUNT,
}
FIELDS: dict[str, tuple[Struct, list[tuple[str, str]]]] = {
    "struct plan": (
        ebpf.PLAN,
        [
            *(("entry_markers", "4Q"), ("tag", "Q"), ("tag_mask", "Q"), ("detail_mask", "Q")),
            *(("isolate_start", "2I"), ("isolate_size", "2I")),
            *(("exit_slots", "4i"), ("saved_slots", "4i"), ("words", "5I")),
            *(("marker_word", "I"), ("follow_word", "I"), ("follow_registers", "2i")),
            *(("is_counting", "I"), ("code_starts", "4Q"), ("code_sizes", "4Q")),
        ],
    ),
    "struct thread": (
        ebpf.THREAD,
        [
            *(("isolate", "Q"), ("stack_end", "Q"), ("plan", "I"), ("skip_mask", "I")),
            ("period_ns", "Q"),
        ],
    ),
    "struct nap": (
        ebpf.NAP,
        [
            *(("task", "Q"), ("since_ns", "Q"), ("switches", "I"), ("state", "H")),
            ("is_walked", "H"),
        ],
    ),
    "struct wake": (
        ebpf.WAKE,
        [("time_ns", "Q"), ("since_ns", "Q"), ("thread", "I"), ("is_walked", "I")],
    ),
    "struct header": (
        ebpf.HEADER,
        [
            *(("time_ns", "Q"), ("thread", "I"), ("flags", "I"), ("frames", "I")),
            *(("pieces", "I"), ("kernel_bytes", "I"), ("isolate_bytes", "I"), ("key", "Q")),
            *(("regs", "21Q"), ("followed", "2Q")),
            ("isolate", f"{2 * ebpf.MAX_ISOLATE_BYTES}s"),
            ("red_zone", f"{ebpf.RED_ZONE_BYTES}s"),
        ],
    ),
    "struct row": (ROW, [("pc", "Q"), ("identity", "Q"), ("detail", "Q")]),
    "struct slots": (SLOTS, [("fp", "Q"), ("words", "5Q")]),
    "struct piece": (ebpf.PIECE, [("address", "Q"), ("size", "Q")]),
}


def compiles(source: str, directory: Path) -> bool:
    """Whether the compiler of the build takes a program."""
    pytest.importorskip("ziglang")
    path = directory / "abi.c"
    path.write_text(source, encoding="ascii")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding"]
    command += ["-c", "-o", str(directory / "abi.o"), f"-I{BPF}", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_sizes_and_offsets_are_the_same_in_c_and_in_python(tmp_path: Path) -> None:
    claims = [f"sizeof({name}) == {size}" for name, size in SIZES.items()]
    claims += [f"{name} == {value}" for name, value in CONSTANTS.items()]
    for name, (layout, fields) in FIELDS.items():
        offset = 0
        for field, code in fields:
            claims.append(f"__builtin_offsetof({name}, {field}) == {offset}")
            offset += calcsize(f"<{code}")
        assert offset == layout.size, name
    body = "\n".join(f'_Static_assert({claim}, "{claim}");' for claim in claims)
    assert compiles(f'#include "abi.h"\n{body}\n', tmp_path)
    # A claim that is wrong is noticed.
    assert not compiles('#include "abi.h"\n_Static_assert(sizeof(struct row) == 25, "");', tmp_path)


PLAN = CapturePlan(
    isolate_start=0x40,
    isolate_size=0x80,
    exit_slots=(0x48, 0x50),
    marker_slot=-8,
    entry_markers=(2, 4),
    saved_exit_slots=(-64,),
    follow_slot=-16,
    follow_size=48,
    follow_registers=("rdi",),
    isolate_start_2=0x1000,
    isolate_size_2=16,
    frame_slots=(-8, -16, -32, -40, 24),
    follow_word=24,
)


def test_a_plan_says_in_c_what_it_says_in_python() -> None:
    values = ebpf.PLAN.unpack(ebpf.encode_plan(PLAN))
    assert values[:4] == (2, 4, 2, 2)
    assert values[4:7] == (1, 3, 0xFFFF_FFFF)
    assert values[7:11] == (0x40, 0x1000, 0x80, 16)
    assert values[11:15] == (0x48, 0x50, -1, -1)
    assert values[15:19] == (-64, 0, 0, 0)
    # Words of the window [fp - 40, fp + 32).
    assert values[19:24] == (4, 3, 1, 0, 8)
    assert values[24:26] == (4, 24)
    assert values[26:28] == (14, -1)
    assert values[28:] == (0,) * 9
    code = [(0x400000, 0x1000), (1 << 32, 1 << 32)]
    values = ebpf.PLAN.unpack(ebpf.encode_plan(PLAN, code))
    assert values[28:] == (1, 0x400000, 1 << 32, 0, 0, 0x1000, 1 << 32, 0, 0)


def test_without_a_plan_no_frame_is_an_entry_frame() -> None:
    values = ebpf.PLAN.unpack(ebpf.encode_plan(_NO_PLAN))
    assert set(values[:4]) == {(1 << 64) - 1}
    assert values[11:15] == (-1,) * 4


@pytest.mark.parametrize(
    "change",
    [
        {"isolate_size": 512},
        {"frame_slots": (-8, -16, -48, -40, 24)},
        {"frame_slots": (-8, -16, -32, -40, 32)},
        {"marker_slot": -4},
        {"exit_slots": (0, 8, 16, 24, 32)},
    ],
)
def test_a_plan_that_records_have_no_room_for_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ebpf.encode_plan(PLAN._replace(**change))  # type: ignore[arg-type]  # several fields
