"""A `Mesh` without a home, an API and models, for whoever needs no more of a node."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from overlay.admission.handshake import LocalNode
from overlay.engines import EnginePool
from overlay.forwarding import effects as fwd
from overlay.forwarding.terms import NO_BOUNDS
from overlay.identity.invites import InviteLedger
from overlay.identity.revocations import Revocations
from overlay.mesh import Mesh


def bare_mesh(
    node: LocalNode,
    *,
    engines: EnginePool | None = None,
    on_client_event: Callable[[bytes, fwd.ClientEvent], None] = lambda request_id, event: None,
    on_revoked: Callable[[], None] = lambda: None,
    on_peers: Callable[[], None] = lambda: None,
    lan: bool = False,
) -> Mesh:
    """``node``: a member. ``engines``: none, if not said otherwise."""
    membership = node.membership
    assert membership is not None
    return Mesh(
        node=node,
        ledger=InviteLedger(node.key.peer_id),
        revocations=Revocations(membership.founder),
        incarnation=round(time.time() * 1000),
        engines=engines
        or EnginePool(
            hash_key=membership.mesh_secret,
            on_event=lambda model, event: None,
            on_models=lambda: None,
        ),
        on_client_event=on_client_event,
        on_ledger=lambda: None,
        on_revoked=on_revoked,
        on_peers=on_peers,
        terms=NO_BOUNDS,
        lan=lan,
        announce=(),
        map_port=False,
        relays=True,
        rng=random.Random(node.key.peer_id),
    )
