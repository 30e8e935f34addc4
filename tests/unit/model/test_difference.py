"""What grew, what shrank, what is chance, and what is the same function."""

from __future__ import annotations

import io
import json

import pytest

from jsspy.errors import JsspyError
from jsspy.formats.difference import DIFFERENCE_FORMATS
from jsspy.model.difference import (
    Change,
    Difference,
    Ignored,
    Normalization,
    Threshold,
    compare,
    find_changes,
    judge,
    parse_threshold,
)
from jsspy.model.names import display_name, function_name
from jsspy.model.profile import Profile, ValueType
from jsspy.model.stack import Frame, FrameKind, Location, Module, Tier
from profiles import ENTRY, HANDLER, HOT, HOT_ELSEWHERE, LODASH, MAIN, counts, js, profile_of

PERIOD = 10_000_000


def names_of(difference: Difference) -> list[str]:
    return sorted(map(display_name, difference.profile.frames))


def test_every_weight_is_on_one_side_or_the_other() -> None:
    before = profile_of((MAIN, HOT), (MAIN, HOT), (MAIN,), ())
    after = profile_of((MAIN, HOT_ELSEWHERE), (MAIN, LODASH))
    difference = compare(before, after)
    assert difference.totals() == (4 * PERIOD, 2 * PERIOD)
    assert find_changes(difference, function_name) == {
        "(anonymous)": Change(PERIOD, 0, 3 * PERIOD, 2 * PERIOD),
        "hot": Change(2 * PERIOD, PERIOD, 2 * PERIOD, PERIOD),
        "Lazy.map": Change(0, PERIOD, 0, PERIOD),
        "(no stack)": Change(PERIOD, 0, PERIOD, 0),
    }
    assert difference.period == PERIOD
    difference.profile.check()


def test_recursion_counts_once() -> None:
    difference = compare(profile_of((MAIN, HOT, MAIN, HOT)), profile_of((MAIN, HOT)))
    assert find_changes(difference, function_name)["hot"] == Change(*[PERIOD] * 4)


def test_tier_line_and_inlining_do_not_count() -> None:
    inlined = HOT._replace(inlined=True, tier=Tier.MAGLEV, location=Location("/app/lib/hot.js", 99))
    difference = compare(profile_of((ENTRY, MAIN, HOT)), profile_of((ENTRY, MAIN, inlined)))
    assert len(difference.profile) == 1
    assert list(difference.before) == list(difference.profile.weight) == [PERIOD]


SAME = [
    ("lines", js("f", "/app/a.js", 10), js("f", "/app/a.js", 12)),
    ("lines", Frame("f /a.js:10", FrameKind.UNKNOWN), Frame("f /a.js:9", FrameKind.UNKNOWN)),
    ("lines", Frame("f /a.js:10:3", FrameKind.UNKNOWN), Frame("f /a.js:9:30", FrameKind.UNKNOWN)),
    ("tiers", Frame("*f a.js", FrameKind.UNKNOWN), Frame("~f a.js", FrameKind.UNKNOWN)),
    ("tiers", Frame("JS:*f a.js", FrameKind.UNKNOWN), Frame("JS:^f a.js", FrameKind.UNKNOWN)),
    ("tiers", Frame("LazyCompile:~f", FrameKind.JS), Frame("LazyCompile:f", FrameKind.JS)),
    (
        "versions",
        js("f", "/a/node_modules/.pnpm/b@1.0.0_c@2.0.0/node_modules/b/x.js", 1),
        js("f", "/a/node_modules/.pnpm/b@1.0.1/node_modules/b/x.js", 1),
    ),
    (
        "versions",
        js("f", "/a/.yarn/cache/b-npm-1.0.0-0123456789-0.zip/node_modules/b/x.js", 1),
        js("f", "/a/.yarn/cache/b-npm-1.2.0-9876543210-0.zip/node_modules/b/x.js", 1),
    ),
    ("hashes", js("f", "/app/main.3f9a8c1b.js", 1), js("f", "/app/main.0c11ae2f77.js", 1)),
    ("hashes", js("f", "/dist/chunk-ABCD2345.mjs", 1), js("f", "/dist/chunk-K7XQZPLM.mjs", 1)),
    ("hashes", js("f", "/assets/index-DiwrgTda.js", 1), js("f", "/assets/index-a_9-xQ0z.js", 1)),
    ("hashes", Frame("node+0x12ab", FrameKind.NATIVE), Frame("node+0x9", FrameKind.NATIVE)),
]  # fmt: skip


