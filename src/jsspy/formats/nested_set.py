"""Grafana's nested set: the tree in depth-first order as a data frame in JSON.

Columns `level`, `value`, `self` and `label` are what the flame graph panel wants; `fileName` and
`line` are for tables. The frame's name is what was measured.

Source: @grafana/flamegraph 13, and Grafana's DataFrameJSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, ClassVar

from jsspy.formats.output import dump_json, separated, write_text
from jsspy.formats.tree import Tree, shown_function
from jsspy.model.names import clean, display_name, function_name, path_of, place_of
from jsspy.model.profile import Profile, ValueType


class NestedSet:
    """A data frame for Grafana's flame graph panel."""

    name: ClassVar[str] = "nested-set"
    suffix: ClassVar[str] = ".nested.json"
    description: ClassVar[str] = "data frame for Grafana's flame graph panel"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, _parts(profile))


def _parts(profile: Profile) -> Iterator[str]:
    tree = Tree(profile, shown_function, profile.weight)
    totals = tree.totals()
    order = list(tree.walk(order=display_name))
    places = [place_of(function) for function in tree.keys]
    names = [dump_json(function_name(function)) for function in tree.keys]
    files = [dump_json(clean(path_of(place.url)) if place else "") for place in places]
    lines = [str(place.line if place and place.line else 0) for place in places]
    config = {} if profile.meta.value_type is ValueType.SAMPLES else {"config": {"unit": "ns"}}
    fields: list[dict[str, Any]] = [
        {"name": "level", "type": "number"},
        {"name": "value", "type": "number", **config},
        {"name": "self", "type": "number", **config},
        {"name": "label", "type": "string"},
        {"name": "fileName", "type": "string"},
        {"name": "line", "type": "number"},
    ]
    columns: list[Iterable[str]] = [
        ["0", *(str(depth + 1) for _, depth in order)],
        [str(profile.total_weight()), *(str(totals[node]) for node, _ in order)],
        ["0", *(str(tree.own[node]) for node, _ in order)],
        ['"total"', *(names[tree.key[node]] for node, _ in order)],
        ['""', *(files[tree.key[node]] for node, _ in order)],
        ["0", *(lines[tree.key[node]] for node, _ in order)],
    ]
    kind = profile.meta.value_type
    schema = {"name": kind.words, "meta": {"custom": {"measures": kind.value}}, "fields": fields}
    yield f'{{"schema":{dump_json(schema)},\n"data":{{"values":['
    for number, column in enumerate(columns):
        yield ",\n[" if number else "\n["
        yield from separated(column, ",")
        yield "]"
    yield "]}}\n"
