"""Where our stacks differ from what V8 tells the program of its own (`Error.stack`)."""

from __future__ import annotations

from collections.abc import Sequence

from jsspy.model.stack import Frame, FrameKind, Tier

SCRIPT_KINDS = (FrameKind.JS, FrameKind.BUILTIN, FrameKind.UNKNOWN)
"""What `Error.stack` has frames of."""

Site = tuple[str | None, str | None, int | None, int | None]
"""Function name, file, line, column, as V8 tells the program."""

LegacySite = tuple[str | None, str | None, int | None, int | None, bool]
"""The same, and whether it is V8's own: before V8 7.1 that was JavaScript, too."""


def difference(frames: Sequence[Frame], sites: Sequence[Site]) -> str:
    """Say where a stack (root first) differs from the true one (innermost first); "" if nowhere.

    Time may be spent deeper than where the program described its stack, not less deep. Where the
    innermost site is the function that still works, its column is not compared.
    """
    frames = [frame for frame in frames if frame.kind in SCRIPT_KINDS]
    if len(frames) < len(sites):
        return f"{len(frames)} frames of {len(sites)}"
    for index, (frame, site) in enumerate(zip(frames, reversed(sites), strict=False)):
        found = _differs(frame, site, is_innermost=index == len(sites) - 1)
        if found:
            return f"frame {index} from the root: {found}"
    return ""


def _differs(frame: Frame, site: Site, *, is_innermost: bool) -> str:
    """Say how a frame differs from what V8 says of it; "" if it does not."""
    name, file, line, column = site
    # V8 calls the code of an eval "eval"; a function without a name may have an inferred one; names
    # made of symbols are in the closure only.
    is_nameless = not frame.name and name is not None and (name == "eval" or name[:1] == "[")
    if name is not None and frame.name != name and not is_nameless:
        return f"name {frame.name!r} is {name!r}"
    if line is None:
        return "" if frame.kind is FrameKind.BUILTIN else f"{frame} is a builtin"
    if frame.kind is not FrameKind.JS or frame.location is None:
        return f"{frame} is JavaScript"
    if file is not None and frame.location.url != file:
        return f"file {frame.location.url!r} is {file!r}"
    if frame.location.line != line:
        return f"line {frame.location.line} of {name} is {line}"
    # The innermost function works on the line on which it described the stack.
    if not is_innermost and frame.location.column != column:
        return f"column {frame.location.column} of {name} is {column}"
    return ""


def legacy_difference(frames: Sequence[Frame], sites: Sequence[LegacySite]) -> str:
    """Say where a stack (root first) differs from the true one (innermost first); "" if nowhere.

    As `difference`, but V8 hides functions of its own from programs that were JavaScript.
    """
    rest = iter([frame for frame in frames if frame.kind in SCRIPT_KINDS])
    for number, site in enumerate(reversed(sites)):
        for frame in rest:
            if not _legacy_differs(frame, site, is_innermost=number == len(sites) - 1):
                break
            if frame.kind is not FrameKind.BUILTIN:
                found = _legacy_differs(frame, site, is_innermost=number == len(sites) - 1)
                return f"site {number} from the root: {found}"
        else:
            return f"site {number} from the root, {site}, is missing"
    return ""


def _legacy_differs(frame: Frame, site: LegacySite, *, is_innermost: bool) -> str:
    name, file, line, column, is_native = site
    # V8 calls the code of an eval "eval"; a function without a name may have an inferred one.
    if frame.name != name and name is not None and (name, frame.name) != ("eval", ""):
        return f"name {frame.name!r} is {name!r}"
    if is_native or file is None or line is None or file.startswith("native "):
        return "" if frame.kind is FrameKind.BUILTIN or file is None else f"{frame} is V8's own"
    if frame.kind is not FrameKind.JS or frame.location is None:
        return f"{frame} is JavaScript"
    if frame.location.url != file:
        return f"file {frame.location.url!r} is {file!r}"
    if is_innermost and frame.tier in (Tier.OPTIMIZED, None) and frame.location.line is None:
        # Optimized code says where it is only where a call returns to it, stubs do not say by whom
        # they were called.
        return ""
    if frame.location.line != line:
        return f"line {frame.location.line} of {name} is {line}"
    if not is_innermost and frame.location.column != column:
        return f"column {frame.location.column} of {name} is {column}"
    return ""
