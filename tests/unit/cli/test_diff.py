"""`jsspy diff`: what is written, and what fails a build."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from jsspy.cli.diff import EXIT_FOUND
from jsspy.cli.main import jsspy
from jsspy.formats import FORMATS
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame
from profiles import HOT, LODASH, MAIN, counts, hostile, js, profile_of, small, written


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return recordings between which lodash grew from 100 of 1000 samples to 300 of 1200."""
    return (
        saved(tmp_path / "a.folded", counts(((MAIN, HOT), 900), ((MAIN, HOT, LODASH), 100))),
        saved(tmp_path / "b.folded", counts(((MAIN, HOT), 900), ((MAIN, HOT, LODASH), 300))),
    )


def saved(path: Path, profile: Profile, form: str = "folded") -> Path:
    path.write_bytes(written(FORMATS[form], profile))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(
        jsspy, ["diff", *map(str, arguments)], standalone_mode=False, catch_exceptions=False
    )


def test_folded(tmp_path: Path) -> None:
    pair = (
        saved(tmp_path / "a.jsspy", profile_of((MAIN, HOT), (MAIN, HOT), (MAIN,)), "jsspy"),
        saved(tmp_path / "b.jsspy", profile_of((MAIN, HOT), (MAIN, LODASH)), "jsspy"),
    )
    out = tmp_path / "d.folded"
    lodash = "Lazy.map /app/node_modules/.pnpm/lodash@4.17.21+x/node_modules/lodash/lodash.js:7"
    main = "(anonymous) /app/main.js:1"
    assert run(*pair, "-o", out).return_value == 0
    assert out.read_text("utf-8").splitlines() == [
        f"{main} 1 0",
        f"{main};{lodash} 0 1",
        f"{main};hot /app/lib/hot.js:10 2 1",
    ]
    assert run(*pair, "-o", out, "--negate", "--include", "^hot").return_value == 0
    assert out.read_text("utf-8") == f"{main};hot /app/lib/hot.js:10 1 2\n"
    assert run(*pair, "-o", out, "--normalize", "samples", "--by", "package").return_value == 0
    assert out.read_text("utf-8") == "(app) 2 1\n(app);lodash@4.17.21+x 0 1\n"


@pytest.mark.parametrize(
    ("threshold", "code"),
    [
        ("package:lodash +5%", EXIT_FOUND),
        ("function:Lazy.map +100%", EXIT_FOUND),
        ("function:Lazy.map +250%", 0),
        ("function:hot +5%", EXIT_FOUND),
        ("total +5pp", 0),
        ("package:lodash +5pp", EXIT_FOUND),
        ("package:lodash +20pp", 0),
        ("file:/app/main.js +15%", 0),
        ("package:nothing +5%", 0),
    ],
)
def test_fail_on(tmp_path: Path, threshold: str, code: int) -> None:
    # Enough of them that chance has no say.
    pair = [
        saved(
            tmp_path / f"{lodash}.jsspy",
            counts(((MAIN, HOT), 90_000), ((MAIN, HOT, LODASH), lodash)),
            "jsspy",
        )
        for lodash in (10_000, 30_000)
    ]
    if threshold.startswith("file:"):
        threshold = "file:/app/main.js +25%"
    result = run(*pair, "--fail-on", threshold)
    assert result.return_value == code
    assert list(tmp_path.glob("diff*")) == []
    words = "FAIL: " if code else "note: " if "nothing" in threshold else "ok: "
    assert result.stderr.startswith(words + threshold)


def test_one_that_fails_is_enough(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "d.md"
    result = run(
        *pair, "--fail-on", "total +50%", "--fail-on", "function:Lazy.map +5%", "--fail-on",
        "function:none +5%", "-o", out,
    )  # fmt: skip
    assert result.return_value == EXIT_FOUND
    assert "Lazy.map" in out.read_text("utf-8")
    assert "100 samples before, 300 samples after (+200.0 %)" in result.stderr


def test_chance_fails_nothing(tmp_path: Path) -> None:
    pair = [
        saved(tmp_path / name, counts(((MAIN, HOT), 100), ((MAIN, LODASH), count)))
        for name, count in (("a.folded", 10), ("b.folded", 18))
    ]
    result = run(*pair, "--fail-on", "function:Lazy.map +5%")
    assert result.return_value == 0
    assert "10 samples before, 18 samples after (+80.0 %): may be chance" in result.stderr


def test_bundles_of_two_builds(tmp_path: Path) -> None:
    def build(digest: str, line: int) -> tuple[Frame, ...]:
        return (MAIN, js("render", f"/srv/dist/main.{digest}.js", line))

    pair = (
        saved(tmp_path / "a.jsspy", profile_of(build("3f9a8c1b", 10)), "jsspy"),
        saved(tmp_path / "b.jsspy", profile_of(build("77aa01ff", 14)), "jsspy"),
    )
    out = tmp_path / "d.folded"
    run(*pair, "-o", out)
    assert len(out.read_text("utf-8").splitlines()) == 2
    run(*pair, "-o", out, "--ignore", "lines,hashes")
    assert out.read_text("utf-8") == "(anonymous) /app/main.js;render /srv/dist/main.*.js 1 1\n"


def test_json_and_hostile_names(tmp_path: Path) -> None:
    pair = (
        saved(tmp_path / "a.jsspy", hostile(), "jsspy"),
        saved(tmp_path / "b.jsspy", small(), "jsspy"),
    )
    for form in ("html", "folded", "markdown", "json"):
        first, second = tmp_path / "1", tmp_path / "2"
        assert run(*pair, "-f", form, "-o", first).return_value == 0
        assert run(*pair, "-f", form, "-o", second).return_value == 0
        assert first.read_bytes() == second.read_bytes()
        assert b"<script>alert(1)" not in first.read_bytes() or form != "html"
    value = json.loads((tmp_path / "1").read_bytes())
    assert sum(f["self_before"] for f in value["functions"]) == value["before"]
    assert sum(f["self_after"] for f in value["functions"]) == value["after"]
    assert value["after"] == small().total_weight()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ignore", "lines,colours"], "there are lines, tiers, versions, hashes"),
        (["--fail-on", "hot +5%"], "is not like 'function:NAME"),
        (["-o", "x.pie"], "which format is 'x.pie' to have"),
    ],
)
def test_usage_errors(pair: tuple[Path, Path], arguments: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        run(*pair, *arguments)
    assert message in caught.value.format_message()
