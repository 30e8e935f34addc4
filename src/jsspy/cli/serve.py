"""`jsspy serve`: metrics, profiles and a live flame graph over HTTP, for as long as it runs."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import signal
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from jsspy.cli import output
from jsspy.cli.engines import (
    engine_option,
    native_option,
    overhead_option,
    rate_option,
    subprocesses_option,
)
from jsspy.cli.interrupts import reaches_our_group
from jsspy.cli.pushing import make_pushing, push_options
from jsspy.cli.secrets import read_secret
from jsspy.cli.source_maps import SourceMaps, source_maps_option
from jsspy.cli.started import describe_exit
from jsspy.cli.targets import all_option, choose_pids, pattern, shorten
from jsspy.errors import JsspyError
from jsspy.exporters.push import PushCollector
from jsspy.model.mode import NativeFrames
from jsspy.server.app import App, Options
from jsspy.server.blackbox import BlackBox, Triggers
from jsspy.server.collector import Collector, Ended
from jsspy.server.sampling import Sampling
from jsspy.server.web import load_tls, open_socket, serving, url_of
from jsspy.symbolize.original import LiveMapper

_Function = TypeVar("_Function", bound=Callable[..., Any])

DEFAULT_PORT = 9142
EXIT_SIGNAL = 128
"""A command that a signal ended makes the exit code this plus the signal, as shells have it."""

_POLL_S = 0.1
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_RING_S = 24 * 3600.0


def parse_time(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return seconds of `90`, `90s`, `10m` or `1h`."""
    del ctx, param
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", value)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= MAX_RING_S:
        raise click.BadParameter(f"'{value}' is no time such as 30s, 10m or 1h (24h at most)")
    return seconds


