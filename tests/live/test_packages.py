"""Versions of packages that npm installed, from a running process to what users see."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import nodes
import npm
from running import jsspy
from serving import serving

PLACES = "encodeurl", "send/node_modules/encodeurl"
"""Express needs two versions of it, so npm installs both."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a program that lies in a workspace: a package, but not in node_modules."""
    modules = npm.packages()
    path = tmp_path / "packages" / "own" / "index.js"
    path.parent.mkdir(parents=True)
    path.with_name("package.json").write_text('{"name": "own", "version": "1.2.3"}')
    path.write_text(f"""
const encoders = {json.dumps([str(modules / place) for place in PLACES])}.map((it) => require(it));
function work() {{
  const end = Date.now() + 20;
  while (Date.now() < end) for (const encode of encoders) encode('/a');
  setImmediate(work);
}}
console.log('ready');
work();
""")
    return path


@pytest.mark.parametrize("version", nodes.selected(("22.23.3",)))
def test_two_versions_of_a_package_in_one_process(
    version: str, program: Path, tmp_path: Path
) -> None:
    files = [npm.packages() / place / "package.json" for place in PLACES]
    wanted = {f"encodeurl@{json.loads(file.read_bytes())['version']}" for file in files}
    assert len(wanted) == len(PLACES)
    file = str(tmp_path / "a.jsspy")
    with nodes.running(version, program) as target:
        options = "--engine", "ptrace", "--source-maps", "off"
        done = jsspy("record", "--pid", str(target.pid), "-d", "2", *options, "-o", file)
        assert done.returncode == 0, done.stderr
        top = jsspy("top", "--pid", str(target.pid), "-d", "2", "--by", "package", *options)
        assert top.returncode == 0, top.stderr
        with serving("serve", "--port", "0", "--pid", str(target.pid)) as server:
            for package in wanted:
                while not server.total("jsspy_package_cpu_seconds_total", package=package):
                    time.sleep(0.2)
    assert wanted <= set(top.stdout.split())
    done = jsspy("report", file, "--by", "package", "-f", "folded", "-o", "-")
    packages = {frame for line in done.stdout.splitlines() for frame in line[:-2].split(";")}
    assert {"(app)", *wanted} <= packages
    assert not any(name.startswith("own") for name in packages)
    done = jsspy("report", file, "-f", "json", "-o", "-")
    assert wanted <= {package["name"] for package in json.loads(done.stdout)["packages"]}
