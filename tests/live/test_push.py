"""`serve --push` to real servers written here; what they get is read by other people's code."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import pytest
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)

import nodes
from receiver import receiving
from running import BUSY
from serving import serving

VERSION = nodes.selected(("24.15.0",))

NAMES = """
const { Profile } = require('pprof-format');
const profile = Profile.decode(require('zlib').gunzipSync(require('fs').readFileSync(0)));
const text = (index) => profile.stringTable.strings[Number(index)];
console.log(JSON.stringify({
  names: profile.function.map((one) => text(one.name)),
  types: profile.sampleType.map((one) => [text(one.type), text(one.unit)]),
  seconds: profile.sample.reduce((sum, one) => sum + Number(one.value[1]), 0) / 1e9,
}));
"""


@pytest.mark.parametrize("version", VERSION)
def test_pyroscope_and_opentelemetry(version: str, tmp_path: Path) -> None:
    modules = Path(os.environ.get("JSSPY_CONSUMERS", nodes.ROOT / ".cache" / "consumers"))
    if not (modules / "node_modules" / "pprof-format").exists():
        nodes.missing(f"pprof-format is not in {modules}: run `make consumers-installed`")
    with (
        receiving() as pyroscope,
        receiving() as collector,
        nodes.running(version, BUSY) as target,
    ):
        options = (
            *("--push", f"pyroscope={pyroscope.url}", "--push", f"otlp={collector.url}"),
            *("--push-interval", "2", "--push-spool", str(tmp_path), "--push-service", "shop"),
            *("--push-tenant", "me", "--port", "0", "--pid", str(target.pid)),
        )
        with serving("serve", *options) as server:
            pyroscope.wait(2)
            collector.wait(2)
            assert server.total("jsspy_push_uploads_total", result="sent") >= 2
            assert server.total("jsspy_push_uploads_total", result="dropped") == 0
            server.process.terminate()
            assert server.process.wait(30) == 0
    assert not list(tmp_path.glob("*/*.push"))
    assert pyroscope.accepted[0].headers["x-scope-orgid"] == "me"
    (series,) = json.loads(pyroscope.accepted[0].body)["series"]
    labels = {one["name"]: one["value"] for one in series["labels"]}
    assert labels["service_name"] == "shop"
    assert labels["pid"] == str(target.pid)
    done = subprocess.run(
        [str(nodes.find(version)), "-e", NAMES],
        input=base64.b64decode(series["samples"][0]["rawProfile"]),
        capture_output=True,
        check=True,
        env=os.environ | {"NODE_PATH": str(modules / "node_modules")},
    )
    read = json.loads(done.stdout)
    assert "leafWork" in read["names"]
    assert read["types"] == [["samples", "count"], ["cpu", "nanoseconds"]]
    assert 0 < read["seconds"] < 4
    request = ExportProfilesServiceRequest()
    request.ParseFromString(collector.accepted[0].body)
    strings = request.dictionary.string_table
    names = {strings[one.name_strindex] for one in request.dictionary.function_table}
    assert "leafWork" in names


@pytest.mark.parametrize("version", VERSION)
def test_a_server_that_is_away_is_waited_for(version: str, tmp_path: Path) -> None:
    with receiving() as receiver, nodes.running(version, BUSY) as target:
        receiver.status = 503
        options = (
            *("--push", f"pyroscope={receiver.url}", "--push-interval", "1"),
            *("--push-spool", str(tmp_path), "--port", "0", "--pid", str(target.pid)),
        )
        with serving("serve", *options) as server:
            receiver.wait(2, refused=True)
            receiver.status = 200
            receiver.wait(4)
            assert server.total("jsspy_push_retries_total") >= 2
            assert server.total("jsspy_push_uploads_total", result="dropped") == 0
