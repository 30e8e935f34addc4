"""stackvis' collapsed stacks: `root,caller,leaf 42`, the most frequent first.

Frames are spelled as node-flame does; a `,` in a name becomes `:`, for it would split the frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, ClassVar

from jsspy.formats.imported import add_stack, imported_profile
from jsspy.formats.input import MAX_WEIGHT, Source
from jsspy.formats.output import write_text
from jsspy.formats.text import classic_name
from jsspy.formats.tree import Tree, sample_counts
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame

_LINE = re.compile(r"(.*\S)\s+([0-9]{1,19})\s*")
_HEAD_LINE = re.compile(rb"[^;]*,[^;]*\s[0-9]{1,19}\s*")


class Stackvis:
    """stackvis' collapsed stacks."""

    name: ClassVar[str] = "stackvis"
    suffix: ClassVar[str] = ".stackvis"
    description: ClassVar[str] = "comma-separated stacks for `stackvis collapsed`"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, _lines(profile))


def _label(frame: Frame) -> str:
    return classic_name(frame).replace(",", ":").strip() or "[empty]"


def _lines(profile: Profile) -> Iterator[str]:
    tree = Tree(profile, _label, sample_counts(profile))
    counts = [(-count, ",".join(tree.path(node))) for node, count in enumerate(tree.own) if count]
    for count, stack in sorted(counts):
        yield f"{stack} {-count}\n"


class StackvisReader:
    """Reads what stackvis calls collapsed."""

    name: ClassVar[str] = "stackvis"

    def matches(self, head: bytes, filename: str) -> bool:
        """See `Reader.matches`."""
        if filename.endswith(".stackvis"):
            return True
        lines = head.split(b"\n")[:-1]
        return bool(lines) and _HEAD_LINE.fullmatch(lines[0]) is not None and b";" not in head

    def read(self, source: BinaryIO) -> Profile:
        """See `Reader.read`."""
        lines = Source(self.name)
        profile = imported_profile(self.name)
        cache: dict[str, int] = {}
        for number, line in lines.iter_lines(source):
            if not line.strip():
                continue
            match = _LINE.fullmatch(line)
            count = int(match[2]) if match else -1
            if match is None or count > MAX_WEIGHT:
                lines.fail(f"line {number}: not `frame,frame count`")
            add_stack(profile, cache, match[1].split(","), count)
        return profile
