"""What deploy/ holds is right for who reads it: systemd, promtool, and jsspy's own command line."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import nodes
from jsspy.cli import main
from jsspy.cli.serve import serve_command
from jsspy.exporters.prometheus import Totals, TotalsCollector, encode_metrics
from jsspy.exporters.push import PushCollector, Spool, Uploader
from jsspy.server.blackbox import BlackBox, Triggers
from jsspy.server.collector import Collector
from jsspy.server.sampling import Sampling

DEPLOY = nodes.ROOT / "deploy"


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        nodes.missing(f"{name} is not installed: run `make consumers-installed` as root")
    return str(path)


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def beside(name: str) -> str:
    """Return a program that was installed together with the interpreter."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        nodes.missing(f"{name} is not at {path}: run `make check`")
    return str(path)


@pytest.fixture
def metrics(tmp_path: Path) -> set[str]:
    """Return the name of every sample that `serve` can have."""
    collector = Collector(Sampling(pids=(1,)))
    box = BlackBox(collector, tmp_path / "box", Triggers(), note=print)
    uploader = Uploader("http://127.0.0.1:9", Spool(tmp_path / "spool"))
    families = [TotalsCollector(Totals(), "1"), box, PushCollector([uploader])]
    text = encode_metrics(families, "")[0].decode()
    box.close()
    uploader.close()
    return {
        sample.name for family in text_string_to_metric_families(text) for sample in family.samples
    }


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bjsspy_\w+\b", re.sub(r"\w+:jsspy_\w+:\w+", "", expression)))


def serve_options(arguments: list[str]) -> dict[str, Any]:
    """Return what `jsspy serve` makes of its arguments."""
    assert arguments[0] == "serve"
    # A command remembers its help option from the first context that it sees.
    parent = click.Context(main.jsspy, info_name="jsspy", **main.jsspy.context_settings)
    return serve_command.make_context("serve", arguments[1:], parent=parent).params


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "jsspy.service").read_text(encoding="utf-8")
    unit = tmp_path / "jsspy.service"
    unit.write_text(text.replace("/usr/local/bin/jsspy", sys.executable), encoding="utf-8")
    assert run(tool("systemd-analyze"), "verify", str(unit)) == ""
    line = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert line is not None
    words = shlex.split(line[1].replace("\\\n", " "))
    options = serve_options(words[1:])
    assert options["everyone"]
    assert options["host"] == "127.0.0.1"


def test_promtool_takes_rules_and_configuration(tmp_path: Path) -> None:
    promtool = tool("promtool")
    rules = DEPLOY / "prometheus"
    assert "SUCCESS: 10 rules found" in run(promtool, "check", "rules", str(rules / "rules.yml"))
    assert "SUCCESS" in run(promtool, "test", "rules", "rules_test.yml", cwd=rules)
    config = yaml.safe_load((rules / "scrape.yml").read_text(encoding="utf-8"))
    # Debian's is built without Kubernetes.
    (kubernetes,) = [one for one in config["scrape_configs"] if "kubernetes_sd_configs" in one]
    config["scrape_configs"].remove(kubernetes)
    (tmp_path / "rules.yml").write_bytes((rules / "rules.yml").read_bytes())
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    run(promtool, "check", "config", "--syntax-only", str(path))


def test_rules_ask_for_metrics_that_exist(metrics: set[str]) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert set().union(*map(names_in, asked)) <= metrics
    recorded = {rule.get("record") for group in rules["groups"] for rule in group["rules"]}
    for expression in asked:
        assert set(re.findall(r"\w+:jsspy_\w+:\w+", expression)) <= recorded


def test_dashboard_asks_for_metrics_that_exist(metrics: set[str], tmp_path: Path) -> None:
    path = DEPLOY / "grafana" / "dashboard.json"
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    expressions = []
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        expressions += [target["expr"] for target in panel["targets"]]
    for expression in expressions:
        assert names_in(expression) <= metrics, expression
        used = set(re.findall(r"\$\{?(\w+)", expression))
        assert used <= variables | {"__rate_interval", "__range"}
    # What Grafana sends: promtool reads each expression as a rule.
    filled = [
        re.sub(r"\$__\w+", "5m", expression).replace("$instance", ".*").replace("$top", "10")
        for expression in expressions
    ]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(filled)]
    checked = tmp_path / "panels.yml"
    checked.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules}]}), "utf-8")
    run(tool("promtool"), "check", "rules", str(checked))


