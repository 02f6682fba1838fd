"""What became of the requests of a simulated run, and its summary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

#: Share of the requests, the first ones, that only fill the caches and count for nothing.
WARM_UP: Final = 0.1


class Outcome(NamedTuple):
    """One request's. ``request``: its number in the order of submission, from 0.

    ``origin`` and ``executor`` are indices of nodes. ``ttft_ms`` and ``total_ms`` run from the
    submission; of a failed request they mean nothing.
    """

    request: int
    origin: int
    executor: int
    hops: int
    submitted_s: float
    ttft_ms: float
    total_ms: float
    prompt_tokens: int
    cached_tokens: int
    estimated_match: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """What a run counts beside its requests, in the whole mesh and over the whole run.

    ``busy_s``: for each node, the time in which its engine computed.
    """

    busy_s: Sequence[float]
    gossip_bytes: int
    blind: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles, in milliseconds; nan when there was nothing to count."""

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Self:
        if not len(values):
            return cls(*[float("nan")] * 4)
        return cls(float(values.mean()), *(float(v) for v in np.percentile(values, (50, 95, 99))))

    def as_json(self) -> dict[str, float | None]:
        return {name: _number(getattr(self, name), 2) for name in self.__slots__}


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """One policy's run, or several runs together. Requests of the warm-up do not count.

    ``ttfts_ms``: of each request that was answered, in ascending order. ``imbalance``: the busiest
    node's time by the mean. ``forwards``: hops of all requests.
    """

    policy: str
    requests: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    ttfts_ms: NDArray[np.float64]
    imbalance: float
    forwards: int
    gossip_bytes: int
    blind: int

    @classmethod
    def of(
        cls,
        policy: str,
        outcomes: Iterable[Outcome],
        counters: Counters,
        *,
        warm_up: float = WARM_UP,
    ) -> Self:
        """Of a run's outcomes, in any order; ``warm_up`` (0 to 1) is the share left out."""
        counted = sorted(outcomes)
        del counted[: round(warm_up * len(counted))]
        answered = [outcome for outcome in counted if not outcome.failed]
        return cls(
            policy=policy,
            requests=len(counted),
            failed=len(counted) - len(answered),
            prompt_tokens=sum(outcome.prompt_tokens for outcome in answered),
            cached_tokens=sum(outcome.cached_tokens for outcome in answered),
            ttfts_ms=np.sort(np.array([outcome.ttft_ms for outcome in answered], dtype=float)),
            imbalance=_imbalance(counters.busy_s),
            forwards=sum(outcome.hops for outcome in answered),
            gossip_bytes=counters.gossip_bytes,
            blind=counters.blind,
        )

    @classmethod
    def together(cls, reports: Sequence[Report]) -> Self:
        """Of one policy's runs with several seeds, one at least; imbalance is their mean."""
        return cls(
            policy=reports[0].policy,
            requests=sum(report.requests for report in reports),
            failed=sum(report.failed for report in reports),
            prompt_tokens=sum(report.prompt_tokens for report in reports),
            cached_tokens=sum(report.cached_tokens for report in reports),
            ttfts_ms=np.sort(np.concatenate([report.ttfts_ms for report in reports])),
            imbalance=float(np.mean([report.imbalance for report in reports])),
            forwards=sum(report.forwards for report in reports),
            gossip_bytes=sum(report.gossip_bytes for report in reports),
            blind=sum(report.blind for report in reports),
        )

    @property
    def hit_rate(self) -> float:
        """Prompt tokens that were cached where they were needed, of all prompt tokens."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def ttft_ms(self) -> Spread:
        """Time to first token."""
        return Spread.of(self.ttfts_ms)

    def as_json(self) -> dict[str, Any]:
        """For programs: plain types; null where there was nothing to count."""
        return {
            "policy": self.policy,
            "requests": self.requests,
            "failed": self.failed,
            "hit_rate": _number(self.hit_rate, 4),
            "ttft_ms": self.ttft_ms.as_json(),
            "imbalance": _number(self.imbalance, 3),
            "forwards": self.forwards,
            "gossip_bytes": self.gossip_bytes,
            "blind": self.blind,
        }


def _imbalance(busy_s: Sequence[float]) -> float:
    """The busiest node's time by the mean; 1: all were equally busy, also when none was."""
    total = sum(busy_s)
    return max(busy_s) * len(busy_s) / total if total else 1.0


def _number(value: float, digits: int) -> float | None:
    return round(value, digits) if np.isfinite(value) else None
