"""Profiles made of other tools' words: what a label or a name and a file say about a frame."""

from __future__ import annotations

import re

from jsspy.model.names import KIND_PREFIXES, clean
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.stack import Frame, FrameKind, Location, Module
from jsspy.model.units import Pid, Tid

_MARKS = {
    "_[j]": (FrameKind.JS, False),
    "_[i]": (FrameKind.JS, True),
    "_[k]": (FrameKind.KERNEL, False),
}
_PLACE = re.compile(r"(.+?) ((?:/|node:|file:).*|\S+):([0-9]{1,9})")
_SCRIPT_PLACE = re.compile(r"(.+?) (node:[\w/]+|(?:/|file:///).*\.[cm]?[jt]sx?):([0-9]{1,9})")


def frame_of_label(label: str) -> Frame:
    """Return the frame that a folded label names: what `display_name` wrote, or just a name."""
    label = clean(label.strip())
    kind, inlined = _MARKS.get(label[-4:], (FrameKind.UNKNOWN, False))
    if kind is not FrameKind.UNKNOWN:
        label = label[:-4]
    for prefixed, prefix in KIND_PREFIXES.items():
        if label.startswith(prefix):
            return Frame(label.removeprefix(prefix), prefixed, inlined=inlined)
    if kind is FrameKind.KERNEL:
        return Frame(label, kind)
    place = (_SCRIPT_PLACE if kind is FrameKind.UNKNOWN else _PLACE).fullmatch(label)
    if place is None:
        name = "" if kind is FrameKind.JS and label == "(anonymous)" else label
        return Frame(name, kind, inlined=inlined)
    name = "" if place[1] == "(anonymous)" else place[1]
    return Frame(name, FrameKind.JS, definition=Location(place[2], int(place[3])), inlined=inlined)


def add_stack(profile: Profile, cache: dict[str, int], labels: list[str], count: int) -> None:
    """Add a sample of the labels (root first) to an imported profile.

    Args:
        profile: Made by `imported_profile`.
        cache: Label -> frame index; the caller keeps it for the whole file.
        labels: Root first.
        count: Weight.
    """
    row = -1
    for label in labels:
        index = cache.get(label)
        if index is None:
            index = cache[label] = profile.intern_frame(frame_of_label(label))
        row = profile.stacks.intern(row, index)
    profile.add_row(row, 0, 0, count)


def imported_profile(engine: str) -> Profile:
    """Return an empty profile of counts, with one thread of which nothing is known."""
    profile = Profile(ProfileMeta(value_type=ValueType.SAMPLES, engine=engine))
    profile.intern_thread(ThreadInfo(Pid(0), Tid(0), "main"))
    return profile


_SCRIPT = re.compile(r"^(?:node|file|wasm):|\.[cm]?[jt]sx?$")


def frame_of_place(name: str, file: str, line: int = 0, column: int = 0) -> Frame:
    """Return the frame of a function in a file; 0 and "" are not known. Both must be clean."""
    for kind, prefix in KIND_PREFIXES.items():
        if name.startswith(prefix) and not file:
            return Frame(name.removeprefix(prefix), kind)
    if _SCRIPT.search(file):
        written = "" if name == "(anonymous)" else name
        return Frame(written, FrameKind.JS, definition=Location(file, line or None, column or None))
    if file and not line:  # so the module of native code is written
        return Frame(name, FrameKind.UNKNOWN, module=Module(file))
    place = Location(file, line, column or None) if file else None
    return Frame(name, FrameKind.UNKNOWN, definition=place)
