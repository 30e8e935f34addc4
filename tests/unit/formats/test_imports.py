"""Files of other profilers: perf, V8's log, DTrace, SystemTap, stackvis, pprof."""

from __future__ import annotations

import gzip
import io

import pytest

from jsspy.errors import MalformedData
from jsspy.formats import FORMATS, load_readers, read_profile
from jsspy.model.names import display_name
from jsspy.model.profile import Profile, ValueType
from jsspy.model.sample import VmState
from jsspy.model.stack import Frame, FrameKind, Location, Tier
from jsspy.model.v8_names import frame_of_v8_name, split_place
from profiles import HOT, INNER, MAIN, counts, js, profile_of, small, written


def read(text: str | bytes, engine: str) -> Profile:
    """Read content, and check which reader took it."""
    data = text.encode() if isinstance(text, str) else text
    profile = read_profile(io.BytesIO(data), "-")
    profile.check()
    assert profile.meta.engine == engine
    return profile


def stacks(profile: Profile) -> list[tuple[list[str], int]]:
    """Return display names, root first, and weight of each sample."""
    return [
        ([display_name(frame) for frame in profile.stack_frames(row)], weight)
        for row, weight in zip(profile.stack, profile.weight, strict=True)
    ]


PERF = """# ========
# captured on: now
node 13772  1105.002272:    1001001 cpu-clock:ppp: 
\t         1d49702 v8::base::ieee754::pow+0x3b2 (/usr/bin/node)
\t    7fc59afe5e5d JS:*bar /app/busy.js:1:16+0x15d (/tmp/perf-13772.map)
\t    7fc59afe710d JS:^ /app/a b.js:2:28+0x8d (/tmp/perf-13772.map)
\t         14ce0dc Builtins_JSEntryTrampoline+0x5c (/usr/bin/node)
\t           2724a [unknown] (/usr/lib/libc.so.6)

V8 WorkerThread 24636/25607 [000]  1105.1: 7 cpu-clock:ppp: 
\tffffffff81000000 do_syscall_64 ([kernel.kallsyms])

node 13772  1105.2:    99 cycles: 
\t         1 main (/usr/bin/node)

"""  # noqa: W291  # perf prints a blank at the end


def test_perf_script() -> None:
    profile = read(PERF, "perf-script")
    assert profile.meta.value_type is ValueType.CPU
    assert [(t.pid, t.tid, t.name) for t in profile.threads] == [
        (13772, 13772, "node"),
        (24636, 25607, "V8 WorkerThread"),
    ]
    assert list(profile.time_ns) == [1105_002_272_000, 1105_100_000_000]
    assert stacks(profile) == [
        (
            [
                "libc.so.6+0x2724a",
                "Builtins_JSEntryTrampoline",
                "(anonymous) /app/a b.js:2",
                "bar /app/busy.js:1",
                "v8::base::ieee754::pow",
            ],
            1001001,
        ),
        (["do_syscall_64"], 7),
    ]
    bar = profile.stack_frames(profile.stack[0])[3]
    assert (bar.tier, bar.kind) == (Tier.OPTIMIZED, FrameKind.JS)
    assert bar.definition is not None
    assert bar.definition.column == 16


def test_perf_script_without_call_graphs() -> None:
    text = (
        " node-MainThread 21959 13020.216399:    5025125 cpu-clock:      7fcac0000429 "
        "JS:*get size /app/a b.js:3:7+0x29 (/tmp/perf-21959.map)\n"
        " node-MainThread 21959 13020.237453:    5025125 cpu-clock:      401000 f(int) (/bin/x)\n"
        " node-MainThread 21959 13020.254764:    5025125 cpu-clock: \n"
    )
    profile = read_profile(io.BytesIO(text.encode()), "x")
    shown = [[display_name(f) for f in profile.stack_frames(row)] for row in profile.stack]
    assert shown == [["get size /app/a b.js:3"], ["f(int)"], []]
    assert profile.meta.value_type is ValueType.CPU
    assert set(profile.weight) == {5025125}
    assert profile.threads[0].name == "node-MainThread"


