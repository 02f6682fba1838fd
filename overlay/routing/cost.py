"""What a request would cost at each node that serves its model, in milliseconds.

    cost = rtt + wait + alpha * prefill + decode + later

`prefill` is the time to compute the prompt tokens that the node has not cached, and `alpha` what
that time is worth to everybody (`overlay.routing.prices`). `wait` is the prefill work that comes
before ours, and what the node was late by before. Continuous batching means that running answers
do not block a new one; they share the machine with it: that slows `prefill` down, and is `decode`
once tokens come more slowly than they are read. `later` is what the choice changes for later
requests (`overlay.routing.cost_policy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final, NamedTuple

from overlay.identity.peer_id import PeerId

#: Tokens per second of a laptop's CPU on a model of 1 to 2 B parameters, until anyone has measured.
PREFILL_RATE_PRIOR: Final = 100.0
DECODE_RATE_PRIOR: Final = 15.0
#: How much slower each other answer in the batch makes ours. Decoding is bound by memory
#: bandwidth, which a batch shares, so it is far below 1; on few cores it is not 0.
DECODE_SHARE: Final = 0.25
#: People read about ten tokens per second: an answer that comes faster gains them nothing.
READING_MS: Final = 100.0
#: How long an engine computes prompts at a stretch: `models.llama.chunks`.
PROMPT_STEP_MS: Final = 250.0
#: An engine computes what is left of a prompt at once if it is no more than this, with the next
#: step, whoever waits with more.
SHORT_TOKENS: Final = 96
#: However busy a node is, guests of it are taken to come to their turn some day.
BUSY_MAX: Final = 0.85
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
    #: Of the blocks that it computes, those that somebody had held and nobody had kept (0 to 1).
    lost_share: float = 0.0
    #: Of the pending tokens, guests'; known of self only.
    pending_guest_tokens: int = 0
    #: How much later than expected it answered here of late: `overlay.routing.lateness`.
    late_ms: float = 0.0

    @property
    def summary_weight(self) -> float:
        """How far its summary can be trusted: 1 when fresh, towards 0 with age."""
        if self.is_self:
            return 1.0
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
    alpha: float
    #: What the choice costs later requests, or saves them if negative.
    later_ms: float = 0.0

    @property
    def ttft_ms(self) -> float:
        """The time to first token that it implies: nothing in it is weighted."""
        return self.rtt_ms + self.wait_ms + self.prefill_ms

    def with_later(self, later_ms: float) -> Estimate:
        """The same, with what the choice costs later requests."""
        return self._replace(cost_ms=self.cost_ms + later_ms, later_ms=self.later_ms + later_ms)


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second to assume of a node that has measured none."""

    prefill: float
    decode: float


def typical_rates(candidates: Sequence[Candidate]) -> Rates:
    """The median of the measured rates, or a guess when none is measured.

    Of two it is the lower one: a rate is what its node says, and nobody is as fast as some may say.
    """
    prefill = [c.prefill_rate for c in candidates if c.prefill_rate > 0]
    decode = [c.decode_rate for c in candidates if c.decode_rate > 0]
    return Rates(
        prefill=median_low(prefill) if prefill else PREFILL_RATE_PRIOR,
        decode=median_low(decode) if decode else DECODE_RATE_PRIOR,
    )


def estimate(
    prompt_tokens: int,
    answer_tokens: int,
    candidate: Candidate,
    typical: Rates,
    *,
    own: bool,
    alpha: float = 1.0,
    busy: float = 0.0,
) -> Estimate:
    """What a prompt of ``prompt_tokens`` and its answer cost at ``candidate``.

    ``own``: a client of this node asks, so that at this node it goes before guests. ``busy``: the
    share of its time (0 to 1) in which the candidate has prompts to compute.
    """
    token_ms = 1000.0 / (candidate.prefill_rate or typical.prefill)
    match = int(min(candidate.match_tokens, prompt_tokens) * candidate.summary_weight)
    # The last token of a prompt is always computed: its logits give the answer's first token.
    uncached = max(1, prompt_tokens - match)
    others = candidate.running + candidate.queued
    step_ms = 1000.0 / (candidate.decode_rate or typical.decode) * (1 + DECODE_SHARE * others)
    if others:
        # Each step of prompts takes a step of the answers along.
        token_ms *= 1 + step_ms / PROMPT_STEP_MS
    ahead = candidate.pending_prefill_tokens
    if own and candidate.is_self:
        wait = (ahead - candidate.pending_guest_tokens) * token_ms
        if uncached < SHORT_TOKENS:
            wait = min(wait, PROMPT_STEP_MS)
    else:
        # A guest stands back whenever the owner, or somebody before it, comes with a prompt.
        behind = min(BUSY_MAX, busy)
        wait = (ahead + (ahead + uncached) * behind / (1 - behind)) * token_ms
    if others:
        wait += step_ms
    wait += candidate.late_ms
    prefill = uncached * token_ms
    decode = answer_tokens * max(0.0, step_ms - READING_MS)
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
        alpha,
    )
