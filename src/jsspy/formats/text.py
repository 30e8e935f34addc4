"""`text`: the indented call tree of node-flame and node-stap.

The layout is byte for byte that of node-stap 2.0's `lib/aggregation.js`, printed with console.log:
a line with the number of samples, then one line per node, its inclusive count after two spaces per
level, children as first seen; an empty line ends it. V8's own frames are kept, as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, ClassVar

from jsspy.formats.output import write_text
from jsspy.formats.tree import Tree, sample_counts
from jsspy.model.names import classic_parts
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame


def classic_name(frame: Frame) -> str:
    """Return a frame as node-flame spells it: `foo:/app/a.js:10`."""
    return "".join(classic_parts(frame))


class Text:
    """An indented call tree."""

    name: ClassVar[str] = "text"
    suffix: ClassVar[str] = ".txt"
    description: ClassVar[str] = "indented call tree with sample counts, as node-flame prints it"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, self._lines(profile))

    def _lines(self, profile: Profile) -> Iterator[str]:
        counts = sample_counts(profile)
        tree = Tree(profile, classic_name, counts)
        total = tree.totals()
        yield f"Total samples: {sum(counts)}\n"
        for node, depth in tree.walk():
            yield f"{'  ' * depth}{total[node]} {tree.keys[tree.key[node]]}\n"
        yield "\n"
