from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from overlay.admission.handshake import (
    Admitted,
    Effect,
    Finished,
    Handshake,
    Joined,
    LedgerChanged,
    Rejected,
    Reply,
    Role,
)
from overlay.admission.refusals import Shown
from overlay.errors import (
    AlreadyMember,
    BadSignature,
    HearthError,
    IdentityError,
    InviteExpired,
    InviteUnknown,
    InviteUsedUp,
    LimitExceeded,
    LocalProtocolError,
    Malformed,
    MeshMismatch,
    NotAMember,
    Revoked,
    TimedOut,
    UnsupportedVersion,
)
from overlay.identity.certificates import verify_chain
from overlay.limits import HANDSHAKE_S
from overlay.wire.messages import Hello, JoinGrant, JoinRequest, Message, Ping, Refusal
from tests.overlay.admission.pair import NOW, Node, Pair, founder, member, pair, revoked
from tests.overlay.identity.strategies import key


def rejected(effects: list[Effect]) -> HearthError:
    assert isinstance(effects[-1], Rejected), effects
    return effects[-1].error


def joiner() -> Node:
    return Node(key(50))


def hello_of(end: Handshake) -> Hello:
    [reply] = end.open()
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Hello)
    return reply.message


def told(end: Handshake, *messages: Message, now: float = NOW) -> list[Effect]:
    """The effects of the last of the messages."""
    effects: list[Effect] = []
    for message in messages:
        effects = end.receive(message, now)
    return effects


# --- Members ----------------------------------------------------------------------------------


def test_founder_and_members_admit_each_other() -> None:
    anna = founder(1)
    ben = member(2, of=anna)
    cleo = member(3, of=ben)
    for dialer, listener in [(anna, ben), (ben, anna), (anna, cleo), (cleo, anna), (cleo, ben)]:
        link = pair(dialer, listener)
        [at_dialer], [at_listener] = link.run()
        assert isinstance(at_dialer, Admitted)
        assert isinstance(at_listener, Admitted)
        assert at_dialer.hello.peer_id == listener.key.peer_id
        assert at_listener.hello.name == dialer.local.name
        assert at_listener.hello.addresses == dialer.local.addresses
        assert link.dialer.over
        assert link.listener.over


def test_members_of_different_meshes_part() -> None:
    at_dialer, at_listener = pair(founder(1), founder(2)).run()
    assert isinstance(rejected(at_dialer), MeshMismatch)
    assert isinstance(rejected(at_listener), MeshMismatch)


def test_a_dialer_checks_the_listener_too() -> None:
    anna = founder(1)
    impostor = founder(2)
    dialer = anna.handshake(Role.DIALER, impostor.key)
    hello = hello_of(impostor.handshake(Role.DIALER, anna.key))
    assert anna.membership is not None
    dialer.open()
    effects = told(dialer, replace(hello, mesh_id=anna.membership.mesh_id))
    assert isinstance(rejected(effects), NotAMember)
    assert isinstance(effects[0], Reply)
    assert isinstance(effects[0].message, Refusal)


def test_an_expired_member_is_refused_whoever_dials() -> None:
    anna = founder(1)
    ben = member(2, of=anna, ttl_s=60)
    _, at_anna = pair(ben, anna, now=NOW + 60).run()
    assert "expired" in str(rejected(at_anna))
    at_anna, _ = pair(anna, ben, now=NOW + 60).run()
    assert "expired" in str(rejected(at_anna))


def test_a_stolen_chain_does_not_fit_another_key() -> None:
    anna = founder(1)
    thief = Node(key(9), member(2, of=anna).membership)
    _, at_listener = pair(thief, anna).run()
    assert isinstance(rejected(at_listener), NotAMember)


def test_a_stolen_hello_does_not_fit_another_link() -> None:
    anna = founder(1)
    ben = member(2, of=anna)
    stolen = hello_of(ben.handshake(Role.DIALER, anna.key))
    effects = told(anna.handshake(Role.LISTENER, key(9)), stolen)
    assert isinstance(rejected(effects), BadSignature)


def test_a_copied_home_is_told_so() -> None:
    anna = founder(1)
    _, at_listener = pair(anna, anna).run()
    assert "copied" in str(rejected(at_listener))


