"""Continuous batching over the radix tree: what each decode computes, and for whom.

Each step computes one token for every answer under way, and chunks of the prompts that are not
computed yet. A step takes about a second at most, less while answers stream; a cancellation breaks
it off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from models.engine import (
    CacheChanged,
    Chunk,
    EngineEvent,
    Failed,
    FinishReason,
    GenerationRequest,
    Priority,
    Started,
    TokenLogprob,
)
from models.llama.backend import Backend, Outcome, Slice
from models.llama.cache import Cache
from models.llama.checks import check
from models.llama.chunks import RESTORE_S, STREAMING_RESTORE_S, TILE, chunk, cut, same_ahead
from models.llama.grammar_time import GrammarTime
from models.llama.load import LoadMeter
from models.llama.rate import Rates
from models.llama.run import Run
from models.llama.text import TextStream
from models.llama.turns import Turns, youngest
from overlay.errors import EngineBusy, EngineFailed, HearthError, ModelFileInvalid

#: Requests that compute at one time; more only make each other slow.
RUNNING_MAX: Final = 32
#: Cells to free at one time, so that not every step has to evict.
EVICT_TOKENS: Final = 256
#: Letting requests run may take this long before a step: some bring grammars to read. Who comes
#: meanwhile may go before those that are left.
ADMIT_S: Final = 0.05


class Scheduler:
    """Runs requests on a backend. Not thread safe; everything it has to say goes to ``emit``.

    It calls ``tell`` where that should not wait for the step's end.
    """

    def __init__(
        self,
        backend: Backend,
        cache: Cache,
        rates: Rates,
        *,
        context_length: int,
        clock: Callable[[], float],
        emit: Callable[[EngineEvent], None],
        tell: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._cache = cache
        self._context_length = context_length
        self._clock = clock
        self._emit = emit
        self._tell = tell
        self._queue: list[Run] = []
        self._running: list[Run] = []
        self._turns = Turns()
        self._arrivals = 0
        #: The cells turned out to be fewer than counted: nobody joins until somebody has left.
        self._crowded = False
        self._load = LoadMeter(backend.cells, rates, emit)
        self._grammars = GrammarTime(self._turns, self._load, self._running, clock)
        #: Requests whose prompts the current decode computes; others' threads may read it.
        self.prefilling: frozenset[bytes] = frozenset()
        #: Whose they are, or whose answers' tokens are being chosen: who comes now, and goes before
        #: these, need not wait for the end of that.
        self.yielding: Priority | None = None

    def warm_up(self) -> None:
        """Compute a little for nobody, before the first request: pages of the model's file are
        read, and speeds are known. Raises ModelFileInvalid.
        """
        for count in (1, min(TILE, self._backend.cells, self._backend.batch_tokens), 1):
            began = self._clock()
            outcome = self._backend.decode([Slice(0, 0, [0] * count, logits=True)])
            self._backend.forget(0, 0, None)
            if outcome is not Outcome.DONE:
                reason = self._backend.complaint()
                raise ModelFileInvalid(f"llama.cpp cannot compute with this model: {reason}.")
            prompt = count if count > 1 else 0
            self._load.note_decode(prompt=prompt, total=count, seconds=self._clock() - began)

    # --- requests -----------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request, or fail it at once; its grammar is not read before its turn."""
        try:
            check(request, self._backend.vocabulary, self._context_length)
            seats = RUNNING_MAX - len(self._running)  # Many may come before those are taken.
            displaced = self._turns.make_room(self._queue[seats:], request)
        except HearthError as error:
            self._emit(Failed(request.request_id, error.code, str(error)))
            return
        if displaced is not None:
            self._fail(displaced, EngineBusy("It gave way to one of a guest who has fewer."))
        text = TextStream(request.sampling.stop, skip=request.delivered_chars)
        tokens = [*request.tokens, *request.generated]
        run = Run(
            request=request,
            arrival=self._arrivals,
            submitted_s=self._clock(),
            tokens=tokens,
            text=text,
            # At once: to look for stop strings after each of 100,000 tokens takes seconds.
            owed_text=text.push(b"".join(map(self._backend.piece, request.generated))),
            expected=self._cache.missing(tokens),
        )
        self._arrivals += 1
        self._load.note_request()
        self._turns.arrive(run)
        if text.stopped or (run.generated and run.exhausted(self._context_length)):
            # The engine that failed had computed all of it, but perhaps not delivered.
            if owed := run.owed_text + text.finish():
                self._emit(Chunk(request.request_id, (), owed))
            self._finish(run, FinishReason.STOP if text.stopped else FinishReason.LENGTH)
        else:
            self._queue.append(run)

    def cancel(self, request_id: bytes) -> None:
        """End a request; its computed tokens stay reusable."""
        for run in [*self._queue, *self._running]:
            if run.request.request_id == request_id:
                self._finish(run, FinishReason.CANCELLED)

    def close(self) -> None:
        """Drop all requests, and leave what is cached to the next start."""
        for run in [*self._running]:
            self._remove(run)
        self._cache.close()

    def rekey(self, mesh_secret: bytes) -> None:
        """Hash blocks under another mesh secret from now on, and tell that mesh all anew."""
        self._cache.rekey(mesh_secret)
        self._load.forget_told()
        self._publish(idle=True)

    def copies_changed(self, changed: Mapping[int, int]) -> None:
        """See `models.engine.Engine.copies_changed`."""
        self._cache.copies_changed(changed)

    # --- a step -------------------------------------------------------------------------------

    def step(self) -> bool:
        """Compute once; False if there was nothing to do."""
        entered = self._clock()
        all_admitted = self._admit(entered + ADMIT_S)
        if self._running:
            self._cache.trim()
        plan = self._make_room(self._plan())
        if not plan:
            # Whoever runs, and computes nothing now, waits to be restored, or for its grammar.
            idle = all_admitted and not self._running
            self._publish(idle=idle)
            return not idle
        self._start(plan)
        began = self._clock()
        prompts = [run for run, _ in plan if not run.decoding]
        self.prefilling = frozenset(run.request.request_id for run in prompts)
        self.yielding = prompts[0].priority if prompts else None
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
        self.prefilling, self.yielding = frozenset(), None
        seconds = self._clock() - began
        if outcome is Outcome.DONE:
            self._load.note_decode(
                prompt=sum(count for run, count in plan if not run.decoding),
                total=sum(count for _, count in plan),
                seconds=seconds,
            )
            self._commit(plan, slices)
            self.yielding = None
        else:
            self._roll_back(plan, outcome)
        self._load.note_step(computing=seconds, total=self._clock() - entered)
        self._publish(idle=False)
        return True

    def _admit(self, until: float) -> bool:
        """Let queued requests run, in turn, as far as cells and sequences suffice.

        False if it was time to stop before that.
        """
        while self._queue and not (self._crowded and self._running):
            if self._clock() >= until:
                return False
            ready = [run for run in self._queue if run.sampler or not self._grammars.waits(run)]
            if not ready:
                return True
            run = self._turns.first(ready, self._running)
            if not self._prepare(run):
                continue
            while not self._seat(run):
                # The youngest guest gives way to the owner, and what is spare to both. It goes on
                # later, from its own prefix.
                victim = youngest(self._running)
                if victim is None or victim.priority <= run.priority:
                    return True
                self._preempt(victim)
            self._queue.remove(run)
            self._running.append(run)
        return True

    def _prepare(self, run: Run) -> bool:
        """Give the run its sampler; False if there is none as it wants it."""
        if run.sampler is None:
            try:
                with self._grammars.taken_by(run):
                    run.sampler = self._backend.sampler(run.request.sampling, run.request.generated)
            except HearthError as error:
                self._fail(run, error)
                return False
        return True

    def _seat(self, run: Run) -> bool:
        promised = sum(other.pending for other in self._running)
        return len(self._running) < RUNNING_MAX and self._cache.seat(run, promised)

    def _plan(self) -> list[tuple[Run, int]]:
        """Who computes how many tokens now."""
        waits = self._grammars.waits
        plan = [(run, 1) for run in self._running if run.decoding and not waits(run)]
        prompts = self._turns.in_prefill(self._running)
        # The owner's prompt is held up by the owner's answers alone.
        owners = bool(prompts) and not prompts[0].guest
        streaming = any(not owners or not run.guest for run, _ in plan)
        most = chunk(self._load.prefill_rate, streaming=streaming)
        budget = min(most, self._backend.batch_tokens - len(plan))
        until = self._clock() + (STREAMING_RESTORE_S if plan else RESTORE_S)
        for run in prompts:
            if budget == 0:
                break
            self._cache.catch_up(run)
            if self._cache.restore(run, until):
                continue
            if any(same_ahead(run, other) for other, _ in plan):
                continue  # the other computes what this one needs: take it over afterwards
            count = cut(run, budget)
            if count == run.pending and waits(run):
                continue
            budget -= count
            plan.append((run, count))
        return plan

    def _make_room(self, plan: list[tuple[Run, int]]) -> list[tuple[Run, int]]:
        """Evict, then send back the youngest, until the plan fits into the cells."""
        while (missing := self._missing(plan)) > 0:
            self._cache.evict(max(missing, EVICT_TOKENS))
            if self._missing(plan) <= 0:
                break
            victim = youngest(self._running)
            assert victim is not None, "whoever computes alone fits into the cells"
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
        self._tell()

    # --- after a decode -----------------------------------------------------------------------

    def _commit(self, plan: list[tuple[Run, int]], slices: list[Slice]) -> None:
        """Record the computed tokens in the tree, and let answers grow: the owner's first.

        Guests' stand back once the owner asks for more, or once their grammars took long: what that
        costs is a token of each.
        """
        for row in sorted(range(len(plan)), key=lambda row: self._turns.standing(plan[row][0])):
            (run, count), part = plan[row], slices[row]
            if run.guest and self.yielding is None:
                self.yielding = Priority.GUEST
                self._tell()
            late = run.guest and run.decoding and self._backend.aborted
            if late or (part.logits and self._backend.divisible and self._grammars.waits(run)):
                self._cache.roll_back(run)
                continue
            self._turns.charge(run, count)
            self._cache.record(run, part.tokens)
            if part.logits:
                self._answer(run, row)

    def _answer(self, run: Run, row: int) -> None:
        """Choose the next token, show it, and see whether the answer is complete."""
        assert run.sampler is not None, "it was let in"
        if run.answered_s is None:
            run.answered_s = self._clock()
        if run.exhausted(self._context_length):
            self._finish(run, FinishReason.LENGTH)
            return
        try:
            with self._grammars.taken_by(run):
                token = run.sampler.sample(row)
        except HearthError as error:  # its grammar leads nowhere
            self._fail(run, error)
            return
        shown, run.owed_text = run.owed_text, ""
        new: tuple[int, ...] = ()
        logprobs: tuple[TokenLogprob, ...] = ()
        reason = None
        if self._backend.ends_generation(token):
            reason = FinishReason.STOP
        else:
            new, logprobs = (token,), run.sampler.logprobs(row, token)
            run.tokens.append(token)
            shown += run.text.push(self._backend.piece(token))
            if run.text.stopped:
                reason = FinishReason.STOP
            elif run.exhausted(self._context_length):
                reason = FinishReason.LENGTH
        if reason is not None:
            shown += run.text.finish()
        if new or shown:
            self._emit(Chunk(run.request.request_id, new, shown, logprobs))
        if reason is not None:
            self._finish(run, reason)

    def _roll_back(self, plan: list[tuple[Run, int]], outcome: Outcome) -> None:
        """A decode did not succeed: nothing that it wrote stays."""
        for run, _ in plan:
            self._cache.roll_back(run)
        if outcome is Outcome.FULL and (self._cache.evictable or len(self._running) > 1):
            if not self._cache.evict(EVICT_TOKENS) and (victim := youngest(self._running)):
                self._preempt(victim)
                self._crowded = True
        elif outcome is not Outcome.ABORTED:
            full = outcome is Outcome.FULL
            reason = "the KV cache has no room for it" if full else self._backend.complaint()
            message = f"llama.cpp could not compute this request: {reason}."
            for run, _ in plan:
                self._fail(run, EngineFailed(message))

    def _preempt(self, run: Run) -> None:
        """Back to the queue; its tokens stay cached as long as nobody needs their cells."""
        self._remove(run)
        self._load.note_preemption()
        run.expected = run.pending
        self._queue.append(run)

    def _finish(self, run: Run, reason: FinishReason) -> None:
        self._end(run)
        finished = run.finished(reason, self._clock())
        if run.answered_s is not None:  # Else its prompt was not computed here, or not to its end.
            self._load.note_finished(finished)
        self._emit(finished)

    def _end(self, run: Run) -> None:
        """The request is over, however it ended."""
        self._remove(run)
        self._crowded = False
        self._turns.leave(run)

    def _fail(self, run: Run, error: HearthError) -> None:
        self._end(run)
        self._emit(Failed(run.request.request_id, error.code, str(error)))

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
