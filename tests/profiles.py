"""Profiles that tests of several formats share."""

from __future__ import annotations

import io

from jsspy.formats.base import Format
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.sample import LossReason, Sample, ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Module, Stack, Tier, Truncation
from jsspy.model.units import Pid, Tid

PERIOD_NS = 10_000_000
START_NS = 1_102_974_105_000

HOSTILE_NAMES = (
    "</script><script>alert(1)</script>",
    "<!--",
    "a\"b'c\\d`e",
    "nul\0cr\rlf\nend",
    "right\u202eleft\u2066\u200f",
    "lone\ud800surrogate",
    "line\u2028paragraph\u2029",
    "semi;colon",
    "#priv",
    "x" * 5000,
    "ends in 12",
    "12",
    " blank ",
    "a->b",
    "a,b\tc",
    "Loop + 1",
    "__proto__",
    "(in brackets",
    "operator<<(std::ostream&)",
    "_[k]",
    "\U0001f525\u05d0",
    "]]>&amp;",
    "",
)


def js(
    name: str,
    url: str = "/app/main.js",
    line: int = 1,
    *,
    at: int | None = None,
    tier: Tier = Tier.INTERPRETED,
    inlined: bool = False,
) -> Frame:
    """Return a JS function defined at `line`, executing line `at`."""
    return Frame(
        name,
        FrameKind.JS,
        tier,
        location=Location(url, at or line + 1, 5),
        definition=Location(url, line, 10),
        inlined=inlined,
        script_id=len(url),
    )


NODE = Module("/usr/bin/node", "abcdef0123")
ENTRY = Frame("[entry frame]", FrameKind.VM_FRAME)
START = Frame("node::Start(int, char**)", FrameKind.NATIVE, module=NODE, address=0x1000)
MAIN = js("", "/app/main.js", 1)
HOT = js("hot", "/app/lib/hot.js", 10, at=12, tier=Tier.OPTIMIZED)
HOT_ELSEWHERE = js("hot", "/app/lib/hot.js", 10, at=14, tier=Tier.BASELINE)
INNER = js("inner", "/app/lib/hot.js", 20, tier=Tier.OPTIMIZED, inlined=True)
LODASH = js("Lazy.map", "/app/node_modules/.pnpm/lodash@4.17.21+x/node_modules/lodash/lodash.js", 7)
ESM = js("handler", "file:///app/a%20b/server.mjs", 30)
CORE = js("readFileSync", "node:fs", 435)
ARRAY_MAP = Frame("ArrayMap", FrameKind.BUILTIN)
REGEXP = Frame("^(a+)+$", FrameKind.REGEXP)
HANDLER = Frame("LdaSmi", FrameKind.BYTECODE_HANDLER)
WRITE = Frame("v8::internal::Heap::CollectGarbage", FrameKind.NATIVE, module=NODE, address=0x2040)
LIBC = Frame(
    "__poll", FrameKind.NATIVE, module=Module("/lib/x86_64-linux-gnu/libc.so.6"), address=0xF00D
)
SYSCALL = Frame("do_syscall_64", FrameKind.KERNEL, address=0xFFFFFFFF81000000)
WASM = Frame("wasm-function[3]", FrameKind.WASM, location=Location("wasm://wasm/0042"))

MAIN_THREAD = ThreadInfo(Pid(4242), Tid(4242), "main")
WORKER_THREAD = ThreadInfo(Pid(4242), Tid(4250), "worker 1")


def profile_of(
    *stacks: tuple[Frame, ...], threads: tuple[ThreadInfo, ...] = (MAIN_THREAD,)
) -> Profile:
    """Return a CPU profile with one sample per stack (root first), threads taking turns."""
    profile = Profile(
        ProfileMeta(
            period_ns=PERIOD_NS,
            start_ns=START_NS,
            start_time_unix_ns=1_795_172_267_000_000_000,
            duration_ns=(len(stacks) + 1) * PERIOD_NS,
            engine="ptrace",
            command="node /app/main.js",
            node_version="20.20.2",
            v8_version="11.3.244.8",
            jsspy_version="0.1.0",
        )
    )
    profile.stats.requested = len(stacks)
    for index, frames in enumerate(stacks):
        info = threads[index % len(threads)]
        sample = Sample(
            info.pid,
            info.tid,
            START_NS + (index + 1) * PERIOD_NS,
            PERIOD_NS,
            ThreadState.RUNNING,
            VmState.JS,
            Stack(frames),
        )
        profile.add(sample, profile.intern_thread(info))
    return profile


