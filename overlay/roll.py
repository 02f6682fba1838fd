"""The roll of a mesh: which origins of gossip are members, by chains and revocations.

Every member publishes its own chain. Everybody also publishes, among its own records, every
revocation that it knows, so that these outlive whoever made them; and believes none but by its
signatures. What is published about an origin whose chain is void is forgotten. An origin without a
chain from the founder may be made up by whoever told of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from overlay.bucket import Bucket
from overlay.errors import HearthError, Malformed
from overlay.gossip.gossip import Gossip
from overlay.gossip.records import CHAIN, is_revocation, pack_chain, revocation_key, unpack_chain
from overlay.identity.branches import Branches, Full, Lineage, Turns, lineage_of
from overlay.identity.certificates import Certificate, verify_when_issued
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocation, Revocations, branch_of
from overlay.limits import (
    CHAIN_CHECKS_PER_ROUND,
    MEMBERS_MAX,
    REVOCATION_CHECKS_PER_ROUND,
    REVOCATIONS_PER_BRANCH_BURST,
    REVOCATIONS_PER_BRANCH_PER_S,
)
from overlay.recent import Recent

#: Records that need not be looked at twice.
_SEEN_MAX: Final = 4096


class Roll:
    """``certificates`` is this node's own chain; ``revocations`` grow in here."""

    def __init__(
        self,
        gossip: Gossip,
        certificates: tuple[bytes, ...],
        revocations: Revocations,
        now: float,
    ) -> None:
        self._gossip = gossip
        self._revocations = revocations
        self._checks_left = REVOCATION_CHECKS_PER_ROUND
        #: There were more to look at in this round.
        self._overdue = False
        #: By key, what was looked at lately; what was of use is among the revocations.
        self._seen: Recent[bytes, None] = Recent(_SEEN_MAX)
        #: How much more news may come from the branch of each whom the founder let in, and from
        #: whose branch some came.
        self._news: dict[PeerId, Bucket] = {}
        #: The chains that make their origins members, as they were verified.
        self._verified: dict[PeerId, bytes] = {}
        self._branches = Branches(MEMBERS_MAX)
        self._branches.seat(revocations.founder, ())
        #: When the revocations were heard out that each member publishes.
        self._turns = Turns()
        self._chain_checks_left = CHAIN_CHECKS_PER_ROUND
        #: Origins whose chains must wait for the next round.
        self._unverified: set[PeerId] = set()
        gossip.prove(revocations.founder)
        if certificates:
            gossip.set(CHAIN, pack_chain(certificates), now)
        for record in revocations.records():
            gossip.set(revocation_key(record), record, now)

    def add(self, record: bytes, now: float) -> Revocation | None:
        """Take in a revocation from whomever and publish it; None if it is no news.

        Raises what `Revocations.add` raises.
        """
        before = self._revocations.records()
        revocation = self._revocations.add(record)
        if revocation is not None:
            self._gossip.set(revocation_key(record), record, now)
            for given_up in set(before) - set(self._revocations.records()):
                self._gossip.delete(revocation_key(given_up), now)
        return revocation

    def heard(self, record: bytes, now: float) -> Revocation | None:
        """As `add`, of a record that a peer tells of: only so many are looked at each round.

        Of one branch only so many are taken in a time, for each is written to the disk and told to
        all: a member may make any number, of which each takes the place of another.
        """
        key = revocation_key(record)
        if record in self._revocations or key in self._seen:
            return None
        if self._checks_left == 0:
            self._overdue = True
            return None
        self._checks_left -= 1
        branch = branch_of(record)
        news = None if branch is None else self._news.get(branch)
        if news is not None and news.wait_s(now):
            self._overdue = True
            return None
        self._seen.put(key, None)
        revocation = self.add(record, now)
        if revocation is not None and branch is not None:
            full = Bucket(REVOCATIONS_PER_BRANCH_PER_S, REVOCATIONS_PER_BRANCH_BURST, now)
            self._news.setdefault(branch, full).take(1, now)
        return revocation

    def round(self, rng: random.Random, now: float) -> Iterator[tuple[PeerId, bytes]]:
        """A round begins; the records to hear again, and who tells of them.

        None, unless there were too many. Then origins are heard out one after the other, in turns
        by branches, and those by chance that may be made up, so that no flood hides a record for
        long; but only up to half of what may be looked at. The rest is for what is told anew, which
        comes but once if no origin publishes it.
        """
        self._checks_left = REVOCATION_CHECKS_PER_ROUND
        self._chain_checks_left = CHAIN_CHECKS_PER_ROUND
        if not self._overdue:
            return
        self._overdue = False
        ways, made_up = [], []
        for origin in sorted(self._gossip.states()):
            lineage = self.lineage(origin)
            if lineage is None:
                made_up.append((origin,))
            else:
                ways.append((*lineage, origin))
        rng.shuffle(made_up)
        left_over = REVOCATION_CHECKS_PER_ROUND // 2
        for way in (*self._turns.of(ways), *made_up):
            if self._checks_left > left_over:
                self._turns.take(way, now)
            for key, value in self._gossip.records(way[-1]).items():
                if self._checks_left <= left_over:
                    self._overdue = True
                    return
                if is_revocation(key):
                    yield way[-1], value

    def chain(self, origin: PeerId) -> tuple[bytes, ...]:
        """The chain that ``origin`` publishes; the founder has none, and it may not be known yet.

        Whoever publishes what is no chain has none either.
        """
        packed = self._gossip.record(origin, CHAIN)
        try:
            return () if packed is None else unpack_chain(packed)
        except Malformed:
            return ()

    def vouched(self, origin: PeerId) -> bool:
        """Whether ``origin`` is known to be a member, or to have been one."""
        if origin == self._revocations.founder:
            return True
        packed = self._gossip.record(origin, CHAIN)
        return packed is not None and self._verified.get(origin) == packed

    def lineage(self, origin: PeerId) -> Lineage | None:
        """Who let ``origin`` in; None: it is not known to be a member."""
        return self._branches.lineage(origin)

    def verify(self, origin: PeerId) -> bool | Full:
        """Whether ``origin`` is `vouched` for, now that its chain has been looked at.

        Of whom it vouches for, others are told. Only so many chains are looked at each round;
        `unverified` has the others. `Full`: a member, but one of too many of its branch. Raises
        HearthError for one that no member publishes.
        """
        if self.vouched(origin):
            self._gossip.prove(origin, self.lineage(origin) or ())
            return True
        packed = self._gossip.record(origin, CHAIN)
        if packed is None:
            return False
        if self._chain_checks_left == 0:
            self._unverified.add(origin)
            return False
        self._chain_checks_left -= 1
        chain = unpack_chain(packed)
        # Links check whether it is a member still.
        certificates = verify_when_issued(self._revocations.founder, origin, chain)
        full = self._seat(origin, lineage_of(certificates))
        if full is not None:
            return full
        self._verified[origin] = packed
        self._gossip.prove(origin, self.lineage(origin) or ())
        return True

    def _seat(self, origin: PeerId, lineage: Lineage) -> Full | None:
        full = self._branches.seat(origin, lineage)
        if full is not None:
            known = self._gossip.incarnation
            for gone in [each for each in self._verified if known(each) is None]:
                del self._verified[gone]
                self._branches.leave(gone)
            full = self._branches.seat(origin, lineage)
        return full

    def unverified(self, rng: random.Random) -> list[PeerId]:
        """The origins to `verify` in this round, as there were too many in the one before."""
        waiting = sorted(self._unverified)
        self._unverified.clear()
        rng.shuffle(waiting)
        return waiting

    def inviter(self, origin: PeerId) -> PeerId | None:
        """Who let ``origin`` in, by what it publishes; None: nobody, or it is not known."""
        try:
            chain = self.chain(origin)
            return Certificate.read(chain[0]).issuer if chain else None
        except Malformed:
            return None

    def outcasts(self, subject: PeerId) -> list[PeerId]:
        """The origins whose membership is void, of those in whose chain ``subject`` occurs."""
        return [
            origin
            for origin in sorted(self._gossip.states())
            if (self._gossip.record(origin, CHAIN) or b"").find(subject) >= 0
            and self.is_void(origin)
        ]

    def is_void(self, origin: PeerId) -> bool:
        """Whether the chain that ``origin`` publishes is void.

        Nothing is known against an origin that publishes none.
        """
        try:
            chain = self.chain(origin)
            if self._revocations.find(chain) is None:
                return False
            # Anybody may have forged the record. Signatures take time, so they come last.
            certificates = [Certificate.open(packed) for packed in chain]
            return certificates[0].subject == origin
        except HearthError:
            return False