def test_a_node_without_a_mesh_admits_nobody() -> None:
    at_dialer, _ = pair(founder(1), joiner()).run()
    assert isinstance(rejected(at_dialer), NotAMember)
    with pytest.raises(LocalProtocolError):
        joiner().handshake(Role.DIALER, key(1))


# --- Joining ----------------------------------------------------------------------------------


def test_a_token_yields_a_membership_that_opens_every_link() -> None:
    anna = founder(1)
    ben = member(2, of=anna)
    new = joiner()
    at_dialer, at_listener = pair(new, ben, ben.token()).run()
    assert at_listener == [LedgerChanged(), Finished(new.key.peer_id)]
    [joined] = at_dialer
    assert isinstance(joined, Joined)
    assert anna.membership is not None
    assert joined.membership.mesh_secret == anna.membership.mesh_secret
    assert joined.inviter.name == ben.local.name
    verify_chain(anna.key.peer_id, joined.inviter.peer_id, joined.inviter.certificates, NOW)

    new.membership = joined.membership
    for other in (anna, ben):
        [at_dialer_], [at_listener_] = pair(new, other).run()
        assert isinstance(at_dialer_, Admitted)
        assert isinstance(at_listener_, Admitted)


def test_the_ledger_is_written_before_the_grant_leaves() -> None:
    anna, new = founder(1), joiner()
    token = anna.token()
    listener = anna.handshake(Role.LISTENER, new.key)
    dialer = new.handshake(Role.DIALER, anna.key, token)
    [bare] = told(listener, hello_of(dialer))
    assert isinstance(bare, Reply)
    [request] = told(dialer, bare.message)
    assert isinstance(request, Reply)
    first, second, third = told(listener, request.message)
    assert first == LedgerChanged()
    assert isinstance(second, Reply)
    assert isinstance(second.message, JoinGrant)
    assert isinstance(third, Finished)


def test_a_stranger_learns_nothing_of_the_mesh() -> None:
    anna, new = founder(1), joiner()
    link = pair(new, anna, replace(anna.token(), secret=b"guessed, so wrong"[:16]))
    link.run()
    bare = link.said[1]
    assert isinstance(bare, Hello)
    assert (bare.mesh_id, bare.name, bare.certificates, bare.addresses) == (b"", "", (), ())


def test_a_lost_grant_is_given_again_and_counts_once() -> None:
    anna, new = founder(1), joiner()
    token = anna.token()
    pair(new, anna, token).run()
    [joined], _ = pair(new, anna, token).run()
    assert isinstance(joined, Joined)
    at_dialer, _ = pair(Node(key(51)), anna, token).run()
    assert isinstance(rejected(at_dialer), InviteUsedUp)


def test_why_a_token_is_refused_reaches_the_joiner() -> None:
    anna = founder(1)
    token = anna.token(ttl_s=60)
    at_dialer, _ = pair(joiner(), anna, token, now=NOW + 60).run()
    assert isinstance(rejected(at_dialer), InviteExpired)
    assert "ask for a new one" in str(rejected(at_dialer))
    anna.ledger.cancel(token.invite_id)
    at_dialer, _ = pair(joiner(), anna, token).run()
    assert isinstance(rejected(at_dialer), InviteUnknown)


def test_who_may_not_invite_says_so_and_uses_nothing_up() -> None:
    guest = member(2, of=founder(1), may_invite=False)
    at_dialer, at_listener = pair(joiner(), guest, guest.token()).run()
    assert isinstance(rejected(at_dialer), IdentityError)
    assert "does not allow" in str(rejected(at_dialer))
    assert at_listener == [at_listener[-1]]
    assert guest.ledger.list()[0].joined == ()


def test_the_founder_cannot_join_its_own_mesh() -> None:
    anna = founder(1)
    ben = member(2, of=anna)
    at_dialer, _ = pair(anna, ben, ben.token()).run()
    assert isinstance(rejected(at_dialer), AlreadyMember)
    assert ben.ledger.list()[0].joined == ()


def test_another_node_than_the_tokens_gets_no_proof() -> None:
    anna, other, new = founder(1), founder(2), joiner()
    link = pair(new, other, anna.token())
    at_dialer, _ = link.run()
    assert isinstance(rejected(at_dialer), NotAMember)
    assert not any(isinstance(message, JoinRequest) for message in link.said)


