"""Verbs, prefixes, usage errors and exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jsspy import __version__, errors
from jsspy.cli import main
from jsspy.cli.main import run
from jsspy.cli.record import EXIT_TARGET_ENDED


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"jsspy {__version__}\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_verb(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert run([flag]) == 0
    text = capsys.readouterr().out
    for verb in main.VERBS:
        assert f"\n  {verb} " in text


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    # promfiler's own -h is the host.
    assert run([verb, "--help" if verb == "promfiler" else "-h"]) == 0
    assert f"Usage: jsspy {verb} " in capsys.readouterr().out


def test_verbs_may_be_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rec", "--help"]) == 0
    assert "Usage: jsspy record " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["d"], "'d' could be dump or diff or doctor"),
        (["fly"], "no such command 'fly'"),
        (["record", "--bogus"], "no such option"),
        (["record", "--pid", "x"], "invalid value for '-p' / '--pid'"),
        (["record", "-d", "-3"], "neither a number of seconds nor 'unlimited'"),
        (["record", "-d", "nan"], "neither a number of seconds nor 'unlimited'"),
        (["record", "-f", "pie"], "there is no format 'pie'; there are "),
        (["record", "--pid", "1", "-o", "x.bogus"], "which format is 'x.bogus' to have?"),
        (["record", "--pid", "1", "--", "node"], "COMMAND starts something new"),
        (["record", "4121"], "a process is named with --pid 4121"),
        (["record", "--name", "("], "is no regular expression"),
        (["record", "--rate", "0"], "invalid value for '-r' / '--rate'"),
        (["4121", "pie", "10"], "'pie' is not one of"),
        (["4121", "text", "60"], "60 s is more than 30 s; add --force if you mean it"),
        (["4121", "text"], "missing argument"),
    ],
)
def test_usage_errors(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("jsspy: ")
    assert message in captured.err.replace("\n", " ")
    assert "\n  Try: jsspy" in captured.err


def test_no_arguments_is_a_question_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Usage: jsspy" in capsys.readouterr().err


def test_bug_asks_for_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(verb: str) -> None:
        raise KeyError(verb)

    monkeypatch.setattr(main, "_load", broken)
    assert run(["dump"]) == 1
    text = capsys.readouterr().err
    assert "this is a bug in jsspy; please report it" in text
    assert "KeyError: 'dump'" in text


def test_exit_codes_are_distinct() -> None:
    codes = {
        error.exit_code
        for name in errors.__all__
        if issubclass(error := getattr(errors, name), errors.JsspyError)
    }
    assert codes == {1, 3, 4, 5, 7, 9, 10}
    assert codes.isdisjoint({0, 2, EXIT_TARGET_ENDED, 8, 130})


def test_help_loads_no_verb_that_is_not_asked_for() -> None:
    code = (
        "import sys; from jsspy.cli.main import run; run(['--version']);"
        "print([m for m in sys.modules if m.startswith('jsspy.') or m == 'rich'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = result.stdout.splitlines()[-1]
    assert "jsspy.cli.record" not in loaded
    assert "rich" not in loaded
    assert "jsspy.recorder" not in loaded