def test_perf_script_of_old_perfs() -> None:
    """Without times; without indents; without symbols."""
    text = (
        "java 19983 cycles:\n"
        "ffffffff8103d0ca native_write_msr_safe ([kernel.kallsyms])\n"
        "4005b1 main (/root/func_ab)\n"
        "\n"
        "cafe 15294 cpu-clock: \n"
        "\t    7f1e2215d058  (/lib/libc-2.15.so)\n"
        "\t               0 [unknown] ([unknown])\n"
    )
    profile = read_profile(io.BytesIO(text.encode()), "x")
    shown = [[display_name(f) for f in profile.stack_frames(row)] for row in profile.stack]
    assert shown == [["main", "native_write_msr_safe"]]
    text = text.partition("\n\n")[2]
    profile = read_profile(io.BytesIO(text.encode()), "x")
    shown = [[display_name(f) for f in profile.stack_frames(row)] for row in profile.stack]
    assert shown == [["[unknown]", "libc-2.15.so+0x7f1e2215d058"]]
    assert profile.threads[0].name == "cafe"


@pytest.mark.parametrize(
    ("symbol", "name", "tier"),
    [
        ("LazyCompile:*outer /a.js:3:1", "outer", Tier.OPTIMIZED),
        ("InterpretedFunction:outer /a.js:3", "outer", None),
        ("JS:+'outer /a.js:3:1", "outer", Tier.MAGLEV),
        ("JS:o^f /a.js:3:1", "f", Tier.BASELINE),
        ("Builtin:ArrayMap", "ArrayMap", None),
        ("RegExp:a:b", "a:b", None),
    ],
)
def test_names_of_v8(symbol: str, name: str, tier: Tier | None) -> None:
    frame = frame_of_v8_name(symbol)
    assert frame is not None
    assert (frame.name, frame.tier) == (name, tier)
    assert frame_of_v8_name("std::vector<int>::push_back") is None


def test_stap_as_print_stack_writes_it() -> None:
    text = (
        " 0xffffffff8103ce3b : native_safe_halt+0xb/0x10 [kernel]\n"
        " 0xffffffff8101c6a3 : default_idle+0x53/0x1d0 [kernel]\n"
        "\t2404\n"
        " 0x4005b1 : main+0x9/0x20 [/root/func_ab]\n"
        "\t3\n"
    )
    profile = read_profile(io.BytesIO(text.encode()), "x")
    assert stacks(profile) == [(["default_idle", "native_safe_halt"], 2404), (["main"], 3)]
    with pytest.raises(MalformedData, match="cut off"):
        read(text.removesuffix("\t3\n"), "stap")


V8_LOGS = {
    "4.9.1": (
        'v8-version,4,5,103,53,0\nshared-library,"/bin/node",0x400000,0x16de000\n'
        'profiler,"begin",1\n'
        'code-creation,Function,0,0x3c69dd7263a0,3372,"hot /a,b ""c"".js:69:10",0x1383e6f40e18,*\n'
        "tick,0x3c69dd7263a8,83480,0,0x0,0,0x400010\n"
    ),
    "8.17.0": (
        'v8-version,6,2,414,78,0\nshared-library,"/bin/node",0x400000,0x1f73000,0\n'
        'profiler,"begin",1000\n'
        'code-creation,LazyCompile,5,29966,0x218121a06820,15,"hot /a,b ""c"".js:69:10",0x1,*\n'
        "tick,0x218121a06821,9663,0,0x0,0,0x400010\n"
    ),
    "10.24.1": (
        "v8-version,6,8,275,32,-node.59,0\nshared-library,/bin/node,0x400000,0x2424000,0\n"
        "profiler,begin,1000\n"
        'code-creation,LazyCompile,5,29966,0x218121a06820,15,hot /a\\x2Cb "c".js:69:10,0x1,*\n'
        "tick,0x218121a06821,9663,0,0x0,0,0x400010\n"
    ),
}


