"""A member in a process of its own, to be killed: reads its orders as JSON on stdin.

It prints its address, then echoes every message to whoever sent it.
"""

from __future__ import annotations

import asyncio
import json
import sys

from overlay.identity.certificates import Membership
from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.wire.messages import Message
from tests.overlay.transport.nodes import Node


class Echo(Node):
    def received(self, peer: PeerId, message: Message, size: int) -> None:
        self.transport.send(peer, message)


async def main() -> None:
    orders = json.loads(sys.stdin.readline())
    membership = Membership(
        PeerId(bytes.fromhex(orders["founder"])),
        bytes.fromhex(orders["mesh_secret"]),
        tuple(bytes.fromhex(packed) for packed in orders["certificates"]),
    )
    node = Echo(NodeKey.from_seed(bytes.fromhex(orders["seed"])), membership, "a process")
    await node.start(Multiaddr.parse(orders["listen"]))
    print(node.addresses[0], flush=True)
    if orders["dial"] is not None:
        peer, address = orders["dial"]
        node.transport.dial(PeerId.parse(peer), [Multiaddr.parse(address)])
    await asyncio.Event().wait()


asyncio.run(main())
