"""How far Hearth is behind or ahead in each cell of the no-regret grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Final, NamedTuple

from overlay.sim.run import HEARTH
from tests.bench.regret_grid import Cell
from tests.bench.regret_runs import Figures, Job, Results

#: Those without a coordinator: Hearth must be no worse than the best of them, in each cell.
DECENTRALISED: Final = (
    "local-only",
    "random",
    "least-loaded",
    "power-of-two",
    "bounded-hash",
    "longest-match",
    "longest-match-threshold",
)
SGLANG: Final = "sglang"
ORACLES: Final = ("oracle", "oracle-alpha")
RIVALS: Final = (*DECENTRALISED, SGLANG, *ORACLES)
#: No worse than so many times the best, and within so many times the oracle.
GOAL: Final = 1.02
ORACLE_GOAL: Final = 1.3


#: All policies run with this seed. With others, those decentralised ones do not that were so many
#: times slower than the best, by mean and 95th percentile: they are not the best in any case.
FIRST_SEED: Final = 1
HOPELESS: Final = 1.5
#: A cell whose ratio of the mean has a larger standard error than this is left to chance. That
#: error decides about further seeds, never the ratio: so they favour nobody.
NOISY: Final = 0.05


class Ratio(NamedTuple):
    """A time of Hearth's by a ``rival``'s; ``error``: its standard error over the seeds, relative.

    Seeds are paired: all policies were asked the same. nan: there is one seed only.
    """

    value: float
    error: float
    rival: str

    @property
    def clearly_above_goal(self) -> bool:
        """Worse than the goal allows, by more than two standard errors."""
        return math.log(self.value / GOAL) > 2 * self.error


@dataclass(frozen=True, slots=True)
class Compared:
    """A policy in a cell. Means and 95th percentiles of the time to first token."""

    cell: Cell
    seeds: int
    mean_ms: float
    p95_ms: float
    #: To the best decentralised rival, by this figure.
    mean: Ratio
    p95: Ratio
    #: To the better of the oracles, by the mean, and to SGLang's router.
    oracle: Ratio
    sglang: Ratio
    #: Requests that had no answer, by policy.
    failed: Mapping[str, int]


def compare(
    cells: Iterable[Cell], seeds: Sequence[int], results: Results, policy: str = HEARTH
) -> list[Compared]:
    """``policy`` in all cells that its rivals have results of, with the seeds that all have."""
    found = []
    for cell in cells:
        runs = {
            each: [results.of(Job(cell, each, seed)) for seed in seeds]
            for each in (policy, *contenders(cell, results))
        }
        whole = [all(of_seed) for of_seed in zip(*runs.values(), strict=True)]
        if any(whole):
            paired = {
                each: [f for f, all_have in zip(of, whole, strict=True) if f and all_have]
                for each, of in runs.items()
            }
            found.append(_compared(cell, policy, paired))
    return found


def is_noisy(compared: Compared) -> bool:
    """Whether a few more seeds may well tell something else. No: there is one seed only."""
    return compared.mean.error > NOISY


def contenders(cell: Cell, results: Results) -> tuple[str, ...]:
    """The rivals that run with further seeds; all while the first one is not done."""
    first = {rival: results.of(Job(cell, rival, FIRST_SEED)) for rival in DECENTRALISED}
    known = {rival: figures for rival, figures in first.items() if figures is not None}
    if len(known) < len(first):
        return RIVALS
    best_mean = min(figures.mean_ms for figures in known.values())
    best_p95 = min(figures.p95_ms for figures in known.values())
    return tuple(
        rival
        for rival in RIVALS
        if rival not in known
        or known[rival].mean_ms <= HOPELESS * best_mean
        or known[rival].p95_ms <= HOPELESS * best_p95
    )


def geometric_mean(values: Iterable[float]) -> float:
    """Of ratios."""
    return math.exp(mean(math.log(value) for value in values))


def share(truths: Iterable[bool]) -> float:
    """Of those that are true."""
    return mean(float(truth) for truth in truths)


def _compared(cell: Cell, policy: str, runs: Mapping[str, Sequence[Figures]]) -> Compared:
    means = {each: [f.mean_ms for f in of] for each, of in runs.items()}
    p95s = {each: [f.p95_ms for f in of] for each, of in runs.items()}
    return Compared(
        cell=cell,
        seeds=len(runs[policy]),
        mean_ms=mean(means[policy]),
        p95_ms=mean(p95s[policy]),
        mean=_ratio(means, policy, [each for each in DECENTRALISED if each in runs]),
        p95=_ratio(p95s, policy, [each for each in DECENTRALISED if each in runs]),
        oracle=_ratio(means, policy, ORACLES),
        sglang=_ratio(means, policy, [SGLANG]),
        failed={each: sum(f.failed for f in of) for each, of in runs.items()},
    )


def _ratio(times: Mapping[str, Sequence[float]], policy: str, rivals: Sequence[str]) -> Ratio:
    """To the best of the rivals over all seeds."""
    best = min(rivals, key=lambda rival: mean(times[rival]))
    by_seed = [math.log(a / b) for a, b in zip(times[policy], times[best], strict=True)]
    error = stdev(by_seed) / math.sqrt(len(by_seed)) if len(by_seed) > 1 else math.nan
    return Ratio(mean(times[policy]) / mean(times[best]), error, best)
