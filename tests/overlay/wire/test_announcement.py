"""Announcements on a LAN: members read them, all others see noise."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from nacl.secret import SecretBox

from overlay.errors import Malformed
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import ADDRESSES_MAX, ANNOUNCEMENT_BYTES_MAX
from overlay.wire import announcement as module
from overlay.wire.announcement import ANNOUNCEMENT_NONCE_BYTES, Announcement, seal, unseal
from tests.overlay.identity.strategies import ip_multiaddrs, key, keys, multiaddrs

secrets = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=ANNOUNCEMENT_NONCE_BYTES, max_size=ANNOUNCEMENT_NONCE_BYTES)
peers = keys.map(lambda key: key.peer_id)
announcements = st.builds(
    Announcement, peers, st.lists(ip_multiaddrs, min_size=1, max_size=ADDRESSES_MAX).map(tuple)
)

SECRET = bytes(range(32))
NONCE = bytes(ANNOUNCEMENT_NONCE_BYTES)
PEER = key(1).peer_id
ADDRESS = Multiaddr("ip4", "192.0.2.7", 7710)


@given(secrets, announcements, nonces)
def test_a_member_reads_what_a_member_sealed(
    secret: bytes, announcement: Announcement, nonce: bytes
) -> None:
    sealed = seal(secret, announcement, nonce)
    assert len(sealed) <= ANNOUNCEMENT_BYTES_MAX
    assert unseal(secret, sealed) == announcement


@given(secrets, secrets, announcements, nonces)
def test_another_mesh_reads_nothing(
    secret: bytes, other: bytes, announcement: Announcement, nonce: bytes
) -> None:
    assume(secret != other)
    sealed = seal(secret, announcement, nonce)
    assert unseal(other, sealed) is None
    assert bytes(announcement.peer) not in sealed


@given(announcements, st.lists(nonces, min_size=2, max_size=2, unique=True))
def test_two_announcements_of_one_node_have_no_bytes_in_common(
    announcement: Announcement, two_nonces: list[bytes]
) -> None:
    box, other_box = (
        seal(SECRET, announcement, nonce)[ANNOUNCEMENT_NONCE_BYTES:] for nonce in two_nonces
    )
    assert not {box[i : i + 8] for i in range(len(box) - 7)} & {
        other_box[i : i + 8] for i in range(len(other_box) - 7)
    }


@given(announcements, nonces, st.data())
def test_one_flipped_bit_makes_noise_of_it(
    announcement: Announcement, nonce: bytes, data: st.DataObject
) -> None:
    sealed = bytearray(seal(SECRET, announcement, nonce))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    assert unseal(SECRET, bytes(sealed)) is None


@given(st.binary(max_size=300))
@example(b"")
@example(bytes(ANNOUNCEMENT_NONCE_BYTES - 1))
@example(bytes(ANNOUNCEMENT_NONCE_BYTES + SecretBox.MACBYTES - 1))
def test_arbitrary_bytes_are_noise(noise: bytes) -> None:
    assert unseal(SECRET, noise) is None


nearly = st.builds(
    lambda peer, addresses: bytes(peer) + b"".join(addresses),
    peers,
    st.lists(multiaddrs.map(Multiaddr.pack) | st.binary(max_size=2), max_size=3),
)


@given(st.binary(max_size=ANNOUNCEMENT_BYTES_MAX - 40) | nearly, nonces)
def test_what_a_member_seals_is_read_or_malformed(plain: bytes, nonce: bytes) -> None:
    sealed = bytes(module._box(SECRET).encrypt(plain, nonce))
    try:
        announcement = unseal(SECRET, sealed)
    except Malformed:
        return
    assert announcement is not None
    assert plain.startswith(bytes(announcement.peer))


@pytest.mark.parametrize(
    "plain",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(PEER), id="no address"),
        pytest.param(bytes(PEER) + ADDRESS.pack()[:-1], id="half an address"),
        pytest.param(bytes(PEER) + ADDRESS.pack() * (ADDRESSES_MAX + 1), id="too many addresses"),
        pytest.param(bytes(32) + ADDRESS.pack(), id="a PeerId that is no key"),
    ],
)
def test_nonsense_of_a_member_is_malformed(plain: bytes) -> None:
    with pytest.raises(Malformed):
        unseal(SECRET, bytes(module._box(SECRET).encrypt(plain, NONCE)))


@given(peers, st.lists(multiaddrs, min_size=ADDRESSES_MAX, max_size=3 * ADDRESSES_MAX))
@example(PEER, [Multiaddr("dns4", f"{'a' * 60}.example", port) for port in range(1, 9)])
def test_addresses_that_do_not_fit_are_left_out(peer: PeerId, addresses: list[Multiaddr]) -> None:
    announcement = unseal(SECRET, seal(SECRET, Announcement(peer, tuple(addresses)), NONCE))
    assert announcement is not None
    kept = announcement.addresses
    assert 1 <= len(kept) <= ADDRESSES_MAX
    assert list(kept) == addresses[: len(kept)]


def test_the_key_is_used_for_announcements_only() -> None:
    """Whoever seals something else with the mesh secret must not make announcements by it."""
    sealed = SecretBox(SECRET).encrypt(bytes(PEER) + ADDRESS.pack(), NONCE)
    assert unseal(SECRET, bytes(sealed)) is None
