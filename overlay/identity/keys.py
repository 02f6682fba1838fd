"""A node's key: it signs, and it yields the CURVE key of the node's links.

One Ed25519 seed is the whole identity. ZeroMQ's CURVE needs an X25519 key; it is derived from the
same seed (RFC 7748's birational map, as libsodium does it), so whoever knows a PeerId can dial
that machine and no other.
"""

from __future__ import annotations

from nacl import exceptions
from nacl.signing import SigningKey, VerifyKey

from overlay.errors import BadSignature, Malformed
from overlay.identity.peer_id import PeerId

SEED_BYTES = 32
SIGNATURE_BYTES = 64


class NodeKey:
    """An Ed25519 private key and what follows from it. Its ``repr`` shows only the PeerId."""

    __slots__ = ("_curve_secret", "_peer_id", "_signing")

    def __init__(self, signing: SigningKey) -> None:
        self._signing = signing
        self._peer_id = PeerId(bytes(signing.verify_key))
        self._curve_secret = bytes(signing.to_curve25519_private_key())

    @classmethod
    def from_seed(cls, seed: bytes) -> NodeKey:
        """The key of a seed; 32 fresh bytes of the operating system's randomness make a new one.

        Raises Malformed when ``seed`` has another length.
        """
        if len(seed) != SEED_BYTES:
            raise Malformed(f"a key's seed has {SEED_BYTES} bytes, not {len(seed)}")
        return cls(SigningKey(seed))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes to keep."""
        return bytes(self._signing)

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    def curve_secret(self) -> bytes:
        """The X25519 private key, 32 bytes, as ``zmq.CURVE_SECRETKEY`` takes it."""
        return self._curve_secret

    def sign(self, data: bytes) -> bytes:
        """A 64-byte signature. ``data`` must start with a prefix that says what is signed."""
        return bytes(self._signing.sign(data).signature)

    def __repr__(self) -> str:
        return f"NodeKey({self._peer_id.short})"


def verify(peer_id: PeerId, data: bytes, signature: bytes) -> None:
    """Raise BadSignature unless ``signature`` is ``peer_id``'s over ``data``."""
    try:
        VerifyKey(bytes(peer_id)).verify(data, signature)
    except (exceptions.BadSignatureError, exceptions.ValueError):
        raise BadSignature(f"the signature is not one of {peer_id}") from None


def curve_public(peer_id: PeerId) -> bytes:
    """The X25519 public key of a peer, 32 bytes, as ``zmq.CURVE_SERVERKEY`` takes it.

    Raises Malformed when the PeerId is no point of the curve's main subgroup.
    """
    try:
        return bytes(VerifyKey(bytes(peer_id)).to_curve25519_public_key())
    except exceptions.RuntimeError:
        raise Malformed(f"{peer_id} is not a usable public key") from None