def small() -> Profile:
    """Return the profile of the golden files: every kind of frame, two threads, gc, idle."""
    root = (START, ENTRY, MAIN)
    stacks = (
        (*root, HOT),
        (*root, HOT),
        (*root, HOT_ELSEWHERE, INNER),
        (*root, HOT, ARRAY_MAP, LODASH),
        (*root, HOT, LODASH, REGEXP),
        (*root, HOT, LODASH, HANDLER),
        (*root, CORE, WRITE, SYSCALL),
        (*root, HOT, HOT, HOT),
        (START, ENTRY, ESM, WASM),
        (START, ENTRY, ESM),
        (*root, HOT, WRITE),
        (START, LIBC),
    )
    profile = profile_of(*stacks)
    profile.vm_state[10] = VmState.GC
    profile.state[11] = ThreadState.SLEEPING
    profile.vm_state[11] = VmState.IDLE
    worker = profile.intern_thread(WORKER_THREAD)
    for index, frames in enumerate([(ENTRY, ESM, HOT), (ENTRY, ESM, HOT), (ENTRY,)]):
        profile.add(
            Sample(
                WORKER_THREAD.pid,
                WORKER_THREAD.tid,
                START_NS + (20 + index) * PERIOD_NS,
                PERIOD_NS,
                ThreadState.RUNNING,
                VmState.JS,
                Stack(frames, Truncation.BROKEN_CHAIN if index == 2 else None),
            ),
            worker,
        )
    profile.stats.requested = len(profile) + 2
    profile.stats.idle = 4
    profile.stats.lost[LossReason.LATE] = 2
    profile.stats.truncated[Truncation.BROKEN_CHAIN] = 1
    profile.meta.notes.append("One note.")
    profile.sources["/app/lib/hot.js"] = "function hot() {\n}\n"
    return profile


def hostile() -> Profile:
    """Return a profile in which every name, and every file, is one that breaks parsers."""
    stacks = []
    for name in HOSTILE_NAMES:
        stacks.append((MAIN, js(name, f"/app/{name[:200]}.js", 3)))
        stacks.extend((MAIN, Frame(name, kind)) for kind in FrameKind)
    profile = profile_of(*stacks)
    profile.meta.command = HOSTILE_NAMES[3] + HOSTILE_NAMES[0] + HOSTILE_NAMES[5]
    profile.meta.notes = list(HOSTILE_NAMES)
    evil = ThreadInfo(Pid(4242), Tid(1), HOSTILE_NAMES[3] + HOSTILE_NAMES[5], HOSTILE_NAMES[4])
    profile.threads[0] = evil
    return profile


def empty() -> Profile:
    """Return a profile without a sample."""
    return Profile(ProfileMeta(period_ns=PERIOD_NS))


def deep(depth: int = 20_000) -> Profile:
    """Return a profile of one recursion, `depth` frames deep."""
    recursion = tuple(js(f"r{index % 7}", line=index % 7 + 1) for index in range(depth))
    return profile_of((MAIN, *recursion), (MAIN,))


def counts(*stacks: tuple[tuple[Frame, ...], int]) -> Profile:
    """Return an imported profile, of counts instead of times."""
    profile = Profile(ProfileMeta(value_type=ValueType.SAMPLES))
    profile.intern_thread(ThreadInfo(Pid(0), Tid(0), "main"))
    for frames, count in stacks:
        profile.add_row(profile.intern_stack(Stack(frames)), 0, 0, count)
    return profile


def written(form: Format, profile: Profile) -> bytes:
    """Return what a format writes."""
    out = io.BytesIO()
    form.write(profile, out)
    return out.getvalue()
