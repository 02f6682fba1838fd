"""Questions as in MMLU (Hendrycks et al. 2021, arXiv 2009.03300): 57 subjects, few-shot prompts.

Each subject's prompts begin with the same solved examples, then a question with four choices
follows. The subjects are MMLU's; texts are stand-ins of the same lengths.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from models.engine import Tokens
from overlay.sim.text import name_of, text
from overlay.sim.workload import (
    Conversation,
    Dice,
    Exchange,
    Session,
    poisson,
    session_name,
    zipf_weights,
)
from overlay.sim.workloads.parameters import Parameters, Span, at_least

SUBJECTS: Final = (
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
)


@dataclass(frozen=True)
class Mmlu(Parameters):
    """Single questions on one of MMLU's subjects; ``skew`` 0: all alike, else as in Zipf's law.

    Which subjects are popular depends on the seed. Lengths are in tokens; ``prefix`` is that of a
    subject's solved examples.
    """

    skew: float = 0.0
    prefix: Span = Span(500, 700)
    question: Span = Span(40, 120)
    answer: Span = Span(1, 4)

    def __post_init__(self) -> None:
        at_least(1, question=self.question.low, answer=self.answer.low)

    def sessions(self, rng: random.Random, *, nodes: int, rate_per_s: float) -> Iterator[Session]:
        dice = Dice.of(rng)
        subjects = dice.popularity.sample(SUBJECTS, len(SUBJECTS))
        weights = zipf_weights(len(subjects), self.skew)
        for number, at_s in enumerate(poisson(dice.arrivals, rate_per_s)):
            (subject,) = dice.popularity.choices(subjects, cum_weights=weights)
            exchange = Exchange(self.question.draw(dice.lengths), self.answer.draw(dice.lengths))
            turns = Conversation(
                session_name("mmlu", number), _examples(subject, self.prefix), [exchange]
            )
            yield Session(at_s, dice.origins.randrange(nodes), turns)


@lru_cache(maxsize=1024)
def _examples(subject: str, span: Span) -> Tokens:
    # A subject's length is its own, whatever the seed.
    return text(name_of("mmlu", subject), span.draw(random.Random(name_of(subject))))
