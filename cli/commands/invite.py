"""``hearth invite``: let a friend in."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection
from typing import Any, Final

import click
from click.core import ParameterSource

from cli.failures import HearthCommand
from cli.options import Duration, config_of, home_option, json_option, print_json
from cli.text import count, local_time, printable
from overlay.limits import INVITE_TTL_MAX_S, INVITE_USES_MAX

_OF_A_NEW_ONE: Final = ("uses", "ttl_s", "label", "no_invite", "qr")


@click.command(cls=HearthCommand)
@click.option(
    "--uses",
    type=click.IntRange(1, INVITE_USES_MAX),
    default=1,
    show_default=True,
    help="How many may join with it.",
)
@click.option(
    "--expires",
    "ttl_s",
    type=Duration(INVITE_TTL_MAX_S),
    default="24h",
    show_default=True,
    help="For how long it is valid, such as 30m, 24h or 7d.",
)
@click.option("--label", metavar="TEXT", default="", help="Whom it is for; a note to yourself.")
@click.option("--no-invite", is_flag=True, help="Who joins with it may not invite others.")
@click.option("--qr", is_flag=True, help="Draw a QR code too.")
@click.option(
    "--list", "listed", is_flag=True, help="List the invites there are, and who used them."
)
@click.option(
    "--cancel",
    metavar="ID|all",
    help="Cancel an invite, by the beginning of its id, or all open ones.",
)
@json_option
@home_option
@click.pass_context
def invite(
    ctx: click.Context,
    uses: int,
    ttl_s: int,
    label: str,
    no_invite: bool,
    qr: bool,
    listed: bool,
    cancel: str | None,
    as_json: bool,
) -> None:
    """Print a token that lets a friend join. The node must be running."""
    from cli.session import running_client

    if listed and cancel is not None:
        raise click.UsageError("--list and --cancel exclude each other")
    if (listed or cancel is not None) and (of_a_new_one := _given(ctx, _OF_A_NEW_ONE)):
        other = "--list" if listed else "--cancel"
        raise click.UsageError(f"{of_a_new_one[0]} is for a new invite, and {other} makes none")
    if cancel == "":
        raise click.UsageError("give --cancel an ID that --list shows, or all")
    with running_client(config_of(ctx)) as client:
        if listed:
            _print_invites(client.invites(), as_json)
        elif cancel is not None:
            _print_cancelled(client.cancel_invites(None if cancel == "all" else cancel), as_json)
        else:
            _print_token(client.invite(ttl_s, uses, label, may_invite=not no_invite), qr, as_json)


def _given(ctx: click.Context, names: Collection[str]) -> list[str]:
    """Which of these options somebody wrote."""
    options = [param for param in ctx.command.params if param.name in names]
    return [
        option.opts[0]
        for option in options
        if ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    ]


def _print_token(made: dict[str, Any], qr: bool, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    token = printable(str(made["token"]))
    click.echo(token)
    if qr:
        _draw(token)
    # On stderr, so that the token alone can be piped.
    uses, until = count(made["uses"], "use"), local_time(str(made["expires"]))
    hint = f"A friend joins with: hearth join TOKEN (good for {uses}, until {until})"
    click.echo(click.style(hint, dim=True), err=True)


def _draw(token: str) -> None:
    import segno

    code = segno.make(token)
    needed, columns = code.symbol_size()[0], shutil.get_terminal_size().columns
    if sys.stdout.isatty() and columns < needed:
        # Wrapped lines are no code that a camera reads.
        hint = f"The QR code needs {needed} columns, and this terminal has {columns}"
        click.echo(click.style(hint, dim=True), err=True)
    else:
        code.terminal(out=sys.stdout, compact=True)


def _print_invites(invites: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(invites)
        return
    if not invites:
        click.echo("No invites yet. Make one with: hearth invite")
        return
    from rich.console import Console

    from cli.invites_view import invites_view

    Console().print(invites_view(invites))


def _print_cancelled(reply: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(reply)
        return
    ids = [printable(str(each)) for each in reply["cancelled"]]
    click.echo(f"Cancelled {count(len(ids), 'invite')}" + (f": {', '.join(ids)}" if ids else "."))