@pytest.mark.parametrize("text", V8_LOGS.values(), ids=V8_LOGS)
def test_v8_logs_of_old_versions(text: str) -> None:
    profile = read(text, "v8-log")
    ((frames, weight),) = stacks(profile)
    assert frames == ["node", 'hot /a,b "c".js:69']
    assert weight == profile.meta.period_ns == 1_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("foo /a/b.js:1:2", ("foo", Location("/a/b.js", 1, 2))),
        ("get size /a b/c.js:10", ("get size", Location("/a b/c.js", 10))),
        (" node:fs:3:4", ("", Location("node:fs", 3, 4))),
        ("/a.js:1:1", ("", Location("/a.js", 1, 1))),
        ("emit events.js:44", ("emit", Location("events.js", 44))),
        ("run [eval]:1:5", ("run", Location("[eval]", 1, 5))),
        ("foo", None),
        (":1:2", None),
        ("foo :1", None),
    ],
)
def test_places_as_v8_writes_them(text: str, expected: object) -> None:
    assert split_place(text) == expected


@pytest.mark.parametrize("name", ["perf-script", "cpuprofile"])
@pytest.mark.parametrize("kind", [ValueType.CPU, ValueType.WALL, ValueType.OFF_CPU])
def test_what_was_measured_is_written_and_read(name: str, kind: ValueType) -> None:
    profile = profile_of((MAIN, HOT))
    profile.meta.value_type = kind
    assert read(written(FORMATS[name], profile), name).meta.value_type is kind


def test_perf_script_written_and_read() -> None:
    profile = profile_of((MAIN, HOT, INNER), (MAIN, Frame("(x)->y", FrameKind.NATIVE)))
    again = read(written(FORMATS["perf-script"], profile), "perf-script")
    assert list(again.time_ns) == list(profile.time_ns)
    assert stacks(again) == [
        (
            ["(anonymous) /app/main.js:1", "hot /app/lib/hot.js:10", "inner /app/lib/hot.js:20"],
            10_000_000,
        ),
        (["(anonymous) /app/main.js:1", "[x)=>y"], 10_000_000),
    ]
    assert again.stack_frames(again.stack[0])[2].inlined


V8_LOG = """v8-version,11,3,244,8,-node.38,0
shared-library,/usr/bin/node,0x400000,0xb71000,0
profiler,begin,500
code-creation,Builtin,2,12,0x500000,100,ArrayMap
code-creation,JS,10,33572,0x1000,256,hot /app/a.js:432:46,0xaa,~
code-creation,Script,10,33572,0x3000,256,/app/b\\x2Cc.js:1:1,0xab,~
tick,0x1010,1000,0,0x0,0,0x3010,0x400001
code-creation,JS,10,1500,0x1080,16,other /app/a.js:9:1,0xac,*
tick,0x1010,2000,0,0x0,1,+0x75
code-move,0x1080,0x5000
tick,0x5001,3000,0,0x0,0,overflow
tick,0x1,4000,1,0x500010,6
code-delete,0x5000
tick,0x5001,5000,0,0x0,0
"""


def test_v8_log() -> None:
    profile = read(V8_LOG, "v8-log")
    assert profile.meta.v8_version == "11.3.244.8"
    assert profile.meta.period_ns == 500_000
    assert stacks(profile) == [
        (["node", "(anonymous) /app/b,c.js:1", "hot /app/a.js:432"], 500_000),
        # What lay at 0x1000 went when other code came to lie in its range.
        (["other /app/a.js:9"], 500_000),
        (["other /app/a.js:9"], 500_000),
        (["Builtin:ArrayMap"], 500_000),
        ([], 500_000),
    ]
    assert profile.vm_state[:2] == [VmState.JS, VmState.GC]


@pytest.mark.parametrize(
    "line",
    ["tick,0x1", "tick,x,1,0,0x0,0", "code-creation,JS,1,1,0x1,99999999999,x", "code-move,1"],
)
def test_v8_log_with_wrong_fields(line: str) -> None:
    with pytest.raises(MalformedData, match="line 2"):
        read("v8-version,1,2,3\n" + line + "\n", "v8-log")


