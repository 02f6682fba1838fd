"""hypothesis plays all who reach a node, and whom a node reaches, before admission.

They know every message that was said, say them again, altered, on any link and at any time, and
make up their own. Who holds which key and secret is known here, so that it is known as well who may
be let in, and no answer of the node is believed about that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from random import Random
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
)

from overlay.admission.handshake import (
    Admitted,
    Effect,
    Finished,
    Handshake,
    Joined,
    LocalNode,
    Rejected,
    Reply,
    Role,
)
from overlay.errors import RemoteProtocolError
from overlay.identity.certificates import Membership, issue, verify_chain
from overlay.identity.invites import InviteLedger, JoinToken
from overlay.identity.keys import curve_public
from overlay.identity.revocations import Revocations
from overlay.limits import HANDSHAKE_S
from overlay.wire.codec import decode, encode
from overlay.wire.messages import PROTOCOL_VERSION, Hello, JoinGrant, JoinRequest, Message, Refusal
from tests.chaos.fuzz_codec import mutated, valid_messages
from tests.chaos.scene import strength
from tests.overlay.admission.pair import NOW, Node, founder, member
from tests.overlay.identity.strategies import key

FOUNDER: Final = founder(1)
MEMBER: Final = member(2, of=FOUNDER)
#: Founds a mesh of its own, with a member: their chains are right, but elsewhere.
OUTSIDER: Final = founder(3)
OUTSIDERS_FRIEND: Final = member(4, of=OUTSIDER)
#: Has the token, if it is not at the other end.
GUEST: Final = Node(key(5))
STRANGER: Final = Node(key(6))

NODES: Final = (FOUNDER, MEMBER, OUTSIDER, OUTSIDERS_FRIEND, GUEST, STRANGER)
MEMBER_TTL_S: Final = 86400
INVITE_TTL_S: Final = 3600
SECRET: Final = b"known to a guest"
ALL_KINDS: Final = valid_messages(Random(1), 60)

#: What is said before admission.
Said = Hello | JoinRequest | JoinGrant


def membership(node: Node) -> Membership:
    assert node.membership is not None
    return node.membership


#: What the founder and a member have signed, for whoever comes with it.
GRANTED: Final = issue(FOUNDER.key, membership(FOUNDER), GUEST.key.peer_id, NOW)
LET_IN: Final = issue(MEMBER.key, membership(MEMBER), STRANGER.key.peer_id, NOW)
ADMISSIBLE: Final = (FOUNDER, MEMBER, GUEST, STRANGER)

#: What somebody may put into a field of this name: what others have there, and what is nowhere.
CHAINS: Final = (
    *(membership(node).certificates for node in NODES if node.membership),
    *(membership(MEMBER).certificates[:1] * 2, membership(MEMBER).certificates * 9),
    *(GRANTED, LET_IN),
    # Each is valid, but they do not hang together.
    (*membership(OUTSIDERS_FRIEND).certificates, *membership(MEMBER).certificates),
    (bytes(200),),
)
VALUES: Final[dict[str, Sequence[Any]]] = {
    "peer_id": [node.key.peer_id for node in NODES],
    "founder": [node.key.peer_id for node in NODES],
    "mesh_id": [b"", membership(FOUNDER).mesh_id, membership(OUTSIDER).mesh_id, b"x"],
    "certificates": CHAINS,
    "mesh_secret": [membership(OUTSIDER).mesh_secret, b"", bytes(32)],
    "versions": [(PROTOCOL_VERSION,), (), (PROTOCOL_VERSION + 1,), (PROTOCOL_VERSION, 1 << 60)],
    "name": ["", "x" * 65, "\x1b[2J"],
    "addresses": [(), ("/ip4/192.0.2.7/tcp/1",) * 9, ("\x00",)],
    "observed": ["", "\n"],
    "nonce": [bytes(16), b""],
    "invite_id": [bytes(8), b""],
    "proof": [bytes(32), b""],
}


@dataclass
class Link:
    """A handshake of the node that is attacked, and who is at the other end."""

    handshake: Handshake
    role: Role
    nonce: bytes
    peer: Node
    token: JoinToken | None
    messages: int = 0


class Admission(RuleBasedStateMachine):
    links: Bundle[Link] = Bundle("links")
    overheard: Bundle[Said] = Bundle("overheard")

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.nonces = count(1)
        self.ledger = InviteLedger(FOUNDER.key.peer_id)
        self.invite = self.ledger.issue(NOW, INVITE_TTL_S, 1, "", SECRET)
        mesh_id = membership(FOUNDER).mesh_id
        self.token = JoinToken.of(self.invite, FOUNDER.key.peer_id, mesh_id, ())

    @initialize(target=overheard)
    def hellos(self) -> MultipleResults[Said]:
        """Everybody's own, as they said them elsewhere."""
        return multiple(
            *(self.hello(node, bare=bare) for node in NODES for bare in (True, False)),
            JoinRequest(self.invite.id, self.token.prove(bytes(16), GUEST.key.peer_id), "guest"),
            JoinGrant(FOUNDER.key.peer_id, GRANTED, membership(FOUNDER).mesh_secret, "founder"),
        )

    # --- What they do ---------------------------------------------------------------------------

    @rule(target=links, peer=st.sampled_from(NODES[1:]), greets=st.booleans())
    def reach_the_founder(self, peer: Node, greets: bool) -> Link:
        return self.link(Role.LISTENER, FOUNDER, peer, None, greets=greets)

    @rule(target=links, peer=st.sampled_from((FOUNDER, OUTSIDER, STRANGER)))
    def be_reached_by_a_member(self, peer: Node) -> Link:
        return self.link(Role.DIALER, MEMBER, peer, None, greets=False)

    @rule(
        target=links,
        peer=st.sampled_from((FOUNDER, MEMBER, OUTSIDER, STRANGER)),
        greets=st.booleans(),
    )
    def be_reached_by_a_guest(self, peer: Node, greets: bool) -> Link:
        return self.link(Role.DIALER, GUEST, peer, self.token, greets=greets)

    @rule(link=links, message=overheard)
    def say_again(self, link: Link, message: Said) -> None:
        self.say(link, message)

    @rule(link=links, message=overheard, data=st.data())
    def say_altered(self, link: Link, message: Said, data: st.DataObject) -> None:
        names = [each.name for each in fields(message) if each.name in VALUES]
        if names:
            name = data.draw(st.sampled_from(names))
            value = data.draw(st.sampled_from(VALUES[name]))
            message = replace(message, **{name: value})
        self.say(link, message)

    @rule(link=links, message=overheard, rng=st.randoms(use_true_random=False))
    def say_mutated(self, link: Link, message: Said, rng: Random) -> None:
        try:
            altered = decode(mutated(rng, encode(message)))
        except RemoteProtocolError:
            return  # The transport does not hand this on.
        self.say(link, altered)

    @rule(link=links, message=st.sampled_from(ALL_KINDS))
    def say_what_is_not_due(self, link: Link, message: Message) -> None:
        self.say(link, message)

    @rule(link=links, bare=st.booleans())
    def say_ones_own_hello(self, link: Link, bare: bool) -> None:
        self.say(link, self.hello(link.peer, bare=bare))

    @rule(target=overheard, link=links)
    def ask_to_join(self, link: Link) -> JoinRequest:
        """As the guest does on that link; everybody hears it."""
        request = JoinRequest(
            self.invite.id, self.token.prove(link.nonce, GUEST.key.peer_id), "guest"
        )
        if link.peer is GUEST:
            self.say(link, request)
        return request

    @rule(seconds=st.sampled_from((1, 2, 3, HANDSHAKE_S, INVITE_TTL_S, MEMBER_TTL_S)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(link=links)
    def look_at_the_clock(self, link: Link) -> None:
        self.judge(link, None, link.handshake.tick(self.now))

    # --- What must hold -------------------------------------------------------------------------

    def link(
        self, role: Role, node: Node, peer: Node, token: JoinToken | None, *, greets: bool
    ) -> Link:
        """A new one to ``node``. Whether the peer says hello, as one that has not joined would."""
        nonce = next(self.nonces).to_bytes(16, "big")
        handshake = Handshake(
            role=role,
            me=LocalNode(node.key, node.membership, "me", ()),
            remote_curve=curve_public(peer.key.peer_id),
            token=token,
            ledger=self.ledger,
            revocations=Revocations(FOUNDER.key.peer_id),
            nonce=nonce,
            now=self.now,
        )
        link = Link(handshake, role, nonce, peer, token)
        self.judge(link, None, handshake.open())
        if greets:
            self.say(link, self.hello(peer, bare=True))
        return link

    def hello(self, node: Node, *, bare: bool) -> Hello:
        known = None if bare else node.membership
        mesh_id, chain = (known.mesh_id, known.certificates) if known else (b"", ())
        return Hello((PROTOCOL_VERSION,), node.key.peer_id, mesh_id, "", chain, (), bytes(16))

    def say(self, link: Link, message: Message) -> None:
        self.judge(link, None, link.handshake.tick(self.now))
        was_over = link.handshake.over
        link.messages += 1
        effects = link.handshake.receive(message, self.now)
        assert not (was_over and effects), "it was over"
        assert link.handshake.over or link.messages < 2, "two messages are all that is ever due"
        assert link.handshake.over or self.now < link.handshake.deadline
        self.judge(link, message, effects)

    def judge(self, link: Link, message: Message | None, effects: list[Effect]) -> None:
        kinds = [type(effect) for effect in effects]
        assert link.handshake.over == bool(set(kinds) & {Admitted, Joined, Finished, Rejected}) or (
            not effects
        )
        for effect in effects:
            match effect:
                case Admitted(hello):
                    assert link.token is None
                    assert link.peer in ADMISSIBLE
                    assert hello.peer_id == link.peer.key.peer_id
                    chain, peer_id = hello.certificates, hello.peer_id
                    verify_chain(FOUNDER.key.peer_id, peer_id, chain, self.now)
                case Finished(joiner):
                    assert isinstance(message, JoinRequest)
                    assert link.role is Role.LISTENER
                    assert joiner == link.peer.key.peer_id == GUEST.key.peer_id
                    assert message.proof == self.token.prove(link.nonce, joiner)
                    assert self.now < self.invite.expires_at
                case Joined(gained):
                    assert link.token is not None
                    assert link.peer is FOUNDER, "whom the token names"
                    assert gained.founder == FOUNDER.key.peer_id
                    own = gained.certificates
                    verify_chain(FOUNDER.key.peer_id, GUEST.key.peer_id, own, self.now)
                case Reply(Hello() as hello) if hello.certificates or hello.mesh_id:
                    # Only a dialer shows itself first: it knows whom it has reached.
                    assert Admitted in kinds or link.role is Role.DIALER
                case Reply(JoinGrant()):
                    assert Finished in kinds
                case Reply(JoinRequest()):
                    assert link.peer is FOUNDER, "nobody else gets a proof"
                case Reply(said):
                    assert isinstance(said, Hello | Refusal)
                    assert membership(FOUNDER).mesh_secret not in encode(said)
        assert len(self.ledger.list()[0].joined) <= self.invite.uses


TestAdmission = Admission.TestCase
TestAdmission.settings = settings(
    max_examples=strength(200, 10_000),
    stateful_step_count=strength(20, 40),
    suppress_health_check=list(HealthCheck),
)


def test_a_guest_comes_in_so_far_as_that() -> None:
    """The rules reach what they guard."""
    scene = Admission()
    scene.ask_to_join(scene.reach_the_founder(GUEST, greets=True))
    assert scene.ledger.list()[0].joined == (GUEST.key.peer_id,)
