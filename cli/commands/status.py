"""``hearth status``: the mesh as this node sees it."""

from __future__ import annotations

import click

from cli.failures import HearthCommand
from cli.options import config_of, home_option, json_option, print_json


@click.command(cls=HearthCommand)
@click.option("--watch", is_flag=True, help="Refresh each second, until q or Ctrl-C.")
@json_option
@home_option
@click.pass_context
def status(ctx: click.Context, watch: bool, as_json: bool) -> None:
    """Show this node, its peers, its cache and its requests."""
    from rich.console import Console

    from cli.session import running_client

    config = config_of(ctx)
    if watch:
        from cli.watching import watch_status

        watch_status(config, as_json)
        return
    with running_client(config) as client:
        reply = client.status()
    if as_json:
        print_json(reply)
    else:
        from cli.status_view import status_view

        Console().print(status_view(reply))
