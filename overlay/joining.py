"""Trading a join token for a membership that is kept in the home, node running or not."""

from __future__ import annotations

import time
from typing import Any

from overlay.errors import AlreadyMember
from overlay.home import Home
from overlay.identity.certificates import format_mesh_id
from overlay.identity.invites import JoinToken
from overlay.transport.joining import join


async def join_mesh(home: Home, token: JoinToken, name: str) -> dict[str, Any]:
    """Join with the home's key; ``{"mesh_id", "inviter": PeerId, "name"}``.

    The caller holds the home's lock. A mesh that this home founded and nobody joined is given up
    for the new one. Raises InviteExpired, AlreadyMember, Unreachable, TimedOut, and what the
    inviter refuses with; the home's membership is then as it was.
    """
    token.check_fresh(time.time())
    key = home.load_or_create_key()
    mesh = home.membership()
    if mesh is not None and token.is_for(mesh.mesh_id):
        raise AlreadyMember("this home is a member of that mesh already")
    if mesh is not None and (home.peers() or mesh.founder != key.peer_id):
        raise AlreadyMember(
            f"the home {home.path} belongs to a mesh with other members: use another home "
            "(--home DIR) for another mesh"
        )
    membership, inviter = await join(key, token, name)
    home.save_membership(membership)
    home.save_name(name)
    home.save_peers({token.inviter: token.addresses})
    return {
        "mesh_id": format_mesh_id(membership.mesh_id),
        "inviter": str(token.inviter),
        "name": inviter.name,
    }
