"""The text of `perf script`: samples with times, leaf first, and blank lines between them.

The period that is printed is the weight in nanoseconds, as perf has it for the event cpu-clock.
The event's name tells what was measured; that of time off the CPU is perf's own, too. JavaScript
lies in `/tmp/perf-PID.map` and the kernel in `[kernel.kallsyms]`, by which stackcollapse-perf.pl
tells them. It drops symbols that begin with `(`, cuts others at the first one and splits at `->`,
so in names that are not C++'s round brackets become square ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, ClassVar

from jsspy.formats.imported import frame_of_label
from jsspy.formats.input import MAX_WEIGHT, Source
from jsspy.formats.output import write_text
from jsspy.model.names import NO_STACK, VM_KINDS, clean, display_name
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.stack import Frame, FrameKind, Module
from jsspy.model.units import Pid, Tid
from jsspy.model.v8_names import script_frame

_EVENTS = {
    ValueType.CPU: "cpu-clock:ppp",
    ValueType.WALL: "wall-clock",
    ValueType.OFF_CPU: "offcpu-time",
    ValueType.SAMPLES: "samples",
}
_BRACKETS = str.maketrans("()", "[]")
_KERNEL = "[kernel.kallsyms]"
_NOWHERE = "v8"
"""Where builtins are said to lie: anything in square brackets would be taken for the kernel."""


class PerfScript:
    """What `perf script` prints."""

    name: ClassVar[str] = "perf-script"
    suffix: ClassVar[str] = ".linux-perf.txt"
    description: ClassVar[str] = (
        "text of perf script for stackcollapse-perf.pl, FlameScope, Firefox"
    )

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, _parts(profile))


def _parts(profile: Profile) -> Iterator[str]:
    parents, frames = profile.stacks.parent, profile.stacks.frame
    lines: dict[int, list[str]] = {}
    shown = [frame.kind not in VM_KINDS for frame in profile.frames]
    nothing = _line(NO_STACK, 0)
    event = _EVENTS[profile.meta.value_type]
    for sample, row in enumerate(profile.stack):
        weight = profile.weight[sample]
        if not weight:
            continue  # a period of 0 would count as 1
        thread = profile.thread[sample]
        info = profile.threads[thread]
        if thread not in lines:
            lines[thread] = [_line(frame, info.pid) for frame in profile.frames]
        of_thread = lines[thread]
        comm = _comm(info)
        seconds, nanoseconds = divmod(profile.time_ns[sample], 1_000_000_000)
        yield (
            f"{comm} {info.pid}/{info.tid} {seconds}.{nanoseconds // 1000:06}: "
            f"{weight:10} {event}: \n"
        )
        text = []
        up = row
        while up >= 0:
            if shown[frames[up]]:
                text.append(of_thread[frames[up]])
            up = parents[up]
        yield "".join(text) or nothing
        yield "\n"


def _comm(info: ThreadInfo) -> str:
    """Return a thread's name in which no word can be taken for the pid."""
    words = re.sub(r"[\s/]+", " ", clean(info.name)).strip()
    return re.sub(r" (?=[0-9])", "-", words) or "node"


def _line(frame: Frame, pid: int) -> str:
    label = display_name(frame).replace("->", "=>").replace(";", ":").strip()
    if frame.kind is not FrameKind.NATIVE:
        label = label.translate(_BRACKETS)
    elif label.startswith("("):
        label = f"[{label[1:]}"
    match frame.kind:
        case FrameKind.KERNEL:
            module = _KERNEL
        case FrameKind.NATIVE:
            module = clean(frame.module.path).translate(_BRACKETS) if frame.module else "[unknown]"
        case FrameKind.JS | FrameKind.WASM if not frame.inlined:
            module = f"/tmp/perf-{pid}.map"  # noqa: S108  # a name that is printed, not opened
        case _:
            module = "inlined" if frame.inlined else _NOWHERE
    return f"\t{frame.address or 0:16x} {label} ({module})\n"


_MEASURES = {"wall-clock": ValueType.WALL, "offcpu-time": ValueType.OFF_CPU}
_HEADER = re.compile(
    # The name ends in no blank: of a long run of blanks only the first is tried.
    r"\s*(\S(?:.*?\S)?)\s+(\d+)(?:/(\d+))?\s+"
    # Where perf prints no time there is no period either, and what is left must look like an event.
    r"(?:(?:\[\d+\]\s+)?(\d+)\.(\d+):\s+(?:(\d+)\s+)?(\S+)|([\w:.-]+):\s*$)"
)
_FRAME = re.compile(r"\s*([0-9a-f]{1,16})\s+(?:(\S.*) )?\((.*)\)")
"""Of text that ends in `)`, so that the last round brackets are found at once. Symbols may lack."""
_BLANKS = (" ", "\t")
_OFFSET = re.compile(r"\+0x[0-9a-f]+$")
_MAP = re.compile(r"(?:.*/)?perf-\d+\.map|.*/jitted-\d+-\d+\.so")
_HEAD = re.compile(
    rb"(?:#[^\n]*\n|\s*\n)*[ \t]*\S[^\n]*\s\d+(?:/\d+)?\s(?:"
    rb"[^\n]*\d+\.\d+:[^\n]*:\s*(?:\n|[0-9a-f]+ [^\n]* \([^\n]*\)\n)"
    rb"|\s*[\w:.-]+:[ \t]*\n\s*[0-9a-f]{3,16} )"
)