def test_dtrace() -> None:
    text = (
        "CPU     ID                    FUNCTION:NAME\n  0      1    :tick-60s\n\n"
        "              libc.so.1`malloc+0x8\n"
        "              node`main+0x21\n"
        "               14\n\n"
        "              << adaptor >>\n"
        "                3\n"
    )
    assert stacks(read(text, "dtrace")) == [(["main", "malloc"], 14), (["<< adaptor >>"], 3)]
    with pytest.raises(MalformedData, match="no count"):
        read(text + "          x\n", "dtrace")


def test_raw_written_and_read() -> None:
    profile = profile_of((MAIN, js("List.add", "/a+b/c.js", 3)), (MAIN,))
    again = read(written(FORMATS["fullraw"], profile), "dtrace")
    assert stacks(again) == [
        (["(anonymous) /app/main.js:1", "List.add /a+b/c.js:3"], 1),
        (["(anonymous) /app/main.js:1"], 1),
    ]
    assert written(FORMATS["fullraw"], again) == written(FORMATS["fullraw"], profile)


def test_text_of_imported_raw_is_the_text() -> None:
    again = read(written(FORMATS["fullraw"], small()), "dtrace")
    assert written(FORMATS["text"], again) == written(FORMATS["text"], small())


def test_stap() -> None:
    text = (
        'ubt["bar+0x32 [foo]\nfoo+0x57 [foo]\n_start+0x29 [foo]"]=0x77\n'
        'ubt["node","poll+0x1/0x20 [libc.so]"]=2\n'
    )
    assert stacks(read(text, "stap")) == [(["_start", "foo", "bar"], 0x77), (["node", "poll"], 2)]
    for bad in ('ubt["a\nb\n', 'ubt["a"]=1\nnonsense\n'):
        with pytest.raises(MalformedData):
            read(bad, "stap")


def test_stackvis() -> None:
    data = written(
        FORMATS["stackvis"],
        counts(((js("f", "/a,b.js", 1),), 1), ((MAIN, js("f", "/a.js", 1)), 5)),
    )
    assert data.decode() == "[empty]:/app/main.js:1,f:/a.js:1 5\nf:/a:b.js:1 1\n"
    assert read(data, "stackvis").total_weight() == 6


def test_pprof_puts_inlined_frames_into_one_location() -> None:
    profile = profile_of((MAIN, HOT, INNER), (MAIN, HOT))
    data = gzip.decompress(written(FORMATS["pprof"], profile))
    again = read(data, "pprof")
    assert stacks(again) == stacks(profile)
    inner = again.stack_frames(again.stack[0])[2]
    assert inner.inlined
    assert not again.stack_frames(again.stack[0])[1].inlined
    assert again.meta.value_type is ValueType.CPU
    assert again.meta.period_ns == profile.meta.period_ns
    assert again.threads[0][:3] == profile.threads[0][:3]


# foo inlines bar; three samples. Made by hand, and decoded by the npm package pprof-format.
PPROF = bytes.fromhex(
    "0a04080110020a040803100412120a0201021205038087a70e1a0508051892"
    "21220e0801220408011007220408021003220808022204080310012a0a0801"
    "10061806200728062a0a080210081808200728022a0a080310091809200728"
    "013200320773616d706c65733205636f756e743203637075320b6e616e6f73"
    "65636f6e647332097468726561645f69643203626172321066696c653a2f2f"
    "2f6170702f612e6a733203666f6f320b28616e6f6e796d6f757329"
    "4880dcaba9a6f5eef418508094ebdc035a04080310046080ade204"
)


def test_pprof_by_other_hands() -> None:
    profile = read(PPROF, "pprof")
    assert profile.total_weight() == 30_000_000
    (names, _), *_ = stacks(profile)
    assert [name.split()[0] for name in names] == ["(anonymous)", "foo", "bar"]


@pytest.mark.parametrize("cut", range(1, len(PPROF), 7))
def test_pprof_cut_off(cut: int) -> None:
    reader = next(reader for reader in load_readers() if reader.name == "pprof")
    try:
        profile = reader.read(io.BytesIO(PPROF[:-cut]))
    except MalformedData:
        return
    assert profile.total_weight() in {0, 30_000_000}
