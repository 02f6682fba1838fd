"""How answers came about, as users see it: ``hearth`` in a reply, and ``/mesh/explanations``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from overlay.forwarding.effects import Answer
from overlay.forwarding.explanations import Actual, Attempt, Cause, Explanation
from overlay.forwarding.hindsight import match_error_tokens
from overlay.identity.peer_id import PeerId
from overlay.routing.cost import Estimate

#: What people call a node.
NameOf = Callable[[PeerId], str]


def reply(answer: Answer, name_of: NameOf, prefill_rate: float) -> dict[str, Any]:
    """The ``hearth`` object of an answer. ``prefill_rate``: of who served it, 0 if not known."""
    saved_s = answer.cached_tokens / prefill_rate if prefill_rate else None
    return {
        "request_id": answer.explanation.request_id.hex(),
        "served_by": str(answer.served_by),
        "served_by_name": name_of(answer.served_by),
        "route": answer.route,
        "hops": answer.hops,
        "ttft_ms": round(answer.ttft_ms, 1),
        "queue_ms": round(answer.queue_ms, 1),
        "prefill_ms": round(answer.prefill_ms, 1),
        "rtt_ms": round(answer.rtt_ms, 2),
        "estimated_match": answer.decision.chosen.match_tokens,
        "saved_ms": None if saved_s is None else round(saved_s * 1000),
        "reason": answer.decision.explain(name_of),
    }


def explained(explanation: Explanation, name_of: NameOf, now: float) -> dict[str, Any]:
    """The whole of it; its shape is documented in the HTTP reference."""
    return {
        **_head(explanation, name_of, now),
        "decisions": [_decision(each, explanation, name_of) for each in explanation.attempts],
        "actual": _actual(explanation, name_of),
        "error": _error(explanation.error),
    }


def overview(explanation: Explanation, name_of: NameOf, now: float) -> dict[str, Any]:
    """The same request in a line: where it went, and what it found there."""
    actual: Actual | None = explanation.actual
    served_by = actual.executor if actual else None
    return {
        **_head(explanation, name_of, now),
        "served_by": None if served_by is None else str(served_by),
        "served_by_name": None if served_by is None else name_of(served_by),
        "route": actual.route if actual else None,
        "prompt_tokens": actual.prompt_tokens if actual else None,
        "cached_tokens": actual.cached_tokens if actual else None,
        "estimated_match": _estimated_match(explanation),
        "ttft_ms": round(actual.ttft_ms, 1) if actual else None,
    }


def _head(explanation: Explanation, name_of: NameOf, now: float) -> dict[str, Any]:
    asked_by = explanation.asked_by
    return {
        "request_id": explanation.request_id.hex(),
        "model": explanation.model,
        "age_s": round(now - explanation.asked_at, 1),
        "asked_by": None if asked_by is None else str(asked_by),
        "asked_by_name": None if asked_by is None else name_of(asked_by),
        "state": explanation.ending.value,
    }


def _decision(attempt: Attempt, explanation: Explanation, name_of: NameOf) -> dict[str, Any]:
    decision = attempt.decision
    return {
        "after_ms": round((attempt.decided_at - explanation.asked_at) * 1000, 1),
        "choice": str(decision.choice),
        "choice_name": name_of(decision.choice),
        "reason": decision.explain(name_of),
        "prompt_tokens": decision.prompt_tokens,
        "blind": decision.blind,
        "prefetch_tokens": decision.prefetch_tokens,
        "considered": attempt.considered,
        "candidates": [_candidate(each, attempt, name_of) for each in decision.estimates],
        "error": _error(attempt.error),
    }


def _candidate(estimate: Estimate, attempt: Attempt, name_of: NameOf) -> dict[str, Any]:
    age_s = attempt.summary_ages_s.get(estimate.peer)
    return {
        "peer_id": str(estimate.peer),
        "name": name_of(estimate.peer),
        "self": estimate.is_self,
        "cost_ms": round(estimate.cost_ms, 1),
        "rtt_ms": round(estimate.rtt_ms, 2),
        "wait_ms": round(estimate.wait_ms, 1),
        "prefill_ms": round(estimate.prefill_ms, 1),
        "decode_ms": round(estimate.decode_ms, 1),
        "alpha": round(estimate.alpha, 3),
        "later_ms": round(estimate.later_ms, 1),
        "match_tokens": estimate.match_tokens,
        "summary_age_s": None if age_s is None else round(age_s, 1),
        "tokenizes_unlike": estimate.peer in attempt.unlike,
    }


def _actual(explanation: Explanation, name_of: NameOf) -> dict[str, Any] | None:
    actual = explanation.actual
    if actual is None:
        return None
    predicted_ms = explanation.attempts[-1].decision.chosen.ttft_ms
    return {
        "served_by": str(actual.executor),
        "served_by_name": name_of(actual.executor),
        "route": actual.route,
        "hops": actual.hops,
        "prompt_tokens": actual.prompt_tokens,
        "cached_tokens": actual.cached_tokens,
        "completion_tokens": actual.completion_tokens,
        "estimated_match": _estimated_match(explanation),
        "match_error_tokens": match_error_tokens(explanation),
        "ttft_ms": round(actual.ttft_ms, 1),
        "predicted_ttft_ms": round(predicted_ms, 1),
        "queue_ms": round(actual.queue_ms, 1),
        "prefill_ms": round(actual.prefill_ms, 1),
        "decode_ms": round(actual.decode_ms, 1),
        "total_ms": round(actual.total_ms, 1),
    }


def _estimated_match(explanation: Explanation) -> int | None:
    if not explanation.attempts:
        return None
    return explanation.attempts[-1].decision.chosen.match_tokens


def _error(cause: Cause | None) -> dict[str, str] | None:
    return None if cause is None else cause._asdict()
