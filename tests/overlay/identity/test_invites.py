from __future__ import annotations

import json
from hashlib import blake2b

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import (
    BadSignature,
    IdentityError,
    InviteExpired,
    InviteUnknown,
    InviteUsedUp,
    Malformed,
    TokenMalformed,
)
from overlay.identity.certificates import mesh_id
from overlay.identity.invites import Invite, InviteLedger, JoinToken, invite_proof
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import INVITE_TTL_MAX_S, INVITE_USES_MAX, INVITES_MAX
from tests.overlay.identity.strategies import key, multiaddrs

NOW = 1_800_000_000.0
INVITER, ANNA, BEN = key(1).peer_id, key(2).peer_id, key(3).peer_id
SECRET, NONCE = b"s" * 16, b"n" * 16

tokens = st.builds(
    JoinToken,
    st.binary(min_size=32, max_size=32).map(lambda seed: key(seed[0]).peer_id),
    st.binary(min_size=8, max_size=8),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=16, max_size=16),
    st.lists(multiaddrs, max_size=3).map(tuple),
)

TOKEN = JoinToken(
    INVITER,
    mesh_id(INVITER)[:8],
    int(NOW) + 3600,
    SECRET,
    tuple(Multiaddr.of(f"2001:db8:1:2:3:4:5:{n}", 7710) for n in range(3)),
)


# --- Tokens -----------------------------------------------------------------------------------


@given(tokens)
def test_tokens_round_trip(token: JoinToken) -> None:
    assert JoinToken.parse(token.encode()) == token


def test_a_token_with_three_addresses_is_short() -> None:
    assert len(TOKEN.encode()) < 250
    assert TOKEN.encode().startswith("hearth1")


@pytest.mark.parametrize(
    "pasted",
    [
        "  {}\n",
        '"{}"',
        "“{}”.",
        "`{}`",
        "<{}>",
        "hearth join {}",
        "Join me: {}!",
        "({})",
        "\ufeff{}\u200b",
    ],
)
def test_what_chat_programs_add_is_tolerated(pasted: str) -> None:
    assert JoinToken.parse(pasted.format(TOKEN.encode())) == TOKEN


def test_line_breaks_and_mail_quotes_inside_are_tolerated() -> None:
    text = TOKEN.encode()
    lines = [text[at : at + 40] for at in range(0, len(text), 40)]
    assert JoinToken.parse("\r\n".join(lines)) == TOKEN
    assert JoinToken.parse("> " + "\n> ".join(lines)) == TOKEN


def test_a_capitalised_first_letter_is_tolerated() -> None:
    assert JoinToken.parse("H" + TOKEN.encode()[1:]) == TOKEN


@given(st.data())
def test_a_typo_is_called_a_typo(data: st.DataObject) -> None:
    text = TOKEN.encode()
    at = data.draw(st.integers(len("hearth1"), len(text) - 1))
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0OIl"
    char = data.draw(st.sampled_from(alphabet).filter(lambda c: c != text[at]))
    with pytest.raises(TokenMalformed, match="has a typo or was cut"):
        JoinToken.parse(text[:at] + char + text[at + 1 :])


@given(st.integers(len("hearth1"), len(TOKEN.encode()) - 1))
def test_a_cut_token_is_called_cut(length: int) -> None:
    with pytest.raises(TokenMalformed, match="has a typo or was cut"):
        JoinToken.parse(TOKEN.encode()[:length])


@pytest.mark.parametrize("text", ["", "hello", "https://example.org/x", str(INVITER), "hearth2abc"])
def test_something_else_is_called_that(text: str) -> None:
    with pytest.raises(TokenMalformed, match="should start with hearth1"):
        JoinToken.parse(text)


@given(st.text() | st.text().map(lambda text: "hearth1" + text))
def test_any_text_is_a_token_or_malformed(text: str) -> None:
    with pytest.raises(TokenMalformed):
        JoinToken.parse(text)


def crafted(data: bytes) -> str:
    """A token that says this, with its true checksum."""
    checksum = blake2b(data, digest_size=4, person=b"hearth token").digest()
    return "hearth1" + base58.b58encode(data + checksum).decode()


SAID = base58.b58decode(TOKEN.encode().removeprefix("hearth1"))[:-4]


def test_a_token_of_a_later_version_asks_for_an_update() -> None:
    assert JoinToken.parse(crafted(SAID)) == TOKEN
    with pytest.raises(TokenMalformed, match="needs a newer Hearth"):
        JoinToken.parse(crafted(b"\x02" + SAID[1:]))


@given(st.integers(0, len(SAID) - 1), st.binary(min_size=1, max_size=9))
def test_a_checksum_makes_no_token_of_what_is_none(length: int, more: bytes) -> None:
    for data in (SAID[:length], SAID + more):
        with pytest.raises(TokenMalformed):
            JoinToken.parse(crafted(data))


def test_a_novel_is_refused_without_decoding_it() -> None:
    with pytest.raises(TokenMalformed):
        JoinToken.parse("hearth1" + "z" * 1_000_000)


def test_freshness_and_mesh() -> None:
    TOKEN.check_fresh(NOW)
    with pytest.raises(InviteExpired, match="expired on 2027-01-15 09:00 UTC"):
        TOKEN.check_fresh(NOW + 3600)
    assert TOKEN.is_for(mesh_id(INVITER))
    assert not TOKEN.is_for(mesh_id(ANNA))


# --- Ledger -----------------------------------------------------------------------------------


