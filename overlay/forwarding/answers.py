"""How long answers get, learnt from those that this node had a part in."""

from __future__ import annotations

from typing import Final

from overlay.forwarding.job import Job
from overlay.recent import Recent

#: Tokens of an answer, until some have ended: a paragraph or two.
TOKENS_PRIOR: Final = 128.0
#: What the latest answer tells of the next one.
_WEIGHT: Final = 1 / 8
#: Models whose answers are remembered; a peer may name any.
_MODELS_MAX: Final = 64


class AnswerLengths:
    """By model, a mean that follows the latest answers."""

    def __init__(self) -> None:
        self._tokens: Recent[str, float] = Recent(_MODELS_MAX)

    def left(self, job: Job) -> int:
        """Tokens of the job's answer that are expected to follow, at least one."""
        expected = self._tokens.get(job.model, TOKENS_PRIOR)
        most = job.sampling.max_tokens
        return max(1, round(expected if most is None else min(most, expected)) - len(job.generated))

    def ended(self, job: Job) -> None:
        """The job has its whole answer."""
        before = self._tokens.get(job.model, TOKENS_PRIOR)
        tokens = float(len(job.generated))
        most = job.sampling.max_tokens
        if most is not None and tokens >= most:
            # It was cut short: its length tells only what it would have exceeded.
            tokens = max(tokens, before)
        self._tokens.put(job.model, before + _WEIGHT * (tokens - before))
