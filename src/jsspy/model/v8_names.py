"""What V8 calls its code in perf maps and logs: `LazyCompile:*hot /app/busy.js:3:13`."""

from __future__ import annotations

import re

from jsspy.model.stack import Frame, FrameKind, Location, Tier

_SCRIPT = re.compile(
    r"(?:JS|LazyCompile|Function|Script|Eval|InterpretedFunction):(?:o?([~^+*])'?)?(.*)"
)
_OTHER = {
    "Builtin": FrameKind.BUILTIN,
    "BytecodeHandler": FrameKind.BYTECODE_HANDLER,
    "Handler": FrameKind.BUILTIN,
    "RegExp": FrameKind.REGEXP,
    "Stub": FrameKind.BUILTIN,
}
_PLACE_END = re.compile(r":([0-9]{1,9})(?::([0-9]{1,9}))?\Z")
_PLACE_BEGIN = re.compile(r"(?:\A| )(?=(?:/|node:|file:|internal/|evalmachine)\S)")


def split_place(text: str) -> tuple[str, Location] | None:
    """Split what V8 calls a function, `name /path/file.js:line:column`; None if it has no place.

    Names have blanks in them (`get size`), and so have paths. V8 before 11 writes no column.
    """
    end = _PLACE_END.search(text, max(len(text) - 20, 0))
    if end is None:
        return None
    text = text[: end.start()]
    begin = _PLACE_BEGIN.search(text)
    at = begin.start() if begin is not None else max(text.rfind(" "), 0)
    name, url = text[:at], text[at:].removeprefix(" ")
    if not url:
        return None
    return name, Location(url, int(end[1]), int(end[2]) if end[2] else None)


def script_frame(symbol: str, *, placed: bool) -> Frame | None:
    """Return the frame of a function of a script; None if the symbol is not one's.

    Args:
        symbol: Clean.
        placed: It counts only with a place: other programs have names with colons, too.
    """
    match = _SCRIPT.fullmatch(symbol)
    if match is None:
        return None
    tier = Tier(match[1]) if match[1] else None
    found = split_place(match[2])
    if found is not None:
        return Frame(found[0], FrameKind.JS, tier, definition=found[1])
    return None if placed else Frame(match[2].strip(), FrameKind.JS, tier)


def frame_of_v8_name(symbol: str) -> Frame | None:
    """Return the frame of any code that V8 gave a name to; None if it is not V8's."""
    kind, colon, rest = symbol.partition(":")
    if colon and kind in _OTHER:
        return Frame(rest, _OTHER[kind])
    return script_frame(symbol, placed=False)
