"""Whatever a stranger says, in whatever order, it is never admitted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.admission.handshake import Admitted, Finished, Handshake, Reply, Role
from overlay.identity.certificates import Certificate, Membership, mesh_id
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId
from overlay.wire.anti_entropy import Syn
from overlay.wire.messages import Hello, JoinGrant, JoinRequest, Message, Ping, Refusal, StreamAck
from tests.overlay.admission.pair import NOW, Node, founder, member, pair
from tests.overlay.identity.strategies import key

ANNA = founder(1)
BEN = member(2, of=ANNA)
EXPIRED = member(3, of=ANNA, ttl_s=1)
STRANGER = key(66)
assert ANNA.membership is not None
MESH_ID = ANNA.membership.mesh_id

#: The stranger has listened (CURVE forbids it; let us assume the worst) to a join by another.
_TOKEN = ANNA.token(uses=50)
_OVERHEARD = pair(Node(key(50)), ANNA, _TOKEN)
_OVERHEARD.run()


def _certificate(signer: NodeKey, **fields: Any) -> bytes:
    made = Certificate(MESH_ID, STRANGER.peer_id, signer.peer_id, int(NOW), int(NOW) + 999, True)
    return replace(made, **fields).sign(signer)


def _chain_of(node: Node) -> tuple[bytes, ...]:
    assert isinstance(node.membership, Membership)
    return node.membership.certificates


_links = st.one_of(
    st.sampled_from(
        [
            *_chain_of(BEN),
            *_chain_of(EXPIRED),
            _certificate(STRANGER),
            _certificate(STRANGER, subject=BEN.key.peer_id),
            _certificate(EXPIRED.key),
            _certificate(ANNA.key, mesh_id=mesh_id(STRANGER.peer_id)),
            _certificate(ANNA.key, expires_at=int(NOW)),
            _certificate(ANNA.key, issued_at=int(NOW) + 10_000, expires_at=int(NOW) + 20_000),
            STRANGER.sign(_certificate(ANNA.key)[64:]) + _certificate(ANNA.key)[64:],
        ]
    ),
    st.binary(max_size=200),
)
_peers = st.sampled_from([STRANGER.peer_id, BEN.key.peer_id, ANNA.key.peer_id, PeerId(bytes(32))])
_hellos = st.builds(
    Hello,
    versions=st.sampled_from([(1,), (), (2,), (0, 1, 2)]),
    peer_id=_peers,
    mesh_id=st.sampled_from([b"", MESH_ID, mesh_id(STRANGER.peer_id)]),
    name=st.text(max_size=10),
    certificates=st.lists(_links, max_size=3).map(tuple),
    addresses=st.just(()),
    nonce=st.binary(min_size=16, max_size=16),
)
_plain_hello = Hello((1,), STRANGER.peer_id, b"", "", (), (), b"n" * 16)
_requests = st.builds(
    JoinRequest,
    st.sampled_from([_TOKEN.invite_id, b""]),
    st.binary(min_size=32, max_size=32)
    | st.just(_TOKEN.prove(b"n" * 16, STRANGER.peer_id))
    | st.sampled_from([m.proof for m in _OVERHEARD.said if isinstance(m, JoinRequest)]),
    st.just("stranger"),
)
_messages: st.SearchStrategy[Message] = st.one_of(
    _hellos,
    st.just(_plain_hello),
    _requests,
    st.sampled_from(_OVERHEARD.said),
    st.builds(JoinGrant, _peers, st.lists(_links).map(tuple), st.just(b"s" * 32), st.just("")),
    st.sampled_from([Ping(1), Syn(()), StreamAck(b"id", 0), Refusal("internal", "no")]),
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(Role)), st.lists(_messages, max_size=6))
def test_a_stranger_is_never_admitted(role: Role, messages: list[Message]) -> None:
    ledger_before = ANNA.ledger.to_plain()
    end: Handshake = ANNA.handshake(role, STRANGER)
    effects = end.open()
    for message in messages:
        effects += end.receive(message, NOW)
    assert not any(isinstance(effect, Admitted | Finished) for effect in effects)
    replies = [effect.message for effect in effects if isinstance(effect, Reply)]
    assert len(replies) <= 2, "a hello, and a refusal"
    assert not any(isinstance(reply, JoinGrant) for reply in replies)
    assert ANNA.ledger.to_plain() == ledger_before
    if role is Role.LISTENER:
        hellos = [reply for reply in replies if not isinstance(reply, Refusal)]
        assert all(isinstance(hello, Hello) and not hello.name for hello in hellos)
