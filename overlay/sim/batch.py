"""What the engine's model computes at one time: requests, and equal steps of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from models.engine import GenerationRequest, Priority, Tokens
from overlay.prefix.node import Node


@dataclass(slots=True, eq=False)
class Run:
    """A request in the engine; a `models.llama.turns.Turn`."""

    request: GenerationRequest
    #: The prompt, what was generated elsewhere, and the answer that is to come.
    tokens: Tokens
    answer: Tokens
    arrival: int
    submitted_s: float
    #: Prompt tokens to compute, when it was last looked at.
    pending: int
    computed: int = 0
    cached: int = 0
    node: Node | None = None
    started_s: float | None = None
    first_s: float = 0.0
    #: Tokens of the answer that exist, and those that were told.
    given: int = 0
    told: int = 0
    told_s: float = 0.0

    @property
    def priority(self) -> Priority:
        return self.request.priority

    @property
    def guest(self) -> bool:
        return self.priority is not Priority.OWNER

    @property
    def decoding(self) -> bool:
        return self.pending == 0


@dataclass(slots=True)
class Batch:
    """Steps that are under way: ``steps`` equal ones of ``step_s`` each."""

    began_s: float
    steps: int
    step_s: float
    answers: list[Run]
    #: Who computes how many prompt tokens in each step.
    prompts: list[tuple[Run, int]]

    def gives_way(self, run: Run) -> bool:
        """Whether its prompts are of those that have to wait until ``run`` has had its turn."""
        return bool(self.prompts) and all(each.priority > run.priority for each, _ in self.prompts)