@pytest.mark.parametrize(("word", "old", "new"), SAME, ids=lambda value: str(value)[:40])
def test_ignored(word: str, old: Frame, new: Frame) -> None:
    before, after = profile_of((MAIN, old)), profile_of((MAIN, new))
    assert len(compare(before, after).profile) == 2
    assert len(compare(before, after, ignored={Ignored(word)}).profile) == 1


def test_an_upgrade_does_not_make_it_another_package() -> None:
    old = js("f", "/app/node_modules/@s/b/x.js", 1)._replace(package="@s/b@1.0.0")
    nested = js("g", "/app/node_modules/c/node_modules/@s/b/x.js", 1)
    new = old._replace(package="@s/b@2.0.0")
    before = profile_of((MAIN, old), (MAIN, nested._replace(package="@s/b@0.9.0")))
    difference = compare(before, profile_of((MAIN, new), (MAIN, LODASH)))
    assert f"f {old.definition.url}:1" in names_of(difference)  # type: ignore[union-attr]
    assert difference.versions == {
        "@s/b": (["0.9.0", "1.0.0"], ["2.0.0"]), "lodash": ([], ["4.17.21+x"])
    }  # fmt: skip
    text = written_difference("markdown", difference)
    assert "| @s/b 0.9.0, 1.0.0 \N{RIGHTWARDS ARROW} 2.0.0 |" in text
    assert "| lodash ? \N{RIGHTWARDS ARROW} 4.17.21+x |" in text
    packages = {
        row["name"]: row for row in json.loads(written_difference("json", difference))["packages"]
    }
    assert packages["@s/b"]["versions_after"] == ["2.0.0"]
    assert packages["@s/b"]["self_before"] == 2 * PERIOD
    assert judge(difference, parse_threshold("package:@s/b +1%"))[0].after == PERIOD


def written_difference(name: str, difference: Difference) -> str:
    out = io.BytesIO()
    DIFFERENCE_FORMATS[name].write(difference, out, negate=False)
    return out.getvalue().decode()


@pytest.mark.parametrize(
    "url",
    [
        "/app/user-controller.js", "/app/user.service.ts", "/app/a-z.js",
        "/app/jquery-3.7.1.min.js",
        "/app/12345678/a.js", "/app/utils-internal.js", "/app/feedface.js", "/app/test-Database.js",
    ],
)  # fmt: skip
def test_ordinary_file_names_have_no_hash(url: str) -> None:
    profile = profile_of((js("f", url),))
    difference = compare(profile, profile, ignored={Ignored.HASHES})
    assert names_of(difference) == [f"f {url}:1"]


@pytest.mark.parametrize("name", ["*", "+x", "a*b", "operator*", "- 1", "JS:", "~Foo::~Foo"])
def test_what_is_no_mark_stays(name: str) -> None:
    profile = profile_of((Frame(name, FrameKind.NATIVE),))
    kept = compare(profile, profile, ignored={Ignored.TIERS}).profile.frames[0].name
    assert kept in {name, "Foo::~Foo", "x", ""}
    assert kept == name or name[0] in "*+~"


def test_bytecode_handlers_are_their_functions() -> None:
    before, after = profile_of((MAIN, HOT, HANDLER)), profile_of((MAIN, HOT))
    assert len(compare(before, after, ignored={Ignored.TIERS}).profile) == 1


def test_libraries_are_the_same_wherever_they_lie() -> None:
    old, new = (
        Frame("malloc", FrameKind.NATIVE, module=Module(f"{place}/libc.so.6", place), address=7)
        for place in ("/lib", "/usr/lib")
    )
    assert len(compare(profile_of((old,)), profile_of((new,))).profile) == 1


def test_normalized_by_samples() -> None:
    before, after = profile_of(*[(MAIN, HOT)] * 4, (MAIN,)), profile_of((MAIN, HOT), (MAIN,))
    difference = compare(before, after, normalization=Normalization.SAMPLES)
    assert difference.totals() == (2 * PERIOD, 2 * PERIOD)
    assert find_changes(difference, function_name)["hot"].own_before == 16_000_000


