"""`jsspy completion`: the script that makes a shell complete jsspy's command line."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_JSSPY_COMPLETE"
"""What click derives from the program's name, and looks for when it starts."""


@click.command("completion", short_help="Print the completion script for bash, zsh or fish.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> int:
    r"""Print the script that makes a shell complete verbs, options and their values.

    \b
        bash  jsspy completion bash > ~/.local/share/bash-completion/completions/jsspy
        zsh   jsspy completion zsh > "${fpath[1]}/_jsspy"
        fish  jsspy completion fish > ~/.config/fish/completions/jsspy.fish

    Or for this shell alone: eval "$(jsspy completion bash)". bash needs to be 4.4 or later.
    """
    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"this version of click knows no {shell}")
    click.echo(script(ctx.find_root().command, {}, "jsspy", VARIABLE).source())
    return 0
