"""Whose turn it is: the owner's, else the guest's that was served least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from models.engine import GenerationRequest
from models.llama.chunks import TILE
from models.llama.fairness import PROMPT_WEIGHT, VirtualCounters


class Turn(Protocol):
    """A request, as far as its turn depends on it: the engine's, or the simulator's."""

    request: GenerationRequest
    arrival: int

    @property
    def guest(self) -> bool: ...

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
        """``count`` tokens are computed for it; call before they are recorded."""
        if not run.guest:
            return
        if run.decoding:
            self._guests.charge(run.request.client, answer=count)
        else:
            self._guests.charge(run.request.client, prompt=count)

    def first(self, queue: Sequence[_T], running: Sequence[_T]) -> _T:
        """Who of the queue runs next."""
        # What a guest's running requests are about to get counts already, or one takes all seats.
        due: dict[bytes, int] = {}
        for run in running:
            if run.guest:
                due[run.request.client] = due.get(run.request.client, 0) + run.pending
        return min(
            queue,
            key=lambda run: (
                run.guest,
                self._served(run) + PROMPT_WEIGHT * due.get(run.request.client, 0) * run.guest,
                run.arrival,
            ),
        )

    def in_prefill(self, running: Sequence[_T]) -> list[_T]:
        """Who may compute a prompt now, in order: guests only while the owner has none.

        An owner's request that lacks little does not wait for one that lacks much. (Guests could
        use that against each other.)
        """
        prompts = [run for run in running if not run.decoding]
        owners = [run for run in prompts if not run.guest]
        if owners:
            return sorted(owners, key=lambda run: (run.pending >= TILE, run.arrival))
        return sorted(prompts, key=lambda run: (self._served(run), run.arrival))

    def _served(self, run: Turn) -> int:
        return self._guests.counter(run.request.client) if run.guest else 0


def youngest(runs: Sequence[_T]) -> _T | None:
    """Who gives way: guests before the owner, and whoever came last; None if there is nobody."""
    return max(runs, key=lambda run: (run.guest, run.arrival), default=None)
