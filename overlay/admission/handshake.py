"""From a CURVE link to a member: hello in both directions, or a join.

One machine per link and end; it does no I/O. The driver sends what it says, closes the link when
it says so, and calls `tick` at ``deadline``::

    member                    member          joiner                    inviter
      | Hello (certificates) ->  |              | Hello (no certificates) -> |
      | <- Hello (certificates)  |              | <- Hello (bare: nonce)     |
      Admitted            Admitted              | JoinRequest (proof) ->     |
                                                | <- JoinGrant               |
                                              Joined                  Finished

The joiner then dials again, as a member. CURVE has authenticated the remote key before the first
message; a Hello must name the PeerId that has this key. A peer without a certificate learns
nothing of the mesh: a bare Hello shows only the PeerId, which a dialer knew anyway, and a nonce.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from overlay.admission.refusals import Shown, refusal, refused_with, shown
from overlay.errors import (
    BadSignature,
    HearthError,
    IdentityError,
    LimitExceeded,
    LocalProtocolError,
    Malformed,
    MeshMismatch,
    NotAMember,
    TimedOut,
    UnsupportedVersion,
)
from overlay.identity.certificates import (
    MESH_SECRET_BYTES,
    Certificate,
    Membership,
    issue,
    verify_chain,
)
from overlay.identity.invites import NONCE_BYTES, InviteLedger, JoinToken
from overlay.identity.keys import NodeKey, curve_public
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations
from overlay.limits import (
    ADDRESS_CHARS_MAX,
    ADDRESSES_MAX,
    HANDSHAKE_S,
    NAME_CHARS_MAX,
)
from overlay.printable import is_printable
from overlay.wire.messages import (
    PROTOCOL_VERSION,
    VERSIONS,
    Hello,
    JoinGrant,
    JoinRequest,
    Message,
    Refusal,
)


class Role(Enum):
    """Which end of the link this is."""

    DIALER = "dialer"
    LISTENER = "listener"


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What this node says of itself. ``membership`` None: it belongs to no mesh yet."""

    key: NodeKey
    membership: Membership | None
    name: str
    addresses: tuple[str, ...]


# --- Effects ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this on the link."""

    message: Message


@dataclass(frozen=True, slots=True)
class LedgerChanged:
    """Write the ledger to disk before anything that follows, or a crash gives a use away."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The peer is a verified member: the link may carry everything. The handshake is over.

    ``chain``: what the certificates of ``hello`` say.
    """

    hello: Hello
    chain: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """The token was exchanged for ``membership``: close the link, dial again as a member.

    ``inviter`` is the inviter's Hello, completed with its name and certificates.
    """

    membership: Membership
    inviter: Hello


@dataclass(frozen=True, slots=True)
class Finished:
    """``joiner`` has its grant; once that is sent the link has done its work."""

    joiner: PeerId


@dataclass(frozen=True, slots=True)
class Rejected:
    """Close the link (after sending what came before). ``error`` says why, in a sentence."""

    error: HearthError


Effect = Reply | LedgerChanged | Admitted | Joined | Finished | Shown | Rejected


# --- The machine ------------------------------------------------------------------------------


class _State(Enum):
    HELLO = "waits for a Hello"
    REQUEST = "has answered a joiner, waits for its JoinRequest"
    GRANT = "has asked to join, waits for the JoinGrant"
    OVER = "has admitted, joined, granted or rejected"


