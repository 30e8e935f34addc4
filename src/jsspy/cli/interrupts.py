"""What signals mean while we record.

The first Ctrl-C or SIGTERM ends sampling, and what was taken is written. The second gives up at
once; a thread that is stopped at that instant is let go on the way out. SIGUSR1 asks for what
there is so far to be written.
"""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """Signals received so far. Used as `with Interrupts() as interrupts:`."""

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        """The signal that ended the recording; None while it runs."""
        self._snapshot = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._stop)
        self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._ask_snapshot)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def should_stop(self) -> bool:
        """Say whether the recording is to end."""
        return self.stop_signal is not None

    def take_snapshot_request(self) -> bool:
        """Say, once, whether a snapshot was asked for."""
        asked, self._snapshot = self._snapshot, False
        return asked

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.stop_signal is not None:
            raise KeyboardInterrupt
        self.stop_signal = number

    def _ask_snapshot(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._snapshot = True


def reaches_our_group(number: int) -> bool:
    """Say whether a signal most likely came from the keyboard, and so reached all of our group."""
    if number != signal.SIGINT:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
