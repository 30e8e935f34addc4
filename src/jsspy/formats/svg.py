"""A flame graph as a static SVG: for documents and reports, where no script runs.

Callers are below callees, siblings in order of their names. Frames narrower than a tenth of a pixel
are left out and counted in a line at the bottom.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, ClassVar
from xml.sax.saxutils import escape

from jsspy.formats.output import write_text
from jsspy.formats.tree import Tree, proportional_counts, shown_function
from jsspy.model.names import Origin, clean, display_name, function_name, origin_of
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame
from jsspy.model.transform import mark_truncated

_WIDTH = 1200
_ROW = 17
_TOP = 34
_CHARACTER = 6.7
"""Width of a character at 11 px in the usual monospace fonts, rounded up."""
_NARROWEST = 0.1
_HUES = {
    Origin.APP: (30, 85),
    Origin.DEPENDENCY: (50, 80),
    Origin.CORE: (145, 45),
    Origin.BUILTIN: (185, 45),
    Origin.NATIVE: (215, 55),
    Origin.KERNEL: (275, 40),
    Origin.VM: (0, 0),
    Origin.OTHER: (0, 45),
}
"""Hue in degrees and saturation in percent, by whose code it is."""


class Svg:
    """A static flame graph."""

    name: ClassVar[str] = "svg"
    suffix: ClassVar[str] = ".svg"
    description: ClassVar[str] = "static flame graph for documents; html is the one to explore"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, _parts(mark_truncated(profile)))


def _parts(profile: Profile) -> Iterator[str]:
    values, unit = proportional_counts(profile)
    tree = Tree(profile, shown_function, values)
    whole = sum(values)
    boxes, left_out = _layout(tree, whole)
    height = _TOP + _ROW * (max((depth for _, depth, _, _ in boxes), default=-1) + 3)
    title = escape(clean(profile.meta.command) or "flame graph")
    title += f" ({profile.meta.value_type.words})"
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="monospace" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="{_WIDTH / 2:.0f}" y="20" font-size="14" text-anchor="middle">{title}</text>\n'
    )
    names = [function_name(function) for function in tree.keys]
    titles = [escape(display_name(function)) for function in tree.keys]
    colors = [_color(function, name) for function, name in zip(tree.keys, names, strict=True)]
    base = height - 2 * _ROW
    yield _box(0, base, _WIDTH, "#ddd", f"all ({_amount(whole, whole, unit)})", "all")
    for node, depth, start, value in boxes:
        key = tree.key[node]
        yield _box(
            start / whole * _WIDTH,
            base - _ROW * (depth + 1),
            value / whole * _WIDTH,
            colors[key],
            f"{titles[key]} ({_amount(value, whole, unit)})",
            names[key],
        )
    if left_out:
        yield (
            f'<text x="4" y="{height - 5}" fill="#555">'
            f"{left_out} frames are too narrow to be drawn</text>\n"
        )
    yield "</svg>\n"


def _layout(tree: Tree[Frame], whole: int) -> tuple[list[tuple[int, int, int, int]], int]:
    """Return (node, depth, start, value) of what is wide enough, and how many nodes are not."""
    boxes = []
    left_out = 0
    totals = tree.totals()
    starts = [0]
    """Of each depth: where the next box begins."""
    for node, depth in tree.walk(order=display_name):
        value = totals[node]
        start = starts[depth]
        del starts[depth:]
        starts += [start + value, start]
        if value * _WIDTH < _NARROWEST * whole or not value:
            left_out += 1
        else:
            boxes.append((node, depth, start, value))
    return boxes, left_out


def _box(x: float, y: float, width: float, color: str, title: str, name: str) -> str:
    room = int((width - 4) / _CHARACTER)
    label = name if len(name) <= room else name[: room - 2] + ".." if room > 3 else ""
    text = f'<text x="{x + 2:.2f}" y="{y + 12}">{escape(label)}</text>' if label else ""
    return (
        f"<g><title>{title}</title>"
        f'<rect x="{x:.2f}" y="{y}" width="{max(width - 0.3, 0.1):.2f}" height="{_ROW - 1}" '
        f'fill="{color}"/>{text}</g>\n'
    )


def _amount(value: int, whole: int, unit: str) -> str:
    share = f"{100 * value / whole:.2f} %" if whole else "0 %"
    if unit == "samples":
        return f"{value:,} samples, {share}"
    return f"{value / 1e6:,.3f} ms, {share}"


def _color(function: Frame, name: str) -> str:
    hue, saturation = _HUES[origin_of(function)]
    shade = zlib.crc32(name.encode()) % 16
    return f"hsl({hue + shade % 5 * 3},{saturation}%,{64 + shade}%)"
