"""Invites: the token that a member hands out, and the ledger in which it keeps them.

A token is ``hearth1`` and the base58 of

    version 1 | inviter 32 | mesh tag 8 | expires_at 4 | secret 16 | count 1 | addresses |
    checksum 4

The joiner never sends the secret. It shows the invite's id (8 bytes of the secret's hash) and a
proof: BLAKE2b keyed with the secret over the inviter's fresh nonce and both PeerIds. So a proof
that somebody recorded is worth nothing on another link or to another node.
"""

from __future__ import annotations

import hmac
import re
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import base58

from overlay.errors import (
    BadSignature,
    HearthError,
    IdentityError,
    InviteExpired,
    InviteUnknown,
    InviteUsedUp,
    Malformed,
    TokenMalformed,
)
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    INVITE_TTL_MAX_S,
    INVITE_USES_MAX,
    INVITES_MAX,
    NAME_CHARS_MAX,
    TOKEN_ADDRESSES_MAX,
)
from overlay.printable import is_printable

TOKEN_PREFIX = "hearth1"
SECRET_BYTES = 16
INVITE_ID_BYTES = 8
NONCE_BYTES = 16
_MESH_TAG_BYTES = 8
_VERSION = 1
#: Version, inviter, mesh tag, expires_at, secret, count of addresses.
_HEAD = struct.Struct(f">B32s{_MESH_TAG_BYTES}sI{SECRET_BYTES}sB")
_CHECKSUM_BYTES = 4
#: Three of the longest host names make 1,147 characters; base58 takes quadratic time.
_TOKEN_CHARS_MAX = 1200

#: What chat programs, mail and terminals put into and around a long word.
_NOISE = re.compile(r"[\s\u200b-\u200f\u2028-\u202f\u2060\ufeff\u00ad\"'`“”„‘’‚«»‹›<>*|]+")
_TRAILING = ".,;:!?)]}…"

_TYPO = "this join token has a typo or was cut: ask for it again"
_OTHER = "this is not a Hearth join token: it should start with hearth1"


def invite_id(secret: bytes) -> bytes:
    """The 8 bytes by which inviter and joiner name an invite without showing its secret."""
    return blake2b(secret, digest_size=INVITE_ID_BYTES, person=b"hearth invite id").digest()


