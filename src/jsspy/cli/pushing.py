"""Options for sending profiles to a server: `--push` and what belongs to it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from jsspy.cli import output
from jsspy.cli.secrets import read_secret
from jsspy.exporters.push import DEFAULT_SPOOL_BYTES, Spool, Uploader
from jsspy.server.pusher import DEFAULT_INTERVAL_S, Pusher, PushKind

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Pushing(NamedTuple):
    """What the options say."""

    destinations: tuple[tuple[PushKind, str], ...]
    interval_s: float
    service: str | None
    labels: dict[str, str]
    headers: dict[str, str]
    spool: str | None
    spool_bytes: int

    def start(self) -> Pusher | None:
        """Begin to send what is in the spools; None if nothing is to be pushed.

        Raises:
            ExportError: A spool cannot be written, or an address is none.
        """
        if not self.destinations:
            return None
        uploaders = []
        for kind, url in self.destinations:
            digest = hashlib.sha256(f"{kind.value} {url}".encode()).hexdigest()[:16]
            directory = Path(self.spool or _default_spool()) / f"{kind.value}-{digest}"
            spool = Spool(directory, self.spool_bytes)
            uploaders.append((kind, Uploader(url, spool, headers=self.headers, note=_note)))
        return Pusher(
            uploaders, interval_s=self.interval_s, service=self.service, labels=self.labels
        )


def _note(text: str) -> None:
    output.note(f"jsspy: {text}")


def _default_spool() -> str:
    state = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return f"{state}/jsspy/spool"


def _destinations(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[PushKind, str], ...]:
    del ctx, param
    found = []
    for value in values:
        word, _, url = value.partition("=")
        try:
            kind = PushKind(word)
        except ValueError as err:
            words = ", ".join(one.value for one in PushKind)
            raise click.BadParameter(f"'{value}' is not KIND=URL with a KIND of {words}") from err
        if not re.fullmatch(r"https?://[^\s/]\S*", url):
            raise click.BadParameter(f"'{url}' is no http:// or https:// address")
        found.append((kind, url))
    return tuple(found)


def _labels(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    del ctx, param
    labels = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.]*", name):
            raise click.BadParameter(f"'{value}' is not NAME=VALUE")
        labels[name] = text
    return labels


def make_pushing(
    *,
    push: tuple[tuple[PushKind, str], ...],
    push_interval: float,
    push_service: str | None,
    push_label: dict[str, str],
    push_token_file: str | None,
    push_basic_auth_file: str | None,
    push_tenant: str | None,
    push_spool: str | None,
    push_spool_mib: int,
) -> Pushing:
    """Return what the options say.

    Raises:
        JsspyError: A secret cannot be read.
    """
    headers = {}
    if push_token_file is not None:
        headers["Authorization"] = f"Bearer {read_secret(push_token_file)}"
    if push_basic_auth_file is not None:
        credentials = read_secret(push_basic_auth_file).encode()
        headers["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
    if push_tenant is not None:
        headers["X-Scope-OrgID"] = push_tenant
    return Pushing(
        push, push_interval, push_service, push_label, headers, push_spool, push_spool_mib << 20
    )


def push_options(function: _Function) -> _Function:
    """Add --push and what belongs to it: the arguments of `make_pushing`."""
    options = (
        click.option(
            "--push",
            multiple=True,
            callback=_destinations,
            metavar="KIND=URL",
            help="Send profiles as well, to pyroscope=http://HOST:4040, pyroscope-ingest=URL (its "
            "older API) or otlp=http://HOST:4318 (OpenTelemetry, in development). May be repeated.",
        ),
        click.option(
            "--push-interval",
            type=click.FloatRange(1, 3600),
            default=DEFAULT_INTERVAL_S,
            show_default=True,
            metavar="SECONDS",
            help="How much a profile covers.",
        ),
        click.option(
            "--push-service",
            metavar="NAME",
            help="Name of the application. Default: the process' own.",
        ),
        click.option(
            "--push-label",
            multiple=True,
            callback=_labels,
            metavar="NAME=VALUE",
            help="Label or resource attribute. May be repeated.",
        ),
        click.option("--push-token-file", metavar="FILE", help="Bearer token for the server."),
        click.option("--push-basic-auth-file", metavar="FILE", help="user:password for it."),
        click.option("--push-tenant", metavar="ID", help="X-Scope-OrgID of the server."),
        click.option(
            "--push-spool",
            metavar="DIRECTORY",
            help="Where profiles wait for the server. Default: ~/.local/state/jsspy/spool.",
        ),
        click.option(
            "--push-spool-mib",
            type=click.IntRange(1, 1 << 20),
            default=DEFAULT_SPOOL_BYTES >> 20,
            show_default=True,
            metavar="MIB",
            help="How much may wait; beyond it the oldest are dropped, and it is said.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function
