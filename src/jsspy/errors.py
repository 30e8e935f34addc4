"""Every exception that jsspy raises on purpose, and every exit code.

    JsspyError             1
    ├── TargetError        3   the process asked for cannot be profiled as it is
    │   ├── ProcessNotFound
    │   ├── ProcessExited
    │   └── NotNode
    ├── PermissionDenied   4   the kernel refused us; `hint` is the command that mends it
    ├── UnsupportedTarget  5   foreign architecture
    │   └── UnknownV8          only under --strict: otherwise it degrades to native frames
    ├── EngineUnavailable  10  a sampling engine that was insisted on cannot run here
    ├── FaultError             an address of the target cannot be read; caught per sample
    ├── MalformedData          bytes that do not mean what they should
    ├── NoSamples          7   not one sample: the target slept, or ended at once
    └── ExportError        9   an output cannot be written

The exit codes of the command line that are not an exception's:

    0    done
    2    usage: the command line itself is wrong
    6    the target ended before the duration that was asked for; what was taken is written
    8    `diff --fail-on` found what it was to find
    130  given up: the second Ctrl-C, or one before sampling began

Exceptions stop the run. What happens to one sample is a value (`Truncation`, `LossReason`).
"""

from __future__ import annotations

__all__ = [
    "EngineUnavailable",
    "ExportError",
    "FaultError",
    "JsspyError",
    "MalformedData",
    "NoSamples",
    "NotNode",
    "PermissionDenied",
    "ProcessExited",
    "ProcessNotFound",
    "TargetError",
    "UnknownV8",
    "UnsupportedTarget",
]


class JsspyError(Exception):
    """What the user is told: a sentence, and where it exists the command that mends it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class TargetError(JsspyError):
    """The process asked for cannot be profiled as it is."""

    exit_code = 3


class ProcessNotFound(TargetError):
    """No process has this pid, or none matches."""


class ProcessExited(TargetError):
    """The target ended while it was being read."""


class NotNode(TargetError):
    """The process maps no V8."""


class PermissionDenied(JsspyError):
    """The kernel refused an operation on the target."""

    exit_code = 4


class UnsupportedTarget(JsspyError):
    """The target's architecture cannot be read."""

    exit_code = 5


class UnknownV8(UnsupportedTarget):
    """The V8 in the target lacks metadata without which its frames cannot be named.

    Or it has them, and a running process contradicts them: then `failures` says where.
    """

    def __init__(self, version: str, missing: tuple[str, ...], *, failures: str = "") -> None:
        lack = f"its self-test failed: {failures}" if failures else f"{', '.join(missing)} missing"
        super().__init__(f"V8 {version} is not known: {lack}")
        self.version = version
        self.missing = missing


class EngineUnavailable(JsspyError):
    """The engine that was insisted on cannot run here."""

    exit_code = 10

    def __init__(self, engine: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"engine {engine} cannot run: {reason}", hint=hint)
        self.engine = engine
        self.reason = reason


class FaultError(JsspyError):
    """Memory of the target that is not mapped, or no longer."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"cannot read {size} bytes at {address:#x}")
        self.address = address
        self.size = size


class MalformedData(JsspyError):
    """Bytes that do not mean what their place says they mean."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


class NoSamples(JsspyError):
    """There is nothing to write: no thread was caught running."""

    exit_code = 7


class ExportError(JsspyError):
    """An output that cannot be written."""

    exit_code = 9

    def __init__(self, destination: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"cannot write {destination}: {reason}", hint=hint)
        self.destination = destination
        self.reason = reason
