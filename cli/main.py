"""The ``hearth`` command."""

from __future__ import annotations

import io
import os
import sys

import click

from cli.commands.ask import ask
from cli.commands.chat import chat
from cli.commands.completion import completion
from cli.commands.explain import explain
from cli.commands.invite import invite
from cli.commands.join import join
from cli.commands.leave import leave
from cli.commands.lending import pause, resume
from cli.commands.models import models
from cli.commands.revoke import revoke
from cli.commands.sim import sim
from cli.commands.status import status
from cli.commands.up import up
from cli.failures import HearthGroup
from cli.options import home_option


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("hearth-mesh")
    except PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"hearth {number}")
    ctx.exit()


@click.group(
    cls=HearthGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
@home_option
def hearth() -> None:
    """A small private mesh of friends' machines that serves LLMs from warm prompt caches.

    \b
    hearth chat              talk, with nothing to set up
    hearth up                run a node; then: hearth invite
    hearth join TOKEN        join a friend's mesh
    """


for command in (
    chat,
    ask,
    up,
    invite,
    join,
    revoke,
    leave,
    pause,
    resume,
    status,
    explain,
    models,
    sim,
    completion,
):
    hearth.add_command(command)


def main() -> None:
    """Run it with the arguments of this process."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that is not of UTF-8 shows `?` for what it does not know.
            stream.reconfigure(errors="replace")
    hearth(prog_name="hearth")


def _open_what_is_closed() -> None:
    """Whoever starts us may close stdin, stdout or stderr: sockets must not take their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (until the process ends)
