"""Source-map the frames of a finished profile: from what node ran to what somebody wrote.

While sampling, a `ScriptLog` per process notes of each script what its `//# sourceMappingURL=`
comment says. When the recording is over, each map is read once and the frame table is mapped, so
that no sample ever waits for a map of 20 MB. A map that is not there or broken is counted and told;
the frames keep their generated positions, which mapped frames keep as well.

Where a map is looked for: in the comment itself (data: URL), in the file that it names as the
target sees it, then in a directory given by the user, by base name. Nothing is fetched over a
network.

**Names.** A segment's name is what the identifier at its *beginning* was before it was renamed. It
says nothing of the function around it, and a parameter's name stands one column behind the
function's. So a function is renamed only if the text in front of its definition ends in the very
name that V8 has for it (`a(`, `a=function(`, `a=(`, `a:(`), and a segment begins at that
identifier. Everything else keeps V8's name.

Positions are looked up as V8 tells them, with a script's line and column offset, as node itself
does with --enable-source-maps.
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
import posixpath
import re
import sys
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from jsspy.errors import FaultError, MalformedData, ProcessExited
from jsspy.linux.files import RootDirectory
from jsspy.model.names import clean, path_of
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame, FrameKind, Location
from jsspy.symbolize.packages import PackageReader
from jsspy.symbolize.source_map import SourceMap
from jsspy.v8.function import FunctionReader, Script, find_line_ends

MAX_MAP_BYTES = 128 << 20
"""Maps of the largest bundles have 60 MiB; decoding takes 0.15 s per MB."""

MAX_SCRIPT_BYTES = 64 << 20

MAX_LIVE_BYTES = 32 << 20
"""Of all maps that a `LiveMapper` decodes: it runs for weeks."""

_FIRST_WITHOUT_WRAPPER = 12

MAX_LOGGED = 1 << 16
"""Scripts of one process that are noted: a program that makes them without end runs out of ids."""

MAX_PAST_ROOTS = 64
"""Root directories that stay open of processes that have ended: containers come and go, and none is
cleared away altogether as long as somebody has its root open."""

MAX_INDEXED = 1 << 17
"""Files of the user's directory that are looked at."""

MAX_NAMED_MISSING = 3

_TRAILER = re.compile(r"//[#@][ \t]sourceMappingURL=([^\s'\"]+)[ \t]*\Z")
"""Source: ECMA-426, 1st edition, "Linking generated code to source maps", without parsing."""

_TRAILER_LINES = 8
"""From the end of a script, comments and blank lines among which its trailer stands."""

_IDENTIFIER = re.compile(r"[^\W\d][\w$]*|\$[\w$]*")
_BEFORE = 256
"""Characters in front of a definition that are looked at, longer names aside."""

_WRAPPER = "(function (exports, require, module, __filename, __dirname) { "
"""Node.js before 12 puts this in front of a module, on its first line.
Source: lib/internal/modules/cjs/loader.js, Module.wrapper, at v10.24.1."""

_Key = tuple[str, int]
"""Url and script id, as frames have them."""


@dataclass(slots=True, eq=False)
class Noted:
    """A script of a process."""

    mapping_url: str
    script: Script | None
    root: RootDirectory | None
    is_our_user: bool = False
    """The process runs as the user that we run as."""


