"""Membership: who belongs to a mesh, proven by a chain of signatures up to its founder.

A mesh is the set of members that share one founder key. A certificate says "the issuer lets the
subject into the mesh until then"; a chain runs from a member's own certificate to one that the
founder signed. The founder needs none.

A packed certificate is ``signature (64 bytes) || body``; the signature is the issuer's over
``b"hearth certificate 1" || body``, and the body is the msgpack array
``[mesh_id, subject, issuer, issued_at, expires_at, may_invite]``, times in Unix seconds.

No certificate is older than its issuer's own. So whoever had to come back with a newer one (see
`overlay.identity.revocations`) does not bring back those whom it let in before.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from hashlib import blake2b

import base58

from overlay.errors import AlreadyMember, IdentityError, Malformed, NotAMember
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId
from overlay.identity.statements import check_signature, sign, stated
from overlay.limits import CERTIFICATE_CHAIN_MAX, CERTIFICATE_TTL_S, CLOCK_SKEW_S

MESH_ID_BYTES = 16
MESH_SECRET_BYTES = 32

_DOMAIN = b"hearth certificate 1"
#: The fields take about 105 bytes; more is no certificate.
_PACKED_BYTES_MAX = 256


def mesh_id(founder: PeerId) -> bytes:
    """The 16 bytes that name the mesh of ``founder``."""
    return blake2b(bytes(founder), digest_size=MESH_ID_BYTES, person=b"hearth mesh id").digest()


def format_mesh_id(mesh: bytes) -> str:
    """A mesh id as people and JSON see it: base58."""
    return base58.b58encode(mesh).decode("ascii")


@dataclass(frozen=True, slots=True)
class Certificate:
    """``issuer`` lets ``subject`` into the mesh, from ``issued_at`` to ``expires_at`` (Unix s)."""

    mesh_id: bytes
    subject: PeerId
    issuer: PeerId
    issued_at: int
    expires_at: int
    may_invite: bool

    def sign(self, key: NodeKey) -> bytes:
        """The packed form, signed by ``key``, which must be the issuer's."""
        assert key.peer_id == self.issuer, "only the issuer signs"
        return sign(key, _DOMAIN, astuple(self))

    @classmethod
    def open(cls, packed: bytes) -> Certificate:
        """Read a packed certificate and check the issuer's signature, nothing more.

        Raises Malformed, BadSignature.
        """
        certificate = cls.read(packed)
        check_signature(packed, _DOMAIN, certificate.issuer)
        return certificate

    @classmethod
    def read(cls, packed: bytes) -> Certificate:
        """What a packed certificate says, whoever signed it. Raises Malformed."""
        if len(packed) > _PACKED_BYTES_MAX:
            raise Malformed("a certificate is too long")
        kinds = (bytes, bytes, bytes, int, int, bool)
        mesh, subject, issuer, issued_at, expires_at, may_invite = stated(
            packed, kinds, "a certificate"
        )
        if not all(0 <= at < 1 << 32 for at in (issued_at, expires_at)):
            raise Malformed("a certificate is of no time at all")
        return cls(mesh, PeerId(subject), PeerId(issuer), issued_at, expires_at, may_invite)


@dataclass(frozen=True, slots=True)
class Membership:
    """What makes a node a member. ``certificates`` is its chain, own first; the founder has none.

    ``mesh_secret`` keys the block hashes, so that outsiders learn nothing from them.
    """

    founder: PeerId
    mesh_secret: bytes
    certificates: tuple[bytes, ...]

    @property
    def mesh_id(self) -> bytes:
        return mesh_id(self.founder)

    @property
    def expires_at(self) -> int | None:
        """When it ends (Unix s): with the first certificate of its chain. The founder's does not.

        Raises Malformed.
        """
        return min((Certificate.read(each).expires_at for each in self.certificates), default=None)


def found_mesh(key: NodeKey, entropy: bytes) -> Membership:
    """The founder's membership of a new mesh; ``entropy``, 32 fresh bytes, becomes its secret."""
    if len(entropy) != MESH_SECRET_BYTES:
        raise Malformed(f"a mesh secret has {MESH_SECRET_BYTES} bytes, not {len(entropy)}")
    return Membership(key.peer_id, entropy, ())


