"""Which format, and what a file is called that nobody named."""

from __future__ import annotations

import click
import pytest

from jsspy.cli.outputs import choose_format, default_file_name


@pytest.mark.parametrize(
    ("form", "destination", "expected"),
    [
        (None, None, "html"),
        (None, "-", "folded"),
        (None, "/dev/stdout", "folded"),
        (None, "a/prof.jsspy", "jsspy"),
        (None, "prof.speedscope.json", "speedscope"),
        (None, "prof.cpuprofile", "cpuprofile"),
        (None, "prof.html", "html"),
        ("folded", "prof.html", "folded"),
        ("cpuprofile", "-", "cpuprofile"),
    ],
)
def test_format(form: str | None, destination: str | None, expected: str) -> None:
    assert choose_format(form, destination).name == expected


def test_unknown_ending_is_asked_about() -> None:
    with pytest.raises(click.UsageError, match=r"which format is 'prof\.pie' to have"):
        choose_format(None, "prof.pie")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("node", "node-4121-20260102T030405Z.html"),
        ("../../etc/x y", "_.._etc_x_y-4121-20260102T030405Z.html"),
        ("\x1b\n", "__-4121-20260102T030405Z.html"),
        ("", "node-4121-20260102T030405Z.html"),
        ("-rf", "rf-4121-20260102T030405Z.html"),
    ],
)
def test_default_name_is_a_plain_file_name(name: str, expected: str) -> None:
    assert default_file_name(name, 4121, 1767323045.9, ".html") == expected
