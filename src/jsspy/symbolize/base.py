"""What symbolizing yields, and the frames that stand for what could not be named."""

from __future__ import annotations

from jsspy.model.stack import Frame, FrameKind

UNKNOWN = Frame("(unknown)", FrameKind.UNKNOWN)
"""A frame of V8's code whose function does not check out. Never a guess."""

UNKNOWN_INLINED = Frame("(unknown)", FrameKind.UNKNOWN, inlined=True)

Frames = tuple[Frame, ...]
"""What one physical frame expands to, innermost first: inlined functions, then the function."""
