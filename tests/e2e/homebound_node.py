"""``hearth`` on a machine that reaches others only at the ports that are given.

python -m tests.e2e.homebound_node PORT,PORT up --home DIR …
"""

from __future__ import annotations

import sys
from unittest.mock import patch

from cli.main import hearth
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.transport.dialling import Ending
from overlay.transport.transport import Transport

if __name__ == "__main__":
    reached = {int(port) for port in sys.argv[1].split(",")}
    dial = Transport._attempt

    async def attempt(self: Transport, peer: PeerId, address: Multiaddr, failures: int) -> Ending:
        if address.port in reached:
            return await dial(self, peer, address, failures)
        return Ending("no route to host", was_up=False)

    with patch.object(Transport, "_attempt", attempt):
        hearth(sys.argv[2:])
