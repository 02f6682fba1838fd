from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey

from overlay.errors import BadSignature, Malformed
from overlay.identity.keys import NodeKey, curve_public, verify
from overlay.identity.peer_id import PeerId
from tests.overlay.identity.strategies import keys


def test_the_first_vector_of_rfc_8032() -> None:
    key = NodeKey.from_seed(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    assert key.peer_id.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e0")


@given(keys)
def test_the_curve_key_follows_from_the_peer_id_alone(key: NodeKey) -> None:
    assert bytes(PrivateKey(key.curve_secret).public_key) == curve_public(key.peer_id)


@given(keys, keys, st.binary(), st.binary())
def test_only_the_signer_over_the_same_data_verifies(
    key: NodeKey, other: NodeKey, data: bytes, changed: bytes
) -> None:
    signature = key.sign(data)
    verify(key.peer_id, data, signature)
    if other.peer_id != key.peer_id:
        with pytest.raises(BadSignature):
            verify(other.peer_id, data, signature)
    if changed != data:
        with pytest.raises(BadSignature):
            verify(key.peer_id, changed, signature)


@given(keys, st.binary(max_size=80))
def test_any_bytes_are_a_bad_signature(key: NodeKey, signature: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(key.peer_id, b"data", signature)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_a_point_that_is_no_key_is_malformed(point: bytes) -> None:
    with pytest.raises(Malformed):
        curve_public(PeerId(point))


@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_give_a_curve_key_or_are_malformed(point: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert len(curve_public(PeerId(point))) == 32


def test_a_seed_of_another_length_is_malformed() -> None:
    with pytest.raises(Malformed):
        NodeKey.from_seed(bytes(31))


def test_the_repr_keeps_the_secret() -> None:
    key = NodeKey.from_seed(b"s" * 32)
    assert key.seed == b"s" * 32
    assert repr(key) == f"NodeKey({key.peer_id.short})"


@given(keys)
def test_peer_ids_round_trip_as_text(key: NodeKey) -> None:
    text = str(key.peer_id)
    assert text.startswith("12D3KooW")
    assert PeerId.parse(text) == key.peer_id


@given(st.text(max_size=80))
def test_any_text_is_a_peer_id_or_malformed(text: str) -> None:
    with contextlib.suppress(Malformed):
        assert str(PeerId.parse(text)) == text.strip()
