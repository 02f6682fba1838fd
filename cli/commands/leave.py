"""``hearth leave``: end one's own membership."""

from __future__ import annotations

import click

from cli.failures import HearthCommand
from cli.options import config_of, confirmed, home_option, json_option, print_json, yes_option
from cli.text import printable


@click.command(cls=HearthCommand)
@yes_option
@json_option
@home_option
@click.pass_context
def leave(ctx: click.Context, yes: bool, as_json: bool) -> None:
    """Leave the mesh.

    Works whether the node runs or not. It keeps its key, and goes on in a mesh of its own. It comes
    back with a new invite. Those who joined through it stay members.
    """
    from cli.session import running_client, without_node
    from overlay.errors import NodeNotRunning

    def confirm(ends: object) -> None:
        # The founder's membership has no end, and cannot be left: there is nothing to ask.
        if ends is not None and not (yes or as_json):
            confirmed("Leave the mesh? It takes a new invite to come back.")

    config = config_of(ctx)
    try:
        client = running_client(config)
    except NodeNotRunning:
        with without_node(config) as standing:
            confirm(standing.membership.expires_at)
            left = standing.leave()
    else:
        with client:
            confirm(client.status().get("membership_ends"))
            left = client.leave()
    if as_json:
        print_json(left)
        return
    click.echo(f"Left the mesh {printable(str(left['mesh_id']))}.")