def test_daemonset_starts_what_exists() -> None:
    text = (DEPLOY / "kubernetes" / "daemonset.yaml").read_text(encoding="utf-8")
    documents = list(yaml.safe_load_all(text))
    assert [one["kind"] for one in documents] == ["Namespace", "ServiceAccount", "DaemonSet"]
    daemonset = documents[2]
    assert {one["metadata"].get("namespace", "jsspy") for one in documents} == {"jsspy"}
    template = daemonset["spec"]["template"]
    labels = daemonset["spec"]["selector"]["matchLabels"].items()
    assert labels <= template["metadata"]["labels"].items()
    pod = template["spec"]
    assert pod["hostPID"] is True
    (container,) = pod["containers"]
    options = serve_options(container["args"])
    assert options["everyone"]
    assert options["token_file"] is not None
    (port,) = container["ports"]
    assert port["containerPort"] == options["port"]
    assert str(port["containerPort"]) == template["metadata"]["annotations"]["prometheus.io/port"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    for path in (options["token_file"], options["record_to"]):
        assert any(path.startswith(f"{mount}/") for mount in mounts.values()), path
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_kubernetes_own_schemas_take_the_daemonset() -> None:
    path = DEPLOY / "kubernetes" / "daemonset.yaml"
    said = run(beside("kubernetes-validate"), "--strict", str(path))
    assert said.count("passed for resource") == 3


def test_hadolint_finds_no_fault_with_the_image() -> None:
    assert run(beside("hadolint"), str(DEPLOY / "Dockerfile")) == ""


def test_all_deployments_ask_for_the_same_capabilities() -> None:
    unit = (DEPLOY / "systemd" / "jsspy.service").read_text(encoding="utf-8")
    sets = [
        {name.removeprefix("CAP_") for name in re.findall(r"CAP_\w+", line)}
        for line in unit.splitlines()
        if line.startswith(("AmbientCapabilities=", "CapabilityBoundingSet="))
    ]
    text = (DEPLOY / "kubernetes" / "daemonset.yaml").read_text(encoding="utf-8")
    (added,) = re.findall(r"^ *add: \[(.*)\]$", text, re.MULTILINE)
    assert sets == [set(added.split(", "))] * 2


def test_the_image_gets_all_that_the_package_is_built_of(tmp_path: Path) -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            origin = nodes.ROOT / source
            if origin.is_dir():
                built = shutil.ignore_patterns("*.o", "__pycache__", "*.egg-info")
                shutil.copytree(origin, tmp_path / source, ignore=built)
            else:
                shutil.copy(origin, tmp_path / source)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--disable-pip-version-check", "--wheel-dir", str(tmp_path / "wheel"), str(tmp_path)),
    )
    (wheel,) = (tmp_path / "wheel").glob("jsspy-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "jsspy/engines/walk.bpf.o" in names
    assert "jsspy/ui/page.html" in names


def test_image_copies_what_exists_and_runs_a_command() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    steps = [line.split(None, 1) for line in lines if line.strip()]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "LABEL", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK",
             "ENTRYPOINT", "CMD"}  # fmt: skip
    assert {name for name, _ in steps} <= known
    assert steps[0][0] == "FROM"
    for name, rest in steps:
        if name == "FROM":
            image = rest.split()[0]
            assert re.fullmatch(r"[\w./-]+:[\w.-]+", image)
            assert not image.endswith(":latest")
        if name == "COPY" and not rest.startswith("--from"):
            assert all((nodes.ROOT / source).exists() for source in rest.split()[:-1])
    last = dict(steps)
    assert json.loads(last["ENTRYPOINT"]) == ["jsspy"]
    assert serve_options(json.loads(last["CMD"]))["everyone"]
    (probe,) = [rest for name, rest in steps if name == "HEALTHCHECK"]
    compile(json.loads(probe.partition("CMD")[2])[2], "healthcheck", "exec")
