"""`jsspy promfiler APP`: promfiler's command line, with the profiler outside of the application.

What promfiler did wrong is mended: what it serves has a content type, is not reset by who reads it,
loses nothing and is bounded. `-h` is the host, in this command only. All that follows APP is the
application's.
"""

from __future__ import annotations

import click

from jsspy.cli import output
from jsspy.cli.serve import DEFAULT_PORT, check_namespace, check_path, run_server
from jsspy.model.mode import NativeFrames
from jsspy.server.app import Options
from jsspy.server.collector import Collector
from jsspy.server.sampling import Sampling
from jsspy.symbolize.original import LiveMapper

_DEFAULT_INTERVAL_US = 1000
_MIN_INTERVAL_US = 1000
_MAX_INTERVAL_US = 10_000_000
_RING_S = 5.0
"""Nobody can ask for profiles here."""


@click.command(
    "promfiler",
    short_help="promfiler's command: run APP, serve its stacks to Prometheus.",
    context_settings={"allow_interspersed_args": False, "help_option_names": ["--help"]},
)
@click.option(
    "-h",
    "--hostname",
    "host",
    default="0.0.0.0",  # noqa: S104 - promfiler's
    show_default=True,
    help="Address to listen on.",
)
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on.",
)
@click.option("-P", "--path", default="/metrics", show_default=True, help="Path of the metrics.")
@click.option(
    "-s",
    "--sampling-interval",
    "interval_us",
    type=click.IntRange(_MIN_INTERVAL_US, _MAX_INTERVAL_US),
    default=_DEFAULT_INTERVAL_US,
    show_default=True,
    metavar="MICROSECONDS",
    help="Time between samples.",
)
@click.option(
    "--namespace",
    default="promfiler",
    show_default=True,
    help="The metric is <namespace>_cpu_profile.",
)
@click.option(
    "--pid",
    type=click.IntRange(min=1),
    metavar="PID",
    help="Sample a process that runs, instead of starting APP.",
)
@output.color_option
@click.argument("app", metavar="APP", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGV...]")
def promfiler_command(
    host: str,
    port: int,
    path: str,
    interval_us: int,
    namespace: str,
    pid: int | None,
    app: str | None,
    arguments: tuple[str, ...],
) -> int:
    """Run `node APP ARGV...` and serve its stacks as a Prometheus metric.

    The value of <namespace>_cpu_profile{signature="(root)#a#b"} is how many samples found b at
    work, called by a, since the start. Nothing is loaded into APP: it has our standard streams,
    gets our signals, and its exit code is ours.
    """
    options = Options(
        path=check_path(path), promfiler=check_namespace(namespace), only_promfiler=True
    )
    rate_hz = 1e6 / interval_us
    # Signatures have no others than JavaScript's.
    native = NativeFrames.OFF.value
    if pid is not None and app is None:
        sampling = Sampling(pids=(pid,), rate_hz=rate_hz, native=native)
    elif app is not None and pid is None:
        sampling = Sampling(command=("node", app, *arguments), rate_hz=rate_hz, native=native)
    else:
        raise click.UsageError("name either APP or --pid")
    collector = Collector(sampling, ring_s=_RING_S, mapper=LiveMapper())
    return run_server(collector, options, host, port)
