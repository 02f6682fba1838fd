"""``hearth pause`` and ``hearth resume``: whether friends' requests are computed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli.failures import HearthCommand
from cli.options import config_of, home_flag, home_option, json_option, print_json
from cli.text import count

if TYPE_CHECKING:
    from cli.client import NodeClient


@click.command(cls=HearthCommand)
@click.option("--now", is_flag=True, help="Hand back what is under way: it goes on elsewhere.")
@json_option
@home_option
@click.pass_context
def pause(ctx: click.Context, now: bool, as_json: bool) -> None:
    """Take no more requests of friends, until resumed.

    A pause outlasts restarts. Your own requests go on as ever, here and at friends'. What the node
    computes for friends goes on to its end, unless --now. The node must be running.
    """
    with _client(ctx) as client:
        reply = client.pause(now=now)
    if as_json:
        print_json(reply)
        return
    still_open = reply.get("open_guest_requests", 0)
    rest = f" {count(still_open, 'request')} under way will end." if still_open else ""
    again = f"Take them again: hearth resume{home_flag(ctx)}"
    click.echo(f"Paused: friends' requests are not taken.{rest} {again}")


@click.command(cls=HearthCommand)
@json_option
@home_option
@click.pass_context
def resume(ctx: click.Context, as_json: bool) -> None:
    """Take requests of friends again. The node must be running."""
    with _client(ctx) as client:
        reply: dict[str, Any] = client.resume()
    if as_json:
        print_json(reply)
    else:
        click.echo("Friends' requests are taken again.")


def _client(ctx: click.Context) -> NodeClient:
    from cli.session import running_client

    return running_client(config_of(ctx))
