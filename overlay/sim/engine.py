"""The engine's model: what `models.llama` does, with time taken from a `Machine`.

The cache is the engine's own radix tree, with its order of eviction. Prompts are computed in
chunks, in batches with the answers under way; whose turn it is, the engine's own `Turns` says.
Between two changes of the batch all steps are alike, so they are one event.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from models.engine import (
    CacheChanged,
    Chunk,
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Priority,
    Started,
    Tokens,
)
from models.llama.chunks import same_ahead
from models.llama.scheduler import EVICT_TOKENS, RUNNING_MAX
from models.llama.turns import Turns, youngest
from overlay.errors import EngineBusy
from overlay.limits import FRAME_TOKENS_MAX
from overlay.prefix.radix import RadixTree
from overlay.sim.batch import Batch, Run
from overlay.sim.clock import Clock
from overlay.sim.machine import Machine

#: Tokens of an answer are told at the latest after this long, so that nobody takes it for stalled.
TELL_S: Final = 1.0


class SimEngine:
    """Serves one model. Events go to ``emit``, at their virtual time."""

    def __init__(
        self,
        machine: Machine,
        tree: RadixTree,
        cells: int,
        clock: Clock,
        answer_to: Callable[[bytes], Tokens],
        emit: Callable[[EngineEvent], None],
    ) -> None:
        """``cells``: tokens that the cache holds. ``answer_to``: what the model says to it."""
        self.machine = machine
        self._tree = tree
        self._cells = cells
        self._clock = clock
        self._answer_to = answer_to
        self._emit = emit
        self._queue: list[Run] = []
        self._running: list[Run] = []
        self._batch: Batch | None = None
        self._batches = 0
        self._arrivals = 0
        self._turns = Turns()
        self._told = EngineStats()
        #: Block hashes in the cache, and seconds spent computing.
        self.blocks: set[int] = set()
        self.busy_s = 0.0

    def announce(self) -> None:
        """Tell how fast it is, and that it has nothing to do."""
        self._publish()

    # --- Engine contract ----------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> None:
        now = self._clock.now
        try:
            displaced = self._turns.make_room(self._queue, request)
        except EngineBusy as error:
            self._emit(Failed(request.request_id, error.code, str(error)))
            return
        if displaced is not None:
            self._end(displaced)
            self._emit(Failed(displaced.request.request_id, EngineBusy.code, "it gave way"))
        answer = self._answer_to(request.request_id)[: request.sampling.max_tokens]
        given = len(request.generated)
        run = Run(
            request=request,
            tokens=request.tokens + answer[:given] if given else request.tokens,
            answer=answer,
            arrival=self._arrivals,
            submitted_s=now,
            pending=0,
            given=given,
            told=given,
            told_s=now,
        )
        run.pending = len(run.tokens) - self._tree.match_prefix(run.tokens).length
        self._arrivals += 1
        self._turns.arrive(run)
        self._queue.append(run)
        if self._batch is not None and self._batch.gives_way(run):
            self._break_off(self._batch)
        else:
            self._interrupt()

    def cancel(self, request_id: bytes) -> None:
        for run in [*self._queue, *self._running]:
            if run.request.request_id == request_id:
                batch = self._batch
                self._end(run)
                self._emit(replace(self._finished(run), reason=FinishReason.CANCELLED))
                if batch is not None and any(other is run for other, _ in batch.prompts):
                    self._break_off(batch)
                else:
                    self._interrupt()

    def copies_changed(self, changed: Mapping[int, int]) -> None:
        self._tree.copies_changed(changed)

    def stop(self) -> None:
        """Its machine is off: nothing is told of anything any more."""
        if self._batch is not None:
            self.busy_s += self._clock.now - self._batch.began_s
            self._batch = None
        self._batches += 1
        self._queue.clear()
        self._running.clear()

    # --- What others want to know ----------------------------------------------------------------

    @property
    def present(self) -> int:
        """Requests queued or running."""
        return len(self._queue) + len(self._running)

    def pending_prefill_tokens(self) -> int:
        """Prompt tokens of all requests that are not computed yet."""
        return sum(r.pending for r in self._queue) + sum(r.pending for r in self._running)

    def prefill_rate(self) -> float:
        """Prompt tokens per second, beside the answers that are under way."""
        answers = sum(1 for run in self._running if run.decoding)
        tokens = self.machine.chunk(streaming=answers > 0)
        return tokens / self.machine.step_seconds(answers, tokens)

    # --- Steps --------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        """Somebody came or went: the batch ends after the step that is under way."""
        batch = self._batch
        if batch is None:
            self._next()
            return
        elapsed = self._clock.now - batch.began_s
        steps = int(elapsed / batch.step_s) + 1
        if steps < batch.steps:
            batch.steps = steps
            self._schedule(batch)

    def _break_off(self, batch: Batch) -> None:
        """The step that is under way ends now, and nothing comes of it."""
        elapsed = self._clock.now - batch.began_s
        batch.steps = min(batch.steps, int(elapsed / batch.step_s))
        self.busy_s += elapsed - batch.steps * batch.step_s
        self._batches += 1
        self._done(self._batches)

    def _schedule(self, batch: Batch) -> None:
        self._batches += 1
        end = batch.began_s + batch.steps * batch.step_s
        self._clock.at(end, self._done, self._batches)

    def _next(self) -> None:
        """Plan what is computed next, up to the next change."""
        self._admit()
        answers = [run for run in self._running if run.decoding]
        prompts = self._prompts(answers)
        if not answers and not prompts:
            self._publish()
            return
        steps = min((len(run.answer) - run.given for run in answers), default=1 << 30)
        if prompts:
            run, count = prompts[0]
            # Full chunks of one long prompt are alike; whatever is shorter is a step of its own.
            steps = min(steps, max(1, (run.pending - 1) // count if len(prompts) == 1 else 1))
        step_s = self.machine.step_seconds(len(answers), sum(count for _, count in prompts))
        if answers:
            steps = min(steps, int(TELL_S / step_s))
        self._batch = Batch(self._clock.now, max(1, steps), step_s, answers, prompts)
        self._schedule(self._batch)
        self._publish()

    def _admit(self) -> None:
        """Let queued requests run, in turn, as far as cells and seats suffice."""
        while self._queue:
            run = self._turns.first(self._queue, self._running)
            while not self._seat(run):
                # The youngest guest gives way to the owner, and what is spare to both. It goes on
                # later, from its own prefix.
                victim = youngest(self._running)
                if victim is None or victim.priority <= run.priority:
                    return
                self._preempt(victim)
            self._queue.remove(run)
            self._running.append(run)
            if run.started_s is None:
                self._start(run)

    def _seat(self, run: Run) -> bool:
        """Give it its prefix, if what it lacks fits beside what others still lack."""
        if len(self._running) >= RUNNING_MAX:
            return False
        match = self._tree.match_prefix(run.tokens, limit=len(run.tokens) - 1)
        promised = sum(other.pending for other in self._running)
        need = len(run.tokens) - match.length + promised
        free = self._cells - self._tree.size + self._tree.evictable_beside(match)
        if need > free and self._running:
            return False
        run.node = self._tree.lock(match)
        run.computed = match.length
        run.pending = len(run.tokens) - run.computed
        self._tree.hit(self._tree.match_prefix(run.tokens, limit=len(run.tokens) - 1))
        return True

    def _start(self, run: Run) -> None:
        run.started_s = self._clock.now
        run.cached = min(run.computed, len(run.request.tokens))
        waited_ms = (run.started_s - run.submitted_s) * 1e3
        self._emit(Started(run.request.request_id, run.cached, waited_ms))

    def _preempt(self, run: Run) -> None:
        """Back to the queue; what is computed of it stays cached while nobody needs its cells."""
        if run.decoding:
            self._keep_answer(run)
        assert run.node is not None
        self._running.remove(run)
        self._tree.unlock(run.node)
        run.node = None
        run.tokens = run.request.tokens + run.answer[: run.given]
        run.pending = len(run.tokens) - self._tree.match_prefix(run.tokens).length
        self._queue.append(run)

    def _prompts(self, answers: list[Run]) -> list[tuple[Run, int]]:
        """Who computes how much of a prompt in the next step."""
        waiting = self._turns.in_prefill(self._running)
        # The owner's prompt is held up by the owner's answers alone.
        owners = bool(waiting) and not waiting[0].guest
        budget = self.machine.chunk(streaming=any(not owners or not run.guest for run in answers))
        plan: list[tuple[Run, int]] = []
        for run in waiting:
            self._catch_up(run)
            if any(same_ahead(run, other) for other, _ in plan):
                continue  # the other computes what this one needs: take it over afterwards
            count = min(run.pending, budget)
            plan.append((run, count))
            budget -= count
            if budget == 0:
                break
        return plan

    def _catch_up(self, run: Run) -> None:
        """Take over what others have computed of the prompt meanwhile."""
        assert run.node is not None
        match = self._tree.match_prefix(run.tokens, at=run.node, limit=len(run.tokens) - 1)
        if match.length > run.computed:
            node = self._tree.lock(match)
            self._tree.unlock(run.node)
            run.node, run.cached = node, run.cached + match.length - run.computed
            run.computed = match.length
            run.pending = len(run.tokens) - run.computed

    def _done(self, number: int) -> None:
        """The batch's steps are over."""
        batch = self._batch
        if number != self._batches or batch is None:
            return
        self._batch = None
        self.busy_s += batch.steps * batch.step_s
        for run, count in batch.prompts:
            if run.node is not None and batch.steps:
                self._turns.charge(run, count * batch.steps)
                self._record(run, count * batch.steps)
        for run in batch.answers:
            if run.node is not None:
                self._turns.charge(run, batch.steps)
                run.given += batch.steps
        for run in [*batch.answers, *(r for r, _ in batch.prompts)]:
            if run.node is not None and run.decoding:
                self._answer(run)
        self._next()

    def _record(self, run: Run, count: int) -> None:
        """So many tokens more of the prompt are in the cache."""
        assert run.node is not None
        end = run.computed + count
        self._make_room(count)
        done = self._tree.insert_prefix(run.node, run.tokens[run.computed : end], run.arrival)
        run.node, run.computed, run.pending = done.node, end, len(run.tokens) - end
        if run.decoding:
            run.first_s = run.first_s or self._clock.now
            run.given += 1

    def _answer(self, run: Run) -> None:
        """Tell what there is of the answer, and whether it is whole."""
        now = self._clock.now
        whole = run.given >= len(run.answer)
        if whole or now == run.first_s or now - run.told_s >= TELL_S:
            while run.told < run.given:
                end = min(run.given, run.told + FRAME_TOKENS_MAX)
                new = run.answer[run.told : end]
                run.told, run.told_s = end, now
                self._emit(Chunk(run.request.request_id, new, " " * len(new)))
        if whole:
            self._keep_answer(run)
            self._end(run)
            self._emit(self._finished(run))

    def _keep_answer(self, run: Run) -> None:
        assert run.node is not None
        # The last token was not decoded yet.
        more = run.answer[len(run.tokens) - len(run.request.tokens) : run.given - 1]
        if more:
            self._make_room(len(more))
            run.node = self._tree.insert_prefix(run.node, more, run.arrival).node

    def _finished(self, run: Run) -> Finished:
        now, started = self._clock.now, run.started_s or 0.0
        return Finished(
            request_id=run.request.request_id,
            reason=FinishReason.STOP,
            prompt_tokens=len(run.request.tokens),
            cached_tokens=min(run.cached, len(run.request.tokens)),
            completion_tokens=len(run.answer),
            queue_ms=(started - run.submitted_s) * 1e3,
            prefill_ms=(run.first_s - started) * 1e3,
            decode_ms=(now - run.first_s) * 1e3,
        )

    def _end(self, run: Run) -> None:
        self._turns.leave(run)
        if run in self._queue:
            self._queue.remove(run)
        else:
            assert run.node is not None
            self._running.remove(run)
            self._tree.unlock(run.node)
            run.node = None

    def _make_room(self, count: int) -> None:
        """Evict for ``count`` tokens; what locks keep stays, as answers in the real engine's
        batch would make it send somebody back to the queue."""
        while self._tree.size + count > self._cells:
            tip = self._tree.coldest_tip()
            if tip is None:
                return
            excess = max(EVICT_TOKENS, self._tree.size + count - self._cells)
            self._tree.cut(tip, max(tip.start, tip.end - excess))

    # --- What the node sees -------------------------------------------------------------------

    def _publish(self) -> None:
        changes = self._tree.take_changes()
        if changes is not None:
            self.blocks.difference_update(changes.removed)
            self.blocks.update(changes.added)
            self._emit(CacheChanged(*changes))
        queue = [r for r in self._queue if r.priority is not Priority.SPARE]
        running = [r for r in self._running if r.priority is not Priority.SPARE]
        stats = EngineStats(
            queued=len(queue),
            running=len(running),
            pending_prefill_tokens=sum(r.pending for r in queue + running),
            pending_guest_tokens=sum(r.pending for r in queue + running if r.guest),
            prefill_rate=self.machine.prefill_rate,
            decode_rate=self.machine.decode_rate,
            cells_used=self._tree.size,
            cells_total=self._cells,
        )
        if stats != self._told:
            self._told = stats
            self._emit(stats)


def blocks_cached(hashes: Sequence[int], blocks: set[int]) -> int:
    """How many leading blocks of a prompt are cached. A cache that has one has all before it."""
    return bisect(hashes, False, key=lambda h: h not in blocks)