def test_a_replayed_proof_fails_against_another_nonce() -> None:
    anna, new = founder(1), joiner()
    link = pair(new, anna, anna.token(uses=5))
    link.run()
    hello, request = link.said[0], link.said[2]
    assert isinstance(request, JoinRequest)
    again = anna.handshake(Role.LISTENER, new.key)
    assert isinstance(rejected(told(again, hello, request)), BadSignature)


def test_an_inviter_cannot_slip_another_mesh_under_a_token() -> None:
    anna, mallory, new = founder(1), founder(9), joiner()
    ben = member(2, of=anna)
    token = ben.token()
    dialer = new.handshake(Role.DIALER, ben.key, token)
    dialer.open()
    bare = replace(hello_of(ben.handshake(Role.DIALER, new.key)), mesh_id=b"", certificates=())
    assert mallory.membership is not None
    false_mesh = member(50, of=mallory).membership
    assert false_mesh is not None
    grant = JoinGrant(mallory.key.peer_id, false_mesh.certificates, b"s" * 32, "ben")
    assert isinstance(rejected(told(dialer, bare, grant)), MeshMismatch)


def grant_to_joiner(**fields: Any) -> HearthError:
    """Why a joiner, with a token of Ben's, refuses a grant with some fields changed."""
    anna, new = founder(1), joiner()
    ben = member(2, of=anna)
    link = pair(new, ben, ben.token())
    link.run()
    bare, grant = link.said[1], link.said[3]
    assert isinstance(grant, JoinGrant)
    dialer = new.handshake(Role.DIALER, ben.key, ben.token())
    dialer.open()
    return rejected(told(dialer, bare, replace(grant, **fields)))


def test_a_grant_must_hold() -> None:
    of_another_inviter = member(50, of=founder(1)).membership
    assert of_another_inviter is not None
    assert isinstance(grant_to_joiner(certificates=()), NotAMember)
    assert isinstance(grant_to_joiner(certificates=of_another_inviter.certificates), NotAMember)
    assert isinstance(grant_to_joiner(certificates=(b"x" * 170,)), Malformed)
    assert isinstance(grant_to_joiner(mesh_secret=b"short"), Malformed)
    assert isinstance(grant_to_joiner(name="\x1b[2J"), Malformed)


# --- Bounds -----------------------------------------------------------------------------------


def listener_takes(**fields: Any) -> HearthError:
    """Why a founder refuses a member's Hello with some fields changed."""
    anna = founder(1)
    ben = member(2, of=anna)
    hello = replace(hello_of(ben.handshake(Role.DIALER, anna.key)), **fields)
    return rejected(told(anna.handshake(Role.LISTENER, ben.key), hello))


def test_a_name_with_letters_that_this_python_does_not_know_is_no_offence() -> None:
    """Unicode grows, and the nodes of a mesh run on Pythons of different ages."""
    anna = founder(1)
    ben = member(2, of=anna)
    hello = replace(hello_of(ben.handshake(Role.DIALER, anna.key)), name="Ben \U0003fffd")
    [_, admitted] = told(anna.handshake(Role.LISTENER, ben.key), hello)
    assert isinstance(admitted, Admitted)


def test_a_hello_has_bounds() -> None:
    assert isinstance(listener_takes(versions=()), UnsupportedVersion)
    assert isinstance(listener_takes(versions=(2, 99)), UnsupportedVersion)
    assert isinstance(listener_takes(name="x" * 65), Malformed)
    assert isinstance(listener_takes(name="\x1b]0;owned\x07"), Malformed)
    assert isinstance(listener_takes(nonce=b""), Malformed)
    assert isinstance(listener_takes(addresses=("/ip4/192.0.2.7/tcp/1",) * 9), LimitExceeded)
    assert isinstance(listener_takes(addresses=("x" * 1000,)), Malformed)


def test_anything_else_before_admission_is_refused() -> None:
    anna, new = founder(1), joiner()
    token = anna.token()
    hello = hello_of(new.handshake(Role.DIALER, anna.key, token))
    for messages in [(Ping(1),), (hello, Ping(1)), (hello, hello), (JoinRequest(b"", b"", ""),)]:
        effects = told(anna.handshake(Role.LISTENER, new.key), *messages)
        assert isinstance(rejected(effects), NotAMember)
        reply = effects[0]
        assert isinstance(reply, Reply)
        assert isinstance(reply.message, Refusal)
        assert reply.message.code == "not-a-member"


