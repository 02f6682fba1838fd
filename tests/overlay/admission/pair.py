"""Two opposite ends of a link, and nodes to put at them."""

from __future__ import annotations

from dataclasses import dataclass, field

from overlay.admission.handshake import Effect, Handshake, LocalNode, Reply, Role
from overlay.identity.certificates import Membership, found_mesh, issue
from overlay.identity.invites import InviteLedger, JoinToken
from overlay.identity.keys import NodeKey, curve_public
from overlay.identity.revocations import Revocations, revoke
from overlay.wire.messages import Message
from tests.overlay.identity.strategies import key

NOW = 1_800_000_000.0


@dataclass
class Node:
    """A node with its ledger; ``membership`` None: a joiner."""

    key: NodeKey
    membership: Membership | None = None
    ledger: InviteLedger = field(init=False)
    revocations: Revocations = field(init=False)
    handshakes: int = 0

    def __post_init__(self) -> None:
        self.ledger = InviteLedger(self.key.peer_id)
        self.revocations = Revocations(
            self.membership.founder if self.membership else self.key.peer_id
        )

    @property
    def local(self) -> LocalNode:
        return LocalNode(
            self.key, self.membership, f"node {self.key.peer_id.short}", ("/ip4/192.0.2.7/tcp/1",)
        )

    def handshake(
        self, role: Role, peer: NodeKey, token: JoinToken | None = None, now: float = NOW
    ) -> Handshake:
        self.handshakes += 1
        return Handshake(
            role=role,
            me=self.local,
            remote_curve=curve_public(peer.peer_id),
            token=token,
            ledger=self.ledger,
            revocations=self.revocations,
            nonce=bytes(self.key.peer_id)[:8] + self.handshakes.to_bytes(8, "big"),
            now=now,
        )

    def token(
        self, uses: int = 1, ttl_s: float = 3600, now: float = NOW, *, may_invite: bool = True
    ) -> JoinToken:
        assert self.membership is not None
        secret = len(self.ledger.list()).to_bytes(16, "big")
        invite = self.ledger.issue(now, ttl_s, uses, "", secret, may_invite=may_invite)
        return JoinToken.of(invite, self.key.peer_id, self.membership.mesh_id, ())


def revoked(who: Node, by: Node, now: float = NOW) -> bytes:
    """The record by which ``by`` revokes ``who``; only ``by`` knows it."""
    assert by.membership is not None
    assert who.membership is not None
    _, record = revoke(
        by.key,
        by.membership,
        by.revocations,
        who.key.peer_id,
        now,
        chain=who.membership.certificates,
    )
    by.revocations.add(record)
    return record


def founder(number: int) -> Node:
    made = key(number)
    return Node(made, found_mesh(made, bytes([number]) * 32))


def member(number: int, of: Node, *, may_invite: bool = True, ttl_s: float = 86400) -> Node:
    assert of.membership is not None
    made = key(number)
    chain = issue(of.key, of.membership, made.peer_id, NOW, ttl_s, may_invite=may_invite)
    return Node(made, Membership(of.membership.founder, of.membership.mesh_secret, chain))


@dataclass
class Pair:
    """Delivers what each end says to the other until both are silent."""

    dialer: Handshake
    listener: Handshake
    now: float = NOW
    #: What was said, in order, for a test that alters or replays it.
    said: list[Message] = field(default_factory=list)

    def run(self) -> tuple[list[Effect], list[Effect]]:
        """All effects of the dialer and of the listener, but for their replies."""
        effects: dict[Handshake, list[Effect]] = {self.dialer: [], self.listener: []}
        under_way: list[tuple[Handshake, Message]] = []

        def act(end: Handshake, done: list[Effect]) -> None:
            opposite = self.listener if end is self.dialer else self.dialer
            for effect in done:
                if isinstance(effect, Reply):
                    self.said.append(effect.message)
                    under_way.append((opposite, effect.message))
                else:
                    effects[end].append(effect)

        act(self.dialer, self.dialer.open())
        act(self.listener, self.listener.open())
        while under_way:
            end, message = under_way.pop(0)
            act(end, end.receive(message, self.now))
        return effects[self.dialer], effects[self.listener]


def pair(dialer: Node, listener: Node, token: JoinToken | None = None, now: float = NOW) -> Pair:
    return Pair(
        dialer.handshake(Role.DIALER, listener.key, token, now),
        listener.handshake(Role.LISTENER, dialer.key, None, now),
        now,
    )
