"""Why requests went where they went: what was decided here, and what came of it.

One `Explanation` belongs to each request that this node has a part in. It grows while the request
lives, and holds figures and names only, nothing of a prompt or an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import isfinite
from typing import NamedTuple

from overlay.errors import HearthError, InvalidRequest, RequestUnknown
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.identity.peer_id import PeerId
from overlay.limits import EXPLAINED_CANDIDATES_MAX, EXPLANATIONS_MAX
from overlay.recent import Recent
from overlay.routing.decision import Decision


class Cause(NamedTuple):
    """What an error says. The error itself may hold prompts, with all else that it went through."""

    code: str
    message: str

    @classmethod
    def of(cls, error: HearthError) -> Cause:
        return cls(error.code, str(error))


@dataclass(slots=True)
class Attempt:
    """One decision of this node; ``error`` says why it came to nothing, if it did."""

    #: Seconds of the node's clock.
    decided_at: float
    #: Its estimates are the cheapest ones, this node's own and the chosen one's.
    decision: Decision
    #: How many candidates there were.
    considered: int
    #: How old each peer's summary was, in seconds, if it could be used.
    summary_ages_s: Mapping[PeerId, float]
    #: Peers whose model has our model's key and tokenizes unlike it.
    unlike: frozenset[PeerId]
    error: Cause | None = None


@dataclass(frozen=True, slots=True)
class Actual:
    """How a whole answer came about. Times in milliseconds.

    ``ttft_ms`` and ``total_ms`` count from the request's arrival at this node; ``queue_ms``,
    ``prefill_ms`` and ``decode_ms`` are the executor's own.
    """

    executor: PeerId
    hops: int
    route: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    total_ms: float


class Ending(StrEnum):
    """What became of a request."""

    OPEN = "open"
    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Explanation:
    """``asked_by`` None: a client of this node asked, else the peer that sent the request here."""

    request_id: bytes
    model: str
    asked_by: PeerId | None
    #: Seconds of the node's clock.
    asked_at: float
    attempts: list[Attempt] = field(default_factory=list)
    ending: Ending = Ending.OPEN
    #: If it was answered.
    actual: Actual | None = None
    #: If it failed.
    error: Cause | None = None

    def decided(self, decision: Decision, known: Neighbourhood, now: float) -> Decision:
        """This node chose, by what is known of the neighbourhood now.

        Returns what is kept of the decision: most of many estimates are of no more use.
        """
        estimates = tuple(
            estimate
            for rank, estimate in enumerate(decision.estimates)
            if rank < EXPLAINED_CANDIDATES_MAX
            or estimate.is_self
            or estimate.peer == decision.choice
        )
        peers = [estimate.peer for estimate in estimates if not estimate.is_self]
        unlike = frozenset(peer for peer in peers if known.tokenizes_unlike(peer, self.model))
        ages_s = {peer: known.summary_age_s(peer, now) for peer in peers if peer not in unlike}
        kept = replace(decision, estimates=estimates)
        self.attempts.append(
            Attempt(
                decided_at=now,
                decision=kept,
                considered=len(decision.estimates),
                # Infinite: it was never known to be current, so it is of no use yet.
                summary_ages_s={peer: age for peer, age in ages_s.items() if isfinite(age)},
                unlike=unlike,
            )
        )
        return kept

    def has_asked(self, peer: PeerId) -> bool:
        """Whether the request went to ``peer``, now or before."""
        return any(attempt.decision.choice == peer for attempt in self.attempts)

    def answered(self, actual: Actual) -> None:
        self.ending, self.actual = Ending.ANSWERED, actual

    def failed(self, error: HearthError) -> None:
        self.ending, self.error = Ending.FAILED, Cause.of(error)

    def cancelled(self) -> None:
        self.ending = Ending.CANCELLED


class Explanations:
    """The latest ones, ``most`` of each kind: peers cannot displace those of own clients."""

    def __init__(self, most: int = EXPLANATIONS_MAX) -> None:
        self._most = most
        self._own: Recent[bytes, Explanation] = Recent(most)
        self._peers: Recent[bytes, Explanation] = Recent(most)

    def keep(self, explanation: Explanation) -> None:
        """Add one; the oldest of its kind makes room."""
        kept = self._own if explanation.asked_by is None else self._peers
        kept.put(explanation.request_id, explanation)

    def latest(self) -> Explanation:
        """The latest of own clients, or else of peers. Raises RequestUnknown if there is none."""
        for kept in (self._own, self._peers):
            if kept:
                return kept[next(reversed(kept))]
        raise RequestUnknown("this node has had no request since it started: ask something first")

    def find(self, beginning: str) -> Explanation:
        """The one whose request id, in hexadecimal, begins so.

        Raises RequestUnknown, or InvalidRequest if there are several.
        """
        # A request that this node asked of itself through others would be in both: ours counts.
        found = {e.request_id: e for e in reversed(list(self)) if _begins(e, beginning)}
        if len(found) > 1:
            raise InvalidRequest(
                f"{len(found)} requests begin with {beginning}: give more of the id", "id"
            )
        if not found:
            raise RequestUnknown(
                f"this node knows no request {beginning}: it keeps the latest {self._most} until "
                "it stops, and `hearth explain --list` shows them"
            )
        return next(iter(found.values()))

    def __iter__(self) -> Iterator[Explanation]:
        """Those of own clients, latest first, then those of peers."""
        yield from reversed(self._own.values())
        yield from reversed(self._peers.values())


def _begins(explanation: Explanation, beginning: str) -> bool:
    return explanation.request_id.hex().startswith(beginning)
