"""How decisions turned out: what was expected, against what came of it.

Counts the requests of this node's own clients, so that in a mesh each request counts once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from enum import StrEnum
from typing import Final

from overlay.forwarding.explanations import Explanation
from overlay.prefix.chain import BLOCK_TOKENS

#: Actual time to first token over the predicted one: upper bounds of the histogram's buckets.
TTFT_RATIO_BOUNDS: Final = (0.25, 0.5, 0.8, 1.25, 2.0, 4.0, 8.0)


class Match(StrEnum):
    """How the actual match compares with the estimate.

    Estimates count whole blocks, and a prompt's last token is always computed, so a difference of
    less than a block is none.
    """

    RIGHT = "right"
    OVERESTIMATED = "overestimated"
    UNDERESTIMATED = "underestimated"
    #: The peer that was chosen passed the request on: what it had is not known here.
    PASSED_ON = "passed_on"


def match_error_tokens(explanation: Explanation) -> int | None:
    """Actual minus estimated match of an answer; None if the chosen node did not compute it."""
    actual = explanation.actual
    if actual is None:
        return None
    last = explanation.attempts[-1].decision
    passed_on = actual.executor != last.choice
    return None if passed_on else actual.cached_tokens - last.chosen.match_tokens


class Hindsight:
    """Counts since the start."""

    def __init__(self) -> None:
        #: Decisions by (who asked: client or peer; where it went: self or peer).
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.matches: Counter[Match] = Counter()
        #: Tokens by which the matches were over- or underestimated.
        self.error_tokens: Counter[Match] = Counter()
        #: Decisions that had no usable summary at all, and those for a peer of which nothing was
        #: expected, though it turned out to hold a block or more of the prompt.
        self.blind_decisions = 0
        #: Prompt tokens that a peer had cached, and that were computed here, too, afterwards.
        self.prefetched_tokens = 0
        #: Requests by the ratio's bucket; the last one is without bound.
        self.ttft_ratios = [0] * (len(TTFT_RATIO_BOUNDS) + 1)
        self.ttft_ratio_sum = 0.0

    def decided(self, explanation: Explanation) -> None:
        """This node has just made the explanation's latest decision."""
        asked_by = "client" if explanation.asked_by is None else "peer"
        chosen = explanation.attempts[-1].decision.chosen
        self.decisions[asked_by, "self" if chosen.is_self else "peer"] += 1

    def answered(self, explanation: Explanation) -> None:
        """The explanation's request has its whole answer."""
        actual = explanation.actual
        if explanation.asked_by is not None or actual is None:
            return
        last = explanation.attempts[-1].decision
        nothing_expected = last.chosen.match_tokens == 0
        warm = actual.cached_tokens >= BLOCK_TOKENS
        found_warm = warm and nothing_expected and not last.chosen.is_self
        self.blind_decisions += last.blind or found_warm
        self.prefetched_tokens += last.prefetch_tokens
        self._compare_match(explanation)
        self._compare_ttft(explanation)

    def _compare_match(self, explanation: Explanation) -> None:
        error = match_error_tokens(explanation)
        if error is None:
            self.matches[Match.PASSED_ON] += 1
        elif abs(error) < BLOCK_TOKENS:
            self.matches[Match.RIGHT] += 1
        else:
            match = Match.UNDERESTIMATED if error > 0 else Match.OVERESTIMATED
            self.matches[match] += 1
            self.error_tokens[match] += abs(error)

    def _compare_ttft(self, explanation: Explanation) -> None:
        """Only where one decision stands for the whole time: after a failure none does."""
        if len(explanation.attempts) != 1 or explanation.actual is None:
            return
        (attempt,) = explanation.attempts
        before_ms = (attempt.decided_at - explanation.asked_at) * 1000
        predicted_ms = attempt.decision.chosen.ttft_ms
        if predicted_ms > 0:
            ratio = max(0.0, explanation.actual.ttft_ms - before_ms) / predicted_ms
            self.ttft_ratios[bisect_left(TTFT_RATIO_BOUNDS, ratio)] += 1
            self.ttft_ratio_sum += ratio
