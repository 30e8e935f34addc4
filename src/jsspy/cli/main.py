"""The command line's entry: verbs, errors as people read them, exit codes.

Each verb is one module of this package, loaded when it is called: `jsspy dump` shall not pay for
what `record` needs. The table of exit codes stands in `jsspy.errors`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from jsspy import __version__
from jsspy.cli import output
from jsspy.errors import JsspyError

VERBS = (
    "record",
    "top",
    "dump",
    "report",
    "view",
    "diff",
    "perf-map",
    "annotate",
    "list",
    "doctor",
    "serve",
    "promfiler",
    "completion",
)
"""Each is the module of the same name and its click command of the same name + "_command"."""

EXIT_ABORTED = 130
EXIT_USAGE = 2


class Verbs(click.Group):
    """Finds a verb by any unambiguous beginning of its name; `jsspy PID …` is node-flame's form."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which one needs them."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the verb that `cmd_name` is, or begins."""
        del ctx
        if cmd_name.isdecimal():
            return _load("legacy")
        if cmd_name in VERBS:
            return _load(cmd_name)
        matches = [verb for verb in VERBS if cmd_name and verb.startswith(cmd_name)]
        if len(matches) == 1:
            return _load(matches[0])
        if matches:
            raise click.UsageError(f"'{cmd_name}' could be {' or '.join(matches)}")
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Hand the whole line to node-flame's form: the number is its first argument."""
        name, command, rest = super().resolve_command(ctx, args)
        if args[0].isdecimal():
            return "", command, args
        return name if command is None else command.name, command, rest


def _load(verb: str) -> click.Command:
    name = verb.replace("-", "_")
    module = importlib.import_module(f"jsspy.cli.{name}")
    command: click.Command = getattr(module, f"{name}_command")
    return command


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Verbs may be shortened (`jsspy rec`). `jsspy PID <text|flame|raw|fullraw> SECONDS` is "
    "node-flame's command line.",
)
@click.version_option(__version__, "-V", "--version", message="jsspy %(version)s")
def jsspy() -> None:
    """Profile running Node.js processes: no restart, no flag, nothing loaded into them."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Errors go to stderr."""
    try:
        result = jsspy.main(arguments, prog_name="jsspy", standalone_mode=False)
    except JsspyError as err:
        output.show_error(err.message, err.hint)
        return err.exit_code
    except click.exceptions.NoArgsIsHelpError as err:
        click.echo(err.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as err:
        path = err.ctx.command_path.strip() if err.ctx is not None else "jsspy"
        output.show_error(_sentence(err.format_message()), f"{path} --help")
        return EXIT_USAGE
    except click.Abort:
        output.show_error("given up", None)
        return EXIT_ABORTED
    except Exception:  # noqa: BLE001 - the one place: whatever it is, it is our bug
        import traceback

        output.show_error(
            "this is a bug in jsspy; please report it with the lines below and the output of "
            "`jsspy doctor`",
            None,
        )
        click.echo(traceback.format_exc(), err=True)
        return 1
    return result if isinstance(result, int) else 0


def _sentence(message: str) -> str:
    """Make click's message one of ours: no capital at the start, no full stop at the end."""
    return message[:1].lower() + message[1:].rstrip(".")


def main() -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run())