class ScriptLog:
    """Notes the scripts of one process for as long as it can be read."""

    def __init__(self, pid: int) -> None:
        self.scripts: dict[_Key, Noted] = {}
        self.ambiguous: Collection[_Key] = ()
        self.pid = pid
        self.root: RootDirectory | None = None
        """Of the process; None until it had a script."""
        self._seen = 0
        self._is_our_user = False

    def update(self, functions: FunctionReader) -> None:
        """Note the scripts that are new."""
        if functions.scripts_read == self._seen:
            return
        if not self._seen:
            with suppress(OSError):
                self.root = RootDirectory(self.pid)
                owner = os.stat(f"/proc/{self.pid}").st_uid  # noqa: PTH116 - takes 4 ms to load
                self._is_our_user = owner == os.geteuid()
        self._seen = functions.scripts_read
        try:
            for script in functions.scripts():
                key = (clean(script.url), script.id)
                noted = self.scripts.get(key)
                if noted is not None:
                    noted.script = script
                elif len(self.scripts) < MAX_LOGGED:
                    # Equal in all processes that run it; a data: url may have megabytes.
                    url = sys.intern(script.source_mapping_url)
                    self.scripts[key] = Noted(url, script, self.root, self._is_our_user)
        except ProcessExited:
            self.detach()

    def detach(self) -> None:
        """Read the process no more: it is gone, or about to be closed."""
        for noted in self.scripts.values():
            noted.script = None

    def close(self) -> None:
        """Close the target's root directory, too."""
        self.detach()
        if self.root is not None:
            self.root.close()
            self.root = None


class PastScripts:
    """The scripts of processes that have ended, each of them once, however many had it.

    A recording of processes that come and go keeps what is different about them: not a note of each
    script for each of them, and one descriptor for all that had the same root directory.
    """

    def __init__(self) -> None:
        self.scripts: dict[_Key, Noted] = {}
        self.ambiguous: set[_Key] = set()
        """Those that are not told apart; see `merge_logs`."""
        self.roots: dict[int, RootDirectory] = {}
        """By pid."""
        self._places: dict[tuple[int, int], RootDirectory] = {}

    def add(self, log: ScriptLog) -> None:
        """Take over the log of a process that is gone, or about to be closed."""
        log.detach()
        root = self._take_root(log)
        for key, noted in log.scripts.items():
            other = self.scripts.get(key)
            if other is not None:
                if other.mapping_url != noted.mapping_url:
                    self.ambiguous.add(key)
            elif len(self.scripts) < MAX_LOGGED:
                self.scripts[key] = Noted(noted.mapping_url, None, root, noted.is_our_user)

    def _take_root(self, log: ScriptLog) -> RootDirectory | None:
        """Return a log's root directory, or the same one of another process."""
        root, log.root = log.root, None
        if root is None:
            return None
        place = root.place or (-1, log.pid)
        known = self._places.get(place)
        if known is not None:
            root.close()
            root = known
        else:
            while len(self._places) >= MAX_PAST_ROOTS:
                self._places.pop(next(iter(self._places))).close()
            self._places[place] = root
        self.roots[log.pid] = root
        return root

    def close(self) -> None:
        """Forget them, and close the root directories."""
        self.scripts.clear()
        self.ambiguous.clear()
        self.roots.clear()
        for root in self._places.values():
            root.close()
        self._places.clear()


@dataclass(slots=True)
class MappingStats:
    """What came of source mapping."""

    frames: int = 0
    """Frames of the profile's table whose executing position was mapped."""
    maps: int = 0
    """Maps that were found and decoded."""
    missing: list[str] = field(default_factory=list)
    """Where the others should be, sorted, each with the reason."""

    def describe(self) -> str:
        """Return it in one line; "" if no script named a map."""
        if not self.maps and not self.missing:
            return ""
        text = f"{self.frames} frames mapped, {len(self.missing)} maps missing"
        shown = ", ".join(self.missing[:MAX_NAMED_MISSING])
        more = ", …" if len(self.missing) > MAX_NAMED_MISSING else ""
        return f"{text} ({shown}{more})" if shown else text


