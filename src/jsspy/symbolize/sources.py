"""The source lines that a recording keeps: those that frames execute, and no others.

V8 has the text of every script in its heap, so the lines are those that ran, whatever the file says
by now. It is read once, when the recording is over. Of the rest of a text only the line breaks are
kept, so a bundle of 10 MB costs little, and a recording tells no more of a program than it must.

Where the process is gone, or a frame was mapped to another file, the file itself is read, as the
target saw it. Paths are the target's word, so files are read only of processes of our own user:
else a program could make root show it a line of any file.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable

from jsspy.model.names import clean, path_of
from jsspy.model.profile import Profile
from jsspy.model.stack import FrameKind, Location
from jsspy.symbolize.original import (
    Noted,
    PastScripts,
    ScriptLog,
    merge_logs,
    read_file,
    read_text,
)

MAX_TOTAL = 4 << 20
"""Characters kept, line breaks included."""

MAX_LINE = 1000
"""Characters kept of a line: minified scripts have one of a megabyte."""

MAX_NS = 2_000_000_000
"""How long reading may take; the hottest scripts come first."""

_LINE_END = re.compile("\r\n|[\n\r\u2028\u2029]")
"""As in V8; see `jsspy.v8.function.find_line_ends`."""

_MAX_FILE_BYTES = 64 << 20


def keep_sources(
    profile: Profile,
    logs: Iterable[ScriptLog | PastScripts],
    clock: Callable[[], int] = time.monotonic_ns,
) -> None:
    """Put into `profile.sources` the lines that its frames execute.

    Args:
        profile: Its frames are source-mapped already, if they are to be.
        logs: Of all processes in it, not closed.
        clock: In nanoseconds.
    """
    scripts = merge_logs(logs)
    weights = _weigh_frames(profile)
    heat: Counter[str] = Counter()
    lines: dict[str, set[int]] = {}
    found: dict[str, tuple[str, Noted]] = {}
    for frame, weight in zip(profile.frames, weights, strict=True):
        place = frame.original or frame.location
        if frame.kind is not FrameKind.JS or not weight or place is None or not place.line:
            continue
        script = frame.location.url if frame.location is not None else ""
        noted = scripts.get((script, frame.script_id))
        if noted is None or not place.url:
            continue
        heat[place.url] += weight
        lines.setdefault(place.url, set()).add(place.line)
        found.setdefault(place.url, (script, noted))
    end, room = clock() + MAX_NS, MAX_TOTAL
    for url in sorted(heat, key=lambda url: (-heat[url], url)):
        if clock() >= end:
            profile.meta.notes.append("Source lines of some scripts were not read in time.")
            break
        script, noted = found[url]
        text = _pick_lines(_read(Location(url), script, noted), lines[url], _shift(url, found))
        if text and len(text) <= room:
            room -= len(text)
            profile.sources[url] = text


def _weigh_frames(profile: Profile) -> list[int]:
    """Return, by frame, the weight of the samples that it is in (recursion counts again)."""
    rows = [0] * len(profile.stacks)
    for row, weight in zip(profile.stack, profile.weight, strict=True):
        if row >= 0:
            rows[row] += weight
    weights = [0] * len(profile.frames)
    for row in range(len(rows) - 1, -1, -1):
        parent = profile.stacks.parent[row]
        if parent >= 0:
            rows[parent] += rows[row]
        weights[profile.stacks.frame[row]] += rows[row]
    return weights


def _read(place: Location, script: str, noted: Noted) -> str:
    """Return the text of a script, or of the file that it was mapped to; "" if there is none."""
    if place.url == script:
        return read_text(noted, script, files=noted.is_our_user) or ""
    path = path_of(place.url)
    if not noted.is_our_user or not path.startswith("/"):
        return ""
    try:
        return read_file(noted, path, _MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _shift(url: str, found: dict[str, tuple[str, Noted]]) -> int:
    """Return how many lines stand in front of a script's text in the file that it is part of."""
    script, noted = found[url]
    if url != script or noted.script is None:
        return 0
    return noted.script.line_offset


def _pick_lines(text: str, wanted: set[int], shift: int) -> str:
    """Return a text with the wanted lines (1-based, `shift` lines stand in front of the text)."""
    lines = _LINE_END.split(text)
    last = min(max(wanted), len(lines) + shift)
    if not text or last > MAX_TOTAL:
        return ""
    kept = [
        clean(lines[number - 1 - shift][:MAX_LINE])
        if number in wanted and number - 1 - shift >= 0
        else ""
        for number in range(1, last + 1)
    ]
    return "\n".join(kept) if any(kept) else ""