class Handshake:
    """One end of a link before admission.

    ``remote_curve``: the peer's CURVE public key, authenticated. ``token``: a dialer's, to join
    with. ``nonce``: 16 fresh random bytes. ``observed``: where a listener sees the dialer, a
    multiaddr. ``now``: monotonic seconds, of the deadline only; certificates and invites are judged
    by ``now_s``, Unix time, which may be set anew. Errors of the peer become Rejected effects; none
    is raised.
    """

    def __init__(
        self,
        *,
        role: Role,
        me: LocalNode,
        remote_curve: bytes,
        token: JoinToken | None,
        ledger: InviteLedger,
        revocations: Revocations,
        nonce: bytes,
        now: float,
        observed: str = "",
    ) -> None:
        if len(nonce) != NONCE_BYTES:
            raise LocalProtocolError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        if role is Role.DIALER and token is None and me.membership is None:
            raise LocalProtocolError("a dialer needs a membership or a token")
        self.deadline = now + HANDSHAKE_S
        self.role = role
        self._me = me
        self._remote_curve = remote_curve
        self._token = token
        self._ledger = ledger
        self._revocations = revocations
        self._nonce = nonce
        self._observed = observed
        self._state = _State.HELLO
        self._peer: Hello | None = None
        #: Whose key the peer has, by its Hello and CURVE.
        self.claimant: PeerId | None = None

    @property
    def over(self) -> bool:
        return self._state is _State.OVER

    def open(self) -> list[Effect]:
        """Call once, first. The dialer speaks first."""
        if self.role is Role.LISTENER:
            return []
        return [Reply(self._bare_hello() if self._token else self._hello())]

    def receive(self, message: Message, now_s: float) -> list[Effect]:
        """Take a message from the peer; it has STRANGER_MESSAGE_BYTES_MAX bytes at most.

        What arrives when the handshake is over was under way before; it has no effect.
        """
        if self.over:
            return []
        if isinstance(message, Refusal):
            return [*shown(message), *self._end(Rejected(refused_with(message)))]
        try:
            step = _STEPS.get((self.role, self._state, type(message)))
            if step is None:
                raise NotAMember(f"a {type(message).__name__} is not due before admission")
            return step(self, message, now_s)
        except LocalProtocolError:
            raise
        except HearthError as error:
            return self._refuse(error)

    def tick(self, now: float) -> list[Effect]:
        """Call at ``deadline``, and before `receive`: who is not done by then is refused."""
        if self.over or now < self.deadline:
            return []
        return self._refuse(TimedOut(f"the handshake took more than {HANDSHAKE_S:g} s"))

    # --- Steps --------------------------------------------------------------------------------

    def _dialer_takes_hello(self, hello: Hello, now_s: float) -> list[Effect]:
        self._check_hello(hello)
        if self._token is None:
            return self._end(self._admitted(hello, now_s))
        if hello.peer_id != self._token.inviter:
            raise NotAMember("the node at the token's address is not the one that the token names")
        self._peer, self._state = hello, _State.GRANT
        proof = self._token.prove(hello.nonce, self._me.key.peer_id)
        return [Reply(JoinRequest(self._token.invite_id, proof, self._me.name))]

    def _listener_takes_hello(self, hello: Hello, now_s: float) -> list[Effect]:
        self._check_hello(hello)
        if hello.mesh_id or hello.certificates:
            admitted = self._admitted(hello, now_s)
            return [Reply(self._hello()), *self._end(admitted)]
        self._peer, self._state = hello, _State.REQUEST
        return [Reply(self._bare_hello())]

    def _listener_takes_request(self, request: JoinRequest, now_s: float) -> list[Effect]:
        assert self._peer is not None
        _check_name(request.name)
        joiner, membership = self._peer.peer_id, self._membership()
        invite = self._ledger.check(request.invite_id, request.proof, self._nonce, joiner, now_s)
        self._revocations.check(membership.certificates)
        begins = self._revocations.check_invited(membership, joiner, invite.issued_at)
        # Signed before the invite is used, so that what cannot be granted uses none up.
        chain = issue(
            self._me.key,
            membership,
            joiner,
            now_s,
            may_invite=invite.may_invite,
            not_before=begins,
        )
        self._ledger.use(invite, joiner)
        grant = JoinGrant(membership.founder, chain, membership.mesh_secret, self._me.name)
        # Also if the joiner used it before: it may not have been possible to write that.
        return [LedgerChanged(), Reply(grant), *self._end(Finished(joiner))]

    def _dialer_takes_grant(self, grant: JoinGrant, now_s: float) -> list[Effect]:
        assert self._peer is not None
        assert self._token is not None
        membership = Membership(grant.founder, grant.mesh_secret, grant.certificates)
        if not self._token.is_for(membership.mesh_id):
            raise MeshMismatch("the inviter answered for another mesh than the token names")
        if len(grant.mesh_secret) != MESH_SECRET_BYTES:
            raise Malformed("the grant's mesh secret has a wrong length")
        _check_name(grant.name)
        own, inviters = grant.certificates, grant.certificates[1:]
        verify_chain(grant.founder, self._me.key.peer_id, own, now_s)
        verify_chain(grant.founder, self._peer.peer_id, inviters, now_s)
        inviter = replace(
            self._peer, mesh_id=membership.mesh_id, name=grant.name, certificates=inviters
        )
        return self._end(Joined(membership, inviter))

    # --- Checks -------------------------------------------------------------------------------

    def _check_hello(self, hello: Hello) -> None:
        if PROTOCOL_VERSION not in hello.versions:
            raise UnsupportedVersion(
                f"no protocol version in common (this node speaks {PROTOCOL_VERSION}): "
                "update the older Hearth"
            )
        if curve_public(hello.peer_id) != self._remote_curve:
            raise BadSignature("the hello names another node than the link's key belongs to")
        self.claimant = hello.peer_id
        if hello.peer_id == self._me.key.peer_id:
            raise IdentityError(
                "that node has this node's own key: it dialled itself, or its home was copied"
            )
        _check_name(hello.name)
        if len(hello.nonce) != NONCE_BYTES:
            raise Malformed("a hello's nonce has a wrong length")
        if len(hello.addresses) > ADDRESSES_MAX:
            raise LimitExceeded(f"a hello gives at most {ADDRESSES_MAX} addresses")
        for address in (*hello.addresses, hello.observed):
            if len(address) > ADDRESS_CHARS_MAX or not is_printable(address):
                raise Malformed("a hello gives an address that is none")

    def _admitted(self, hello: Hello, now_s: float) -> Admitted:
        membership = self._membership()
        if hello.mesh_id != membership.mesh_id:
            raise MeshMismatch("the two nodes belong to different meshes")
        chain = verify_chain(membership.founder, hello.peer_id, hello.certificates, now_s)
        self._revocations.check(hello.certificates)
        return Admitted(hello, chain)

    def _membership(self) -> Membership:
        if self._me.membership is None:
            raise NotAMember("this node belongs to no mesh yet")
        return self._me.membership

    # --- Endings ------------------------------------------------------------------------------

    def _hello(self) -> Hello:
        membership = self._membership()
        return replace(
            self._bare_hello(),
            mesh_id=membership.mesh_id,
            name=self._me.name,
            certificates=membership.certificates,
            addresses=self._me.addresses,
            observed=self._observed,
        )

    def _bare_hello(self) -> Hello:
        return Hello(
            versions=VERSIONS,
            peer_id=self._me.key.peer_id,
            mesh_id=b"",
            name="",
            certificates=(),
            addresses=(),
            nonce=self._nonce,
        )

    def _refuse(self, error: HearthError) -> list[Effect]:
        return [Reply(refusal(error)), *self._end(Rejected(error))]

    def _end(self, effect: Effect) -> list[Effect]:
        self._state = _State.OVER
        return [effect]


#: Every message that is due before admission, and who takes it; anything else is refused.
_STEPS: Final[
    dict[tuple[Role, _State, type[Any]], Callable[[Handshake, Any, float], list[Effect]]]
] = {
    (Role.DIALER, _State.HELLO, Hello): Handshake._dialer_takes_hello,
    (Role.DIALER, _State.GRANT, JoinGrant): Handshake._dialer_takes_grant,
    (Role.LISTENER, _State.HELLO, Hello): Handshake._listener_takes_hello,
    (Role.LISTENER, _State.REQUEST, JoinRequest): Handshake._listener_takes_request,
}


def _check_name(name: str) -> None:
    # Names reach terminals: a control character could rewrite what a user sees.
    if len(name) > NAME_CHARS_MAX or not is_printable(name):
        raise Malformed(f"a node's name is at most {NAME_CHARS_MAX} printable characters")
