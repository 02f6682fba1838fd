"""Joining a mesh with a token, before the node is a member and without a `Transport`."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import nullcontext
from functools import partial

from overlay.admission.handshake import Handshake, Joined, LocalNode, Role
from overlay.errors import HearthError, Unreachable
from overlay.identity.certificates import Membership
from overlay.identity.invites import NONCE_BYTES, InviteLedger, JoinToken
from overlay.identity.keys import NodeKey, curve_public
from overlay.identity.revocations import Revocations
from overlay.limits import HANDSHAKE_S
from overlay.transport.connection import Line, converse
from overlay.transport.link import Down, Link, LinkEvent, Transmit
from overlay.transport.names import Names
from overlay.transport.sockets import Sockets
from overlay.wire.messages import Hello


async def join(key: NodeKey, token: JoinToken, name: str) -> tuple[Membership, Hello]:
    """Dial the token's addresses in turn and exchange the token for a membership.

    Returns it with the inviter's Hello. Raises InviteExpired, InviteUsedUp, InviteUnknown and
    what else the inviter answers; Unreachable when it answers at none of the addresses.
    """
    token.check_fresh(time.time())
    sockets = Sockets(key)
    names = Names()
    failures: list[str] = []
    try:
        for address in token.addresses:
            reason = "the name is unknown"
            for endpoint in await names.resolve(address):
                attempt = _Joining(key, token, name)
                reason = await attempt.run(sockets, endpoint)
                if attempt.joined is not None:
                    return attempt.joined.membership, attempt.joined.inviter
                if attempt.error is not None:
                    raise attempt.error
            failures.append(f"{address}: {reason}")
    finally:
        await sockets.close()
    tried = "; ".join(failures) or "the token names no address"
    raise Unreachable(
        f"the inviting node cannot be reached ({tried}): is it running, and may this machine "
        "connect to it?"
    )


class _Joining:
    """One attempt at one endpoint: an `Exchange` with a single line."""

    def __init__(self, key: NodeKey, token: JoinToken, name: str) -> None:
        self.joined: Joined | None = None
        self.error: HearthError | None = None
        self._token = token
        self._handshake = Handshake(
            role=Role.DIALER,
            me=LocalNode(key, None, name, ()),
            remote_curve=curve_public(token.inviter),
            token=token,
            # A joiner redeems nothing, and judges nobody.
            ledger=InviteLedger(key.peer_id),
            revocations=Revocations(token.inviter),
            nonce=secrets.token_bytes(NONCE_BYTES),
            now=time.monotonic(),
        )

    async def run(self, sockets: Sockets, endpoint: str) -> str:
        """Try it; returns why it ended."""
        link = partial(Link, self._handshake, endpoint, time.monotonic())
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                turn = nullcontext()  # Nobody else dials.
                ending = await converse(sockets, turn, self._token.inviter, endpoint, link, self)
        except TimeoutError:
            return f"no answer within {HANDSHAKE_S:.0f} s"
        return ending.reason

    def opened(self, line: Line) -> None:
        pass

    def receive(self, line: Line, data: bytes) -> None:
        line.carry_out(line.link.receive(data, time.monotonic(), time.time()))

    def carry_out(self, line: Line, events: list[LinkEvent]) -> None:
        for event in events:
            match event:
                case Transmit(data=data):
                    line.transmit(data)
                case Joined():
                    self.joined = event
                case Down(error=error):
                    self.error = error
                    line.end(event)
