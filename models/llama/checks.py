"""What a model cannot compute at all."""

from __future__ import annotations

from models.engine import GenerationRequest
from overlay.errors import ContextLengthExceeded, InvalidRequest


def check(request: GenerationRequest, vocabulary: int, context_length: int) -> None:
    """Raises what is wrong with the request: InvalidRequest, ContextLengthExceeded.

    ``vocabulary``: token ids are below this. ``context_length``: tokens of prompt and answer.
    """
    length = len(request.tokens)
    named = [*request.tokens, *request.generated, *(t for t, _ in request.sampling.logit_bias)]
    if not length:
        raise InvalidRequest("The prompt is empty.")
    if not 0 <= min(named) <= max(named) < vocabulary:
        raise InvalidRequest("The prompt or logit_bias names tokens that are none of the model's.")
    if length >= context_length:
        raise ContextLengthExceeded(
            f"The prompt has {length} tokens; the model's context holds {context_length}, "
            "and the answer needs some of them."
        )
