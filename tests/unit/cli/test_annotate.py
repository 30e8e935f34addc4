"""`jsspy annotate`: which frames of perf's text get a name, and which do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jsspy.cli.main import jsspy
from jsspy.errors import JsspyError, MalformedData

PID = 4_194_400
"""Above 4194304, the largest pid that Linux gives out."""

TEXT = f"""\
node {PID} 10.000001:   10101010 cpu-clock:ppp: \n\
\t    7f0000001010 [unknown] (/tmp/perf-{PID}.map)
\t    7f0000002000 [unknown] (/tmp/perf-{PID}.map)
\t          1b2c3d Builtins_InterpreterEntryTrampoline+0x5c (/usr/bin/node)
\t           2724a [unknown] (/usr/lib/libfoo.so)

node {PID}/{PID + 1} 10.010001:   10101010 cpu-clock:ppp: \n\
\t    7f0000001fff [unknown] ([anon])
\t    7f0000000000 [unknown] (//anon)

"""
MAP = "7f0000001000 1000 JS:*hot /app/busy.js:3:13\n"


def run(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(
        jsspy,
        ["annotate", *map(str, arguments)],
        input=stdin,
        standalone_mode=False,
        catch_exceptions=False,
    )


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "perf.txt"
    path.write_text(TEXT, "utf-8")
    return path


def test_names_come_from_the_map(text: Path, tmp_path: Path) -> None:
    saved, out = tmp_path / "saved.map", tmp_path / "out.folded"
    saved.write_text(MAP, "utf-8")
    result = run(text, "--map", saved, "-o", out)
    assert result.return_value == 0
    assert "2 of 4 nameless JIT frames have a name now" in result.stderr
    assert "Functions that were interpreted have none" in result.stderr
    lines = out.read_text("utf-8").splitlines()
    hot = "hot /app/busy.js:3"
    assert sum(line.partition(" 1")[0].endswith(hot) or hot in line for line in lines) == 2
    assert "libfoo.so+0x2724a" in lines[0] + lines[1]


def test_a_process_that_is_gone(text: Path, tmp_path: Path) -> None:
    result = run(text, "-o", tmp_path / "out.folded")
    assert result.return_value == 0
    assert "0 of 4 nameless JIT frames" in result.stderr
    assert result.stderr.count(f"process {PID} is gone") == 1


def test_what_cannot_be_read(tmp_path: Path) -> None:
    out = tmp_path / "out.folded"
    with pytest.raises(JsspyError, match="no such file"):
        run(tmp_path / "nothing", "-o", out)
    bad = tmp_path / "bad.map"
    bad.write_text("hello\n", "utf-8")
    with pytest.raises(MalformedData):
        run(tmp_path / "nothing", "--map", bad, "-o", out)
    data = tmp_path / "perf.data"
    data.write_bytes(b"PERFILE2" + bytes(100))
    with pytest.raises(JsspyError, match="perf"):
        run(data, "-o", out)
    assert not out.exists()
