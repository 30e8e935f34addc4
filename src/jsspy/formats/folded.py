"""Folded stacks: `root;caller;leaf 42`, what flamegraph.pl and most other tools read.

The number counts samples, or nanoseconds if the samples do not all weigh the same.

Escapes, which `read` does not undo: `;` in a name becomes `:`; NUL, CR and LF become spaces; a
frame that ends in a blank and digits gets a `:`, for difffolded.pl writes two numbers per line; so
does one whose own name ends like a mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, ClassVar

from jsspy.formats.imported import add_stack, imported_profile
from jsspy.formats.input import HEAD_BYTES, MAX_WEIGHT, Source
from jsspy.formats.output import write_text
from jsspy.formats.tree import Tree, proportional_counts, samples_by_thread
from jsspy.model.names import VM_KINDS, display_name
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame, FrameKind

_RESERVED = str.maketrans({";": ":", "\0": " ", "\r": " ", "\n": " "})
_MISLEADING = re.compile(r"(?:\s[0-9]+(?:\.[0-9]*)?|_\[[a-z]\])$")


def folded_name(frame: Frame) -> str | None:
    """Return the label of a frame; None for V8's glue."""
    if frame.kind in VM_KINDS:
        return None
    original = frame.original_name and frame.original_name.translate(_RESERVED)
    spaced = frame._replace(name=frame.name.translate(_RESERVED), original_name=original)
    label = display_name(spaced).replace(";", ":").strip()
    return label + ":" if _MISLEADING.search(label) else label


def annotated_name(frame: Frame) -> str | None:
    """Return the label with FlameGraph's mark: `_[j]` JavaScript, `_[i]` inlined, `_[k]` kernel."""
    label = folded_name(frame)
    if label is None:
        return None
    if frame.inlined:
        return label + "_[i]"
    match frame.kind:
        case FrameKind.JS | FrameKind.WASM:
            return label + "_[j]"
        case FrameKind.KERNEL:
            return label + "_[k]"
        case _:
            return label


class Folded:
    """Folded stacks, equal ones merged."""

    name: ClassVar[str] = "folded"
    suffix: ClassVar[str] = ".folded"
    description: ClassVar[str] = (
        "folded stacks for flamegraph.pl, speedscope, inferno, difffolded.pl"
    )

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, self.lines(profile))

    def label(self, frame: Frame) -> str | None:
        """Return what a frame is called; None if it is not shown."""
        return folded_name(frame)

    def lines(self, profile: Profile) -> Iterator[str]:
        """Yield the lines of the file."""
        tree = Tree(profile, self.label, proportional_counts(profile)[0])
        path: list[str] = []
        for node, depth in tree.walk(order=str):
            path[depth:] = [tree.keys[tree.key[node]]]
            if tree.own[node]:
                yield f"{';'.join(path)} {tree.own[node]}\n"


class FoldedAnnotated(Folded):
    """Folded stacks whose frames are marked by kind."""

    name: ClassVar[str] = "folded-annotated"
    description: ClassVar[str] = (
        "folded stacks with _[j] _[i] _[k] marks for flamegraph.pl --color=js"
    )

    def label(self, frame: Frame) -> str | None:
        """Return what a frame is called; None if it is not shown."""
        return annotated_name(frame)


class FoldedTime(FoldedAnnotated):
    """Folded stacks in the order in which they were taken."""

    name: ClassVar[str] = "folded-time"
    description: ClassVar[str] = "folded stacks in order of time for flamegraph.pl --flamechart"

    def lines(self, profile: Profile) -> Iterator[str]:
        """Yield the lines of the file."""
        counts = proportional_counts(profile)[0]
        tree = Tree(profile, self.label, counts)
        threads = samples_by_thread(profile)
        for thread, samples in threads.items():
            info = profile.threads[thread]
            root = folded_name(Frame(f"{info.name} ({info.tid})", FrameKind.THREAD))
            start = f"{root};" if len(threads) > 1 else ""
            last, count = -1, 0
            for sample in samples:
                node = tree.node_of_sample[sample]
                if node != last and count:
                    yield f"{start}{';'.join(tree.path(last))} {count}\n"
                    count = 0
                last = node
                count += counts[sample]
            if count:
                yield f"{start}{';'.join(tree.path(last))} {count}\n"


_LINE = re.compile(r"(.*\S)\s+([0-9]{1,19})\s*")
_HEAD_LINE = re.compile(rb"\S.*\s[0-9]{1,19}\s*")


class FoldedReader:
    """Reads folded stacks of any origin."""

    name: ClassVar[str] = "folded"

    def matches(self, head: bytes, filename: str) -> bool:
        """See `Reader.matches`."""
        lines = [line for line in head.split(b"\n") if line.strip() and line[:2] != b"# "]
        if len(lines) > 1 and not head.endswith(b"\n"):
            lines.pop()  # cut off
        elif len(lines) == 1 and len(head) >= HEAD_BYTES:
            return b";" in lines[0] or filename.endswith((".folded", ".collapsed"))
        return bool(lines) and all(map(_HEAD_LINE.fullmatch, lines))

    def read(self, source: BinaryIO) -> Profile:
        """See `Reader.read`."""
        lines = Source(self.name)
        profile = imported_profile(self.name)
        cache: dict[str, int] = {}
        for number, line in lines.iter_lines(source):
            if not line.strip() or (line.startswith("# ") and not len(profile)):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                lines.fail(f"line {number}: not `frame;frame count`")
            count = int(match[2])
            if count > MAX_WEIGHT:
                lines.fail(f"line {number}: count too large")
            add_stack(profile, cache, match[1].split(";"), count)
        return profile
