"""How long a machine takes, calibrated on what the real engine was measured to do.

The figures are those of `python -m tests.bench engine` on two cores with a model of 0.5 B
parameters (docs/explanation/benchmarks.md): a cold prompt of 600 tokens takes 2.9 s, a question of
20 tokens after a cached prefix 0.145 s; a step of 1, 4 and 8 answers takes 23, 51 to 58 and 70 to
90 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.llama.chunks import chunk


@dataclass(frozen=True, slots=True)
class Machine:
    """Speeds of one node with its model."""

    #: Prompt tokens per second, alone.
    prefill_rate: float = 215.0
    #: Seconds of a step, whatever is in it; more for each answer in it; more if prompts are in it.
    step_s: float = 0.014
    answer_s: float = 0.009
    prompt_s: float = 0.036

    def scaled(self, speed: float) -> Machine:
        """A machine that is ``speed`` times as fast."""
        return Machine(
            self.prefill_rate * speed,
            self.step_s / speed,
            self.answer_s / speed,
            self.prompt_s / speed,
        )

    def chunk(self, *, streaming: bool) -> int:
        """Prompt tokens that one step takes at most, alone and while answers stream."""
        return chunk(self.prefill_rate, streaming=streaming)

    def step_seconds(self, answers: int, prompt_tokens: int) -> float:
        """A step that computes a token for each of ``answers``, and so many prompt tokens."""
        seconds = self.step_s + self.answer_s * answers
        if prompt_tokens:
            seconds += self.prompt_s + prompt_tokens / self.prefill_rate
        return seconds

    def cold_seconds(self, prompt_tokens: int) -> float:
        """Computing so many prompt tokens, with nothing else going on."""
        most = self.chunk(streaming=False)
        whole, rest = divmod(prompt_tokens, most)
        seconds = whole * self.step_seconds(0, most)
        return seconds + (self.step_seconds(0, rest) if rest else 0.0)

    @property
    def decode_rate(self) -> float:
        """Tokens per second of one answer alone."""
        return 1.0 / self.step_seconds(1, 0)
