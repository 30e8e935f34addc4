"""What an output format and a reader are."""

from __future__ import annotations

from typing import BinaryIO, ClassVar, Protocol

from jsspy.model.profile import Profile


class Format(Protocol):
    """Writes a profile as bytes: a pure function of the profile."""

    name: ClassVar[str]
    """The word for `--format`."""
    suffix: ClassVar[str]
    """The file name ending that selects it, with the dot: `.speedscope.json`."""
    description: ClassVar[str]
    """One line for `--help`: what opens it."""

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """Write `profile` to `out`."""
        ...


class Reader(Protocol):
    """Reads a profile that jsspy or another tool wrote."""

    name: ClassVar[str]

    def matches(self, head: bytes, filename: str) -> bool:
        """Say whether a file with this beginning (up to 4 KiB, decompressed) and name is ours."""
        ...

    def read(self, source: BinaryIO) -> Profile:
        """Read a profile.

        Raises:
            MalformedData: The bytes are not what the format says; nothing is guessed.
        """
        ...
