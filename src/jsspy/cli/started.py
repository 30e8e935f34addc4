"""The process that `jsspy record -- COMMAND…` starts.

It shares our terminal, our standard streams and our process group, as if it had been started
without us. So Ctrl-C reaches it too, and it may end of it or not, as it likes; we only wait. A
signal that was sent to us alone is passed on. When the duration is over, what we started gets
SIGTERM: it was started to be recorded. Nothing is ever sent to a process that ran before.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence

from jsspy.cli.interrupts import reaches_our_group
from jsspy.errors import TargetError

_TERMINATION_S = 5.0
"""How long a command may take to end of our SIGTERM before it is left alone."""


class StartedCommand:
    """A command that we started."""

    def __init__(self, command: Sequence[str], *, output: int | None = None) -> None:
        """Start it.

        Args:
            command: Program and arguments.
            output: File descriptor for what it prints; it then has no input. None: as we have.

        Raises:
            TargetError: It cannot be started.
        """
        self.command = tuple(command)
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=None if output is None else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        except OSError as err:
            reason = (err.strerror or str(err)).lower()
            raise TargetError(f"cannot start '{command[0]}': {reason}") from err
        except ValueError as err:
            raise TargetError(f"cannot start '{command[0]}': {err}") from err
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code if it ended; negative is the signal that ended it."""
        return self._process.poll()

    def is_running(self) -> bool:
        """Say whether it still runs."""
        return self._process.poll() is None

    def send_signal(self, number: int) -> None:
        """Pass a signal on to it, if it still runs."""
        if self.is_running():
            self._process.send_signal(number)

    def finish(self, stop_signal: int | None, *, duration_over: bool) -> int | None:
        """Let the command end after the recording; return its exit code, None if it runs on.

        Args:
            stop_signal: The signal that ended the recording, if one did.
            duration_over: The recording ended because its time was up.
        """
        if self.is_running():
            if stop_signal is not None and not reaches_our_group(stop_signal):
                self._process.send_signal(stop_signal)
            elif duration_over:
                self._process.send_signal(signal.SIGTERM)
                try:
                    return self._process.wait(_TERMINATION_S)
                except subprocess.TimeoutExpired:
                    return None
        return self._process.wait()

    def terminate(self) -> None:
        """Ask it to end: what it was started for will not happen."""
        if self.is_running():
            self._process.terminate()


def describe_exit(status: int | None) -> str:
    """Say how a process ended, after its name: `ended with exit code 0`."""
    if status is None:
        return "still runs"
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
