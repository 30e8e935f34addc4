"""The rules for what metadata does not say."""

from __future__ import annotations

import pytest

from jsspy.v8.layouts import Rule, find_value, load_rules, parse_version


def test_versions() -> None:
    assert parse_version("8.7.198") == (8, 7, 198, 0)
    assert parse_version("14") == (14, 0, 0, 0)
    assert parse_version("12.4.254.21") == (12, 4, 254, 21)


def test_range_is_half_open() -> None:
    rules = [Rule("a", (8, 0, 0, 0), (9, 0, 0, 0), 1, "source")]
    assert find_value(rules, "a", (7, 9, 9, 9)) is None
    assert find_value(rules, "a", (8, 0, 0, 0)) == 1
    assert find_value(rules, "a", (8, 9, 999, 0)) == 1
    assert find_value(rules, "a", (9, 0, 0, 0)) is None
    assert find_value(rules, "b", (8, 0, 0, 0)) is None


def test_every_rule_has_a_source_at_a_tag() -> None:
    for rule in load_rules():
        assert rule.since < rule.until, rule
        path, _, place = rule.source.partition(" at ")
        assert path.startswith(("src/", "include/")), rule
        assert place[:1].isdigit(), rule


def test_no_two_rules_contradict_each_other() -> None:
    rules = load_rules()
    for index, rule in enumerate(rules):
        for other in rules[index + 1 :]:
            if rule.field == other.field:
                assert rule.until <= other.since or other.until <= rule.since, (rule, other)


@pytest.mark.parametrize("field", ["code.position_encoding", "objects.scope_info_first_slot"])
def test_rules_reach_every_version(field: str) -> None:
    rules = load_rules()
    for text in ("7.8.279", "8.4.371", "9.4.146", "10.2.154", "11.3.244", "12.4.254", "14.6.202"):
        assert find_value(rules, field, parse_version(text)) is not None
