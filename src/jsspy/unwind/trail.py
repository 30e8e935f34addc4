"""The quick way from a leaf in native code to the V8 frame that called it.

Nearly every native frame is left by a rule that needs rsp and rbp only. The steps are kept by pc,
and the frames of a whole trail by its pcs: a leaf that was met before costs a look-up per frame.
Whatever does not fit (other rules, other registers, no rule) is left to `jsspy.unwind.hybrid`.
"""

from __future__ import annotations

from jsspy.model.capture import Registers
from jsspy.model.units import FileAddress
from jsspy.unwind.base import CodeMap, Region
from jsspy.unwind.cfi import ShortRule
from jsspy.unwind.hybrid import HybridUnwinder

Trail = tuple[int, ...]
"""pcs, leaf first, those of return addresses."""

_MAX_STEPS = 1 << 16


class TrailWalker:
    """Walks native leaves of one target."""

    def __init__(self, code: CodeMap, unwinder: HybridUnwinder) -> None:
        self._code = code
        self._unwinder = unwinder
        self._steps: dict[int, ShortRule | None] = {}
        """By pc, that of a leaf negated; None: leave it to others."""
        self._generation = -1

    def walk(self, registers: Registers, red_zone: bytes, stack: bytes) -> tuple[Trail, int] | None:
        """Return the pcs up to V8's code, and the fp of the frame there.

        Args:
            registers: Of the leaf, in native code.
            red_zone: What is right below `stack`; some functions keep there where they were called.
            stack: From rsp, rounded down to a multiple of 8, on.
        """
        if self._generation != self._code.native_generation:
            self._generation = self._code.native_generation
            self._steps.clear()
        steps = self._steps
        rsp, rbp = registers.rsp, registers.rbp
        start = (rsp & ~7) - len(red_zone)
        data = red_zone + stack
        words = memoryview(data[: len(data) & ~7]).cast("Q")
        trail: list[int] = []
        key = -registers.rip
        # Each turn goes up the stack, or ends.
        while True:
            try:
                step = steps[key]
            except KeyError:
                if trail and self._code.find(key).region is not Region.NATIVE:
                    return (tuple(trail), rbp) if rsp <= rbp else None
                step = self._learn(key)
            if step is None:
                return None
            from_rbp, offset, addend, rbp_word = step
            cfa = (rbp if from_rbp else rsp) + offset
            if addend is not None:
                at = cfa - start
                if at & 7 or not 0 <= at >> 3 < len(words):
                    return None
                cfa = words[at >> 3] + addend
            at = cfa - start
            if cfa <= rsp or at & 7:
                return None
            at >>= 3
            if at < 1 or at < rbp_word or at > len(words):
                return None
            trail.append(key)
            key = words[at - 1]
            if rbp_word:
                rbp = words[at - rbp_word]
            rsp = cfa

    def _learn(self, key: int) -> ShortRule | None:
        is_return_address = key > 0
        pc = abs(key)
        area = self._code.find(pc)
        step = None
        if area.region is Region.NATIVE and area.elf is not None:
            address = FileAddress(pc - area.bias - is_return_address)
            step = self._unwinder.table(area.elf).short_rule(address)
        if len(self._steps) >= _MAX_STEPS:
            self._steps.clear()
        self._steps[key] = step
        return step
