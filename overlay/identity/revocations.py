"""Revocations: statements that a member's certificates are void from some moment back.

A packed statement is ``signature (64 bytes) || body``; the signature is the issuer's over
``b"hearth revocation 1" || body``, and the body is the msgpack array
``[mesh_id, subject, issuer, issued_at]``, the time in Unix seconds. It voids every certificate of
the subject up to ``issued_at``, in those chains in which the issuer stands above it; the founder
stands above everybody. A chain through a void certificate is void as a whole. A newer certificate
is a membership again.

A statement travels as a *record*, the msgpack array ``[statement, issuer's chain]``. The chain
shows that the issuer was a member, so that strangers cannot fill the room that there is.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from typing import Final

import msgpack

from overlay.errors import HearthError, IdentityError, Malformed, NotAMember, Revoked
from overlay.identity.branches import Lineage, lineage_of
from overlay.identity.certificates import (
    Certificate,
    Membership,
    mesh_id,
    verify_chain,
    verify_when_issued,
)
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId
from overlay.identity.statements import check_signature, fields_of, sign, stated
from overlay.limits import (
    CERTIFICATE_CHAIN_MAX,
    CERTIFICATE_TTL_S,
    PLACES_PER_BRANCH_PLACE,
    REVOCATIONS_MAX,
    REVOCATIONS_PER_MEMBER_MAX,
)

_DOMAIN: Final = b"hearth revocation 1"
_WHAT: Final = "a revocation"
#: A statement takes 160 bytes or so, and a certificate 170.
_RECORD_BYTES_MAX: Final = 256 * (1 + CERTIFICATE_CHAIN_MAX)


@dataclass(frozen=True, slots=True)
class Revocation:
    """``issuer`` takes back what made ``subject`` a member, up to ``issued_at`` (Unix s)."""

    mesh_id: bytes
    subject: PeerId
    issuer: PeerId
    issued_at: int

    def sign(self, key: NodeKey) -> bytes:
        """The packed statement, signed by ``key``, which must be the issuer's."""
        assert key.peer_id == self.issuer, "only the issuer signs"
        return sign(key, _DOMAIN, astuple(self))

    @classmethod
    def open(cls, packed: bytes) -> Revocation:
        """Read a packed statement and check the signature, nothing more.

        Raises Malformed, BadSignature.
        """
        mesh, subject, issuer, issued_at = stated(packed, (bytes, bytes, bytes, int), _WHAT)
        if not 0 <= issued_at < 1 << 32:
            raise Malformed("a revocation is of no time at all")
        revocation = cls(mesh, PeerId(subject), PeerId(issuer), issued_at)
        check_signature(packed, _DOMAIN, revocation.issuer)
        return revocation

    def __str__(self) -> str:
        return self.told(str)

    def told(self, named: Callable[[PeerId], str]) -> str:
        """What happened, without a full stop; ``named`` says what people call a peer."""
        when = datetime.fromtimestamp(self.issued_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        subject, issuer = named(self.subject), named(self.issuer)
        return f"the membership of {subject} was revoked by {issuer} on {when}"


@dataclass(frozen=True, slots=True)
class _Kept:
    revocation: Revocation
    record: bytes
    #: Of the issuer.
    lineage: Lineage

    @property
    def rank(self) -> tuple[int, int, bytes]:
        """The lower, the rather it is kept: the founder's, then those of members near to it."""
        return (len(self.lineage), -self.revocation.issued_at, self.record)


class Revocations:
    """What is known of revocations in one mesh.

    A set that only grows, until there is no room: it depends on what was added, but not on the
    order. Whoever changes it writes it to the node's home afterwards.
    """

    def __init__(self, founder: PeerId, records: Iterable[bytes] = ()) -> None:
        """Raises what `add` raises."""
        self.founder = founder
        self._mesh_id = mesh_id(founder)
        self._kept: dict[bytes, _Kept] = {}
        self._by_subject: dict[PeerId, list[_Kept]] = {}
        for record in records:
            self.add(record)

    def __iter__(self) -> Iterator[Revocation]:
        return iter([kept.revocation for kept in self._kept.values()])

    def __contains__(self, record: object) -> bool:
        return record in self._kept

    def records(self) -> list[bytes]:
        """All that are kept, as they travel."""
        return list(self._kept)

    def add(self, record: bytes) -> Revocation | None:
        """Take in a record, from whomever; None if that changes nothing.

        Raises Malformed, BadSignature, NotAMember for one that no member of this mesh made.
        """
        if record in self._kept:
            return None
        added = self._open(record)
        self._kept = _select([*self._kept.values(), added])
        self._by_subject = {}
        for kept in self._kept.values():
            self._by_subject.setdefault(kept.revocation.subject, []).append(kept)
        return added.revocation if record in self._kept else None

    def find(self, chain: Sequence[bytes]) -> tuple[Revocation, bytes] | None:
        """What voids a chain (own certificate first), and its record.

        The chain's signatures are not checked. Raises Malformed for an unreadable one.
        """
        if not self._kept:
            return None
        certificates = [Certificate.read(packed) for packed in chain]
        for depth, certificate in enumerate(certificates):
            above = {self.founder, *(upper.issuer for upper in certificates[depth:])}
            latest = self._latest(certificate.subject, above)
            if latest is not None and latest.revocation.issued_at >= certificate.issued_at:
                return latest.revocation, latest.record
        return None

    def check(self, chain: Sequence[bytes]) -> None:
        """Raise Revoked, with the evidence, for a chain that is void. Raises Malformed."""
        if found := self.find(chain):
            revocation, record = found
            raise Revoked(f"{revocation}: ask for a new invite", record)

    def check_invited(self, membership: Membership, joiner: PeerId, invited_at: int) -> int:
        """When the certificate that a member issues to ``joiner`` may begin, at the earliest.

        Raises Revoked if the invite is older than the joiner's revocation: who was thrown out
        must not walk in again with a token that it still has.
        """
        above = {self.founder}
        for packed in membership.certificates:
            certificate = Certificate.read(packed)
            above |= {certificate.subject, certificate.issuer}
        latest = self._latest(joiner, above)
        if latest is None:
            return 0
        if invited_at < latest.revocation.issued_at:
            raise Revoked(
                f"{latest.revocation}, and this invite is older: ask for a new one", latest.record
            )
        return latest.revocation.issued_at + 1

    def _latest(self, subject: PeerId, issuers: Collection[PeerId]) -> _Kept | None:
        about = self._by_subject.get(subject, ())
        found = [kept for kept in about if kept.revocation.issuer in issuers]
        return max(found, key=lambda kept: kept.revocation.issued_at, default=None)

    def _open(self, record: bytes) -> _Kept:
        if len(record) > _RECORD_BYTES_MAX:
            raise Malformed("a revocation is too long")
        statement, chain = fields_of(record, (bytes, list), _WHAT)
        if any(type(certificate) is not bytes for certificate in chain):
            raise Malformed("a revocation has other fields than it should")
        revocation = Revocation.open(statement)
        if revocation.mesh_id != self._mesh_id:
            raise NotAMember("a revocation is of another mesh")
        if revocation.subject in (self.founder, revocation.issuer):
            raise NotAMember("nobody revokes the founder, or itself")
        shown = verify_chain(self.founder, revocation.issuer, tuple(chain), revocation.issued_at)
        return _Kept(revocation, record, lineage_of(shown))


def branch_of(record: bytes) -> PeerId | None:
    """In whose branch the issuer says that it is: of the members that the founder itself let in.

    None: in no other's than the founder's, or the record cannot be read.
    """
    try:
        _, chain = fields_of(record, (bytes, list), _WHAT)
        return Certificate.read(chain[-1]).subject if chain else None
    except HearthError:
        return None


def revoke(
    key: NodeKey,
    membership: Membership,
    revocations: Revocations,
    subject: PeerId,
    now: float,
    *,
    chain: Sequence[bytes] = (),
    invited: bool = False,
) -> tuple[Revocation, bytes]:
    """By this ``key``, a member, revokes ``subject``; the record is to be added to ``revocations``.

    ``chain`` is the subject's, as far as it is known, and counts if it is one; ``invited``: ``key``
    itself let it in. Raises IdentityError when it may not, or there is no room.
    """
    if subject == key.peer_id:
        raise IdentityError("a node does not revoke itself: `hearth leave` ends its membership")
    if subject == membership.founder:
        raise IdentityError("the founder cannot be revoked: the mesh is its own")
    certificates: tuple[Certificate, ...] = ()
    with contextlib.suppress(HearthError):  # Members publish what they like of themselves.
        certificates = verify_when_issued(membership.founder, subject, tuple(chain))
    above = {membership.founder, *(certificate.issuer for certificate in certificates)}
    if key.peer_id not in above and not invited:
        raise IdentityError(
            f"{subject} did not join through this node: whoever invited it may revoke it, or "
            f"the founder, {membership.founder}"
        )
    # Its certificate may be of a clock that is ahead of ours.
    issued_at = max([int(now), *(certificate.issued_at for certificate in certificates[:1])])
    revocation = Revocation(membership.mesh_id, subject, key.peer_id, issued_at)
    record: bytes = msgpack.packb([revocation.sign(key), list(membership.certificates)])
    before = {each for each in revocations if each.issued_at + CERTIFICATE_TTL_S > now}
    after = Revocations(revocations.founder, revocations.records())
    if after.add(record) is None or not before <= set(after):
        raise IdentityError(
            f"a member may revoke {REVOCATIONS_PER_MEMBER_MAX} others within a year, and a mesh "
            f"{REVOCATIONS_MAX}: let the founder do it, or found a new mesh"
        )
    return revocation, record


def _select(all_kept: Iterable[_Kept]) -> dict[bytes, _Kept]:
    """Those that there is room for.

    What is left out would be left out of any larger set too, as there are better ones of the same
    issuer, or of the same branch, or better ones in all. So the order in which records come does
    not matter.
    """
    selected: dict[bytes, _Kept] = {}
    by_issuer: Counter[Lineage] = Counter()
    by_branch: Counter[Lineage] = Counter()
    for kept in sorted(all_kept, key=lambda kept: kept.rank):
        lineage = kept.lineage
        branches = [lineage[: depth + 1] for depth in range(len(lineage))]
        full = lineage and by_issuer[lineage] >= REVOCATIONS_PER_MEMBER_MAX
        crowded = any(by_branch[branch] >= _room(len(branch)) for branch in branches)
        if not full and not crowded and len(selected) < REVOCATIONS_MAX:
            selected[kept.record] = kept
            by_issuer[lineage] += 1
            by_branch.update(branches)
    return selected


def _room(depth: int) -> int:
    """For all that are made by a member so many steps from the founder, and those below it.

    It may let in any number that it made up, and theirs must not take the place of others'.
    """
    share: int = REVOCATIONS_MAX // PLACES_PER_BRANCH_PLACE**depth
    return max(REVOCATIONS_PER_MEMBER_MAX, share)
