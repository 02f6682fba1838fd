"""What a class of students asks: many questions under each subject's long instructions.

Shaped like MMLU in few-shot form: 57 subjects, each with a prefix of its own, and short questions
with answers of a token or a few. The same arguments give the same requests.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from tests.bench.workload import SEED, Prompt, Vocabulary

#: Tokens of a question and of an answer: fewest, most.
QUESTION_TOKENS: Final = (40, 80)
ANSWER_TOKENS: Final = (1, 4)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked, and of what."""

    requests: int
    subjects: int = 57
    prefix_tokens: int = 600
    #: Zipf's exponent: subject k is asked about in proportion to 1 / k ** skew; 0: all alike.
    skew: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """One question. ``origin``: the number of the node whose user asks it."""

    subject: int
    origin: int
    prompt: Prompt
    answer_tokens: int


def mmlu_like(vocabulary: Vocabulary, plan: Plan, *, nodes: int, number: int) -> list[Request]:
    """The requests in the order in which they are asked, each at a random node.

    ``number``: of the list. All lists are under the same prefixes.
    """
    dice = random.Random(SEED + 3 + number)
    prefixes = vocabulary.prefixes(plan.subjects, plan.prefix_tokens)
    weights = [(rank + 1) ** -plan.skew for rank in range(plan.subjects)]
    asked = []
    for number in range(plan.requests):
        (subject,) = dice.choices(range(plan.subjects), weights)
        question = vocabulary.grown(f"\nQuestion {number}:", dice.randint(*QUESTION_TOKENS), dice)
        asked.append(
            Request(
                subject=subject,
                origin=dice.randrange(nodes),
                prompt=vocabulary.prompt(prefixes[subject] + question),
                answer_tokens=dice.randint(*ANSWER_TOKENS),
            )
        )
    return asked