def opened(uses: int = 1) -> tuple[InviteLedger, Invite]:
    ledger = InviteLedger(INVITER)
    return ledger, ledger.issue(NOW, 3600, uses, "for Anna", SECRET)


def redeem(ledger: InviteLedger, joiner: PeerId = ANNA, now: float = NOW) -> None:
    proof = invite_proof(SECRET, NONCE, joiner, INVITER)
    ledger.use(ledger.check(TOKEN.invite_id, proof, NONCE, joiner, now), joiner)


def test_a_token_of_an_invite_opens_it() -> None:
    ledger, invite = opened()
    token = JoinToken.of(invite, INVITER, mesh_id(INVITER), TOKEN.addresses * 2)
    assert token == TOKEN
    assert ledger.check(token.invite_id, token.prove(NONCE, ANNA), NONCE, ANNA, NOW) == invite
    ledger.use(invite, ANNA)
    assert ledger.list()[0].joined == (ANNA,)


def test_uses_are_counted_by_joiner() -> None:
    ledger, _ = opened(uses=2)
    for joiner in (ANNA, ANNA, BEN):
        redeem(ledger, joiner)
    with pytest.raises(InviteUsedUp):
        redeem(ledger, key(4).peer_id)
    redeem(ledger, BEN)
    (invite,) = ledger.list()
    assert invite.joined == (ANNA, BEN)
    assert invite.state(NOW) == "used up"


def test_expired_and_cancelled_invites() -> None:
    ledger, invite = opened()
    assert [invite.state(at) for at in (NOW, NOW + 3600)] == ["open", "expired"]
    with pytest.raises(InviteExpired):
        redeem(ledger, now=NOW + 3600)
    ledger.cancel(invite.id)
    with pytest.raises(InviteUnknown):
        redeem(ledger)
    with pytest.raises(InviteUnknown):
        ledger.cancel(invite.id)


@pytest.mark.parametrize(
    "proof",
    [
        b"",
        invite_proof(SECRET, b"m" * 16, ANNA, INVITER),
        invite_proof(SECRET, NONCE, BEN, INVITER),
        invite_proof(SECRET, NONCE, ANNA, BEN),
        invite_proof(b"t" * 16, NONCE, ANNA, INVITER),
    ],
    ids=["empty", "another nonce", "another joiner", "another inviter", "another secret"],
)
def test_a_wrong_proof_changes_nothing_and_tells_nothing(proof: bytes) -> None:
    ledger, invite = opened()
    for now in (NOW, NOW + 3600):
        with pytest.raises(BadSignature):
            ledger.check(invite.id, proof, NONCE, ANNA, now)
    assert ledger.list() == [invite]


@pytest.mark.parametrize(
    ("ttl_s", "uses", "label"),
    [
        (0, 1, ""),
        (INVITE_TTL_MAX_S + 1, 1, ""),
        (float("nan"), 1, ""),
        (60, 0, ""),
        (60, INVITE_USES_MAX + 1, ""),
        (60, 1, "x" * 65),
        (60, 1, "Ann\nBob"),
    ],
)
def test_invites_have_bounds(ttl_s: float, uses: int, label: str) -> None:
    with pytest.raises(IdentityError):
        InviteLedger(INVITER).issue(NOW, ttl_s, uses, label, SECRET)


def test_old_invites_make_room() -> None:
    ledger = InviteLedger(INVITER)
    for number in range(INVITES_MAX):
        ledger.issue(NOW, 60, 1, "", number.to_bytes(16, "big"))
    with pytest.raises(IdentityError, match="cancel some"):
        ledger.issue(NOW, 60, 1, "", SECRET)
    ledger.issue(NOW + 60 + INVITE_TTL_MAX_S, 60, 1, "", SECRET)
    assert [invite.secret for invite in ledger.list()] == [SECRET]


def test_invites_that_are_used_up_make_room_the_oldest_first() -> None:
    ledger = InviteLedger(INVITER)
    for number in range(INVITES_MAX):
        invite = ledger.issue(NOW + number, INVITE_TTL_MAX_S, 1, "", number.to_bytes(16, "big"))
        if number in (2, 3):
            ledger.use(invite, ANNA)
    issued = ledger.issue(NOW + INVITES_MAX, 60, 1, "", SECRET)
    kept = [invite.secret for invite in ledger.list()]
    assert len(kept) == INVITES_MAX
    assert kept[-1] == issued.secret
    assert (2).to_bytes(16, "big") not in kept


def test_the_ledger_round_trips_through_json() -> None:
    ledger, _ = opened(uses=3)
    redeem(ledger)
    ledger.issue(NOW, 60, 1, "", b"t" * 16, may_invite=False)
    again = InviteLedger.from_plain(json.loads(json.dumps(ledger.to_plain())))
    assert again.list() == ledger.list()
    redeem(again)
    assert again.list() == ledger.list()


@pytest.mark.parametrize("data", [None, [], {}, {"inviter": "x", "invites": []}, {"invites": [1]}])
def test_anything_else_is_no_ledger(data: object) -> None:
    with pytest.raises(Malformed):
        InviteLedger.from_plain(data)


@pytest.mark.parametrize("field", ["issued_at", "expires_at"])
@pytest.mark.parametrize("at", [-1, 1 << 32])
def test_an_invite_is_of_some_time(field: str, at: int) -> None:
    ledger, _ = opened()
    plain = ledger.to_plain()
    plain["invites"][0][field] = at
    with pytest.raises(Malformed):
        InviteLedger.from_plain(plain)