class PerfScriptReader:
    """Reads what `perf script` printed, of the first event in it."""

    name: ClassVar[str] = "perf-script"

    def matches(self, head: bytes, filename: str) -> bool:
        """See `Reader.matches`."""
        del filename
        return head.startswith(b"# ========") or _HEAD.match(head) is not None

    def read(self, source: BinaryIO) -> Profile:
        """See `Reader.read`."""
        lines = Source(self.name)
        profile = Profile(ProfileMeta(value_type=ValueType.SAMPLES, engine=self.name))
        cache: dict[tuple[str, str, str], int] = {}

        def frame(key: tuple[str, str, str]) -> int:
            if key not in cache:
                cache[key] = profile.intern_frame(_frame(*key))
            return cache[key]

        event: str | None = None
        sample: tuple[int, int, int] | None = None
        stack: list[int] = []
        for number, line in lines.iter_lines(source):
            text = line.rstrip()
            if match := _frame_line(text):
                stack.append(frame((match[1], match[2] or "[unknown]", match[3])))
            elif not text:
                _flush(profile, sample, stack)
                sample, stack = None, []
            elif line.startswith("#"):
                continue
            elif match := _HEADER.match(line):
                _flush(profile, sample, stack)
                stack = []
                # Recorded without call graphs: the one frame stands here.
                if text.endswith(")") and (only := _FRAME.fullmatch(text, match.end())):
                    stack.append(frame((only[1], only[2] or "[unknown]", only[3])))
                of = (match[7] or match[8]).removesuffix(":")
                event = event or of
                sample = _sample(lines, profile, match) if of == event else None
            else:
                lines.fail(f"line {number}: neither a sample nor a frame")
        _flush(profile, sample, stack)
        if match := re.match(r"cpu-clock|task-clock|wall-clock|offcpu-time", event or ""):
            profile.meta.value_type = _MEASURES.get(match[0], ValueType.CPU)
        return profile


_NAMELESS_MODULE = re.compile(r"(?:.*/)?perf-\d+\.map|\[?//anon\]?|\[anon(?::.*)?\]|\[unknown\]")
_UNKNOWN_FRAME = re.compile(r"(\s+)([0-9a-f]+) \[unknown\] \((.*)\)\s*")


def name_frames(lines: Iterable[str], find: Callable[[int, int, int], str | None]) -> Iterator[str]:
    """Yield the lines of `perf script`, with names for code that perf knows no file of.

    Args:
        lines: Without line breaks; those that are yielded have one.
        find: (pid, address, time in ns) -> name and offset, `foo+0x12`; None if it is not known.
    """
    pid = time = 0
    for line in lines:
        if match := _UNKNOWN_FRAME.fullmatch(line):
            blank, address, module = match.groups()
            if _NAMELESS_MODULE.fullmatch(module):
                name = find(pid, int(address[:16], 16), time)
                if name is not None:
                    yield f"{blank}{address} {name} (/tmp/perf-{pid}.map)\n"
                    continue
        elif match := _HEADER.match(line):
            pid = int(match[2][:20])
            seconds, fraction = match[4] or "0", match[5] or "0"
            time = int(seconds[:20]) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
        yield line + "\n"


def _frame_line(text: str) -> re.Match[str] | None:
    """Match the line of a frame; None if it is another, as that of a thread called `cafe`."""
    match = _FRAME.fullmatch(text) if text.endswith(")") else None
    if match is None or ((match[2] or "")[:1].isdigit() and _HEADER.match(text)):
        return None
    return match


def _sample(lines: Source, profile: Profile, match: re.Match[str]) -> tuple[int, int, int]:
    """Return thread, time and weight of a header line."""
    comm, first, second, seconds, fraction, period = match.group(1, 2, 3, 4, 5, 6)
    seconds, fraction = seconds or "0", fraction or "0"
    numbers = [int(text[:20]) for text in (first, second or first, seconds, period or "1")]
    if max(numbers) > MAX_WEIGHT // 1_000_000_000 and (
        max(numbers[:3]) > MAX_WEIGHT // 1_000_000_000 or numbers[3] > MAX_WEIGHT
    ):
        lines.fail("a number is too large")
    pid, tid, whole, weight = numbers
    info = ThreadInfo(Pid(pid), Tid(tid), clean(comm))
    time = whole * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    return profile.intern_thread(info), time, weight


def _flush(profile: Profile, sample: tuple[int, int, int] | None, stack: list[int]) -> None:
    if sample is None:
        return
    row = -1
    for frame in reversed(stack):
        row = profile.stacks.intern(row, frame)
    profile.add_row(row, *sample)


def _frame(address: str, symbol: str, module: str) -> Frame:
    symbol = clean(_OFFSET.sub("", symbol))
    if module.startswith("[") and module != "[unknown]":
        return Frame(symbol, FrameKind.KERNEL)
    if named := script_frame(symbol, placed=True):
        return named
    if _MAP.fullmatch(module) or module in {_NOWHERE, "inlined"}:
        if named := script_frame(symbol, placed=False):
            return named
        if symbol.startswith("[anonymous]"):
            symbol = "(anonymous)" + symbol[len("[anonymous]") :]
        frame = frame_of_label(symbol)
        return frame._replace(inlined=module == "inlined")
    path = "" if module == "[unknown]" else clean(module)
    name = symbol
    if symbol == "[unknown]" and path:
        name = f"{path.rpartition('/')[2]}+0x{address.lstrip('0') or '0'}"
    return Frame(name, FrameKind.NATIVE, module=Module(path) if path else None)
