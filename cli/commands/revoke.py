"""``hearth revoke``: end somebody's membership."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli.failures import HearthCommand
from cli.options import (
    config_of,
    confirmed,
    home_flag,
    home_option,
    json_option,
    print_json,
    yes_option,
)
from cli.text import count

if TYPE_CHECKING:
    from overlay.config import NodeConfig


@click.command(cls=HearthCommand)
@click.argument("peer")
@yes_option
@json_option
@home_option
@click.pass_context
def revoke(ctx: click.Context, peer: str, yes: bool, as_json: bool) -> None:
    """Throw PEER out of the mesh.

    Those who joined through it fall with it. PEER is a name, a PeerId, or the end of one. The
    founder may revoke everybody, others those who joined through them. With a new invite PEER may
    come back. Works whether the node runs or not.
    """
    from cli.members import doubt, find_member, invited_through, known_names, named
    from cli.session import running_client
    from overlay.errors import NodeNotRunning

    config = config_of(ctx)
    ask = not (yes or as_json)
    try:
        client = running_client(config)
    except NodeNotRunning:
        revoked, doubted = _revoke_without_node(config, peer, ask)
        hint = f" The others hear of it once this node runs: hearth up{home_flag(ctx)}"
    else:
        with client:
            status = client.status()
            peers = list(status.get("peers") or [])
            names = known_names(status, client.invites())
            peer_id = find_member(peer, names)
            through = invited_through(peer_id, peers)
            also = ", ".join(named(str(e["peer_id"]), str(e.get("name") or "")) for e in through)
            falls = f" {count(len(through), 'other')} joined through it: {also}." if also else ""
            doubted = doubt(peer_id, names)
            if ask:
                confirmed(f"Revoke {named(peer_id, names.get(peer_id, ''))}?{falls}{doubted}")
            revoked = client.revoke(peer_id)
        hint = f" Nor is who joined through it: {also}." if also else ""
    if as_json:
        print_json(revoked)
        return
    who = named(str(revoked["peer_id"]), str(revoked.get("name") or ""))
    click.echo(f"{who} is no member any more.{doubted}{hint}")


def _revoke_without_node(config: NodeConfig, peer: str, ask: bool) -> tuple[dict[str, Any], str]:
    """Sign it and keep it in the home, for the node to tell the others; returns the doubt, too."""
    from cli.members import doubt, find_member, known_names, named
    from cli.session import without_node
    from overlay.home.home import Home
    from overlay.identity.peer_id import PeerId

    with without_node(config) as standing:
        met = Home(config.home).peers().items()
        absent = [{"peer_id": str(each), "name": contact.name} for each, contact in met]
        names = known_names({"absent": absent}, standing.invites({}))
        peer_id = find_member(peer, names)
        name, doubted = names.get(peer_id, ""), doubt(peer_id, names)
        if ask:
            confirmed(f"Revoke {named(peer_id, name)}?{doubted}")
        return {**standing.revoke(PeerId.parse(peer_id)), "name": name}, doubted
