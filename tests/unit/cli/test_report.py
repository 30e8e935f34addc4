"""Recordings in part, and several as one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jsspy.cli.main import jsspy
from jsspy.errors import JsspyError, NoSamples
from jsspy.formats import FORMATS, load_profile
from jsspy.model.profile import Profile
from profiles import HOT, LODASH, MAIN, counts, profile_of, small, written


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return saved(tmp_path / "a.jsspy", small())


def saved(path: Path, profile: Profile, form: str = "jsspy") -> Path:
    path.write_bytes(written(FORMATS[form], profile))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(
        jsspy, ["report", *map(str, arguments)], standalone_mode=False, catch_exceptions=False
    )


def lines(tmp_path: Path, *arguments: str | Path) -> Counter[str]:
    """Return stack -> count of what report writes."""
    path = tmp_path / "out.folded"
    assert run(*arguments, "-o", path).return_value == 0
    found: Counter[str] = Counter()
    for line in path.read_text("utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        found[stack] += int(count)
    return found


def test_a_cut_counts_from_the_start(recording: Path, tmp_path: Path) -> None:
    # One sample each 10 ms, the first one 10 ms after the start.
    out = tmp_path / "cut.jsspy"
    assert run(recording, "--from", "0.02", "--to", "0.05", "-o", out).return_value == 0
    cut, whole = load_profile(out), small()
    assert list(cut.time_ns) == list(whole.time_ns)[1:4]
    assert cut.meta.start_ns == whole.meta.start_ns + 20_000_000
    assert cut.meta.start_time_unix_ns == whole.meta.start_time_unix_ns + 20_000_000
    assert cut.meta.duration_ns == 30_000_000
    assert f"3 of {len(whole)} samples are shown." in cut.meta.notes


def test_what_is_whole_has_no_note(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "same.jsspy"
    assert run(recording, "--by", "function", "-o", out).return_value == 0
    assert load_profile(out).meta.notes == small().meta.notes


def test_samples_without_times_cannot_be_cut(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.folded", counts(((MAIN, HOT), 3), ((MAIN,), 2)), "folded")
    with pytest.raises(JsspyError, match="without times"):
        run(path, "--to", "1", "-o", tmp_path / "b.folded")


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--include", "^Lazy"], 3),
        (["--include", "lodash/lodash.js:7$"], 3),
        (["--exclude", "^hot "], 5),
        (["--thread", "^worker"], 3),
        (["--thread", "4250"], 3),
        (["--thread", "425"], 0),
        (["--thread", "4242"], 15),
        (["--kind", "regexp"], 1),
        (["--kind", "regexp", "--kind", "kernel"], 2),
        (["--kind", "kernel", "--include", "^hot "], 0),
        (["--vm-state", "gc"], 1),
        (["--state", "sleeping"], 1),
        (["--state", "sleeping", "--state", "epoll", "--vm-state", "gc"], 0),
        (["--include", "^hot ", "--exclude", "^Lazy", "--thread", "main"], 5),
    ],
)
def test_filters(recording: Path, tmp_path: Path, options: list[str], kept: int) -> None:
    if kept == 0:
        with pytest.raises(NoSamples):
            run(recording, *options, "-o", tmp_path / "out.folded")
    else:
        assert lines(tmp_path, recording, *options).total() == kept


def test_reshaping(tmp_path: Path) -> None:
    path = saved(tmp_path / "b.jsspy", profile_of((MAIN, HOT, HOT, LODASH), (MAIN, LODASH)))
    main, hot = "(anonymous) /app/main.js:1", "hot /app/lib/hot.js:10"
    lodash = "Lazy.map /app/node_modules/.pnpm/lodash@4.17.21+x/node_modules/lodash/lodash.js:7"
    assert lines(tmp_path, path, "--fold-recursion") == {
        f"{main};{hot};{lodash}": 1,
        f"{main};{lodash}": 1,
    }
    assert lines(tmp_path, path, "--invert", "--fold-recursion") == {
        f"{lodash};{hot};{main}": 1,
        f"{lodash};{main}": 1,
    }
    assert lines(tmp_path, path, "--trim-root", "^hot", "--fold-recursion") == {
        f"{hot};{lodash}": 1,
        f"{main};{lodash}": 1,
    }
    assert lines(tmp_path, path, "--by", "package") == {"(app);lodash@4.17.21+x": 2}
    assert lines(tmp_path, path, "--by", "line", "--include", "nothing|hot.js") == {
        f"{main[:-1]}2;hot /app/lib/hot.js:12;hot /app/lib/hot.js:12;{lodash[:-1]}8": 1
    }


def test_several_recordings_are_one(recording: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "b.txt", small(), "perf-script")
    found = lines(tmp_path, recording, other)
    assert found.total() == 2 * len(small())
    # A cut is one of each recording.
    assert lines(tmp_path, recording, recording, "--to", "0.05").total() == 8


@pytest.mark.parametrize("form", ["folded", "cpuprofile", "pprof", "perf-script", "speedscope"])
def test_any_input_to_any_output(form: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "in", small(), form)
    for name in FORMATS:
        out = tmp_path / f"out.{name}"
        assert run(path, "-f", name, "-o", out).return_value == 0
        assert out.stat().st_size > 0
    assert json.loads((tmp_path / "out.json").read_bytes())["weight"] > 0


def test_a_bad_pattern_is_a_usage_error(recording: Path) -> None:
    result = CliRunner().invoke(jsspy, ["report", str(recording), "--include", "("])
    assert result.exit_code == 2
    assert "no regular expression" in result.output
