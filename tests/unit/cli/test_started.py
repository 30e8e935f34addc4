"""What we start ends as it likes, or when its recording is over."""

from __future__ import annotations

import signal
import sys

import pytest

from jsspy.cli.started import StartedCommand, describe_exit
from jsspy.errors import TargetError

WAITS = (sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()")


def test_exit_code_is_the_commands_own() -> None:
    started = StartedCommand([sys.executable, "-c", "raise SystemExit(3)"])
    assert started.finish(None, duration_over=False) == 3


def test_end_of_the_duration_ends_it() -> None:
    started = StartedCommand(WAITS)
    assert started.is_running()
    assert started.finish(None, duration_over=True) == -signal.SIGTERM


def test_signal_for_us_alone_is_passed_on() -> None:
    started = StartedCommand(WAITS)
    assert started.finish(signal.SIGTERM, duration_over=False) == -signal.SIGTERM


def test_what_cannot_be_started_says_why() -> None:
    with pytest.raises(TargetError, match="cannot start '/no/such': no such file or directory"):
        StartedCommand(["/no/such"])


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (None, "still runs"),
        (0, "ended with exit code 0"),
        (-9, "was ended by SIGKILL"),
        (-64, "was ended by SIGRTMAX"),
    ],
)
def test_exit_in_words(status: int | None, text: str) -> None:
    assert describe_exit(status) == text