def test_silence_ends_at_the_deadline() -> None:
    listener = founder(1).handshake(Role.LISTENER, key(9))
    assert listener.deadline == NOW + HANDSHAKE_S
    assert listener.tick(NOW + HANDSHAKE_S - 0.1) == []
    assert isinstance(rejected(listener.tick(NOW + HANDSHAKE_S)), TimedOut)
    assert listener.tick(NOW + HANDSHAKE_S) == []


def test_what_arrives_after_the_end_has_no_effect() -> None:
    link: Pair = pair(founder(1), founder(2))
    link.run()
    for message in link.said:
        assert told(link.listener, message) == []


def test_a_refusal_cannot_paint_the_screen() -> None:
    dialer = founder(1).handshake(Role.DIALER, key(2))
    dialer.open()
    error = rejected(told(dialer, Refusal("no-such-code", "\x1b[2Jhello\n" + "x" * 5000)))
    assert str(error).startswith("[2Jhellox")
    assert len(str(error)) <= 300


def test_a_nonce_is_fresh_and_whole() -> None:
    anna = founder(1)
    with pytest.raises(LocalProtocolError):
        Handshake(
            role=Role.LISTENER,
            me=anna.local,
            remote_curve=bytes(32),
            token=None,
            ledger=anna.ledger,
            revocations=anna.revocations,
            nonce=b"",
            now=NOW,
        )


# --- Revocations ------------------------------------------------------------------------------


def test_a_revoked_chain_is_refused_whoever_dials_and_both_hear_why() -> None:
    anna = founder(1)
    ben = member(2, of=anna)
    cleo = member(3, of=ben)
    record = revoked(ben, by=anna)
    for out in (ben, cleo):
        at_out, at_anna = pair(out, anna).run()
        assert at_out[0] == Shown(record)
        for effects in (at_out, at_anna):
            assert isinstance(rejected(effects), Revoked)
            assert f"the membership of {ben.key.peer_id} was revoked" in str(rejected(effects))
        # As a listener, the revoked has said Hello before it learns.
        at_anna, _ = pair(anna, out).run()
        assert isinstance(rejected(at_anna), Revoked)


def test_whoever_has_not_heard_of_a_revocation_admits() -> None:
    anna = founder(1)
    ben, cleo = member(2, of=anna), member(3, of=anna)
    revoked(ben, by=anna)
    [at_ben], [at_cleo] = pair(ben, cleo).run()
    assert isinstance(at_ben, Admitted)
    assert isinstance(at_cleo, Admitted)


def test_a_revoked_node_comes_back_with_a_new_invite_only() -> None:
    anna, new = founder(1), joiner()
    old = anna.token(uses=2)
    pair(new, anna, old).run()
    [joined] = pair(new, anna, old).run()[0]
    assert isinstance(joined, Joined)
    new.membership = joined.membership
    revoked(new, by=anna, now=NOW + 10)
    again = Node(new.key)
    at_new, _ = pair(again, anna, old, now=NOW + 20).run()
    assert "this invite is older" in str(rejected(at_new))
    [joined] = pair(again, anna, anna.token(now=NOW + 10), now=NOW + 10).run()[0]
    assert isinstance(joined, Joined)
    again.membership = joined.membership
    [at_again], _ = pair(again, anna, now=NOW + 20).run()
    assert isinstance(at_again, Admitted)


def test_a_revoked_member_invites_nobody() -> None:
    anna, new = founder(1), joiner()
    ben = member(2, of=anna)
    token = ben.token()
    ben.revocations.add(revoked(ben, by=anna))
    at_new, _ = pair(new, ben, token).run()
    assert isinstance(rejected(at_new), Revoked)
    assert ben.ledger.list()[0].joined == ()


def test_an_invite_says_whether_its_guests_may_invite() -> None:
    anna, new = founder(1), joiner()
    [joined] = pair(new, anna, anna.token(may_invite=False)).run()[0]
    assert isinstance(joined, Joined)
    guest = Node(new.key, joined.membership)
    other = Node(key(51))
    at_other, _ = pair(other, guest, guest.token()).run()
    assert isinstance(rejected(at_other), IdentityError)
    assert "does not allow it to invite" in str(rejected(at_other))
