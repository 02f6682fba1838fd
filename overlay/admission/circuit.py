"""A sealed channel between two members, through a third one that is not trusted.

Signed Diffie-Hellman (ISO/IEC 9798-3 with X25519; the keys that it yields are those of libsodium's
``crypto_kx``), then AEAD frames with consecutive numbers::

    dialer                                      listener
      | Open: e                           ------> |
      | <------ Accept: f, signature of both ends |
      | Confirm: signature                ------> |
      | sealed frames                     <-----> |

``e`` and ``f`` are X25519 keys that live as long as the circuit, so what was recorded cannot be
opened with the nodes' own keys later. Each end signs both of these, both PeerIds and its role, so
a relay can take neither's part. What a relay makes up, repeats or alters has no effect. What it
leaves out or reorders is noticed by the numbers, and ends the circuit: a channel that was whole up
to there, in order, and nothing twice. A relay sees lengths and times.

One machine per end; it does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from nacl import bindings, exceptions

from overlay.admission.handshake import Role
from overlay.errors import BadSignature, LocalProtocolError
from overlay.identity.keys import NodeKey, verify
from overlay.identity.peer_id import PeerId

SEED_BYTES: Final = bindings.crypto_kx_SEED_BYTES
_KEY_BYTES: Final = bindings.crypto_kx_PUBLIC_KEY_BYTES
_NUMBER_BYTES: Final = 8
_HEAD_BYTES: Final = 1 + _NUMBER_BYTES
#: A sealed message is so much longer.
SEAL_BYTES: Final = _HEAD_BYTES + bindings.crypto_aead_chacha20poly1305_ietf_ABYTES
_NONCE_BYTES: Final = bindings.crypto_aead_chacha20poly1305_ietf_NPUBBYTES
_SIGNED: Final = b"hearth circuit 1"
#: What a relay may make up before the peer's own word is not looked for any more: to verify a
#: signature, and to agree on a key first, takes three times as long as to read another message.
_FORGERIES_MAX: Final = 8


class Tag(Enum):
    """The first byte of what a relay passes on."""

    OPEN = b"\x01"
    ACCEPT = b"\x02"
    CONFIRM = b"\x03"
    DIALER_FRAME = b"\x04"
    LISTENER_FRAME = b"\x05"


#: What a dialer says. Two members may dial each other at once, so the receiver must know.
_OF_DIALER: Final = frozenset({Tag.OPEN, Tag.CONFIRM, Tag.DIALER_FRAME})
_FRAME: Final = {Role.DIALER: Tag.DIALER_FRAME, Role.LISTENER: Tag.LISTENER_FRAME}


def receiver_of(payload: bytes) -> Role | None:
    """Which end a payload is for; None if it is none."""
    try:
        return Role.LISTENER if Tag(payload[:1]) in _OF_DIALER else Role.DIALER
    except ValueError:
        return None


def opens(payload: bytes) -> bool:
    """Whether it is an Open, which makes a new circuit."""
    return payload[:1] == Tag.OPEN.value and len(payload) == 1 + _KEY_BYTES


# --- Effects ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pass:
    """Have the relay pass this on to the peer."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """The peer holds the key of its PeerId: `Circuit.seal` may be called."""


@dataclass(frozen=True, slots=True)
class Unsealed:
    """The next message of the peer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """The circuit is of no use any more."""

    reason: str


Effect = Pass | Ready | Unsealed | Broken


# --- The machine ------------------------------------------------------------------------------


