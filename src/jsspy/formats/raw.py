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

from jsspy.formats.imported import imported_profile
from jsspy.formats.input import MAX_WEIGHT, Source
from jsspy.formats.output import write_text
from jsspy.formats.text import classic_name
from jsspy.formats.tree import sample_counts
from jsspy.model.names import NO_STACK, classic_parts, clean
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame, FrameKind, Location, Module

_HEADER = " \n \n \n"
_HEADER_LINES = 3
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


_COUNT = re.compile(r"\s*([0-9]{1,19})\s*")
_HEAD_COUNT = re.compile(rb"\n[ \t]+[0-9]{1,19}[ \t]*\r?(?:\n|$)")
_OFFSET = re.compile(r"\+0x[0-9a-f]+$")
_CLASSIC = re.compile(
    r"(.*?):((?:/|node:|file:|wasm:|\[empty\]).*|[^/:]*\.[cm]?js):([0-9]{1,9}|\[unknown\])"
)
_CLASSIC_KINDS = {
    "[Builtin: ": FrameKind.BUILTIN,
    "[BytecodeHandler: ": FrameKind.BYTECODE_HANDLER,
    "[RegExp: ": FrameKind.REGEXP,
}
_NATIVE_SUFFIXES = {":[native]": FrameKind.NATIVE, ":[kernel]": FrameKind.KERNEL}


def frame_of_classic(label: str) -> Frame:
    """Return the frame that node-flame, or DTrace with module and offset, spells so."""
    label = clean(label.strip())
    for prefix, kind in _CLASSIC_KINDS.items():
        if label.startswith(prefix):
            return Frame(label[len(prefix) :].removesuffix("]"), kind)
    for suffix, kind in _NATIVE_SUFFIXES.items():
        if label.endswith(suffix):
            return Frame(label.removesuffix(suffix), kind)
    if match := _CLASSIC.fullmatch(label):
        name, url, line = match.groups()
        place = Location(
            "" if url == "[empty]" else url, None if line == "[unknown]" else int(line)
        )
        return Frame("" if name == "[empty]" else name, FrameKind.JS, definition=place)
    if re.fullmatch(r"\[[^]]* (?:frame|entry|adaptor)\]", label):
        return Frame(label, FrameKind.VM_FRAME)
    module, tick, name = label.partition("`")
    if tick and name:
        return Frame(name, FrameKind.NATIVE, module=Module(module))
    return Frame(label, FrameKind.UNKNOWN)


class DTraceReader:
    """Reads aggregated ustack() output of DTrace, and raw and fullraw."""

    name: ClassVar[str] = "dtrace"

    def matches(self, head: bytes, filename: str) -> bool:
        """See `Reader.matches`."""
        del filename
        return head.startswith(_HEADER.encode()) or _HEAD_COUNT.search(head) is not None

    def read(self, source: BinaryIO) -> Profile:
        """See `Reader.read`."""
        lines = Source(self.name)
        profile = imported_profile(self.name)
        cache: dict[str, int] = {}
        stack: list[int] = []
        for number, line in lines.iter_lines(source):
            if number <= _HEADER_LINES or not line.strip():
                continue
            if match := _COUNT.fullmatch(line):
                count = int(match[1])
                if not stack or count > MAX_WEIGHT:
                    lines.fail(f"line {number}: a count without a stack, or too large")
                row = -1
                for frame in reversed(stack):
                    row = profile.stacks.intern(row, frame)
                profile.add_row(row, 0, 0, count)
                stack = []
                continue
            label = _OFFSET.sub("", line.strip())
            label = label.removeprefix("L") if label.startswith("LL") else label
            if label not in cache:
                cache[label] = profile.intern_frame(frame_of_classic(label))
            stack.append(cache[label])
        if stack:
            lines.fail("the last stack has no count")
        return profile