def map_frames(
    profile: Profile, logs: Iterable[ScriptLog | PastScripts], directory: str | None = None
) -> MappingStats:
    """Fill in the original positions and names of a profile's frames.

    Args:
        profile: Changed in place: its frame table only.
        logs: Of all processes in it, not closed.
        directory: Where to look for maps that are not where their scripts say.
    """
    scripts = merge_logs(logs)
    needed = {
        (frame.location.url, frame.script_id)
        for frame in profile.frames
        if frame.kind is FrameKind.JS and frame.location is not None
    }
    finder = _Finder(directory, [key[0] for key in needed])
    mapped = {
        key: found
        for key in sorted(needed)
        if (noted := scripts.get(key)) is not None
        and (found := finder.find(key[0], noted)) is not None
    }
    stats = MappingStats(maps=finder.found, missing=sorted(finder.missing))
    for index, frame in enumerate(profile.frames):
        if frame.kind is not FrameKind.JS or frame.location is None:
            continue
        script = mapped.get((frame.location.url, frame.script_id))
        if script is None:
            continue
        new = script.map_frame(frame)
        if new is not frame:
            stats.frames += new.original is not None
            profile.replace_frame(index, new)
    return stats


class LiveMapper:
    """Maps frames of processes that go on being sampled, for somebody else than the sampler.

    Packages of frames are filled in as well. No memory of a process is read: the text of a script
    is that of its file. Node.js before 12 puts a wrapper around what is in the file, so its
    positions are left alone.
    """

    def __init__(self, directory: str | None = None, *, maps: bool = True) -> None:
        """Begin with no process.

        Args:
            directory: Where to look for maps that are not where their scripts say.
            maps: Whether source maps are wanted; packages are filled in without.
        """
        self._finder = _Finder(directory, [], MAX_LIVE_BYTES) if maps else None
        self._packages = PackageReader()
        self._versions: dict[int, str] = {}
        """By pid, of Node.js."""
        self._roots: dict[int, RootDirectory] = {}
        self._is_our_user: dict[int, bool] = {}
        self._scripts: dict[tuple[int, str], _MappedScript | None] = {}

    def follow(self, versions: Mapping[int, str]) -> None:
        """Say which processes there are, and which Node.js they are."""
        for pid, root in list(self._roots.items()):
            if versions.get(pid) != self._versions[pid]:
                root.close()
                del self._roots[pid]
                self._scripts = {key: it for key, it in self._scripts.items() if key[0] != pid}
                self._packages.forget(root)
        for pid in versions:
            if pid not in self._roots:
                with suppress(OSError):
                    owner = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116 - takes 4 ms to load
                    self._roots[pid] = RootDirectory(pid)
                    self._is_our_user[pid] = owner == os.geteuid()
        self._versions = dict(versions)

    def map_profile(self, profile: Profile) -> bool:
        """Fill in what `map_frames` does, as far as it is certain; say whether anything was."""
        is_changed = False
        for index, pids in profile.processes_of_frames().items():
            frame = profile.frames[index]
            new = self.map_frame(frame, pids)
            if new != frame:
                profile.replace_frame(index, new)
                is_changed = True
        return is_changed

    def map_frame(self, frame: Frame, pids: Collection[int]) -> Frame:
        """Return a frame of these processes with what all of them agree on."""
        if frame.kind is not FrameKind.JS or frame.location is None:
            return frame
        if self._finder is not None:
            # Two containers may have different files at one path.
            url = frame.location.url
            results = {self._map_frame(self._finder, pid, frame, url) for pid in pids}
            if len(results) == 1:
                frame = results.pop()
        return self._packages.name_frame(frame, pids, self._roots)

    def _map_frame(self, finder: _Finder, pid: int, frame: Frame, url: str) -> Frame:
        key = pid, url
        if key not in self._scripts:
            is_known = pid in self._roots and _major(self._versions[pid]) >= _FIRST_WITHOUT_WRAPPER
            if not is_known or len(self._scripts) >= MAX_LOGGED:
                return frame
            noted = Noted("", None, self._roots[pid], self._is_our_user[pid])
            self._scripts[key] = finder.find(url, noted)
        script = self._scripts[key]
        return frame if script is None else script.map_frame(frame)


def _major(version: str) -> int:
    match = re.match(r"v?(\d{1,4})\.", version)
    return int(match[1]) if match else 0