class Circuit:
    """One end. ``seed``: 32 fresh random bytes, of which nothing must be kept."""

    def __init__(self, role: Role, me: NodeKey, peer: PeerId, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise LocalProtocolError(f"a circuit's seed has {SEED_BYTES} bytes, not {len(seed)}")
        self.peer = peer
        self.ready = False
        self.broken = False
        self._role = role
        self._me = me
        self._own, self._secret = bindings.crypto_kx_seed_keypair(seed)
        #: The peer's key of this circuit, and what the two yield; empty until it is known.
        self._theirs = b""
        self._receive_key = self._send_key = b""
        self._received = self._sent = 0
        self._forgeries = 0

    def open(self) -> bytes:
        """The dialer's first payload."""
        return Tag.OPEN.value + self._own

    def is_opened_by(self, payload: bytes) -> bool:
        """Whether it is the Open that a listener was made for, again."""
        return payload == Tag.OPEN.value + self._theirs

    def seal(self, data: bytes) -> bytes:
        """The payload that carries a message. Pass on all of them, in order."""
        assert self.ready, "nothing is sent before the peer has proved its key"
        number = self._sent.to_bytes(_NUMBER_BYTES, "big")
        self._sent += 1
        head = _FRAME[self._role].value + number
        return head + bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
            data, head, _nonce(number), self._send_key
        )

    def receive(self, payload: bytes) -> list[Effect]:
        """Take what the relay says comes from the peer. Nothing is raised, whatever it is."""
        if self.broken or receiver_of(payload) is not self._role:
            return []
        tag, body = Tag(payload[:1]), payload[1:]
        if tag is Tag.OPEN:
            return self._listener_takes_open(body)
        if tag is Tag.ACCEPT:
            return self._dialer_takes_accept(body)
        if tag is Tag.CONFIRM:
            return self._listener_takes_confirm(body)
        return self._take_frame(payload)

    def _listener_takes_open(self, key: bytes) -> list[Effect]:
        if self._theirs or not self._derive(key):
            return []
        return [Pass(Tag.ACCEPT.value + self._own + self._me.sign(self._statement(self._role)))]

    def _dialer_takes_accept(self, body: bytes) -> list[Effect]:
        key, signature = body[:_KEY_BYTES], body[_KEY_BYTES:]
        # Until it is signed a key is a claim, and the next one may be better.
        if self._decided or not self._derive(key) or not self._signed(Role.LISTENER, signature):
            return []
        self.ready = True
        return [Pass(Tag.CONFIRM.value + self._me.sign(self._statement(self._role))), Ready()]

    def _listener_takes_confirm(self, signature: bytes) -> list[Effect]:
        if self._decided or not self._theirs or not self._signed(Role.DIALER, signature):
            return []
        self.ready = True
        return [Ready()]

    def _take_frame(self, payload: bytes) -> list[Effect]:
        head, sealed = payload[:_HEAD_BYTES], payload[_HEAD_BYTES:]
        number = head[1:]
        if not self.ready or len(sealed) < bindings.crypto_aead_chacha20poly1305_ietf_ABYTES:
            return []
        try:
            data = bindings.crypto_aead_chacha20poly1305_ietf_decrypt(
                sealed, head, _nonce(number), self._receive_key
            )
        except exceptions.CryptoError:
            return []
        index = int.from_bytes(number, "big")
        if index > self._received:
            self.broken = True
            return [Broken("messages were lost on the way through the relay")]
        if index < self._received:
            return []
        self._received += 1
        return [Unsealed(data)]

    @property
    def _decided(self) -> bool:
        """No signature matters any more."""
        return self.ready or self._forgeries > _FORGERIES_MAX

    def _derive(self, key: bytes) -> bool:
        """Take the peer's key and derive those of the frames; False if it is none."""
        if len(key) != _KEY_BYTES:
            return False
        derive = (
            bindings.crypto_kx_client_session_keys
            if self._role is Role.DIALER
            else bindings.crypto_kx_server_session_keys
        )
        try:
            self._receive_key, self._send_key = derive(self._own, self._secret, key)
        except exceptions.CryptoError:
            return False
        self._theirs = key
        return True

    def _signed(self, role: Role, signature: bytes) -> bool:
        try:
            verify(self.peer, self._statement(role), signature)
        except BadSignature:
            self._forgeries += 1
            return False
        return True

    def _statement(self, role: Role) -> bytes:
        """What the end of that role signs."""
        mine = bytes(self._me.peer_id) + self._own
        theirs = bytes(self.peer) + self._theirs
        ends = mine + theirs if self._role is Role.DIALER else theirs + mine
        return _SIGNED + role.value.encode() + ends


def _nonce(number: bytes) -> bytes:
    return number.rjust(_NONCE_BYTES, b"\x00")
