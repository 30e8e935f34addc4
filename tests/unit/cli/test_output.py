"""Errors, colours and numbers as people read them."""

from __future__ import annotations

import pytest

from jsspy.cli import output


def test_error_reads_as_what_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_error("cannot attach to process 41: operation not permitted\n  yama.", "sudo jsspy")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "jsspy: cannot attach to process 41: operation not permitted\n  yama.\n  Try: sudo jsspy\n"
    )


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_error("process 41 (\x1b[2J\u202eevil) is gone", "kill \x07")
    assert "\x1b" not in capsys.readouterr().err
    output.note("a\x1b]0;title\x07b\nnext line")
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize(
    ("choice", "environment", "expected"),
    [
        ("auto", {}, None),
        ("auto", {"NO_COLOR": "1"}, False),
        ("auto", {"NO_COLOR": ""}, None),
        ("auto", {"TERM": "dumb"}, False),
        ("auto", {"CLICOLOR": "0"}, False),
        ("auto", {"CLICOLOR_FORCE": "1"}, True),
        ("auto", {"CLICOLOR_FORCE": "0"}, None),
        ("auto", {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False),
        ("always", {"NO_COLOR": "1"}, True),
        ("never", {"CLICOLOR_FORCE": "1"}, False),
    ],
)
def test_colour(
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
    environment: dict[str, str],
    expected: bool | None,
) -> None:
    for name in ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert output.wants_color(choice) is expected


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "-"), (1, 1, "100 %"), (9999, 10000, "99.9 %"), (1, 3, "33.3 %"), (0, 5, "0 %")],
)
def test_share_is_never_rounded_up(part: int, whole: int, text: str) -> None:
    assert output.format_share(part, whole) == text


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [(0, "0 us"), (84_600, "85 us"), (1_240_000, "1.2 ms"), (3_400_000_000, "3.4 s")],
)
def test_times_have_units(time_ns: int, text: str) -> None:
    assert output.format_ns(time_ns) == text


@pytest.mark.parametrize(
    ("size", "text"), [(812, "812 B"), (41 << 10, "41 KiB"), (3 << 20, "3.0 MiB")]
)
def test_sizes_have_units(size: int, text: str) -> None:
    assert output.format_size(size) == text
