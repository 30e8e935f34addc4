"""What an exporter is."""

from __future__ import annotations

from typing import Protocol

from jsspy.formats.base import Format
from jsspy.model.profile import Profile


class Exporter(Protocol):
    """Takes finished profiles to one destination."""

    destination: str
    """As shown to people."""

    def check(self) -> None:
        """Find out, before any sampling, whether `export` can work. Leaves nothing behind.

        Raises:
            ExportError: It cannot.
        """
        ...

    def export(self, profile: Profile, form: Format) -> None:
        """Take the profile there.

        Raises:
            ExportError: It did not arrive. Nothing is left half done.
        """
        ...