def invite_proof(secret: bytes, nonce: bytes, joiner: PeerId, inviter: PeerId) -> bytes:
    """What shows that ``joiner`` holds the secret, for one ``nonce`` of ``inviter``; 32 bytes."""
    # Both PeerIds have a fixed length, so nothing can be shifted between the parts.
    data = bytes(joiner) + bytes(inviter) + nonce
    return blake2b(data, key=secret, digest_size=32, person=b"hearth join").digest()


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a join token says. ``mesh_tag`` is the start of the mesh id, ``expires_at`` Unix s."""

    inviter: PeerId
    mesh_tag: bytes
    expires_at: int
    secret: bytes
    addresses: tuple[Multiaddr, ...]

    @classmethod
    def of(
        cls, invite: Invite, inviter: PeerId, mesh_id: bytes, addresses: tuple[Multiaddr, ...]
    ) -> JoinToken:
        """The token of an invite; the first three addresses go into it, so give the best first."""
        return cls(
            inviter,
            mesh_id[:_MESH_TAG_BYTES],
            invite.expires_at,
            invite.secret,
            addresses[:TOKEN_ADDRESSES_MAX],
        )

    @property
    def invite_id(self) -> bytes:
        return invite_id(self.secret)

    def is_for(self, mesh_id: bytes) -> bool:
        """Whether the token opens the mesh with this id."""
        return mesh_id[:_MESH_TAG_BYTES] == self.mesh_tag

    def check_fresh(self, now: float) -> None:
        """Raise InviteExpired when the token's time is over by this machine's clock."""
        if now >= self.expires_at:
            raise InviteExpired(_expired(self.expires_at))

    def prove(self, nonce: bytes, joiner: PeerId) -> bytes:
        return invite_proof(self.secret, nonce, joiner, self.inviter)

    def encode(self) -> str:
        """The one line to paste; under 250 characters unless host names are long."""
        count = len(self.addresses)
        head = _HEAD.pack(
            _VERSION, self.inviter, self.mesh_tag, self.expires_at, self.secret, count
        )
        data = head + b"".join(address.pack() for address in self.addresses)
        return TOKEN_PREFIX + base58.b58encode(data + _checksum(data)).decode("ascii")

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Read a pasted token, whatever line breaks, quotes and full stops came with it.

        Raises TokenMalformed.
        """
        word = _NOISE.sub("", text).rstrip(_TRAILING)
        start = word.lower().find(TOKEN_PREFIX)
        if start < 0:
            raise TokenMalformed(_OTHER)
        word = word[start + len(TOKEN_PREFIX) :]
        if len(word) > _TOKEN_CHARS_MAX:
            raise TokenMalformed(_TYPO)
        try:
            data = base58.b58decode(word)
        except ValueError:
            raise TokenMalformed(_TYPO) from None
        data, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if not data or checksum != _checksum(data):
            raise TokenMalformed(_TYPO)
        if data[0] != _VERSION:
            raise TokenMalformed("this join token needs a newer Hearth: update, then try again")
        return cls._unpack(data)

    @classmethod
    def _unpack(cls, data: bytes) -> JoinToken:
        # The checksum holds, so a misfit from here on was made on purpose.
        if len(data) < _HEAD.size:
            raise TokenMalformed(_TYPO)
        _, inviter, mesh_tag, expires_at, secret, count = _HEAD.unpack_from(data)
        if count > TOKEN_ADDRESSES_MAX:
            raise TokenMalformed(_TYPO)
        addresses, offset = [], _HEAD.size
        try:
            for _ in range(count):
                address, offset = Multiaddr.unpack_from(data, offset)
                addresses.append(address)
        except Malformed:
            raise TokenMalformed(_TYPO) from None
        if offset != len(data):
            raise TokenMalformed(_TYPO)
        return cls(PeerId(inviter), mesh_tag, expires_at, secret, tuple(addresses))


@dataclass(frozen=True, slots=True)
class Invite:
    """An invite as the inviter keeps it. Times are Unix seconds; ``joined`` are who used it.

    ``may_invite``: whether they may invite others.
    """

    secret: bytes
    label: str
    issued_at: int
    expires_at: int
    uses: int
    joined: tuple[PeerId, ...] = ()
    may_invite: bool = True

    @property
    def id(self) -> bytes:
        return invite_id(self.secret)

    def state(self, now: float) -> str:
        """``open``, ``used up`` or ``expired``."""
        if now >= self.expires_at:
            return "expired"
        return "open" if len(self.joined) < self.uses else "used up"


