"""``hearth join``: become a member of a friend's mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli.failures import HearthCommand
from cli.options import config_of, home_flag, home_option, json_option, print_json
from cli.text import printable, short_peer

if TYPE_CHECKING:
    from overlay.config import NodeConfig


@click.command(cls=HearthCommand)
@click.argument("token")
@click.option("--name", metavar="NAME", help="What friends see; the machine's name by default.")
@json_option
@home_option
@click.pass_context
def join(ctx: click.Context, token: str, name: str | None, as_json: bool) -> None:
    """Join the mesh that TOKEN invites to.

    Works whether the node runs or not. A node is in one mesh at a time.
    """
    from rich.console import Console

    from cli.session import running_client
    from overlay.errors import ConfigError, NodeNotRunning

    config, home = config_of(ctx, name=name), home_flag(ctx)
    with Console(stderr=True).status("asking the inviting node…", spinner="dots"):
        try:
            client = running_client(config)
        except NodeNotRunning:
            joined = _join_without_node(config, token)
            hint = f"Next: hearth up{home}, or hearth chat{home}"
        else:
            with client:
                if name not in (None, known_as := client.status().get("name")):
                    raise ConfigError(
                        f"this node runs, as {known_as}: leave --name out, or start it anew with "
                        "hearth up --name NAME"
                    )
                joined = client.join(token.strip())
            hint = f"Next: hearth chat{home}"
    if as_json:
        print_json(joined)
        return
    inviter = short_peer(str(joined["inviter"]))
    friend = printable(str(joined.get("name") or "")) or "a friend"
    click.echo(f"Joined the mesh of {friend} ({inviter}). {hint}")


def _join_without_node(config: NodeConfig, text: str) -> dict[str, Any]:
    """Trade the token for a membership and keep it in the home, for the node to find."""
    import asyncio

    from overlay.home.home import Home
    from overlay.identity.invites import JoinToken
    from overlay.joining import join_mesh

    # First of all: a token with a typo must not leave a new home behind.
    token = JoinToken.parse(text)
    home = Home(config.home)
    home.lock()
    try:
        return asyncio.run(join_mesh(home, token, config.name))
    finally:
        home.unlock()
