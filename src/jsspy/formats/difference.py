"""What a comparison of two profiles is written as: web page, folded stacks, tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, ClassVar, NamedTuple, Protocol

from jsspy.formats.folded import folded_name
from jsspy.formats.html import write_page
from jsspy.formats.output import dump_json, separated, write_text
from jsspy.formats.summary import markdown_text
from jsspy.formats.tree import Tree
from jsspy.model.difference import Change, Difference, find_changes
from jsspy.model.names import (
    clean,
    display_place,
    function_name,
    function_of,
    origin_of,
    package_of,
    without_version,
)
from jsspy.model.profile import ValueType
from jsspy.model.stack import Frame

_FUNCTIONS = 40
_PACKAGES = 20


class DifferenceFormat(Protocol):
    """Writes a comparison as bytes: a pure function of it."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    description: ClassVar[str]

    def write(self, difference: Difference, out: BinaryIO, *, negate: bool) -> None:
        """Write `difference` to `out`.

        Args:
            difference: What to write.
            out: Where to.
            negate: Show the earlier profile, and what will become of it.
        """
        ...


class DifferenceHtml:
    """A flame graph whose colours are the change."""

    name: ClassVar[str] = "html"
    suffix: ClassVar[str] = ".html"
    description: ClassVar[str] = "interactive flame graph: red grew, blue shrank"

    def write(self, difference: Difference, out: BinaryIO, *, negate: bool) -> None:
        """See `DifferenceFormat.write`."""
        write_page(difference.profile, out, before=difference.before, show_before=negate)


class DifferenceFolded:
    """What difffolded.pl prints, sorted."""

    name: ClassVar[str] = "folded"
    suffix: ClassVar[str] = ".folded"
    description: ClassVar[str] = "two counts per stack, as difffolded.pl writes for flamegraph.pl"

    def write(self, difference: Difference, out: BinaryIO, *, negate: bool) -> None:
        """See `DifferenceFormat.write`."""
        columns = [difference.before, difference.profile.weight]
        if negate:
            columns.reverse()
        old, new = (Tree(difference.profile, folded_name, column) for column in columns)
        period = difference.period
        lines = []
        for node in set(old.node_of_sample):
            stack = ";".join(old.path(node))
            lines.append(f"{stack} {old.own[node] // period} {new.own[node] // period}\n")
        lines.sort(key=str.encode)
        write_text(out, lines)


class DifferenceMarkdown:
    """Tables for people."""

    name: ClassVar[str] = "markdown"
    suffix: ClassVar[str] = ".md"
    description: ClassVar[str] = "tables for people and pull requests: what grew, what shrank"

    def write(self, difference: Difference, out: BinaryIO, *, negate: bool) -> None:
        """See `DifferenceFormat.write`."""
        del negate
        write_text(out, _markdown(difference))


class DifferenceJson:
    """The same for programs."""

    name: ClassVar[str] = "json"
    suffix: ClassVar[str] = ".json"
    description: ClassVar[str] = (
        "for programs: every function with self and total, before and after"
    )

    def write(self, difference: Difference, out: BinaryIO, *, negate: bool) -> None:
        """See `DifferenceFormat.write`."""
        del negate
        write_text(out, _json(difference))


DIFFERENCE_FORMATS: dict[str, DifferenceFormat] = {
    form.name: form
    for form in (
        DifferenceHtml(),
        DifferenceFolded(),
        DifferenceMarkdown(),
        DifferenceJson(),
    )
}
"""By the word for `--format`."""


class _Row(NamedTuple):
    function: Frame
    change: Change


def _functions(difference: Difference) -> list[_Row]:
    """Return every function, the largest change of self first."""
    rows = [_Row(*item) for item in find_changes(difference, function_of).items()]

    def order(row: _Row) -> tuple[int, int, str, str]:
        old, new, total_old, total_new = row.change
        return (
            -abs(new - old),
            -abs(total_new - total_old),
            function_name(row.function),
            display_place(row.function),
        )

    return sorted(rows, key=order)


def _package(frame: Frame) -> str:
    return without_version(package_of(frame))


