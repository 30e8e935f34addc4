"""Source maps, from what V8 says of a running script to the file that was written."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import nodes
import npm
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.names import display_name
from jsspy.model.profile import Profile
from jsspy.model.stack import FrameKind, Location
from jsspy.recorder import Recorder, RecordingOptions
from jsspy.symbolize.original import MappingStats
from maps import Segment, encode
from running import jsspy

BUNDLE = (
    "function a(b){let c=0;for(let d=0;d<b;d++)c+=Math.sqrt(d^c);return c}"
    "const e=f=>{const g=Date.now()+f;do h+=a(h&1|2e4);while(Date.now()<g);setImmediate(()=>e(f))};"
    'let h=0;console.log("ready");e(20);'
)
"""One line, as a minifier writes it."""

ORIGINALS = {
    # Generated text, how far into it, original line, column, name.
    ("function a", 0): (3, 1, None),
    ("a(b)", 0): (3, 10, "leafWork"),
    ("b){", 0): (3, 19, "count"),
    ("c+=", 0): (6, 5, "sum"),
    ("e=f", 0): (12, 7, "outerWork"),
    ("f=>", 0): (12, 19, "milliseconds"),
    ("a(h&1", 0): (15, 5, "leafWork"),
    ("setImmediate", 0): (18, 3, None),
    ("e(f)", 0): (18, 22, "outerWork"),
    ("e(20)", 0): (21, 1, "outerWork"),
}


def flags(version: str) -> tuple[str, ...]:
    """Return flags without which Maglev code of Node 24 and later is seen at its last check."""
    return ("--no-maglev",) if int(version.split(".", maxsplit=1)[0]) >= 24 else ()


def bundle_map(shift: int = 0, **fields: object) -> dict[str, object]:
    """Return the map of BUNDLE, which begins at column `shift` (0-based) of its line."""
    names: list[str] = []
    segments: list[Segment] = []
    for (text, into), (line, column, name) in ORIGINALS.items():
        if name is not None and name not in names:
            names.append(name)
        number = None if name is None else names.index(name)
        segments.append((shift + BUNDLE.index(text) + into, 0, line - 1, column - 1, number))
    tree = {"version": 3, "sources": ["../src/work.ts"], "names": names}
    return tree | {"mappings": encode([sorted(segments)])} | fields


def record(
    pid: int, samples: int = 40, directory: Path | None = None
) -> tuple[Profile, MappingStats]:
    options = RecordingOptions(map_directory=str(directory) if directory is not None else None)
    with Recorder(PtraceEngine(200), options) as recorder:
        recorder.add(pid)
        for status in recorder.run(20_000_000_000, lambda: len(recorder.profile) >= samples):
            assert status.lost >= 0
        return recorder.profile, recorder.mapping


def check(profile: Profile, source: str) -> None:
    """Verify that every frame of BUNDLE is what and where it was written."""
    seen = set()
    for frame in profile.frames:
        if frame.kind is not FrameKind.JS or frame.location is None:
            continue
        if not frame.location.url.endswith("bundle.js") or frame.definition is None:
            continue
        assert frame.location.line is not None
        column = frame.definition.column
        if frame.name == "a":
            assert frame.original_name == "leafWork"
            assert frame.original_definition == Location(source, 3, 10)
            assert display_name(frame) == f"leafWork {source}:3"
            assert frame.original is not None
            assert frame.original.line in {3, 6}
        elif frame.name == "e":
            assert frame.original_name == "outerWork"
            assert frame.original_definition == Location(source, 12, 19)
            if frame.location.column == BUNDLE.index("a(h&1") + 1:
                assert frame.original == Location(source, 15, 5)
                seen.add("call")
        elif column == BUNDLE.index("()=>e(f)") + 1:
            assert frame.original_name is None
            assert frame.original == Location(source, 18, 22)
        seen.add(frame.name)
    assert seen >= {"a", "e", "call"}, profile.frames


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_a_minified_bundle_is_seen_as_it_was_written(version: str, tmp_path: Path) -> None:
    dist = tmp_path / "my dist"
    dist.mkdir()
    (dist / "bundle.js").write_text(BUNDLE + "\n//# sourceMappingURL=bundle.js.map\n")
    (dist / "bundle.js.map").write_text(json.dumps(bundle_map()))
    with nodes.running(version, dist / "bundle.js", flags=flags(version)) as target:
        profile, stats = record(target.pid)
    check(profile, str(tmp_path / "src" / "work.ts"))
    assert stats.maps == 1
    assert stats.missing == []
    assert stats.frames > 0


NEWEST = nodes.selected(nodes.MODERN)[-1:]


@pytest.mark.parametrize("version", NEWEST)
@pytest.mark.parametrize("form", ["data", "sections", "absolute", "file", "directory"])
def test_wherever_the_map_is(version: str, form: str, tmp_path: Path) -> None:
    dist, elsewhere = tmp_path / "dist", tmp_path / "elsewhere"
    dist.mkdir()
    elsewhere.mkdir()
    inner = bundle_map()
    tree = inner
    if form == "sections":
        tree = {"version": 3, "sections": [{"offset": {"line": 0, "column": 0}, "map": inner}]}
    text = json.dumps(tree)
    place = dist / "bundle.js.map"
    source = tmp_path / "src" / "work.ts"
    url = {
        "data": "data:application/json;base64," + base64.b64encode(text.encode()).decode(),
        "absolute": str(elsewhere / "it.map"),
        "file": (elsewhere / "it.map").as_uri(),
        "directory": "https://cdn.example.org/a/bundle.js.map?v=1",
    }.get(form, "bundle.js.map")
    if form in {"absolute", "file", "directory"}:
        place = elsewhere / ("bundle.js.map" if form == "directory" else "it.map")
    place.write_text(text)
    if form == "data":
        place.unlink()
    (dist / "bundle.js").write_text(f"{BUNDLE}\n//# sourceMappingURL={url}\n")
    with nodes.running(version, dist / "bundle.js", flags=flags(version)) as target:
        profile, stats = record(target.pid, directory=elsewhere)
    check(profile, str(source))
    assert stats.missing == []


@pytest.mark.parametrize("version", NEWEST)
def test_the_command_line_tells_what_is_missing(version: str, tmp_path: Path) -> None:
    program = tmp_path / "bundle.js"
    program.write_text(BUNDLE + "\n//# sourceMappingURL=https://cdn.example.org/bundle.js.map\n")
    with nodes.running(version, program) as target:
        arguments = ("record", "--pid", str(target.pid), "-d", "0.5", "-o", "-")
        told = jsspy(*arguments)
        off = jsspy(*arguments, "--source-maps", "off")
        summary = jsspy(*arguments[:-1], str(tmp_path / "x.folded"), "--json")
        dump = jsspy("dump", "--pid", str(target.pid))
    assert "0 frames mapped, 1 maps missing (https://cdn.example.org/bundle.js.map: " in told.stderr
    assert f"e {program}:1" in told.stdout
    assert "maps" not in off.stderr
    missing = json.loads(summary.stdout)["source_maps"]["missing"]
    assert missing == ["https://cdn.example.org/bundle.js.map: not a file"]
    assert "1 maps missing" in dump.stderr
    wrong = jsspy("record", "--source-maps", "nowhere", "--pid", "1")
    assert wrong.returncode == 2


@pytest.mark.parametrize("version", NEWEST)
def test_what_a_command_ran_is_mapped_after_its_end(version: str, tmp_path: Path) -> None:
    program = tmp_path / "dist" / "bundle.js"
    program.parent.mkdir()
    ending = BUNDLE.replace("setImmediate(", "n++<150&&setImmediate(").replace(
        "const e", "let n=0;const e"
    )
    segments = json.dumps(bundle_map())
    # What comes behind the inserted text is off by it; what is checked stands in front of it.
    program.write_text(ending + "\n//# sourceMappingURL=bundle.js.map\n")
    (program.parent / "bundle.js.map").write_text(segments)
    node = str(nodes.find(version))
    done = jsspy("record", "-o", "-", "--", node, str(program))
    assert done.returncode == 0, done.stderr
    assert f"leafWork {tmp_path / 'src' / 'work.ts'}:3" in done.stdout
    assert "0 maps missing" in done.stderr


MAPPED = nodes.TARGETS / "programs" / "mapped"


@pytest.mark.parametrize("version", NEWEST)
@pytest.mark.parametrize("tool", ["tsc", "esbuild", "inline", "rollup"])
def test_what_real_tools_write(version: str, tool: str, tmp_path: Path) -> None:
    """TypeScript, and bundles by esbuild (minified, map beside or inside of it) and by Rollup."""
    for source in MAPPED.glob("*.ts"):
        shutil.copy(source, tmp_path)
    built = subprocess.run(
        [str(nodes.find(version)), str(MAPPED / "build.js"), tool, str(tmp_path)],
        env=os.environ | {"NODE_PATH": str(npm.packages())},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with nodes.running(version, built, flags=flags(version)) as target:
        profile, stats = record(target.pid)
    assert stats.missing == []
    # Rollup was given what tsc wrote.
    directory, ending = (tmp_path / "modules", ".js") if tool == "rollup" else (tmp_path, ".ts")
    where = {
        "mixRounds": (directory / f"mixer{ending}", "Math.imul("),
        "driveMixer": (directory / f"mixer{ending}", "mixRounds({"),
        "repeatForever": (directory / f"main{ending}", "driveMixer(mixer)"),
    }
    seen = set()
    for frame in profile.frames:
        name = frame.original_name or frame.name
        if frame.kind is not FrameKind.JS or name not in where or frame.original is None:
            continue
        path, text = where[name]
        lines = path.read_text(encoding="utf-8").split("\n")
        assert frame.location is not None
        assert Path(frame.location.url).parent == Path(built).parent
        assert frame.original.url == str(path), frame
        assert frame.original.line is not None
        if text in lines[frame.original.line - 1]:
            seen.add(name)
        assert frame.original_definition is not None
        assert frame.original_definition.line is not None
        assert name in lines[frame.original_definition.line - 1]
    assert seen == set(where), profile.frames
