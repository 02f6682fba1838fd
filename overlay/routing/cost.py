"""What a request would cost at each node that serves its model, in milliseconds.

    cost = rtt + wait + alpha * prefill + decode

`prefill` is the time to compute the prompt tokens that the node has not cached. `wait` is the
prefill work that comes before ours, and the batch that is under way. Continuous batching means
that running answers do not block a new one, they share the machine with it: that is in `decode`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

from overlay.identity.peer_id import PeerId

#: Tokens per second of a laptop's CPU on a model of 1 to 2 B parameters, until anyone has measured.
PREFILL_RATE_PRIOR: Final = 100.0
DECODE_RATE_PRIOR: Final = 15.0
#: How much slower each other answer in the batch makes ours. Decoding is bound by memory
#: bandwidth, which a batch shares, so it is far below 1; on few cores it is not 0.
DECODE_SHARE: Final = 0.25
#: A summary confirmed within this time (a few gossip rounds) counts in full...
SUMMARY_FRESH_S: Final = 5.0
#: ...and an older one loses half of its weight in this time: caches turn over in minutes.
SUMMARY_HALF_LIFE_S: Final = 60.0
#: Below this weight a summary tells nothing: the decision is blind.
SUMMARY_WEIGHT_MIN: Final = 0.1


class Candidate(NamedTuple):
    """A node that is UP and serves the model, as known here and now.

    A tuple, like its estimate: one decision makes as many of them as there are nodes.
    """

    peer: PeerId
    is_self: bool = False
    #: Round trip of the link; 0 for self.
    rtt_ms: float = 0.0
    #: Leading prompt tokens that are cached there: exact for self, by its summary for a peer.
    match_tokens: int = 0
    #: Since its summary was last known to be current; infinite when none has arrived.
    summary_age_s: float = 0.0
    #: Tokens per second; 0 when not measured yet. Decode: of one answer alone.
    prefill_rate: float = 0.0
    decode_rate: float = 0.0
    #: Prompt tokens that it has yet to compute for others, with what we sent since the last news.
    pending_prefill_tokens: int = 0
    running: int = 0
    queued: int = 0

    @property
    def summary_weight(self) -> float:
        """How far its summary can be trusted: 1 when fresh, towards 0 with age."""
        if self.is_self:
            return 1.0
        if not math.isfinite(self.summary_age_s):
            return 0.0
        stale_s = max(0.0, self.summary_age_s - SUMMARY_FRESH_S)
        return float(0.5 ** (stale_s / SUMMARY_HALF_LIFE_S))


class Estimate(NamedTuple):
    """The cost of one candidate, and its parts. ``prefill_ms`` is without alpha."""

    peer: PeerId
    is_self: bool
    cost_ms: float
    rtt_ms: float
    wait_ms: float
    prefill_ms: float
    decode_ms: float
    #: Tokens of the prompt that we count on, after the discount for the summary's age.
    match_tokens: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second to assume of a node that has measured none."""

    prefill: float
    decode: float


def typical_rates(candidates: Sequence[Candidate]) -> Rates:
    """The median of the measured rates, or a guess when none is measured."""
    prefill = [c.prefill_rate for c in candidates if c.prefill_rate > 0]
    decode = [c.decode_rate for c in candidates if c.decode_rate > 0]
    return Rates(
        prefill=median(prefill) if prefill else PREFILL_RATE_PRIOR,
        decode=median(decode) if decode else DECODE_RATE_PRIOR,
    )


def estimate(
    prompt_tokens: int, answer_tokens: int, candidate: Candidate, alpha: float, typical: Rates
) -> Estimate:
    """What a prompt of ``prompt_tokens`` and its answer cost at ``candidate``."""
    prefill_ms = 1000.0 / (candidate.prefill_rate or typical.prefill)
    decode_ms = 1000.0 / (candidate.decode_rate or typical.decode)
    match = int(min(candidate.match_tokens, prompt_tokens) * candidate.summary_weight)
    others = candidate.running + candidate.queued
    # A prefill joins at the next batch: one decode step, if anything is decoding.
    wait = candidate.pending_prefill_tokens * prefill_ms + (decode_ms if others else 0.0)
    # The last token of a prompt is always computed: its logits give the answer's first token.
    prefill = max(1, prompt_tokens - match) * prefill_ms
    decode = answer_tokens * decode_ms * (1 + DECODE_SHARE * others)
    # By position, in the order of the fields: it takes half the time, and there are many.
    return Estimate(
        candidate.peer,
        candidate.is_self,
        candidate.rtt_ms + wait + alpha * prefill + decode,
        candidate.rtt_ms,
        wait,
        prefill,
        decode,
        match,
    )


def utilisation(candidates: Sequence[Candidate]) -> float:
    """How busy the mesh is, from 0 (idle) towards 1.

    Per node n/(n+1) for n requests present, which is a queue's utilisation when n is its mean
    length (M/M/1); then the mean over nodes, so that one hotspot does not count as a busy mesh.
    """
    if not candidates:
        return 0.0
    present = [c.running + c.queued for c in candidates]
    return sum(n / (n + 1) for n in present) / len(present)


def alpha_at(utilisation: float) -> float:
    """The price of computing what somebody has cached: 1 in an idle mesh, 2.5 in a full one.

    Work that is done twice takes machine time from everybody, which hurts only when somebody
    waits for it. Smooth, so that small changes of load never flip many decisions at once.
    """
    u = min(1.0, max(0.0, utilisation))
    return 1.0 + 1.5 * u * u * (3.0 - 2.0 * u)