def http_options(function: _Function) -> _Function:
    """Add where to listen and who may ask."""
    options = (
        click.option(
            "-H",
            "--host",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on; beyond this machine only with a token, a password, or "
            "--no-auth.",
        ),
        click.option(
            "-P",
            "--port",
            type=click.IntRange(0, 65535),
            default=DEFAULT_PORT,
            show_default=True,
            help="Port; 0 is any that is free.",
        ),
        click.option("--path", default="/metrics", show_default=True, help="Where metrics are."),
        click.option(
            "--token-file",
            metavar="FILE",
            help="Ask for the bearer token in this file. JSSPY_TOKEN may hold it as well.",
        ),
        click.option(
            "--basic-auth-file", metavar="FILE", help="Ask for the user:password in this file."
        ),
        click.option("--no-auth", is_flag=True, help="Let everyone ask who reaches the port."),
        click.option("--tls-cert", metavar="FILE", help="Certificate (PEM): serve HTTPS."),
        click.option("--tls-key", metavar="FILE", help="Its key, if not in the same file."),
        click.option(
            "--max-profiles",
            type=click.IntRange(1, 100),
            default=4,
            show_default=True,
            help="Profiles that are made at the same time; more are refused.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(
    "serve",
    short_help="Metrics, pprof and a live flame graph over HTTP.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "-p", "--pid", "pids", type=click.IntRange(min=1), multiple=True, metavar="PID",
    help="Process to sample. May be repeated.",
)  # fmt: skip
@click.option(
    "--name",
    callback=pattern,
    metavar="PATTERN",
    help="Every node process whose command line this regular expression is found in, new ones too.",
)
@all_option
@rate_option
@engine_option
@native_option
@source_maps_option
@overhead_option
@subprocesses_option
@click.option(
    "--ring",
    "ring_s",
    callback=parse_time,
    default="5m",
    show_default=True,
    metavar="TIME",
    help="How far profiles reach back.",
)
@click.option(
    "--functions",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    metavar="N",
    help="Functions that have a metric of their own; all others are in 'other'.",
)
@click.option(
    "--promfiler-compat", is_flag=True, help="Add promfiler's gauge, a series for each stack."
)
@click.option(
    "--namespace", default="promfiler", show_default=True, help="What that gauge begins with."
)
@click.option(
    "--record-to",
    metavar="DIRECTORY",
    help="Black box: write the ring as a recording into this directory when a trigger fires, on "
    "SIGUSR1, and on POST /trigger.",
)
@click.option(
    "--trigger-cpu",
    type=click.FloatRange(1, 100_000),
    metavar="PERCENT",
    help="Trigger: a process uses more of one CPU than this, on average over 10 s.",
)
@click.option(
    "--trigger-blocked",
    type=click.FloatRange(0.05, 3600),
    metavar="SECONDS",
    help="Trigger: an event loop is in one callback for longer than this.",
)
@click.option(
    "--keep",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    metavar="N",
    help="Recordings that are kept; the oldest are removed.",
)
@http_options
@push_options
@output.color_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def serve_command(
    pids: tuple[int, ...],
    name: re.Pattern[str] | None,
    everyone: bool,
    rate_hz: int,
    engine_name: str,
    native: NativeFrames,
    source_maps: SourceMaps,
    max_overhead: float | None,
    subprocesses: bool,
    ring_s: float,
    functions: int,
    promfiler_compat: bool,
    namespace: str,
    record_to: str | None,
    trigger_cpu: float | None,
    trigger_blocked: float | None,
    keep: int,
    host: str,
    port: int,
    path: str,
    token_file: str | None,
    basic_auth_file: str | None,
    no_auth: bool,
    tls_cert: str | None,
    tls_key: str | None,
    max_profiles: int,
    command: tuple[str, ...],
    **push: Any,
) -> int:
    """Sample node processes without end, and answer HTTP requests about them.

    \b
    /                            live flame graph of the last seconds
    /metrics                     Prometheus and OpenMetrics
    /debug/pprof/profile?seconds=N   the next N seconds: go tool pprof, Parca, Pyroscope
    /profile.html?seconds=N      the last N seconds; any format by its file name ending
    /targets /healthz            who is sampled, and whether

    With neither --pid, --name, --all nor COMMAND the only node process of this user is taken.
    COMMAND has our standard streams, gets our signals, and its exit code is ours.
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    if sum((bool(pids), name is not None, everyone, bool(command))) > 1:
        raise click.UsageError("--pid, --name, --all and COMMAND exclude each other")
    if everyone:
        wanted: str | None = ""
    else:
        wanted = name.pattern if name is not None else None
    token, credentials = _secrets(token_file, basic_auth_file)
    options = Options(
        path=check_path(path),
        promfiler=check_namespace(namespace) if promfiler_compat else None,
        token=token,
        credentials=credentials,
        is_local=_is_loopback(host),
        max_profiles=max_profiles,
    )
    if not (token or credentials or no_auth or options.is_local):
        raise click.UsageError(
            f"whoever reaches {host} could read what the processes do: set --token-file or "
            "--basic-auth-file, or --no-auth if that is meant"
        )
    if record_to is None and (trigger_cpu or trigger_blocked):
        raise click.UsageError("--trigger-cpu and --trigger-blocked need --record-to DIRECTORY")
    if wanted is None and not command:
        pids = tuple(choose_pids(pids, None, "serve"))
    sampling = Sampling(
        pids=pids,
        command=command,
        name=wanted,
        rate_hz=rate_hz,
        engine=engine_name,
        native=native.value,
        max_overhead=max_overhead,
        subprocesses=subprocesses,
        blocked_s=trigger_blocked,
    )
    mapper = LiveMapper(source_maps.directory, maps=source_maps.wanted)
    collector = Collector(sampling, ring_s=ring_s, functions=functions, mapper=mapper)
    tls = load_tls(tls_cert, tls_key) if tls_cert else None
    on_usr1: Callable[[], None] | None = None
    with ExitStack() as stack:
        if record_to is not None:
            triggers = Triggers(trigger_cpu / 100 if trigger_cpu else None, trigger_blocked)
            box = BlackBox(collector, Path(record_to), triggers, keep=keep, note=output.note)
            stack.callback(box.close)
            options = replace(options, trigger=box.write)
            on_usr1 = partial(box.request, "signal")
        pusher = make_pushing(**push).start()
        if pusher is not None:
            stack.callback(pusher.close)
            collector.listeners.append(pusher)
            collector.families.append(PushCollector(pusher.uploaders))
        return run_server(collector, options, host, port, tls, on_usr1)


def run_server(
    collector: Collector,
    options: Options,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    on_usr1: Callable[[], None] | None = None,
) -> int:
    """Serve until the sampler ends or a signal ends us; return the exit code.

    Args:
        collector: Not started yet.
        options: What the server answers.
        host: Address to listen on.
        port: 0 is any.
        tls: None is plain HTTP.
        on_usr1: What SIGUSR1 does; None passes it on to a command like other signals.
    """
    with ExitStack() as stack:
        # Before a command is started: a port that is taken shall not cost it its life.
        listener = stack.enter_context(open_socket(host, port))
        address = url_of(listener, is_tls=tls is not None)
        stop_signal = asyncio.run(_run(collector, options, listener, tls, address, on_usr1))
    ended = collector.ended
    if ended is None or stop_signal is not None:
        return 0
    return _exit_code(ended, collector.sampling)


async def _run(
    collector: Collector,
    options: Options,
    listener: Any,
    tls: ssl.SSLContext | None,
    address: str,
    on_usr1: Callable[[], None] | None,
) -> int | None:
    """Return the signal that ended us; None if the sampler ended."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    has_command = bool(collector.sampling.command)

    def on_signal(number: int) -> None:
        if has_command:
            if not reaches_our_group(number):
                collector.send_signal(number)
        elif not stopped.done():
            stopped.set_result(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if has_command:
        numbers += [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
    for number in numbers:
        loop.add_signal_handler(number, on_signal, int(number))
    if on_usr1 is not None:
        loop.add_signal_handler(signal.SIGUSR1, on_usr1)
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(collector.start)
        stack.push_async_callback(asyncio.to_thread, collector.stop)
        await stack.enter_async_context(serving(App(collector, options), listener, tls))
        where = options.path if options.only_promfiler else "/"
        output.note(f"Serving {address}{where}")
        while not stopped.done() and collector.is_running():
            await asyncio.wait([stopped], timeout=_POLL_S)
        if not stopped.done() and (pid := collector.orphan()) is not None:
            # Of a container that we are the first process of, the end would be the command's, too.
            output.note(f"jsspy: the sampler is gone; process {pid} runs on without being sampled")
            while collector.orphan() is not None:
                await asyncio.wait([stopped], timeout=_POLL_S)
    return stopped.result() if stopped.done() else None


def _exit_code(ended: Ended, sampling: Sampling) -> int:
    """Return what we end with, and say why if that is not plain."""
    if ended.error is not None:
        output.show_error(ended.error, ended.hint)
    status = ended.command_status
    if sampling.command and status is not None:
        if status < 0:
            output.note(f"{shorten(' '.join(sampling.command))} {describe_exit(status)}")
            return EXIT_SIGNAL - status
        return status
    return ended.exit_code if ended.error is not None else 0


def check_path(path: str) -> str:
    """Return the path of the metrics.

    Raises:
        click.UsageError: It is none.
    """
    if not re.fullmatch(r"/[!-~]*", path) or set(path) & set('?#%"<>'):
        raise click.UsageError(f"'{path}' is no path such as /metrics")
    return path


def check_namespace(namespace: str) -> str:
    """Return what a metric's name may begin with.

    Raises:
        click.UsageError: It may not.
    """
    if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", namespace):
        raise click.UsageError(f"'{namespace}' cannot begin the name of a metric")
    return namespace


def _secrets(token_file: str | None, basic_auth_file: str | None) -> tuple[str | None, str | None]:
    token = os.environ.get("JSSPY_TOKEN") or None
    if token_file is not None:
        token = read_secret(token_file)
    credentials = None
    if basic_auth_file is not None:
        credentials = read_secret(basic_auth_file)
        if ":" not in credentials:
            raise JsspyError(f"{basic_auth_file} does not hold user:password")
    return token, credentials


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