class InviteLedger:
    """The invites of one node. Whoever changes it writes it to the node's home afterwards."""

    def __init__(self, inviter: PeerId, invites: tuple[Invite, ...] = ()) -> None:
        self._inviter = inviter
        self._invites = {invite.id: invite for invite in invites}

    @property
    def inviter(self) -> PeerId:
        return self._inviter

    def issue(
        self,
        now: float,
        ttl_s: float,
        uses: int,
        label: str,
        secret: bytes,
        *,
        may_invite: bool = True,
    ) -> Invite:
        """Open an invite with 16 fresh secret bytes. Raises IdentityError for a bad wish."""
        if not 0 < ttl_s <= INVITE_TTL_MAX_S:
            days = INVITE_TTL_MAX_S // 86400
            raise IdentityError(f"an invite lasts more than no time and at most {days} days")
        if not 1 <= uses <= INVITE_USES_MAX:
            raise IdentityError(f"an invite allows 1 to {INVITE_USES_MAX} uses, not {uses}")
        if len(label) > NAME_CHARS_MAX or not is_printable(label):
            raise IdentityError(
                f"an invite's label has at most {NAME_CHARS_MAX} printable characters"
            )
        if len(secret) != SECRET_BYTES:
            raise Malformed(f"an invite's secret has {SECRET_BYTES} bytes, not {len(secret)}")
        self._forget_old(now)
        if len(self._invites) >= INVITES_MAX:
            ended = [each for each in self.list() if each.state(now) != "open"]
            if not ended:
                raise IdentityError(f"{INVITES_MAX} invites are open: cancel some first")
            del self._invites[ended[0].id]
        invite = Invite(secret, label, int(now), int(now + ttl_s), uses, (), may_invite)
        self._invites[invite.id] = invite
        return invite

    def check(
        self, invite_id: bytes, proof: bytes, nonce: bytes, joiner: PeerId, now: float
    ) -> Invite:
        """The invite that lets ``joiner`` in now. Nothing changes before `use`.

        Raises InviteUnknown, BadSignature, InviteExpired, InviteUsedUp.
        """
        invite = self._invites.get(invite_id)
        if invite is None:
            raise InviteUnknown(
                "the inviting node does not know this invite (cancelled?): ask for a new one"
            )
        # First, so that nobody learns an invite's state without its secret.
        expected = invite_proof(invite.secret, nonce, joiner, self._inviter)
        if not hmac.compare_digest(proof, expected):
            raise BadSignature("the proof does not fit the invite")
        if now >= invite.expires_at:
            raise InviteExpired(_expired(invite.expires_at))
        if joiner not in invite.joined and len(invite.joined) >= invite.uses:
            raise InviteUsedUp("this invite has been used already: ask for a new one")
        return invite

    def use(self, invite: Invite, joiner: PeerId) -> None:
        """``joiner`` came in with it.

        A joiner that was let in before (its grant may have been lost) counts once.
        """
        if joiner not in invite.joined:
            self._invites[invite.id] = replace(invite, joined=(*invite.joined, joiner))

    def list(self) -> list[Invite]:
        """All invites kept, oldest first, the expired and used-up among them."""
        return sorted(self._invites.values(), key=lambda invite: (invite.issued_at, invite.id))

    def cancel(self, invite_id: bytes) -> None:
        """Forget an invite. Raises InviteUnknown."""
        if self._invites.pop(invite_id, None) is None:
            raise InviteUnknown(f"there is no invite {invite_id.hex()}")

    def to_plain(self) -> dict[str, Any]:
        """For JSON; `from_plain` reads it back."""
        return {
            "inviter": str(self._inviter),
            "invites": [
                {
                    "id": invite.id.hex(),
                    "secret": invite.secret.hex(),
                    "label": invite.label,
                    "issued_at": invite.issued_at,
                    "expires_at": invite.expires_at,
                    "uses": invite.uses,
                    "joined": [str(peer) for peer in invite.joined],
                    "may_invite": invite.may_invite,
                }
                for invite in self.list()
            ],
        }

    @classmethod
    def from_plain(cls, data: Any) -> InviteLedger:
        """Read what `to_plain` gave. Raises Malformed."""
        try:
            invites = tuple(
                Invite(
                    bytes.fromhex(entry["secret"]),
                    str(entry["label"]),
                    int(entry["issued_at"]),
                    int(entry["expires_at"]),
                    int(entry["uses"]),
                    tuple(PeerId.parse(peer) for peer in entry["joined"]),
                    bool(entry.get("may_invite", True)),
                )
                for entry in data["invites"]
            )
            times = [at for each in invites for at in (each.issued_at, each.expires_at)]
            if not all(0 <= at < 1 << 32 for at in times):
                raise Malformed("an invite is of no time at all")
            return cls(PeerId.parse(data["inviter"]), invites)
        except (ArithmeticError, KeyError, TypeError, ValueError, HearthError) as error:
            raise Malformed(f"this is no ledger of invites ({error})") from None

    def _forget_old(self, now: float) -> None:
        # An expired invite is kept for a while, so that who comes late hears why.
        for invite in self.list():
            if now >= invite.expires_at + INVITE_TTL_MAX_S:
                del self._invites[invite.id]


def _checksum(data: bytes) -> bytes:
    return blake2b(data, digest_size=_CHECKSUM_BYTES, person=b"hearth token").digest()


def _expired(expires_at: int) -> str:
    when = datetime.fromtimestamp(expires_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"this invite expired on {when}: ask for a new one"
