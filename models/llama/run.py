"""One request's state in the scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from models.engine import Finished, FinishReason, GenerationRequest, Priority
from models.llama.backend import Sampler
from models.llama.text import TextStream
from overlay.prefix.node import Node


@dataclass(slots=True, eq=False)
class Run:
    """A request, queued or running. Times are seconds of the scheduler's clock."""

    request: GenerationRequest
    arrival: int
    submitted_s: float
    #: Prompt and answer so far.
    tokens: list[int]
    text: TextStream
    #: Text of a resumed answer that was not delivered yet; goes out with the next token.
    owed_text: str
    #: Tokens that are expected to need computing, while it waits in the queue.
    expected: int
    #: None until its first turn to run: there may be a long grammar to read.
    sampler: Sampler | None = None
    #: While it runs: its KV sequence, and the tree's node that ends with its computed tokens.
    sequence: int = -1
    node: Node | None = None
    #: Tokens of its path in the KV cache.
    computed: int = 0
    #: Where its cache wants to see it: no step goes beyond. None: anywhere.
    pause: int | None = None
    #: How far it ever got with its prompt, and how many of those tokens it computed itself.
    reached: int = 0
    prefilled: int = 0
    started_s: float | None = None
    answered_s: float | None = None

    @property
    def priority(self) -> Priority:
        return self.request.priority

    @property
    def guest(self) -> bool:
        return self.priority is not Priority.OWNER

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def pending(self) -> int:
        """Tokens not computed yet; at least 1, for the last one's logits choose the next."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        return self.answered_s is not None and self.pending == 1

    def exhausted(self, context_length: int) -> bool:
        """The answer is as long as it may be."""
        most = self.request.sampling.max_tokens
        return len(self.tokens) >= context_length or (most is not None and self.generated >= most)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that it did not need to compute."""
        return self.reached - self.prefilled

    def note_shared(self, length: int) -> None:
        """The first ``length`` tokens are in the KV cache, computed by others."""
        self.computed = length
        self.reached = max(self.reached, min(length, self.prompt_tokens))

    def note_computed(self, count: int) -> None:
        """``count`` more tokens are in the KV cache, computed for this run."""
        self.computed += count
        end = min(self.computed, self.prompt_tokens)
        if end > self.reached:
            self.prefilled += end - self.reached
            self.reached = end

    def note_forgotten(self) -> None:
        """Nothing of its path is in the KV cache any longer."""
        self.computed = self.reached = self.prefilled = 0

    def finished(self, reason: FinishReason, now: float) -> Finished:
        started = now if self.started_s is None else self.started_s
        answered = now if self.answered_s is None else self.answered_s
        return Finished(
            request_id=self.request.request_id,
            reason=reason,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.generated,
            queue_ms=(started - self.submitted_s) * 1e3,
            prefill_ms=(answered - started) * 1e3,
            decode_ms=(now - answered) * 1e3,
        )
