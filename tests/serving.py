"""jsspy's server as a process of its own, and requests to it."""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

import nodes
from running import starting

TIMEOUT_S = 30.0


class Server(NamedTuple):
    """A server that runs."""

    process: subprocess.Popen[str]
    url: str
    """Without a slash at its end."""

    def get(
        self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None,
        context: Any = None,
    ) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
        """Return status, headers by name in lower case, and body; redirections are not followed."""
        request = urllib.request.Request(  # noqa: S310 - our own server
            self.url + path, method=method, headers=headers or {}
        )
        opener = urllib.request.build_opener(_Stay, urllib.request.HTTPSHandler(context=context))
        try:
            answer: HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as err:
            with err:
                return err.code, {k.lower(): v for k, v in err.headers.items()}, err.read()
        with answer:
            names = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, names, answer.read()

    def metrics(self, path: str = "/metrics") -> dict[str, list[tuple[dict[str, str], float]]]:
        """Return (labels, value) of each sample, by name."""
        status, _, body = self.get(path)
        assert status == 200, body
        values: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                values.setdefault(sample.name, []).append((sample.labels, sample.value))
        return values

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of all series of a name that have these labels."""
        found = self.metrics().get(name, [])
        return sum(value for have, value in found if labels.items() <= have.items())


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        del arguments, options


@contextmanager
def serving(verb: str, *arguments: str, cwd: Path | None = None) -> Iterator[Server]:
    """Run `jsspy VERB` until the block ends; returns once it answers requests."""
    with starting(verb, *arguments, cwd=cwd) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        if line.startswith("Sampling with "):
            line = process.stderr.readline()
        assert line.startswith("Serving "), line + process.stderr.read()
        yield Server(process, line.removeprefix("Serving ").strip().rpartition("/")[0])


def node_first(version: str) -> str:
    """Return a PATH on which `node` is this version."""
    return f"{nodes.find(version).parent}{os.pathsep}{os.environ['PATH']}"
