"""``hearth completion``: scripts for shells."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from cli.failures import HearthCommand

_INSTALL = {
    "bash": (
        "hearth completion bash > ~/.hearth-completion\n"
        '#   echo "source ~/.hearth-completion" >> ~/.bashrc'
    ),
    "zsh": 'hearth completion zsh > "${fpath[1]}/_hearth"   # a folder of yours in fpath',
    "fish": "hearth completion fish > ~/.config/fish/completions/hearth.fish",
}


@click.command(cls=HearthCommand)
@click.argument("shell", type=click.Choice(list(_INSTALL)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    To install it, then start a new shell:

    \b
    hearth completion bash > ~/.hearth-completion
    echo "source ~/.hearth-completion" >> ~/.bashrc

    For zsh and fish, the script ends with how to.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(ctx.find_root().command, {}, "hearth", "_HEARTH_COMPLETE").source()
    click.echo(source.rstrip())
    # At the end: zsh wants its own first line, and here it is what one sees on a terminal.
    click.echo(f"\n# To install, then start a new shell:\n#   {_INSTALL[shell]}")
