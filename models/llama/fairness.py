"""Which guest was served least: the virtual token counter, pure.

From "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024). Every client has a
counter of the work done for it; whoever has the smallest is next. A client that comes back after
a pause is lifted to the smallest counter of those who stayed, so that idling earns no credit.
Between two clients that have work waiting all the time, the work done for each then differs by no
more than what one turn, and what was under way already, can amount to.
"""

from __future__ import annotations

from math import inf
from typing import Final

#: What computing a token counts. One of an answer costs more, for it is computed alone; the
#: weights are the paper's.
PROMPT_WEIGHT: Final = 1
ANSWER_WEIGHT: Final = 2


class VirtualCounters:
    """Work done for each client that has open requests, comparable between them."""

    def __init__(self) -> None:
        self._counters: dict[bytes, int] = {}
        self._open: dict[bytes, int] = {}

    def arrive(self, client: bytes) -> None:
        """The client has one open request more."""
        if client not in self._open:
            self._counters[client] = max(self._counters.get(client, 0), self._floor())
        self._open[client] = self._open.get(client, 0) + 1

    def leave(self, client: bytes) -> None:
        """One of its requests is over."""
        self._open[client] -= 1
        if self._open[client]:
            return
        del self._open[client]
        # Who is gone and not above the floor would start from there anyway; and once nobody waits
        # there is nothing left to be fair about.
        floor = self._floor() if self._open else inf
        self._counters = {
            name: count
            for name, count in self._counters.items()
            if name in self._open or count > floor
        }

    def charge(self, client: bytes, *, prompt: int = 0, answer: int = 0) -> None:
        """So many tokens were computed for a client with open requests."""
        self._counters[client] += prompt * PROMPT_WEIGHT + answer * ANSWER_WEIGHT

    def counter(self, client: bytes) -> int:
        """Weighted tokens; the client with the smallest is next."""
        return self._counters[client]

    def __len__(self) -> int:
        """Clients that are remembered."""
        return len(self._counters)

    def _floor(self) -> int:
        return min((self._counters[name] for name in self._open), default=0)