def merge_logs(logs: Iterable[ScriptLog | PastScripts]) -> dict[_Key, Noted]:
    """Put the scripts of all processes together, without those that are not told apart.

    Script ids are counted per isolate. With a name, the same id and the same comment it is the same
    script; two evals with one id need not be.
    """
    result: dict[_Key, Noted] = {}
    different: set[_Key] = set()
    for log in logs:
        different.update(log.ambiguous)
        for key, noted in log.scripts.items():
            other = result.setdefault(key, noted)
            if other.mapping_url != noted.mapping_url:
                different.add(key)
            elif other.script is None:
                result[key] = noted
    return {key: noted for key, noted in result.items() if key not in different}


class _Text:
    """The text of a script by lines, for positions in UTF-16 code units."""

    def __init__(self, text: str, script: Script | None) -> None:
        self._data = text.encode("utf-16-le", "replace")
        self._ends: array[int] = find_line_ends(self._data, one_byte=False)
        self._line_offset = script.line_offset if script is not None else 0
        self._column_offset = script.column_offset if script is not None else 0

    def before(self, line: int, column: int, count: int) -> str:
        """Return up to `count` characters of the line in front of a position (1-based)."""
        row = line - 1 - self._line_offset
        at = column - 1 - (self._column_offset if row == 0 else 0)
        if not 0 <= row < len(self._ends) or at < 0:
            return ""
        start = self._ends[row - 1] + 1 if row else 0
        if start + at > self._ends[row]:
            return ""
        data = self._data[2 * (start + max(at - count, 0)) : 2 * (start + at)]
        return data.decode("utf-16-le", "replace")


class _MappedScript:
    """A script with its map."""

    def __init__(self, source_map: SourceMap, base: str, noted: Noted, url: str) -> None:
        """Prepare to map positions.

        Args:
            source_map: Decoded.
            base: Directory that the map's sources are relative to; "" if they stay as they are.
            noted: The script.
            url: Its name.
        """
        self._map = source_map
        self._base = base
        self._noted = noted
        self._url = url
        text = read_text(noted, url)
        self._shift = len(_WRAPPER) if text is not None and text.startswith(_WRAPPER) else 0
        self._text = _Text(text, noted.script) if text is not None else None

    def map_frame(self, frame: Frame) -> Frame:
        """Return a frame with what the map says of it; the same frame if that is nothing."""
        original = self._place(frame.location)
        definition = self._place(frame.definition)
        if original is None and definition is None:
            return frame
        return frame._replace(
            original=original, original_name=self._name(frame), original_definition=definition
        )

    def _at(self, place: Location | None) -> tuple[int, int] | None:
        if place is None or place.line is None or place.column is None:
            return None
        return place.line, place.column - (self._shift if place.line == 1 else 0)

    def _place(self, place: Location | None) -> Location | None:
        at = self._at(place)
        found = self._map.find(*at) if at is not None else None
        if found is None or not found.source:
            return None
        return Location(clean(_resolve(self._base, found.source)), found.line, found.column)

    def _name(self, frame: Frame) -> str | None:
        """Return what a function was called, if that is certain and something else than now."""
        place, at = frame.definition, self._at(frame.definition)
        if place is None or place.column is None or at is None or self._text is None:
            return None
        if not _IDENTIFIER.fullmatch(frame.name):
            return None
        before = self._text.before(at[0], place.column, len(frame.name) + _BEFORE)
        distance = _find_name(before, frame.name)
        if distance is None:
            return None
        found = self._map.find_start(at[0], at[1] - distance)
        name = clean(found.name) if found is not None and found.name else ""
        return name if name not in {"", frame.name} else None


