"""Source maps as compilers write them: TypeScript's own, esbuild, Terser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nodes
from consumers.commands import NODE, node, npm, run
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.names import function_name
from jsspy.model.stack import Frame, FrameKind
from jsspy.recorder import Recorder

WORK = """// Comments and types move everything.
export interface Options { rounds: number; seed?: number }

export function hashRound(value: number, options: Options): number {
  let result = value;
  for (let index = 0; index < options.rounds; index++) {
    result = Math.imul(result ^ index, 0x9e3779b1) + (options.seed ?? 0);
  }
  return result;
}

export class Worker {
  private total = 0;
  constructor(private readonly options: Options) {}
  public runOnce(): number {
    this.total = this.accumulate((previous: number): number => hashRound(previous, this.options));
    return this.total;
  }
  private accumulate(step: (value: number) => number): number {
    return step(this.total) + 1;
  }
}
"""
MAIN = """import { Worker } from './work';

declare function setImmediate(callback: () => void): void;
const driveLoop = (worker: Worker): void => {
  const end: number = Date.now() + 30;
  let sum = 0;
  while (Date.now() < end) {
    sum += worker.runOnce();
  }
  setImmediate(() => driveLoop(worker));
};
console.log('ready');
driveLoop(new Worker({ rounds: 20000, seed: 3 }));
"""

CHAIN = [
    # Name, file, line of the definition, line and column of the call.
    ("(anonymous)", "main.ts", 10, 10, 22),
    ("driveLoop", "main.ts", 4, 8, 19),
    ("runOnce", "work.ts", 15, 16, 23),
    ("accumulate", "work.ts", 19, 20, 12),
    ("(anonymous)", "work.ts", 16, 16, 64),
    ("hashRound", "work.ts", 4, None, None),
]


BUNDLE = "require(process.argv[1]).buildSync(JSON.parse(process.argv[2]))"


def bundle(source: Path, out: Path, **options: bool | str) -> None:
    """Make one program of a file and its imports."""
    where = {"entryPoints": [str(source)], "outdir": str(out), "platform": "node", "bundle": True}
    given = json.dumps(where | options)
    run(nodes.find(NODE), "-e", BUNDLE, npm("esbuild/lib/main.js"), given)


def compile_with(compiler: str, directory: Path) -> Path:
    """Return the program that a compiler made."""
    source, out = directory / "src" / "main.ts", directory / "out"
    match compiler:
        case "tsc":
            options = ["--target", "es2018", "--lib", "es2018,dom", "--module", "commonjs"]
            options += ["--sourceMap", "--outDir", str(out)]
            node(npm("typescript/bin/tsc"), *options, source)
        case "esbuild":
            bundle(source, out, minify=True, sourcemap=True)
        case "esbuild inline":
            bundle(source, out, minify=True, sourcemap="inline")
        case "terser":
            bundle(source, out, minify=False, sourcemap=True)
            program = out / "main.js"
            given = f"content='{program}.map',url='main.js.map'"
            options = ["--compress", "--mangle", "toplevel", "--source-map", given]
            node(npm("terser/bin/terser"), program, *options, "-o", program)
    return out / "main.js"


@pytest.mark.parametrize("compiler", ["tsc", "esbuild", "esbuild inline", "terser"])
def test_programs_are_seen_as_they_were_written(compiler: str, tmp_path: Path) -> None:
    sources = tmp_path / "src"
    sources.mkdir()
    (sources / "work.ts").write_text(WORK)
    (sources / "main.ts").write_text(MAIN)
    program = compile_with(compiler, tmp_path)
    with (
        nodes.running(NODE, program) as target,
        Recorder(PtraceEngine(200)) as recorder,
    ):
        recorder.add(target.pid)
        profile = recorder.profile
        for status in recorder.run(20_000_000_000, lambda: len(profile) >= 60):
            assert status.processes == 1
    whole = 0
    for row in profile.stack:
        stack = profile.stack_frames(row)
        # The first time it is the module itself that calls.
        if all(frame.name != "processImmediate" for frame in stack):
            continue
        frames = [
            frame
            for frame in stack
            if frame.kind is FrameKind.JS and str(tmp_path) in str(frame.location)
        ]
        if len(frames) == len(CHAIN):
            whole += 1
            check(frames, sources)
    assert whole >= 20
    assert recorder.mapping.missing == []


def check(frames: list[Frame], sources: Path) -> None:
    for frame, (name, file, begin, line, column) in zip(frames, CHAIN, strict=True):
        assert function_name(frame) == name
        assert frame.original is not None
        assert frame.original_definition is not None
        assert frame.original.url == frame.original_definition.url == str(sources / file)
        assert frame.original_definition.line == begin
        if line is not None:
            assert frame.original[1:] == (line, column), frame
        else:
            assert frame.original.line in range(begin, begin + 7)