def _versions(difference: Difference, package: str) -> str:
    """Return ` 1.0.0 → 1.2.0`, or the version of both; "" if none is known."""
    old, new = map(", ".join, difference.versions.get(package, ((), ())))
    if old == new:
        return old and f" {old}"
    return f" {old or '?'} \N{RIGHTWARDS ARROW} {new or '?'}"


def _packages(difference: Difference) -> list[tuple[str, Change]]:
    # An upgrade does not make it another package.
    found = find_changes(difference, _package)
    return sorted(
        found.items(), key=lambda item: (-abs(item[1].own_after - item[1].own_before), item[0])
    )


def _json(difference: Difference) -> Iterator[str]:
    profile = difference.profile
    before, after = difference.totals()
    head = {
        "command": clean(profile.meta.command),
        "measures": profile.meta.value_type.value,
        "unit": "samples" if profile.meta.value_type is ValueType.SAMPLES else "ns",
        "before": before,
        "after": after,
        "notes": [clean(note) for note in profile.meta.notes],
        "packages": [
            {
                "name": name,
                "versions_before": difference.versions.get(name, ([], []))[0],
                "versions_after": difference.versions.get(name, ([], []))[1],
                "self_before": change.own_before,
                "self_after": change.own_after,
            }
            for name, change in _packages(difference)
        ],
    }
    yield dump_json(head)[:-1] + ',\n"functions":[\n'
    yield from separated(
        dump_json(
            {
                "name": function_name(function),
                "place": display_place(function),
                "origin": origin_of(function).value,
                "package": _package(function),
                "self_before": change.own_before,
                "self_after": change.own_after,
                "total_before": change.total_before,
                "total_after": change.total_after,
                "is_noise": difference.is_noise(change.own_before, change.own_after),
            }
        )
        for function, change in _functions(difference)
    )
    yield "]}\n"


def _markdown(difference: Difference) -> Iterator[str]:
    profile = difference.profile
    before, after = difference.totals()
    timed = profile.meta.value_type is not ValueType.SAMPLES

    def amount(value: int) -> str:
        return f"{value / 1e6:,.0f} ms" if timed else f"{value:,}"

    def change(old: int, new: int) -> str:
        sign = "+" if new >= old else "\N{MINUS SIGN}"
        share = f" ({sign}{100 * abs(new - old) / old:,.0f} %)" if old else " (new)"
        text = f"{sign}{amount(abs(new - old))}{share if new != old else ''}"
        return text if difference.is_noise(old, new) else f"**{text}**"

    def table(title: str, rows: list[_Row]) -> Iterator[str]:
        yield f"\n## {title}\n\n| change | before | after | total | function | where |\n"
        yield "|--:|--:|--:|--:|:--|:--|\n"
        for function, (old, new, total_old, total_new) in rows[:_FUNCTIONS]:
            yield (
                f"| {change(old, new)} | {amount(old)} | {amount(new)} "
                f"| {change(total_old, total_new)} | {markdown_text(function_name(function))} "
                f"| {markdown_text(display_place(function))} |\n"
            )

    yield f"# {markdown_text(profile.meta.command) or 'Difference'}\n\n"
    yield f"- {amount(before)} before, {amount(after)} after: {change(before, after)}\n"
    for note in profile.meta.notes:
        yield f"- {markdown_text(note)}\n"
    yield "- Changes in bold are more than chance makes of two recordings of the same program.\n"
    rows = [row for row in _functions(difference) if row.change.own_before != row.change.own_after]
    yield from table(
        "Self time that grew", [row for row in rows if row.change.own_after > row.change.own_before]
    )
    yield from table(
        "Self time that shrank",
        [row for row in rows if row.change.own_after < row.change.own_before],
    )
    yield "\n## Packages\n\n| change of self | before | after | package |\n|--:|--:|--:|:--|\n"
    for name, (old, new, _, _) in _packages(difference)[:_PACKAGES]:
        text = markdown_text(name + _versions(difference, name))
        yield f"| {change(old, new)} | {amount(old)} | {amount(new)} | {text} |\n"
