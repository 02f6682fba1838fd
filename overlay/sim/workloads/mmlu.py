"""Questions as in MMLU (Hendrycks et al. 2021, arXiv 2009.03300): 57 subjects, few-shot prompts.

Each subject's prompts begin with the same five solved examples, then a question with four choices
follows. The subjects and lengths are MMLU's, the tokens are stand-ins.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

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


class Subject(NamedTuple):
    """Lengths of a subject's prompts, in tokens."""

    examples: int
    question: Span


# Measured with SmolLM2's tokenizer on prompts in the authors' form: the five examples of the
# development set with their heading; the questions of the test set, from the 5th to the 95th
# percentile.
SUBJECTS: Final = {
    "abstract_algebra": Subject(308, Span(39, 94)),
    "anatomy": Subject(275, Span(36, 98)),
    "astronomy": Subject(519, Span(37, 114)),
    "business_ethics": Subject(493, Span(42, 115)),
    "clinical_knowledge": Subject(339, Span(40, 90)),
    "college_biology": Subject(397, Span(38, 149)),
    "college_chemistry": Subject(484, Span(38, 178)),
    "college_computer_science": Subject(746, Span(54, 225)),
    "college_mathematics": Subject(537, Span(42, 147)),
    "college_medicine": Subject(402, Span(39, 176)),
    "college_physics": Subject(422, Span(44, 121)),
    "computer_security": Subject(315, Span(33, 153)),
    "conceptual_physics": Subject(252, Span(29, 73)),
    "econometrics": Subject(539, Span(53, 182)),
    "electrical_engineering": Subject(427, Span(33, 82)),
    "elementary_mathematics": Subject(514, Span(39, 125)),
    "formal_logic": Subject(516, Span(54, 203)),
    "global_facts": Subject(381, Span(41, 92)),
    "high_school_biology": Subject(427, Span(36, 145)),
    "high_school_chemistry": Subject(424, Span(38, 164)),
    "high_school_computer_science": Subject(806, Span(40, 232)),
    "high_school_european_history": Subject(2485, Span(191, 549)),
    "high_school_geography": Subject(336, Span(30, 75)),
    "high_school_government_and_politics": Subject(399, Span(44, 112)),
    "high_school_macroeconomics": Subject(315, Span(42, 121)),
    "high_school_mathematics": Subject(489, Span(42, 129)),
    "high_school_microeconomics": Subject(331, Span(42, 130)),
    "high_school_physics": Subject(479, Span(55, 174)),
    "high_school_psychology": Subject(426, Span(34, 121)),
    "high_school_statistics": Subject(726, Span(62, 206)),
    "high_school_us_history": Subject(1945, Span(183, 437)),
    "high_school_world_history": Subject(1092, Span(169, 620)),
    "human_aging": Subject(263, Span(33, 72)),
    "human_sexuality": Subject(286, Span(32, 103)),
    "international_law": Subject(544, Span(55, 131)),
    "jurisprudence": Subject(328, Span(36, 124)),
    "logical_fallacies": Subject(369, Span(38, 119)),
    "machine_learning": Subject(614, Span(39, 161)),
    "management": Subject(230, Span(33, 63)),
    "marketing": Subject(358, Span(39, 97)),
    "medical_genetics": Subject(277, Span(36, 89)),
    "miscellaneous": Subject(263, Span(29, 97)),
    "moral_disputes": Subject(417, Span(38, 107)),
    "moral_scenarios": Subject(568, Span(99, 122)),
    "nutrition": Subject(519, Span(38, 123)),
    "philosophy": Subject(269, Span(36, 130)),
    "prehistory": Subject(462, Span(36, 116)),
    "professional_accounting": Subject(641, Span(54, 182)),
    "professional_law": Subject(1439, Span(117, 448)),
    "professional_medicine": Subject(932, Span(102, 335)),
    "professional_psychology": Subject(505, Span(40, 142)),
    "public_relations": Subject(353, Span(32, 120)),
    "security_studies": Subject(1026, Span(53, 285)),
    "sociology": Subject(373, Span(41, 106)),
    "us_foreign_policy": Subject(370, Span(39, 95)),
    "virology": Subject(276, Span(35, 83)),
    "world_religions": Subject(211, Span(32, 61)),
}


@dataclass(frozen=True)
class Mmlu(Parameters):
    """Single questions on one of MMLU's subjects; ``skew`` 0: all alike, else as in Zipf's law.

    Which subjects are popular depends on the seed. ``answer``: in tokens.
    """

    skew: float = 0.0
    answer: Span = Span(1, 4)

    def __post_init__(self) -> None:
        at_least(1, answer=self.answer.low)

    def sessions(self, rng: random.Random, *, nodes: int, rate_per_s: float) -> Iterator[Session]:
        dice = Dice.of(rng)
        subjects = dice.popularity.sample(list(SUBJECTS), len(SUBJECTS))
        weights = zipf_weights(len(subjects), self.skew)
        for number, at_s in enumerate(poisson(dice.arrivals, rate_per_s)):
            (subject,) = dice.popularity.choices(subjects, cum_weights=weights)
            exchange = Exchange(
                SUBJECTS[subject].question.draw(dice.lengths), self.answer.draw(dice.lengths)
            )
            turns = Conversation(session_name("mmlu", number), _examples(subject), [exchange])
            yield Session(at_s, dice.origins.randrange(nodes), turns)


@cache
def _examples(subject: str) -> Tokens:
    return text(name_of("mmlu", subject), SUBJECTS[subject].examples)
