"""How busy and how fast the engine is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

from models.engine import EngineStats, Finished, Priority
from models.llama.cache import Cache
from models.llama.rate import Rate, Rates
from models.llama.run import Run

#: A decode of fewer prompt tokens tells nothing about speed: it costs as much as a single one.
MEASURED_TOKENS_MIN: Final = 16
#: Between two EngineStats, unless the engine falls idle.
STATS_INTERVAL_S: Final = 0.2


class LoadMeter:
    """Measures decodes and counts requests; tells about it when it changed, but not too often."""

    def __init__(self, cells: int, rates: Rates, emit: Callable[[EngineStats], None]) -> None:
        self._emit = emit
        self._cells = cells
        self._prefill = rates.prefill
        self._decode = Rate()
        self._requests = 0
        self._hits = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._completion_tokens = 0
        self._preemptions = 0
        self._steps = 0
        self._step_s = 0.0
        self._computing_s = 0.0
        self._told = EngineStats()
        self._told_s = float("-inf")

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second; 0 before the first."""
        return self._prefill.per_second

    def note_decode(self, *, prompt: int, total: int, seconds: float) -> None:
        """A decode of ``total`` tokens, ``prompt`` of them of prompts, took ``seconds``."""
        if prompt >= MEASURED_TOKENS_MIN:
            self._prefill.add(prompt, seconds * prompt / total)
        elif not prompt:
            self._decode.add(1, seconds)  # the speed that each stream sees

    def note_step(self, *, computing: float, total: float) -> None:
        """A step took ``total`` seconds, ``computing`` of them in llama.cpp."""
        self._steps += 1
        self._step_s += total
        self._computing_s += computing

    def note_preemption(self) -> None:
        self._preemptions += 1

    def note_request(self) -> None:
        self._requests += 1

    def note_finished(self, finished: Finished) -> None:
        self._hits += finished.cached_tokens > 0
        self._prompt_tokens += finished.prompt_tokens
        self._cached_tokens += finished.cached_tokens
        self._completion_tokens += finished.completion_tokens

    def forget_told(self) -> None:
        """Tell all at the next `tell`, even what did not change: its hearer is a new one."""
        self._told, self._told_s = EngineStats(), float("-inf")

    def tell(
        self,
        queue: Sequence[Run],
        running: Sequence[Run],
        cache: Cache,
        *,
        now: float,
        idle: bool,
    ) -> None:
        """Emit EngineStats if they changed and it is time."""
        if not idle and now - self._told_s < STATS_INTERVAL_S:
            return
        queue = [run for run in queue if run.priority is not Priority.SPARE]
        running = [run for run in running if run.priority is not Priority.SPARE]
        pending = [(run.guest, run.expected) for run in queue]
        pending += [(run.guest, run.pending) for run in running if not run.decoding]
        stats = EngineStats(
            queued=len(queue),
            running=len(running),
            pending_prefill_tokens=sum(tokens for _, tokens in pending),
            pending_guest_tokens=sum(tokens for guest, tokens in pending if guest),
            prefill_rate=self._prefill.per_second,
            decode_rate=self._decode.per_second,
            cells_used=cache.cells_used,
            cells_total=self._cells,
            sequences_used=cache.sequences_used,
            requests=self._requests,
            hits=self._hits,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            completion_tokens=self._completion_tokens,
            queued_guests=sum(run.guest for run in queue),
            preemptions=self._preemptions,
            steps=self._steps,
            step_seconds=self._step_s,
            computing_seconds=self._computing_s,
            **dataclasses.asdict(cache.stats()),
        )
        if stats != self._told:
            self._told, self._told_s = stats, now
            self._emit(stats)
