"""What a home belongs to: its membership, the invites that it hands out, whom it revokes.

Everything is kept in the home's files before a method returns. The commands use this without a
node, and the running node does. The caller holds the home's lock.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from overlay.errors import ConfigError, HearthError, IdentityError, InvalidRequest, InviteUnknown
from overlay.home.home import Home
from overlay.identity.certificates import (
    MESH_SECRET_BYTES,
    Membership,
    check_may_invite,
    format_mesh_id,
    found_mesh,
    verify_chain,
)
from overlay.identity.invites import SECRET_BYTES, Invite, InviteLedger, JoinToken
from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocation, Revocations, revoke
from overlay.limits import RENEWAL_S


class Standing:
    """A home that belongs to no mesh founds one of its own."""

    def __init__(self, home: Home, key: NodeKey) -> None:
        self._home = home
        self._key = key
        membership = home.membership()
        if membership is None:
            home.forget_others()
            membership = found_mesh(key, secrets.token_bytes(MESH_SECRET_BYTES))
            home.save_membership(membership)
        self.membership: Membership = membership
        self.ledger: InviteLedger = home.ledger(key.peer_id)
        self.revocations: Revocations = home.revocations(membership.founder)

    @classmethod
    def existing(cls, home: Home) -> Standing:
        """That of a home which belongs to a mesh already. Raises IdentityError."""
        if home.membership() is None:
            raise IdentityError(f"the home {home.path} belongs to no mesh")
        return cls(home, home.load_or_create_key())

    # --- Invites ------------------------------------------------------------------------------

    def invite(
        self, ttl_s: int, uses: int, label: str, addresses: Sequence[Multiaddr], *, may_invite: bool
    ) -> dict[str, Any]:
        """``{"token", "expires" (RFC 3339), "uses", "id", "label", "may_invite"}``."""
        now = time.time()
        check_may_invite(self.membership, self._key.peer_id, now)
        self.revocations.check(self.membership.certificates)
        secret = secrets.token_bytes(SECRET_BYTES)
        invite = self.ledger.issue(now, ttl_s, uses, label, secret, may_invite=may_invite)
        try:
            self.save_ledger()
        except ConfigError:
            self.ledger.cancel(invite.id)  # Nobody will ever hold its token.
            raise
        token = JoinToken.of(
            invite, self._key.peer_id, self.membership.mesh_id, tuple(addresses)
        ).encode()
        return {
            "token": token,
            "expires": moment_told(invite.expires_at),
            "uses": uses,
            "id": invite.id.hex(),
            "label": label,
            "may_invite": may_invite,
        }

    def invites(self, names: Mapping[PeerId, str]) -> list[dict[str, Any]]:
        """Every invite that is kept, the latest first, without its secret.

        ``names``: of the members that are known.
        """
        now = time.time()
        return [_told(invite, names, now) for invite in reversed(self.ledger.list())]

    def cancel(self, beginning: str | None) -> list[str]:
        """Cancel the invite whose id begins so, or all that are open; returns their ids.

        Raises InviteUnknown, or InvalidRequest if there are several.
        """
        kept, now = self.ledger.list(), time.time()
        if beginning is None:
            found = [invite for invite in kept if invite.state(now) == "open"]
        else:
            found = [invite for invite in kept if invite.id.hex().startswith(beginning)]
            if not found:
                raise InviteUnknown(f"there is no invite {beginning}: see hearth invite --list")
            if len(found) > 1:
                raise InvalidRequest(f"several invites begin with {beginning}: give more", "id")
        for invite in found:
            self.ledger.cancel(invite.id)
        self.save_ledger()
        return [invite.id.hex() for invite in found]

    def save_ledger(self) -> None:
        self._home.save_ledger(self.ledger)

    # --- Revocations --------------------------------------------------------------------------

    def revocation(self, subject: PeerId, chain: Sequence[bytes] = ()) -> tuple[Revocation, bytes]:
        """By this, this node revokes ``subject``; the record is to be added to ``revocations``.

        ``chain`` is the subject's, as far as it is known. Raises IdentityError.
        """
        self.revocations.check(self.membership.certificates)
        invited = any(subject in invite.joined for invite in self.ledger.list())
        return revoke(
            self._key,
            self.membership,
            self.revocations,
            subject,
            time.time(),
            chain=chain,
            invited=invited,
        )

    def revoke(self, subject: PeerId) -> dict[str, Any]:
        """Revoke ``subject`` while no node runs, which tells the others once it does.

        ``{"peer_id", "by": PeerId, "at" (RFC 3339)}``. Raises IdentityError.
        """
        revocation, record = self.revocation(subject)
        self.revocations.add(record)
        self.save_revocations()
        peers = self._home.peers()
        peers.pop(subject, None)
        self._home.save_peers(peers)
        return revocation_told(revocation)

    def save_revocations(self) -> None:
        self._home.save_revocations(self._key.peer_id, self.revocations)

    # --- Coming and going ---------------------------------------------------------------------

    def check(self) -> None:
        """Raise unless this node is a member: NotAMember, Revoked."""
        chain = self.membership.certificates
        verify_chain(self.membership.founder, self._key.peer_id, chain, time.time())
        self.revocations.check(chain)

    def holds(self) -> bool:
        """Whether this node is a member still: not expired, not revoked."""
        try:
            self.check()
        except HearthError:
            return False
        return True

    def may_renew(self) -> bool:
        """Whether the membership ends so soon that it is time to join anew."""
        expires_at = self.membership.expires_at
        return expires_at is not None and time.time() >= expires_at - RENEWAL_S

    def has_members(self) -> bool:
        """Whether others belong to this mesh, or may: known ones, or such as were let in here."""
        let_in = {peer for invite in self.ledger.list() for peer in invite.joined}
        return bool(self._home.peers() or let_in - {each.subject for each in self.revocations})

    def leave(self) -> dict[str, Any]:
        """Forget the mesh, but not the key; ``{"mesh_id"}``. Raises IdentityError for the founder.

        The next `Standing` of this home founds a mesh of its own.
        """
        if self.membership.founder == self._key.peer_id:
            raise IdentityError(
                "this node founded its mesh, which is bound to its key: for another mesh, take "
                "another home (--home DIR)"
            )
        self._home.forget_mesh()
        return {"mesh_id": format_mesh_id(self.membership.mesh_id)}


def ending_told(membership: Membership) -> str | None:
    """When a membership ends (RFC 3339); None: the founder's does not."""
    return None if membership.expires_at is None else moment_told(membership.expires_at)


def revocation_told(revocation: Revocation) -> dict[str, Any]:
    """For JSON: ``{"peer_id", "by": PeerId, "at" (RFC 3339)}``."""
    return {
        "peer_id": str(revocation.subject),
        "by": str(revocation.issuer),
        "at": moment_told(revocation.issued_at),
    }


def _told(invite: Invite, names: Mapping[PeerId, str], now: float) -> dict[str, Any]:
    return {
        "id": invite.id.hex(),
        "label": invite.label,
        "state": invite.state(now),
        "issued": moment_told(invite.issued_at),
        "expires": moment_told(invite.expires_at),
        "uses": invite.uses,
        "joined": [{"peer_id": str(peer), "name": names.get(peer, "")} for peer in invite.joined],
        "may_invite": invite.may_invite,
    }


def moment_told(unix_s: float) -> str:
    """For JSON: RFC 3339, to the second."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
