"""Whose turn it is: the owner's, else the guest's that was served least; else what is spare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

from models.engine import Client, GenerationRequest, Priority
from models.fairness import PROMPT_WEIGHT, VirtualCounters, branches_of, fork_of
from models.llama.chunks import TILE
from overlay.errors import EngineBusy
from overlay.limits import ENGINE_QUEUE_MAX


class Turn(Protocol):
    """A request, as far as its turn depends on it: the engine's, or the simulator's."""

    request: GenerationRequest
    arrival: int

    @property
    def priority(self) -> Priority: ...

    @property
    def guest(self) -> bool:
        """It is not the owner's."""
        ...

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one of the answer."""
        ...

    @property
    def decoding(self) -> bool:
        """The prompt is computed."""
        ...


_T = TypeVar("_T", bound=Turn)


class Turns:
    """Orders requests for a seat and for a share of the prefill; knows what guests have had."""

    def __init__(self) -> None:
        self._guests = VirtualCounters()

    def arrive(self, run: Turn) -> None:
        if run.guest:
            self._guests.arrive(run.request.client)

    def leave(self, run: Turn) -> None:
        if run.guest:
            self._guests.leave(run.request.client)

    def charge(self, run: Turn, count: int) -> None:
        """``count`` tokens are computed for it, or could have been; call before it has them."""
        if not run.guest:
            return
        if run.decoding:
            self._guests.charge(run.request.client, answer=count)
        else:
            self._guests.charge(run.request.client, prompt=count)

    def make_room(self, queue: Sequence[_T], request: GenerationRequest) -> _T | None:
        """Who of the queue must go so that it takes the request in, if anybody must.

        Who has most places, in the branch that has most, gives its latest one up to a guest that
        has fewer, or two with a pile of work would keep all others out. (Buffer stealing, as in
        stochastic fairness queueing: McKenney 1990.) Raises EngineBusy.
        """
        # Guests' requests take no place in the owner's queue, nor what is spare in theirs.
        ahead = [run for run in queue if run.priority <= request.priority]
        if len(ahead) < ENGINE_QUEUE_MAX:
            return None
        guests = [run for run in ahead if run.guest and request.priority is Priority.GUEST]
        places = Counter(branch for run in guests for branch in branches_of(run.request.client))

        def taken(run: _T) -> tuple[list[int], int]:
            return [places[branch] for branch in branches_of(run.request.client)], run.arrival

        last = max(guests, key=taken, default=None)
        fork = None if last is None else fork_of(request.client, last.request.client)
        if fork is None or places[fork[1]] <= places[fork[0]] + 1:
            raise EngineBusy(f"{len(ahead)} requests wait already; try again later.")
        return last

    def first(self, queue: Sequence[_T], running: Sequence[_T]) -> _T:
        """Who of the queue runs next."""
        # What a guest's running requests still lack counts already, or one guest takes all seats.
        due: Counter[Client] = Counter()
        for run in running:
            for branch in branches_of(run.request.client):
                due[branch] += PROMPT_WEIGHT * run.pending

        def turn(run: _T) -> tuple[Priority, list[int], int]:
            had = zip(self._served(run), branches_of(run.request.client), strict=True)
            return run.priority, [count + due[branch] for count, branch in had], run.arrival

        return min(queue, key=turn)

    def in_prefill(self, running: Sequence[_T]) -> list[_T]:
        """Who may compute a prompt now, in order: guests only while the owner has none, and what
        is spare only while nobody else runs at all, for it would slow answers down.

        An owner's request that lacks little does not wait for one that lacks much. (Guests could
        use that against each other.)
        """
        prompts = [run for run in running if not run.decoding]
        first = min((run.priority for run in prompts), default=None)
        prompts = [run for run in prompts if run.priority is first]
        if first is Priority.SPARE and any(run.priority is not first for run in running):
            return []
        if first is Priority.OWNER:
            return sorted(prompts, key=lambda run: (run.pending >= TILE, run.arrival))
        return sorted(prompts, key=lambda run: (self._served(run), run.arrival))

    def standing(self, run: Turn) -> tuple[Priority, list[int]]:
        """Sorts whose next token of the answer is chosen first to the front."""
        return run.priority, self._served(run)

    def _served(self, run: Turn) -> list[int]:
        return self._guests.served(run.request.client) if run.guest else []


def youngest(runs: Sequence[_T]) -> _T | None:
    """Who gives way: what is spare, then guests, then the owner's, of each whatever came last; None
    if there is nobody."""
    return max(runs, key=lambda run: (run.priority, run.arrival), default=None)
