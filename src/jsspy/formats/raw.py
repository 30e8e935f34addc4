"""`raw` and `fullraw`: the stacks that node-flame prints for FlameGraph's stackcollapse.pl.

Three header lines with one space each; then, sample by sample, the frames leaf first and a line
with three spaces and the count. `raw` shortens paths, `fullraw` does not.

stackcollapse.pl has rules that were meant for DTrace's and Java's frames. The default spelling is
one that survives them:

- it deletes a leading `L`: we double it;
- it cuts a frame at its last `+`: we append `+0x0` to frames that contain one;
- it splits a frame at `->`: we write `=>`; it turns `;` into `:`: so do we;
- it takes a line of digits for a count: we append `:` to such a frame;
- in a frame with `::` it cuts at the last `(` or `<`. That removes the arguments of C++ functions,
  which is wanted; other frames get a `(` at the end, so that only that is cut.

The `-exact` formats write what node-flame writes, whatever becomes of it; `raw-exact` shortens as
node-flame does: the first and the last of the pieces between slashes, put together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, ClassVar

from jsspy.formats.output import write_text
from jsspy.formats.text import classic_name
from jsspy.formats.tree import sample_counts
from jsspy.model.names import NO_STACK, classic_parts
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame, FrameKind

_HEADER = " \n \n \n"
_CUT = re.compile(r"::.*[(<]")


class FullRaw:
    """DTrace-like stacks with whole paths."""

    name: ClassVar[str] = "fullraw"
    suffix: ClassVar[str] = ".fullraw"
    description: ClassVar[str] = "one stack per sample for stackcollapse.pl, with whole paths"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, self._records(profile))

    def label(self, frame: Frame) -> str:
        """Return the line of a frame."""
        return _survive(classic_name(frame), frame)

    def _records(self, profile: Profile) -> Iterator[str]:
        lines = [self.label(frame) + "\n" for frame in profile.frames]
        parents, frames = profile.stacks.parent, profile.stacks.frame
        yield _HEADER
        record, record_row = self.label(NO_STACK) + "\n", -1
        for row, count in zip(profile.stack, sample_counts(profile), strict=True):
            if row != record_row:
                parts, up = [], row
                while up >= 0:
                    parts.append(lines[frames[up]])
                    up = parents[up]
                record, record_row = "".join(parts) or self.label(NO_STACK) + "\n", row
            yield f"{record}   {count}\n"


class Raw(FullRaw):
    """DTrace-like stacks with short paths."""

    name: ClassVar[str] = "raw"
    suffix: ClassVar[str] = ".raw"
    description: ClassVar[str] = "one stack per sample for stackcollapse.pl, with short paths"

    def label(self, frame: Frame) -> str:
        """Return the line of a frame."""
        before, path, after = classic_parts(frame)
        return _survive(f"{before}{path.rpartition('/')[2] or path}{after}", frame)


class FullRawExact(FullRaw):
    """DTrace-like stacks with whole paths, as node-flame has them."""

    name: ClassVar[str] = "fullraw-exact"
    description: ClassVar[str] = "fullraw as node-flame writes it: stackcollapse.pl garbles some"

    def label(self, frame: Frame) -> str:
        """Return the line of a frame."""
        return classic_name(frame)


class RawExact(FullRaw):
    """DTrace-like stacks, shortened as node-flame shortens them."""

    name: ClassVar[str] = "raw-exact"
    suffix: ClassVar[str] = ".raw"
    description: ClassVar[str] = "raw as node-flame writes it: stackcollapse.pl garbles some"

    def label(self, frame: Frame) -> str:
        """Return the line of a frame."""
        pieces = classic_name(frame).split("/")
        return pieces[0] + pieces[-1] if len(pieces) > 1 else pieces[0]


def _survive(label: str, frame: Frame) -> str:
    """Spell a frame so that stackcollapse.pl gives it back."""
    label = label.replace("->", "=>").replace(";", ":").strip()
    if label.isdigit():
        label += ":"
    if frame.kind is not FrameKind.NATIVE and _CUT.search(label):
        label += "("
    if "+" in label:
        label += "+0x0"
    return "L" + label if label.startswith("L") else label
