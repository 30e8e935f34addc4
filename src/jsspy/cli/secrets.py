"""Secrets come from files: a command line is seen by every user of a machine."""

from __future__ import annotations

from pathlib import Path

from jsspy.errors import JsspyError

_MAX_SECRET = 4096


def read_secret(path: str) -> str:
    """Return what a file holds, without what is blank around it.

    Raises:
        JsspyError: It cannot be read, or is empty.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            secret = file.read(_MAX_SECRET).strip()
    except (OSError, UnicodeDecodeError) as err:
        raise JsspyError(f"cannot read {path}: {err}") from err
    if not secret or not secret.isprintable():
        raise JsspyError(f"{path} does not hold one line of text")
    return secret
