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
    renewed. Raises InviteExpired, AlreadyMember, Unreachable, TimedOut, and what the inviter
    refuses with; the home's membership is then as it was.
    """
    token.check_fresh(time.time())
    key = home.load_or_create_key()
    if home.membership() is not None:
        _check_free(home, key, token)
    membership, inviter = await join(key, token, name)
    # Its open invites would let strangers into the new mesh.
    home.forget_mesh(key.peer_id)
    home.save_membership(membership)
    home.save_name(name)
    home.save_peers({token.inviter: Contact(inviter.name, token.addresses)})
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
        if standing.may_renew():
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
