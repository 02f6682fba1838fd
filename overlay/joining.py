"""Trading a join token for a membership that is kept in the home, node running or not."""

from __future__ import annotations

import time
from typing import Any

from overlay.errors import AlreadyMember
from overlay.home.contents import Contact
from overlay.home.home import Home
from overlay.identity.certificates import format_mesh_id
from overlay.identity.invites import JoinToken
from overlay.identity.keys import NodeKey
from overlay.standing import Standing
from overlay.transport.joining import join


async def join_mesh(home: Home, token: JoinToken, name: str) -> dict[str, Any]:
    """Join with the home's key; ``{"mesh_id", "inviter": PeerId, "name"}``.

    The caller holds the home's lock. A mesh that this home founded and nobody joined is given up
    for the new one, and so is a membership that expired or was revoked. One that ends soon is
    renewed, and one whose joining was cut short is completed. Raises InviteExpired, AlreadyMember,
    Unreachable, TimedOut, and what the inviter refuses with; ConfigError for a home that cannot be
    written. The home's membership is then as it was.
    """
    token.check_fresh(time.time())
    key = home.load_or_create_key()
    before = home.membership()
    if before is not None:
        _check_free(home, key, token)
    membership, inviter = await join(key, token, name)
    if before is None or before.mesh_id != membership.mesh_id:
        # Its open invites would let strangers into the new mesh.
        home.forget_others()
    # Replaced, never absent: who is killed in here is a member of the one mesh or of the other.
    home.save_membership(membership)
    home.save_name(name)
    contact = Contact(inviter.name, token.addresses)
    home.save_peers({**home.peers(), token.inviter: contact})
    return {
        "mesh_id": format_mesh_id(membership.mesh_id),
        "inviter": str(token.inviter),
        "name": inviter.name,
    }


def _check_free(home: Home, key: NodeKey, token: JoinToken) -> None:
    standing = Standing(home, key)
    mesh = standing.membership
    if not standing.holds():
        return
    if token.is_for(mesh.mesh_id):
        # Who knows nobody was killed before it had noted the inviter's addresses.
        if standing.may_renew() or not (mesh.founder == key.peer_id or home.peers()):
            return
        raise AlreadyMember("this home is a member of that mesh already")
    if mesh.founder != key.peer_id:
        raise AlreadyMember(
            f"the home {home.path} belongs to another mesh: leave it first (hearth leave), or use "
            "another home (--home DIR) for another mesh"
        )
    if standing.has_members():
        raise AlreadyMember(
            f"the home {home.path} founded a mesh with other members: use another home "
            "(--home DIR) for another mesh"
        )
