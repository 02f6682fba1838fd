"""Hearth's policy without one of its parts, to see what the part brings.

Where a part is a figure of the candidates, it is taken away from what the policy is told; others
are replaced in the policy's own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Final
from unittest.mock import ANY, patch

from overlay.forwarding.copies import Copies
from overlay.routing import cost_policy
from overlay.routing.cost import Candidate, Estimate, estimate
from overlay.routing.cost_policy import CostPolicy
from overlay.routing.decision import Decision
from overlay.routing.history import History
from overlay.routing.ledger import Ledger, Pending
from overlay.routing.policy import Policy, Question
from overlay.routing.prices import Prices
from overlay.sim import run
from overlay.sim.baselines.rule import own_of, without_reasons


@dataclass(frozen=True, slots=True)
class Ablation:
    """``applied``: while it lasts, simulated nodes route without the part."""

    summary: str
    applied: Callable[[], AbstractContextManager[Any]]


class _Told:
    """A policy that is told something else."""

    def __init__(
        self,
        policy: Policy,
        candidate: Callable[[Candidate], Candidate],
        question: Callable[[Question], Question],
    ) -> None:
        self._policy = policy
        self._candidate = candidate
        self._question = question

    def decide(self, question: Question, candidates: Sequence[Candidate], now: float) -> Decision:
        """See `Policy.decide`."""
        told = [self._candidate(candidate) for candidate in candidates]
        return self._policy.decide(self._question(question), told, now)


class _Once:
    """A policy that decides where the user asked, and never again."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def decide(self, question: Question, candidates: Sequence[Candidate], now: float) -> Decision:
        """See `Policy.decide`."""
        own = own_of(candidates)
        if question.forwarded and own is not None:
            return without_reasons(question, own)
        return self._policy.decide(question, candidates, now)


def _wrapped(wrap: Callable[[Policy], Policy]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(run, "CostPolicy", lambda *given: wrap(CostPolicy(*given)))


def _candidates(
    told: Callable[[Candidate], Candidate],
) -> Callable[[], AbstractContextManager[Any]]:
    return _wrapped(lambda policy: _Told(policy, told, lambda question: question))


def _idle(candidate: Candidate) -> Candidate:
    return candidate._replace(pending_prefill_tokens=0, pending_guest_tokens=0, running=0, queued=0)


def _no_answer(question: Question) -> Question:
    return Question(question.prompt_tokens, question.hashes, 0, question.forwarded)


@contextmanager
def _near() -> Iterator[None]:
    """A copy at home saves nobody the way to another."""
    with (
        patch.object(History, "uses_before_gone", lambda *_given: 0.0),
        patch.object(History, "asked"),
    ):
        yield


def _as_guest(*given: Any, own: bool, **named: Any) -> Estimate:
    return estimate(*given, own=False, **named)


ABLATIONS: Final = {
    "hearth without rtt": Ablation(
        "every node is as near as any other", _candidates(lambda c: c._replace(rtt_ms=0.0))
    ),
    "hearth without wait": Ablation("every node is idle", _candidates(_idle)),
    "hearth without match": Ablation(
        "nobody has cached anything", _candidates(lambda c: c._replace(match_tokens=0))
    ),
    "hearth without decode": Ablation(
        "answers take no time", _wrapped(lambda policy: _Told(policy, lambda c: c, _no_answer))
    ),
    "hearth without time's price": Ablation(
        "a busy machine's time is worth no more than an idle one's",
        lambda: patch.object(Prices, "alpha", lambda prices, _peer: prices.memory),
    ),
    "hearth without memory's price": Ablation(
        "nothing was lost for lack of cells", _candidates(lambda c: c._replace(lost_share=0.0))
    ),
    "hearth without distance's price": Ablation("no rents: each request by itself", _near),
    "hearth without prefetching": Ablation(
        "a copy comes home with a request that waits for it, or not at all",
        lambda: patch.object(cost_policy, "SPARE_WORTH", inf),
    ),
    "hearth without departures": Ablation(
        "what comes into a cache is taken to stay there",
        lambda: patch.object(History, "uses_before_gone", lambda *_given: inf),
    ),
    "hearth without keepers": Ablation(
        "where memory is dear, any holder of a prefix does",
        lambda: patch.object(cost_policy, "keeper", lambda _prefix, _holders: ANY),
    ),
    "hearth without sparing": Ablation(
        "each cache evicts as if the mesh's other copies were none",
        lambda: patch.object(Copies, "take", lambda *_given: {}),
    ),
    "hearth without owners": Ablation(
        "a node's own clients expect to wait there as guests do",
        lambda: patch.object(cost_policy, "estimate", _as_guest),
    ),
    "hearth without ledger": Ablation(
        "nodes forget what they have sent since the last news",
        lambda: patch.object(Ledger, "pending", lambda _ledger, _peer, _now: Pending(0, 0, 0)),
    ),
    "hearth deciding once": Ablation("who gets a forwarded request keeps it", _wrapped(_Once)),
}