def check_may_invite(membership: Membership, me: PeerId, now: float) -> Certificate | None:
    """Raise IdentityError, with the reason, unless ``me`` may issue certificates now.

    Returns its own certificate; the founder has none.
    """
    chain = verify_chain(membership.founder, me, membership.certificates, now)
    if len(chain) >= CERTIFICATE_CHAIN_MAX:
        raise IdentityError(
            f"this node is {CERTIFICATE_CHAIN_MAX} invitations away from the mesh's founder, the "
            "most there may be: let a member nearer to the founder invite"
        )
    own = chain[0] if chain else None
    if own is not None and not own.may_invite:
        raise IdentityError("this node's membership does not allow it to invite others")
    return own


def issue(
    key: NodeKey,
    membership: Membership,
    subject: PeerId,
    now: float,
    ttl_s: float = CERTIFICATE_TTL_S,
    *,
    may_invite: bool = True,
    not_before: int = 0,
) -> tuple[bytes, ...]:
    """The chain that makes ``subject`` a member: its new certificate, then the issuer's own chain.

    It begins no earlier than ``not_before`` (Unix s) and the issuer's own certificate, and ends no
    later than that. Raises IdentityError when ``key`` may not issue, AlreadyMember when ``subject``
    is the issuer or the founder.
    """
    own = check_may_invite(membership, key.peer_id, now)
    if subject in (key.peer_id, membership.founder):
        raise AlreadyMember(f"{subject} needs no certificate: it issues them")
    issued_at, expires_at = max(int(now), not_before), int(now + ttl_s)
    if own is not None:
        issued_at, expires_at = max(issued_at, own.issued_at), min(expires_at, own.expires_at)
    certificate = Certificate(
        membership.mesh_id, subject, key.peer_id, issued_at, expires_at, may_invite
    )
    return (certificate.sign(key), *membership.certificates)


def verify_chain(
    founder: PeerId, subject: PeerId, chain: tuple[bytes, ...], now: float
) -> tuple[Certificate, ...]:
    """What ``chain`` says, if it makes ``subject`` a member of ``founder``'s mesh at ``now`` (Unix
    s), own certificate first; the founder shows none.

    Raises NotAMember with the reason, BadSignature for a forged link, Malformed for unreadable
    bytes.
    """
    if subject == founder:
        if chain:
            raise NotAMember("the founder of a mesh shows no certificates")
        return ()
    if not chain:
        raise NotAMember(f"{subject} shows no certificate")
    if len(chain) > CERTIFICATE_CHAIN_MAX:
        raise NotAMember(f"a chain of {len(chain)} certificates is too long")
    expected, mesh = subject, mesh_id(founder)
    verified: list[Certificate] = []
    for packed in chain:
        if expected == founder:
            raise NotAMember("the chain goes on behind the founder")
        certificate = Certificate.open(packed)
        if certificate.mesh_id != mesh:
            raise NotAMember("a certificate is of another mesh")
        if certificate.subject != expected:
            raise NotAMember(f"a certificate is of another node than {expected}")
        if verified and not certificate.may_invite:
            raise NotAMember(f"{expected} was not allowed to invite others")
        if certificate.issued_at > now + CLOCK_SKEW_S:
            raise NotAMember(f"the certificate of {expected} is from the future: check both clocks")
        if now >= certificate.expires_at:
            raise NotAMember(f"the certificate of {expected} has expired")
        if verified and verified[-1].issued_at < certificate.issued_at:
            younger = verified[-1].subject
            raise NotAMember(f"the certificate of {younger} is older than its issuer's own")
        expected = certificate.issuer
        verified.append(certificate)
    if expected != founder:
        raise NotAMember("the chain does not lead to this mesh's founder")
    return tuple(verified)


def verify_when_issued(
    founder: PeerId, subject: PeerId, chain: tuple[bytes, ...]
) -> tuple[Certificate, ...]:
    """As `verify_chain`, at the time when ``subject`` got its certificate: it may be over by now,
    or a clock may be wrong."""
    then = Certificate.read(chain[0]).issued_at if chain else 0
    return verify_chain(founder, subject, chain, then)
