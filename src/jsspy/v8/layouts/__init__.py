"""Rules for what the metadata of a V8 does not say, as data: one TOML file per era of V8."""

from __future__ import annotations

from typing import NamedTuple

Version = tuple[int, int, int, int]

_FIRST: Version = (0, 0, 0, 0)
_LAST: Version = (1 << 30, 0, 0, 0)


class Rule(NamedTuple):
    """The value of a field in V8 versions from `since` up to but not including `until`."""

    field: str
    since: Version
    until: Version
    value: int | str
    source: str


def parse_version(text: str) -> Version:
    """Return a dotted version of up to four numbers; what is left out is 0."""
    numbers = [int(part) for part in text.split(".")]
    major, minor, build, patch = (*numbers, 0, 0, 0)[:4]
    return (major, minor, build, patch)


def load_rules() -> list[Rule]:
    """Return the rules of all files in this directory, in the order of file name and line."""
    # Only for a binary that is met for the first time: they take 5 ms to load.
    import tomllib
    from importlib import resources

    rules = []
    files = (file for file in resources.files(__name__).iterdir() if file.name.endswith(".toml"))
    for file in sorted(files, key=lambda file: file.name):
        for rule in tomllib.loads(file.read_text(encoding="utf-8"))["rule"]:
            since = parse_version(rule["since"]) if "since" in rule else _FIRST
            until = parse_version(rule["until"]) if "until" in rule else _LAST
            rules.append(Rule(rule["field"], since, until, rule["value"], rule["source"]))
    return rules


def find_value(rules: list[Rule], field: str, version: Version) -> int | str | None:
    """Return what the rules say of a field in a version, None if they say nothing."""
    for rule in rules:
        if rule.field == field and rule.since <= version < rule.until:
            return rule.value
    return None
