"""Two profiles side by side: what became more, what less, and what of that is chance.

A `Difference` is one call tree with two weights. Frames of the two profiles are the same if they
have the same kind and are called the same (`names.display_name`, as in folded stacks): executing
line, tier, inlining and address do not count. `Ignored` says what else shall not.

Samples are a matter of chance: of n samples that hit a function the next recording has n give or
take the square root of n. A change below `NOISE` such deviations is called noise, and never fails
a build.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

from jsspy.errors import JsspyError
from jsspy.model import transform
from jsspy.model.names import (
    NO_STACK,
    VM_KINDS,
    display_name,
    file_of,
    function_name,
    package_of,
    path_of,
    place_of,
    without_version,
)
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.stack import Frame, FrameKind, Location, Module
from jsspy.model.units import Pid, Tid

K = TypeVar("K", bound=Hashable)

NOISE = 3.0
"""Standard deviations: 1 in 370 changes by chance is larger."""


class Ignored(Enum):
    """What does not make two functions different. Values are the words of `--ignore`."""

    LINES = "lines"
    """Line and column: code that only moved within its file. Anonymous functions of one file are
    then one function."""
    TIERS = "tiers"
    """V8's marks in names of other tools (`*foo`, `LazyCompile:~foo`), and the interpreter's
    bytecode handlers, which only a function that is not compiled yet has."""
    VERSIONS = "versions"
    """Versions of packages in the directories of pnpm and Yarn."""
    HASHES = "hashes"
    """Addresses, and what bundlers put into file names: `main.3f9a8c1b.js`."""


class Normalization(Enum):
    """How recordings of different length are compared. Values are the words of `--normalize`."""

    NONE = "none"
    SAMPLES = "samples"
    """Both weigh the same in all: what is compared are shares."""
    SECONDS = "seconds"
    """Per second of recording: what is compared is load."""


@dataclass(slots=True)
class Difference:
    """One call tree with two weights."""

    profile: Profile
    """One sample for each stack of either; `weight` is that of the later profile."""
    before: array[int]
    """Weight of the earlier one, scaled; one entry for each sample of `profile`."""
    period: int
    """Weight of every sample that was taken, if they weigh all the same; else 1."""
    before_unit: float
    """Mean weight of a sample of the earlier profile, scaled."""
    after_unit: float
    versions: dict[str, tuple[list[str], list[str]]]
    """Of packages, by name, before and after, sorted; without those whose version is not known."""

    def totals(self) -> tuple[int, int]:
        """Return the weight of everything: before, after."""
        return sum(self.before), self.profile.total_weight()

    def deviation(self, before: int, after: int, factor: float = 1.0) -> float:
        """Return the standard deviation of `after` - `before` * `factor`."""
        variance = after * self.after_unit + before * factor**2 * self.before_unit
        return math.sqrt(variance)

    def is_noise(self, before: int, after: int) -> bool:
        """Whether two weights may by chance be this far apart."""
        return abs(after - before) <= NOISE * self.deviation(before, after)


def compare(
    before: Profile,
    after: Profile,
    *,
    ignored: Collection[Ignored] = (),
    normalization: Normalization = Normalization.NONE,
) -> Difference:
    """Compare two profiles.

    Raises:
        JsspyError: They measure different things, or cannot be normalized as asked for.
    """
    kind, sides = _measured(before, after)
    scale = _scale(before, after, sides, normalization)
    result = Profile(_meta(before, after, kind))
    for url, text in after.sources.items():
        result.sources[url] = text
    thread = result.intern_thread(ThreadInfo(Pid(0), Tid(0), "all threads", ""))
    columns: dict[int, list[int]] = {}
    for side, profile in enumerate((before, after)):
        mapped = transform.map_frames(profile, lambda frame: _comparable(frame, ignored))
        rows = array("i")
        for parent, frame in zip(mapped.stacks.parent, mapped.stacks.frame, strict=True):
            up = rows[parent] if parent >= 0 else -1
            rows.append(result.stacks.intern(up, result.intern_frame(mapped.frames[frame])))
        for row, weight in zip(mapped.stack, sides[side], strict=True):
            columns.setdefault(rows[row] if row >= 0 else -1, [0, 0])[side] += weight
    scaled = array("q")
    for row, (old, new) in sorted(columns.items()):
        result.add_row(row, thread, 0, new)
        scaled.append(old * scale[0] // scale[1])
    weights = {*sides[0], *sides[1]}
    old_unit, new_unit = (_mean_sample(p, w) for p, w in zip((before, after), sides, strict=True))
    return Difference(
        profile=result,
        before=scaled,
        period=max(weights.pop(), 1) if len(weights) == 1 and kind is not ValueType.SAMPLES else 1,
        before_unit=old_unit * scale[0] / scale[1],
        after_unit=new_unit,
        versions=_versions(before, after),
    )


def _versions(before: Profile, after: Profile) -> dict[str, tuple[list[str], list[str]]]:
    found: dict[str, tuple[set[str], set[str]]] = {}
    for side, profile in enumerate((before, after)):
        for package in {package_of(frame) for frame in profile.frames}:
            name = without_version(package)
            if name != package:
                found.setdefault(name, (set(), set()))[side].add(package[len(name) + 1 :])
    return {name: (sorted(old), sorted(new)) for name, (old, new) in found.items()}


def _measured(before: Profile, after: Profile) -> tuple[ValueType, tuple[array[int], array[int]]]:
    """Return what both measure, and their weights."""
    kinds = [before.meta.value_type, after.meta.value_type]
    if kinds[0] is kinds[1]:
        return kinds[0], (before.weight, after.weight)
    if ValueType.SAMPLES not in kinds:
        raise JsspyError(
            f"{kinds[0].value} time and {kinds[1].value} time cannot be compared",
            hint="record both with --idle, or both without",
        )
    before_weight, after_weight = (
        profile.weight
        if profile.meta.value_type is ValueType.SAMPLES
        else array("q", [1]) * len(profile)
        for profile in (before, after)
    )
    return ValueType.SAMPLES, (before_weight, after_weight)


def _scale(
    before: Profile,
    after: Profile,
    sides: tuple[array[int], array[int]],
    normalization: Normalization,
) -> tuple[int, int]:
    """Return the fraction that the earlier weights are multiplied by."""
    match normalization:
        case Normalization.NONE:
            return 1, 1
        case Normalization.SAMPLES:
            fraction = sum(sides[1]), sum(sides[0])
            return fraction if all(fraction) else (1, 1)
        case Normalization.SECONDS:
            fraction = after.meta.duration_ns, before.meta.duration_ns
            if not all(fraction):
                raise JsspyError("a recording does not say how long it lasted")
            return fraction


def _mean_sample(profile: Profile, weights: array[int]) -> float:
    """Return the weight of one sample of chance.

    Of an imported profile rows are not samples: several, alike, may have been added up.
    """
    if profile.meta.value_type is ValueType.SAMPLES:
        return 1.0
    return float(profile.meta.period_ns or sum(weights) / max(len(weights), 1))


def _meta(before: Profile, after: Profile, kind: ValueType) -> ProfileMeta:
    old, new = before.meta, after.meta
    command = " \N{RIGHTWARDS ARROW} ".join(dict.fromkeys(filter(None, (old.command, new.command))))
    return ProfileMeta(
        value_type=kind,
        period_ns=new.period_ns if new.period_ns == old.period_ns else 0,
        command=command,
        jsspy_version=new.jsspy_version,
        notes=[
            *(f"Before: {_facts(before)}.", f"After: {_facts(after)}."),
            *dict.fromkeys(note for meta in (old, new) for note in meta.notes),
        ],
    )


def _facts(profile: Profile) -> str:
    meta = profile.meta
    facts = [f"{len(profile)} samples"]
    if meta.duration_ns:
        facts.append(f"{meta.duration_ns / 1e9:.1f} s")
    facts += [meta.command, meta.node_version and f"Node.js {meta.node_version}", meta.engine]
    return ", ".join(filter(None, facts))


# What makes functions the same

_MARK = re.compile(
    r"^((?:JS|LazyCompile|Function|Script|Eval|InterpretedFunction):)?o?[~^+*]'?(?=[^\W\d]|[#$ ]|$)"
)
_LINE_IN_NAME = re.compile(r"(?<=[^\s:]):\d+(?::\d+)?$")
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_HASH = re.compile(
    r"(?<=[._-])(?:"
    r"(?=[0-9a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{7,64}"  # webpack, Rollup of old
    r"|(?=[\w-]*[0-9]|[\w-]+[A-Z])[\w-]{8}"  # esbuild, Vite, Rollup: base 32 or base 64
    r")(?=\.(?:[\w-]+\.)*(?:[cm]?jsx?|[cm]?tsx?|wasm|node)(?:$|[?:\s)]))"
)
_VERSION_IN_PATH = re.compile(
    r"(?<=[^/])@[^/]+(?=/node_modules/)"  # pnpm: .pnpm/@scope+name@1.2.3_peer@4.5.6/node_modules/
    r"|(?<=[^/])-npm-\d[^/]*(?=\.zip/|/)"  # Yarn: .yarn/cache/name-npm-1.2.3-0123456789-0.zip/
)


def _comparable(frame: Frame, ignored: Collection[Ignored]) -> Frame | None:
    """Reduce a frame to what both profiles say alike; None: it is not compared."""
    if Ignored.TIERS in ignored and frame.kind is FrameKind.BYTECODE_HANDLER:
        return None
    name = frame.original_name or frame.name
    place = place_of(frame)
    # The directory differs from one image to the next.
    module = frame.module and Module(frame.module.path.rpartition("/")[2])
    if Ignored.TIERS in ignored:
        name = _MARK.sub(r"\1", name)
    if Ignored.LINES in ignored:
        place = place and Location(place.url)
        if frame.kind is not FrameKind.NATIVE:
            name = _LINE_IN_NAME.sub("", name)
    if Ignored.VERSIONS in ignored:
        place = place and place._replace(url=_VERSION_IN_PATH.sub("@*", place.url))
    if Ignored.HASHES in ignored:
        name = _HASH.sub("*", _ADDRESS.sub("0x...", name))
        place = place and place._replace(url=_HASH.sub("*", place.url))
    if place is not None:
        # By what is printed: neither column nor the form of the url tell functions apart.
        place = Location(path_of(place.url), place.line)
    return Frame(name, frame.kind, definition=place, module=module)


# Where the change is


class Change(NamedTuple):
    """Weights of one function, package or file, before and after."""

    own_before: int = 0
    own_after: int = 0
    total_before: int = 0
    """Of stacks in which it is, however often."""
    total_after: int = 0


def find_changes(difference: Difference, key: Callable[[Frame], K]) -> dict[K, Change]:
    """Return before and after of everything that `key` makes of frames; glue is not shown."""
    profile = difference.profile
    keys = [None if frame.kind in VM_KINDS else key(frame) for frame in profile.frames]
    nothing = key(NO_STACK)
    found: dict[K, list[int]] = {}
    parent, frames = profile.stacks.parent, profile.stacks.frame
    for row, old, new in zip(profile.stack, difference.before, profile.weight, strict=True):
        seen: dict[K, None] = {}
        up = row
        while up >= 0:
            if (name := keys[frames[up]]) is not None:
                seen[name] = None
            up = parent[up]
        leaf = True
        for name in seen or (nothing,):
            change = found.setdefault(name, [0, 0, 0, 0])
            change[0] += old * leaf
            change[1] += new * leaf
            change[2] += old
            change[3] += new
            leaf = False
    return {name: Change(*numbers) for name, numbers in found.items()}


# What fails a build

_THRESHOLD = re.compile(
    r"(?:(function|package|file):(\S.*?)|(total))\s+\+([0-9]+(?:\.[0-9]+)?)(%|pp)"
)


class Threshold(NamedTuple):
    """How much something may grow. Written `function:NAME +5%`, `total +2%`, `package:x +1pp`."""

    what: str
    """function, package, file or total."""
    pattern: str
    """A name, in which * and ? stand for anything; of a function also `name /path:line`."""
    growth: float
    is_points: bool
    """The growth is in percentage points of the whole, not in percent of what there was."""

    def __str__(self) -> str:
        name = f"{self.what}:{self.pattern}" if self.pattern else self.what
        return f"{name} +{self.growth:g}{'pp' if self.is_points else '%'}"


def parse_threshold(text: str) -> Threshold:
    """Decode what a threshold is written as.

    Raises:
        ValueError: It is written otherwise.
    """
    match = _THRESHOLD.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is not like 'function:NAME +5%', 'package:NAME +1pp'")
    what, pattern, total, growth, unit = match.groups()
    return Threshold(what or total, pattern or "", float(growth), unit == "pp")


class Growth(NamedTuple):
    """Something that a threshold is about."""

    name: str
    before: int
    """Total weights, scaled."""
    after: int
    exceeds: bool
    """It grew more than it may."""
    is_noise: bool
    """By how much it did may be chance: it does not fail."""


def judge(difference: Difference, threshold: Threshold) -> list[Growth]:
    """Return what a threshold is about, the largest growth first; empty: there is no such thing."""
    whole_before, whole_after = difference.totals()
    found: dict[tuple[str, ...], Change]
    if threshold.what == "total":
        found = {("total",): Change(whole_before, whole_after, whole_before, whole_after)}
    else:
        changes = find_changes(difference, _NAMES[threshold.what])
        found = {names: changes[names] for names in changes if _is_meant(threshold, names)}
    result = []
    for names, change in found.items():
        old, new = change.total_before, change.total_after
        if threshold.is_points:
            factor = whole_after / whole_before if whole_before else 0.0
            allowed = old * factor + threshold.growth / 100 * whole_after
        else:
            factor = 1 + threshold.growth / 100
            allowed = old * factor
        noise = new - allowed <= NOISE * difference.deviation(old, new, factor)
        result.append(Growth(names[0], old, new, new > allowed, new > allowed and noise))
    return sorted(result, key=lambda growth: (growth.before - growth.after, growth.name))


_NAMES: dict[str, Callable[[Frame], tuple[str, ...]]] = {
    "function": lambda frame: (display_name(frame), function_name(frame)),
    # An upgrade does not make it another package.
    "package": lambda frame: (without_version(package_of(frame)),),
    "file": lambda frame: (file_of(frame),),
}
"""What a pattern may be a name of; the first is shown, all of them make the identity."""


def _is_meant(threshold: Threshold, names: tuple[str, ...]) -> bool:
    return any(name == threshold.pattern or fnmatchcase(name, threshold.pattern) for name in names)
