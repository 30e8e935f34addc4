"""Which version of a package in node_modules a frame runs: what its `package.json` says.

The directories of pnpm and Yarn tell the version, those of npm do not. So `package.json` of each
directory that frames lie in is read, as the process sees it, once, and never while it is sampled.
It is read when the code has long been loaded: where packages were upgraded under a running process,
it tells of those that the next start will load.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping

from jsspy.linux.files import RootDirectory
from jsspy.model.names import package_directory
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame

MAX_FILE_BYTES = 1 << 18

MAX_TOTAL_BYTES = 1 << 26
"""Of all that one `PackageReader` reads: serve runs for weeks, and paths are the target's word."""

MAX_DIRECTORIES = 1 << 15

_NAME = re.compile(r"(?:@[\w~.-]{1,100}/)?[\w~-][\w~.-]{0,213}", re.ASCII)
# Source: the npm package validate-npm-package-name, 6.0.0, with the capitals of old names.
_VERSION = re.compile(r"\d[\w.+-]{0,127}", re.ASCII)


class PackageReader:
    """Reads package.json of directories in node_modules, each once."""

    def __init__(self) -> None:
        self._known: dict[tuple[RootDirectory, str], str] = {}
        """"" is not known."""
        self._room = MAX_TOTAL_BYTES

    def forget(self, root: RootDirectory) -> None:
        """Read no more of a root directory."""
        self._known = {key: name for key, name in self._known.items() if key[0] is not root}

    def name_frame(
        self, frame: Frame, pids: Collection[int], roots: Mapping[int, RootDirectory]
    ) -> Frame:
        """Return a frame with its package, if it has one and these processes agree on it.

        Args:
            frame: After source mapping, if it is to be mapped.
            pids: In which it was seen.
            roots: Of processes that may be read; those that share one are asked once.
        """
        directory = package_directory(frame)
        if not directory.startswith("/"):
            return frame
        # Two containers may have different versions at one path.
        places = {roots[pid] for pid in pids if pid in roots}
        found = {self._find(root, directory) for root in places} - {""}
        return frame._replace(package=found.pop()) if len(found) == 1 else frame

    def _find(self, root: RootDirectory, directory: str) -> str:
        key = root, directory
        name = self._known.get(key)
        if name is None:
            if len(self._known) >= MAX_DIRECTORIES or self._room < MAX_FILE_BYTES:
                return ""
            name = self._known[key] = self._read(root, directory)
        return name

    def _read(self, root: RootDirectory, directory: str) -> str:
        try:
            data = root.read(f"{directory}/package.json", MAX_FILE_BYTES)
        except (OSError, ValueError):  # ValueError: the path cannot be encoded
            return ""
        self._room -= len(data)
        return parse_package(data, directory.rpartition("/node_modules/")[2])


def parse_package(data: bytes, name: str) -> str:
    """Return `name@version` of a package.json; "" if it has no version.

    Args:
        data: Its bytes.
        name: What the directory is called. The file's own name counts: npm installs `a` in the
            directory `b` if it is asked for `b@npm:a`.
    """
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    match tree:
        case {"version": str(version)} if _VERSION.fullmatch(version):
            own = tree.get("name")
            is_name = isinstance(own, str) and _NAME.fullmatch(own)
            return f"{own if is_name else name}@{version}"
    return ""


def name_packages(profile: Profile, roots: Mapping[int, RootDirectory]) -> None:
    """Fill in the packages of a profile's frames.

    Args:
        profile: Changed in place: its frame table only.
        roots: Root directories of the processes in it, as far as they could be opened.
    """
    reader = PackageReader()
    for index, pids in profile.processes_of_frames().items():
        frame = profile.frames[index]
        new = reader.name_frame(frame, pids, roots)
        if new is not frame:
            profile.replace_frame(index, new)