def _find_name(before: str, name: str) -> int | None:
    """Return how far in front of a function's definition its name begins, in UTF-16 code units.

    Args:
        before: The text in front of the opening parenthesis or the only parameter.
        name: What V8 calls the function.
    """
    word = rf"(?<![\w$.#])({re.escape(name)})"
    tail = r"\s*(?:[=:]\s*(?:async\b\s*)?(?:function\b\s*\*?\s*)?)?\Z"
    match = re.search(word + tail, before)
    return len(before[match.start() :].encode("utf-16-le")) // 2 if match else None


def read_text(noted: Noted, url: str, *, files: bool = True) -> str | None:
    """Return the text of a script: V8's, or (`files`) that of the file where that is gone."""
    if noted.script is not None:
        try:
            return noted.script.source()
        except (FaultError, MalformedData, ProcessExited):
            pass
    path = path_of(url)
    if not files or not path.startswith("/"):
        return None
    try:
        return read_file(noted, path, MAX_SCRIPT_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


def read_file(noted: Noted, path: str, limit: int) -> bytes:
    """Return a file of the target.

    Raises:
        OSError: As `RootDirectory.read`.
    """
    if noted.root is None:
        raise OSError(errno.EACCES, "no access to the root directory", path)
    return noted.root.read(path, limit)


def _find_trailer(text: str) -> str:
    """Return what the trailer of a script says, as V8 would; "" if there is none."""
    end = len(text)
    for _ in range(_TRAILER_LINES):
        start = max(text.rfind("\n", 0, end), text.rfind("\r", 0, end)) + 1
        line = text[start:end].strip()
        match = _TRAILER.search(line)
        if match:
            return match[1]
        if start == 0 or (line and not line.startswith("//")):
            break
        end = start - 1
    return ""


class _Finder:
    """Finds and decodes maps, each once."""

    def __init__(self, directory: str | None, urls: list[str], room: int = 1 << 62) -> None:
        """Prepare to find maps.

        Args:
            directory: The user's, or None.
            urls: Of all scripts that maps may be looked for.
            room: How many bytes all maps together may have.
        """
        self._room = room
        self.found = 0
        self.missing: set[str] = set()
        self._directory = directory
        self._index = _index_directory(directory) if directory is not None else {}
        self._names = Counter(_base_name(url) for url in set(urls))
        self._decoded: dict[tuple[str, int], SourceMap | None] = {}

    def find(self, url: str, noted: Noted) -> _MappedScript | None:
        """Return a script with its map; None if it has none."""
        if url.startswith("node:"):
            return None
        mapping_url = noted.mapping_url
        if not mapping_url:
            text = read_text(noted, url)
            mapping_url = _find_trailer(text) if text is not None else ""
        script_path = path_of(url)
        here = posixpath.dirname(script_path) if script_path.startswith("/") else ""
        if mapping_url.startswith("data:"):
            return self._inline(mapping_url, here, noted, url)
        if not mapping_url:
            return self._unnamed(script_path, here, noted, url)
        paths = _candidates(mapping_url, here)
        where = clean(paths[0] if paths else mapping_url[:_BEFORE])
        reason = "" if paths else "not a file"
        for path in paths:
            try:
                data = read_file(noted, path, MAX_MAP_BYTES)
            except OSError as err:
                reason = (err.strerror or "unreadable").lower()
                continue
            return self._decode(data, path, where, noted, url)
        base = posixpath.dirname(paths[0]) if paths else here
        name = _base_name(urlsplit(mapping_url).path if "://" in mapping_url else mapping_url)
        path_of_map = self._search(name, script_path)
        if path_of_map is not None:
            return self._from_directory(path_of_map, base, noted, url)
        self.missing.add(f"{where}: {reason}")
        return None

    def _inline(self, text: str, here: str, noted: Noted, url: str) -> _MappedScript | None:
        where = f"{clean(url) or '(eval)'}: data: URL"
        try:
            return self._decode(_decode_data_url(text), posixpath.join(here, ""), where, noted, url)
        except ValueError as err:
            self.missing.add(f"{where}: {err}")
            return None

    def _unnamed(self, path: str, here: str, noted: Noted, url: str) -> _MappedScript | None:
        """Find the map of a script that names none: only in the user's directory.

        A package's own files are not what the user has maps of.
        """
        if "/node_modules/" in path or self._names[_base_name(url)] > 1:
            return None
        found = self._search(f"{_base_name(path)}.map", path)
        return self._from_directory(found, here, noted, url) if found is not None else None

    def _from_directory(self, path: str, base: str, noted: Noted, url: str) -> _MappedScript | None:
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - pathlib takes 4 ms to load
                data = file.read(MAX_MAP_BYTES)
        except OSError as err:
            self.missing.add(f"{clean(path)}: {(err.strerror or 'unreadable').lower()}")
            return None
        return self._decode(data, posixpath.join(base, ""), clean(path), noted, url)

    def _search(self, name: str, script_path: str) -> str | None:
        """Return the file of a base name in the user's directory, if there is one best.

        Of several, the one whose directories agree with the script's the furthest.
        """
        paths = self._index.get(name, [])
        wanted = script_path.split("/")[-2::-1]
        ranked = sorted(((_agreement(path, wanted), path) for path in paths), reverse=True)
        if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
            return None
        return ranked[0][1]

    def _decode(
        self, data: bytes, path: str, where: str, noted: Noted, url: str
    ) -> _MappedScript | None:
        """Return a script with the map in `data`; None, and a note of it, if it is broken."""
        key = (where, hash(data))
        if key not in self._decoded:
            if len(data) > self._room:
                self.missing.add(f"{where}: too large")
                return None
            self._room -= len(data)
            try:
                self._decoded[key] = SourceMap.decode(data, where)
                self.found += 1
            except MalformedData as err:
                self._decoded[key] = None
                self.missing.add(f"{where}: broken ({err.what})")
        source_map = self._decoded[key]
        if source_map is None:
            return None
        return _MappedScript(source_map, posixpath.dirname(path), noted, url)


def _base_name(path: str) -> str:
    return path.rpartition("/")[2]


def _candidates(mapping_url: str, here: str) -> list[str]:
    """Return the absolute paths that a sourceMappingURL may mean; none if it is not of a file."""
    if mapping_url.startswith("file://"):
        return [path] if (path := unquote(urlsplit(mapping_url).path)).startswith("/") else []
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", mapping_url) or mapping_url.startswith("//"):
        return []
    # As a path it is meant by most tools, as a URL by the rest.
    texts = dict.fromkeys((mapping_url, unquote(re.split(r"[?#]", mapping_url, maxsplit=1)[0])))
    paths = [posixpath.normpath(posixpath.join(here, text)) for text in texts if text]
    return [path for path in paths if path.startswith("/")]


def _decode_data_url(url: str) -> bytes:
    """Return the data of a data: URL.

    Raises:
        ValueError: It is not one.
    """
    head, comma, payload = url.partition(",")
    if not comma:
        raise ValueError("no comma")
    data = unquote_to_bytes(payload)
    if not head.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4))
    except binascii.Error as err:
        raise ValueError("not base64") from err


def _resolve(base: str, source: str) -> str:
    """Return the path of a source; URLs and what has no base stay as they are."""
    if source.startswith("file://"):
        return path_of(source)
    if not base or "://" in source:
        return source
    return posixpath.normpath(posixpath.join(base, source))


def _index_directory(directory: str) -> dict[str, list[str]]:
    """Return the `.map` files of a directory and below, by base name."""
    result: dict[str, list[str]] = {}
    count = 0
    for parent, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            count += 1
            if name.endswith(".map"):
                result.setdefault(name, []).append(f"{parent}/{name}")
        if count > MAX_INDEXED:
            break
    return result


def _agreement(path: str, wanted: list[str]) -> int:
    """Return how many directories of two paths agree, from the file outwards."""
    count = 0
    for have, want in zip(path.split("/")[-2::-1], wanted, strict=False):
        if have != want:
            break
        count += 1
    return count
