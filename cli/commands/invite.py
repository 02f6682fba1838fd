"""``hearth invite``: let a friend in."""

from __future__ import annotations

import json
import sys
from datetime import datetime

import click

from cli.failures import HearthCommand
from cli.options import Duration, config_of, home_option, json_option
from cli.text import count, printable
from overlay.limits import INVITE_TTL_MAX_S, INVITE_USES_MAX


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
@click.option("--qr", is_flag=True, help="Draw a QR code too.")
@json_option
@home_option
@click.pass_context
def invite(ctx: click.Context, uses: int, ttl_s: int, label: str, qr: bool, as_json: bool) -> None:
    """Print a token that lets a friend join. The node must be running."""
    from cli.session import running_client

    with running_client(config_of(ctx)) as client:
        made = client.invite(ttl_s, uses, label)
    if as_json:
        click.echo(json.dumps(made, ensure_ascii=False, indent=2))
        return
    token = printable(str(made["token"]))
    click.echo(token)
    if qr:
        import segno

        segno.make(token).terminal(out=sys.stdout, compact=True)
    # On stderr, so that the token alone can be piped.
    until = datetime.fromisoformat(made["expires"]).astimezone().strftime("%Y-%m-%d %H:%M")
    hint = f"A friend joins with: hearth join TOKEN (good for {count(uses, 'use')}, until {until})"
    click.echo(click.style(hint, dim=True), err=True)
