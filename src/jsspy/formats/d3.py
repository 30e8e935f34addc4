"""d3-flame-graph's JSON: nested nodes with inclusive values, and what tooltips and colours need.

The root says what was measured, and what its values count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar

from jsspy.formats.output import dump_json, write_text
from jsspy.formats.tree import Tree, proportional_counts, shown_function
from jsspy.model.names import clean, display_name, function_name, origin_of, path_of, place_of
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame


class D3:
    """Nested JSON."""

    name: ClassVar[str] = "d3"
    suffix: ClassVar[str] = ".d3.json"
    description: ClassVar[str] = "nested JSON for d3-flame-graph: name, value, children"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, _parts(profile))


def _parts(profile: Profile) -> Iterator[str]:
    values, unit = proportional_counts(profile)
    tree = Tree(profile, shown_function, values)
    totals = tree.totals()
    heads = [dump_json(_head(function))[:-1] for function in tree.keys]
    measures = profile.meta.value_type.value
    yield f'{{"name":"all","measures":"{measures}","unit":"{unit}",'
    yield f'"value":{sum(values)},"children":['
    last = -1
    for node, depth in tree.walk(order=display_name):
        # Going down from `last` opens no list of its own: a node opens the one for its children.
        yield "]}" * (last - depth + 1)
        yield ",\n" if depth <= last else "\n"
        yield f'{heads[tree.key[node]]},"value":{totals[node]},"children":['
        last = depth
    yield "]}" * (last + 1)
    yield "]}\n"


def _head(function: Frame) -> dict[str, Any]:
    head: dict[str, Any] = {"name": function_name(function), "kind": origin_of(function).value}
    if place := place_of(function):
        head["file"] = clean(path_of(place.url))
        if place.line is not None:
            head["line"] = place.line
    return head