def test_normalized_by_seconds() -> None:
    before, after = profile_of(*[(MAIN,)] * 7), profile_of((MAIN,))
    assert before.meta.duration_ns == 4 * after.meta.duration_ns
    difference = compare(before, after, normalization=Normalization.SECONDS)
    assert difference.totals() == (7 * PERIOD // 4, PERIOD)
    with pytest.raises(JsspyError, match="how long"):
        compare(before, counts(((MAIN,), 1)), normalization=Normalization.SECONDS)


def test_different_clocks_are_not_compared() -> None:
    wall = profile_of((MAIN,))
    wall.meta.value_type = ValueType.WALL
    with pytest.raises(JsspyError, match="cpu time and wall time"):
        compare(profile_of((MAIN,)), wall)


def test_counts_are_compared_with_samples() -> None:
    difference = compare(counts(((MAIN,), 5)), profile_of((MAIN,), (MAIN,)))
    assert difference.totals() == (5, 2)
    assert difference.profile.meta.value_type is ValueType.SAMPLES


def test_empty_profiles() -> None:
    difference = compare(Profile(), Profile(), normalization=Normalization.SAMPLES)
    assert difference.totals() == (0, 0)
    assert judge(difference, parse_threshold("total +1pp"))[0].exceeds is False


# Thresholds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("function:hot +5%", Threshold("function", "hot", 5, False)),
        ("function:get f /a b.js:3 +0.5%", Threshold("function", "get f /a b.js:3", 0.5, False)),
        ("package:@babel/core +1pp", Threshold("package", "@babel/core", 1, True)),
        ("file:/a +1.js +1pp", Threshold("file", "/a +1.js", 1, True)),
        ("total +0%", Threshold("total", "", 0, False)),
    ],
)  # fmt: skip
def test_threshold(text: str, expected: Threshold) -> None:
    assert parse_threshold(text) == expected
    assert parse_threshold(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "hot", "hot +5%", "function: +5%", "function:a 5%", "function:a +5", "total:x +1%"],
)  # fmt: skip
def test_what_is_no_threshold(text: str) -> None:
    with pytest.raises(ValueError, match="is not like"):
        parse_threshold(text)


def grown(before: int, after: int) -> Difference:
    """Return a difference in which lodash grew, among 10000 samples of something else."""
    old, new = (counts(((MAIN, HOT), 10_000), ((MAIN, LODASH), count)) for count in (before, after))
    return compare(old, new)


@pytest.mark.parametrize(
    ("text", "before", "after", "exceeds", "noise"),
    [
        ("package:lodash +5%", 1000, 1300, True, False),
        ("package:lodash +5%", 1000, 1040, False, False),
        ("package:lodash +5%", 1000, 1100, True, True),  # 50 more than allowed; deviation 47
        ("package:lodash +5%", 0, 9, True, True),
        ("package:lodash +5%", 0, 10, True, False),
        ("package:lodash +50%", 1000, 1300, False, False),
        ("package:lodash +1pp", 1000, 1300, True, False),
        ("package:lodash +5pp", 1000, 1300, False, False),
        ("function:Lazy.* +5%", 1000, 1300, True, False),
        ("function:Lazy.map /app/node_modules/*:7 +5%", 1000, 1300, True, False),
        ("function:Lazy.map +5%", 1300, 1000, False, False),
        ("total +1%", 1000, 1900, True, False),
        ("total +1%", 1000, 1200, True, True),
        ("file:*/lodash.js +5%", 1000, 1300, True, False),
    ],
)
def test_judge(text: str, before: int, after: int, exceeds: bool, noise: bool) -> None:
    (growth,) = judge(grown(before, after), parse_threshold(text))
    assert (growth.exceeds, growth.is_noise) == (exceeds, noise)


def test_judge_tells_of_each_that_is_meant_the_largest_first() -> None:
    found = judge(grown(1000, 2000), parse_threshold("function:* +5%"))
    assert [growth.name.split()[0] for growth in found] == ["(anonymous)", "Lazy.map", "hot"]
    assert judge(grown(1, 2), parse_threshold("package:nothing +5%")) == []
