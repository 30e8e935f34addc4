"""SystemTap: printed aggregations of user stacks, as stackvis reads them.

    ubt["bar+0x32 [foo]
    foo+0x57 [foo]
    main+0x48 [foo]"]=0x77

Frames are leaf first. Strings before the stack, as in `ubt["node","bar…"]`, become its callers.

Or as scripts with `print_stack()` write them, for FlameGraph's stackcollapse-stap.pl:

     0xffffffff8103ce3b : native_safe_halt+0xb/0x10 [kernel]
     0xffffffff8101c6a3 : default_idle+0x53/0x1d0 [kernel]
        2404
"""

from __future__ import annotations

import re
from typing import BinaryIO, ClassVar

from jsspy.formats.imported import imported_profile
from jsspy.formats.input import MAX_WEIGHT, Source
from jsspy.formats.raw import frame_of_classic
from jsspy.model.names import clean
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame, FrameKind, Module

_START = re.compile(r'\s*\w+\[((?:"[^"]*",)*)"(.*)')
_END = re.compile(r'(.*)"\]\s*(?:=|:)\s*(0x[0-9a-f]{1,16}|[0-9]{1,19})\s*')
_HEAD = re.compile(rb'\s*(?:\w+\["|0x[0-9a-f]{4,16} : )')
_PRINTED = re.compile(r"\s*0x[0-9a-f]{4,16} : (.*)")
_COUNT = re.compile(r"\s*([0-9]{1,19})\s*")
_FRAME = re.compile(r"(.*?)(?:\+0x[0-9a-f]+)?(?:/0x[0-9a-f]+)? \[([^]]*)\]")


class StapReader:
    """Reads stacks that SystemTap printed."""

    name: ClassVar[str] = "stap"

    def matches(self, head: bytes, filename: str) -> bool:
        """See `Reader.matches`."""
        del filename
        return _HEAD.match(head) is not None

    def read(self, source: BinaryIO) -> Profile:
        """See `Reader.read`."""
        lines = Source(self.name)
        profile = imported_profile(self.name)
        callers: list[str] = []
        stack: list[str] | None = None
        printed: list[str] = []
        for number, line in lines.iter_lines(source):
            if stack is None:
                if not line.strip():
                    continue
                if frame := _PRINTED.fullmatch(line):
                    printed.append(frame[1])
                    continue
                if printed and (counted := _COUNT.fullmatch(line)):
                    _add(lines, profile, printed, int(counted[1]), number)
                    printed = []
                    continue
                start = _START.fullmatch(line)
                if start is None:
                    lines.fail(f"line {number}: no stack begins here")
                callers = re.findall(r'"([^"]*)"', start[1])
                stack, line = [], start[2]  # noqa: PLW2901  # the rest of it is the first frame
            end = _END.fullmatch(line)
            stack.append(end[1] if end else line)
            if end is None:
                continue
            _add(lines, profile, [*stack, *reversed(callers)], int(end[2], 0), number)
            stack = None
        if stack is not None or printed:
            lines.fail("the last stack is cut off")
        return profile


def _add(lines: Source, profile: Profile, stack: list[str], count: int, number: int) -> None:
    """Append a sample of a stack, leaf first."""
    if count > MAX_WEIGHT:
        lines.fail(f"line {number}: count too large")
    row = -1
    for label in reversed(stack):
        if label.strip():
            row = profile.stacks.intern(row, profile.intern_frame(_frame(label)))
    profile.add_row(row, 0, 0, count)


def _frame(label: str) -> Frame:
    label = clean(label.strip())
    if match := _FRAME.fullmatch(label):
        return Frame(match[1], FrameKind.NATIVE, module=Module(match[2]))
    return frame_of_classic(re.sub(r"\+0x[0-9a-f]+$", "", label))
