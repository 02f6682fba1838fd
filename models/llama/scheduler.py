"""Continuous batching over the radix tree: what each decode computes, and for whom.

Each step computes one token for every answer under way, and chunks of the prompts that are not
computed yet. A step takes about STEP_S, so that streams flow on and a cancellation is felt at once.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import Final

from models.engine import (
    CacheChanged,
    Chunk,
    EngineEvent,
    Failed,
    FinishReason,
    GenerationRequest,
    Started,
)
from models.llama.backend import Backend, Outcome, Slice
from models.llama.kv_cache import KvCache
from models.llama.load import LoadMeter
from models.llama.run import Run
from models.llama.text import TextStream
from overlay.errors import (
    ContextLengthExceeded,
    EngineBusy,
    EngineFailed,
    HearthError,
    InvalidRequest,
)
from overlay.limits import ENGINE_QUEUE_MAX
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.prefix.radix import RadixTree

#: Requests that compute at one time; more only make each other slow.
RUNNING_MAX: Final = 32
#: A step with prompts should take about this long: alone, and while others' answers stream.
STEP_S: Final = 0.5
STREAMING_STEP_S: Final = 0.1
#: Prompt tokens in a step: the fewest, however slow the machine, and before its speed is known.
CHUNK_MIN: Final = 32
CHUNK_UNMEASURED: Final = 64
#: llama.cpp's attention computes batches of this many tokens or more in another way, with other
#: rounding. Prompts are cut at its multiples, so that their rounding does not hang on timing.
TILE: Final = 64
#: Cells to free at one time, so that not every step has to evict.
EVICT_TOKENS: Final = 256


class Scheduler:
    """Runs requests on a backend. Not thread safe; everything it has to say goes to ``emit``."""

    def __init__(
        self,
        backend: Backend,
        tree: RadixTree,
        *,
        context_length: int,
        clock: Callable[[], float],
        emit: Callable[[EngineEvent], None],
    ) -> None:
        self._backend = backend
        self._cache = KvCache(backend, tree)
        self._context_length = context_length
        self._clock = clock
        self._emit = emit
        self._queue: list[Run] = []
        self._running: list[Run] = []
        self._arrivals = 0
        self._load = LoadMeter(backend.cells, emit)
        #: Requests whose prompts the current decode computes; others' threads may read it.
        self.prefilling: frozenset[bytes] = frozenset()

    # --- requests -----------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request, or fail it at once."""
        error = self._refusal(request)
        if error is not None:
            self._emit(Failed(request.request_id, error.code, str(error)))
            return
        text = TextStream(request.sampling.stop, skip=request.delivered_chars)
        tokens = [*request.tokens, *request.generated]
        run = Run(
            request=request,
            arrival=self._arrivals,
            submitted_s=self._clock(),
            tokens=tokens,
            sampler=self._backend.sampler(request.sampling, request.generated),
            text=text,
            owed_text="".join(text.push(self._backend.piece(t)) for t in request.generated),
            expected=self._cache.missing(tokens),
        )
        self._arrivals += 1
        self._load.note_request()
        if text.stopped or (run.generated and self._exhausted(run)):
            # The engine that failed had computed all of it, but perhaps not delivered.
            if owed := run.owed_text + text.finish():
                self._emit(Chunk(request.request_id, (), owed))
            self._finish(run, FinishReason.STOP if text.stopped else FinishReason.LENGTH)
        else:
            insort(self._queue, run, key=_order)

    def cancel(self, request_id: bytes) -> None:
        """End a request; its computed tokens stay reusable."""
        for run in [*self._queue, *self._running]:
            if run.request.request_id == request_id:
                self._finish(run, FinishReason.CANCELLED)

    def rekey(self, mesh_secret: bytes) -> None:
        """Hash blocks under another mesh secret from now on."""
        self._cache.rekey(mesh_secret)
        self._publish(idle=True)

    def _refusal(self, request: GenerationRequest) -> HearthError | None:
        length, limit = len(request.tokens), self._context_length
        named = [*request.tokens, *request.generated, *(t for t, _ in request.sampling.logit_bias)]
        if not length:
            return InvalidRequest("The prompt is empty.")
        if not 0 <= min(named) <= max(named) < self._backend.vocabulary:
            return InvalidRequest("The request names tokens that the model does not have.")
        if length >= limit:
            return ContextLengthExceeded(
                f"The prompt has {length} tokens; the model's context holds {limit}, "
                "and the answer needs some of them."
            )
        if len(self._queue) >= ENGINE_QUEUE_MAX:
            return EngineBusy(f"{len(self._queue)} requests wait already; try again later.")
        return None

    # --- a step -------------------------------------------------------------------------------

    def step(self) -> bool:
        """Compute once; False if there was nothing to do."""
        self._admit()
        plan = self._make_room(self._plan())
        if not plan:
            self._publish(idle=True)
            return False
        self._start(plan)
        began = self._clock()
        self.prefilling = frozenset(
            run.request.request_id for run, count in plan if not run.decoding
        )
        slices = [
            Slice(
                run.sequence,
                run.computed,
                run.tokens[run.computed : run.computed + count],
                count == run.pending,
            )
            for run, count in plan
        ]
        outcome = self._backend.decode(slices)
        self.prefilling = frozenset()
        if outcome is Outcome.DONE:
            self._load.note_decode(
                prompt=sum(count for run, count in plan if not run.decoding),
                total=sum(count for _, count in plan),
                seconds=self._clock() - began,
            )
            self._commit(plan, slices)
        else:
            self._roll_back(plan, outcome)
        self._publish(idle=False)
        return True

    def _admit(self) -> None:
        """Let queued requests run, in order, as far as cells and sequences suffice."""
        promised = sum(run.pending for run in self._running)
        while self._queue and len(self._running) < RUNNING_MAX:
            run = self._queue[0]
            if not self._cache.seat(run, promised, self._clock()):
                return
            promised += run.pending
            self._running.append(self._queue.pop(0))

    def _plan(self) -> list[tuple[Run, int]]:
        """Who computes how many tokens now."""
        plan = [(run, 1) for run in self._running if run.decoding]
        budget = min(self._chunk(streaming=bool(plan)), self._backend.batch_tokens - len(plan))
        prefills = sorted((run for run in self._running if not run.decoding), key=_order)
        for run in prefills:
            if budget == 0:
                break
            self._cache.catch_up(run, self._clock())
            if any(_same_ahead(run, other) for other, _ in plan):
                continue  # the other computes what this one needs: take it over afterwards
            count = _cut(run, budget)
            budget -= count
            plan.append((run, count))
        return plan

    def _chunk(self, *, streaming: bool) -> int:
        """Prompt tokens for one step."""
        rate = self._load.prefill_rate
        if rate == 0:
            return CHUNK_UNMEASURED
        if streaming:
            tokens = int(rate * STREAMING_STEP_S)
            return max(CHUNK_MIN, tokens - tokens % CHUNK_MIN)
        # Whole tiles, however slow the machine: alone, a prompt is always cut at the same places.
        return max(TILE, int(rate * STEP_S))

    def _make_room(self, plan: list[tuple[Run, int]]) -> list[tuple[Run, int]]:
        """Evict, then send back the youngest, until the plan fits into the cells."""
        while (missing := self._missing(plan)) > 0:
            self._cache.evict(max(missing, EVICT_TOKENS))
            if self._missing(plan) <= 0:
                break
            victim = max(self._running, key=_order)
            self._preempt(victim)
            plan = [(run, count) for run, count in plan if run is not victim]
        return plan

    def _missing(self, plan: list[tuple[Run, int]]) -> int:
        return sum(count for _, count in plan) - self._cache.cells_free

    def _start(self, plan: list[tuple[Run, int]]) -> None:
        now = self._clock()
        for run, _ in plan:
            if run.started_s is None:
                run.started_s = now
                cached = min(run.computed, run.prompt_tokens)
                waited_ms = (now - run.submitted_s) * 1e3
                self._emit(Started(run.request.request_id, cached, waited_ms))

    # --- after a decode -----------------------------------------------------------------------

    def _commit(self, plan: list[tuple[Run, int]], slices: list[Slice]) -> None:
        """Record the computed tokens in the tree, then let answers grow."""
        now = self._clock()
        for (run, _), part in zip(plan, slices, strict=True):
            self._cache.record(run, part.tokens, now)
        for row, ((run, _), part) in enumerate(zip(plan, slices, strict=True)):
            if part.logits:
                self._answer(run, row)

    def _answer(self, run: Run, row: int) -> None:
        """Choose the next token, show it, and see whether the answer is complete."""
        if run.answered_s is None:
            run.answered_s = self._clock()
        if self._exhausted(run):
            self._finish(run, FinishReason.LENGTH)
            return
        token = run.sampler.sample(row)
        shown, run.owed_text = run.owed_text, ""
        new: tuple[int, ...] = ()
        reason = None
        if self._backend.ends_generation(token):
            reason = FinishReason.STOP
        else:
            new = (token,)
            run.tokens.append(token)
            shown += run.text.push(self._backend.piece(token))
            if run.text.stopped:
                reason = FinishReason.STOP
            elif self._exhausted(run):
                reason = FinishReason.LENGTH
        if reason is not None:
            shown += run.text.finish()
        if new or shown:
            self._emit(Chunk(run.request.request_id, new, shown))
        if reason is not None:
            self._finish(run, reason)

    def _exhausted(self, run: Run) -> bool:
        most = run.request.sampling.max_tokens
        return len(run.tokens) >= self._context_length or (
            most is not None and run.generated >= most
        )

    def _roll_back(self, plan: list[tuple[Run, int]], outcome: Outcome) -> None:
        """A decode did not succeed: nothing that it wrote stays."""
        for run, _ in plan:
            self._cache.roll_back(run)
        if outcome is Outcome.FULL and (self._cache.evictable or len(self._running) > 1):
            if not self._cache.evict(EVICT_TOKENS):
                self._preempt(max(self._running, key=_order))
        elif outcome is not Outcome.ABORTED:
            for run, _ in plan:
                self._remove(run)
                message = "llama.cpp could not compute the prompt."
                self._emit(Failed(run.request.request_id, EngineFailed.code, message))

    def _preempt(self, run: Run) -> None:
        """Back to the queue; its tokens stay cached as long as nobody needs their cells."""
        self._remove(run)
        run.expected = run.pending
        insort(self._queue, run, key=_order)

    def _finish(self, run: Run, reason: FinishReason) -> None:
        self._remove(run)
        finished = run.finished(reason, self._clock())
        self._load.note_finished(finished)
        self._emit(finished)

    def _remove(self, run: Run) -> None:
        """Take the run out of the queue, or off the machine."""
        if run in self._queue:
            self._queue.remove(run)
        if run in self._running:
            self._running.remove(run)
            self._cache.leave(run)

    # --- what the node sees -------------------------------------------------------------------

    def _publish(self, *, idle: bool) -> None:
        changes = self._cache.take_changes()
        if changes is not None:
            self._emit(CacheChanged(*changes))
        self._load.tell(self._queue, self._running, self._cache, now=self._clock(), idle=idle)


def _order(run: Run) -> tuple[bool, int]:
    return run.order


def _cut(run: Run, budget: int) -> int:
    """How many of its tokens to compute now."""
    if run.pending < TILE:
        return min(run.pending, budget)
    # The last token stays out of the tiles, for it is computed alone when all else is cached.
    end = min(run.computed + budget, len(run.tokens) - 1)
    aligned = end - end % TILE
    return (aligned if aligned > run.computed else end) - run.computed


def _same_ahead(run: Run, other: Run) -> bool:
    """Both stand at the same place of the tree, and need the same block next."""
    if run.node is not other.node or run.computed != other.computed:
        return False
    ahead = slice(run.computed, run.computed + BLOCK_TOKENS)
    return (
        len(run.tokens) - run.computed > BLOCK_TOKENS and run.tokens[ahead] == other.tokens[ahead]
    )
