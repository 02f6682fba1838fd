"""Which guest was served least: virtual token counters, pure.

From "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024). Every client has a
counter of the work done for it; whoever has the smallest is next. A client that comes back after
a pause is lifted to the smallest counter of those who stayed, so that idling earns no credit.
Between two clients that have work waiting all the time, the work done for each then differs by no
more than what one turn, and what was under way already, can amount to.

Here clients are the leaves of a tree, and each branch has such a counter among its siblings: what
is said of clients holds at every fork. So a branch has no more of its clients' number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import Final

from models.engine import Client

#: What computing a token counts. One of an answer costs more, for it is computed alone; the
#: weights are the paper's.
PROMPT_WEIGHT: Final = 1
ANSWER_WEIGHT: Final = 2


def branches_of(client: Client) -> Iterator[Client]:
    """The branches that it is in, the largest first; the last is the client alone."""
    return (client[:depth] for depth in range(1, len(client) + 1))


def fork_of(one: Client, other: Client) -> tuple[Client, Client] | None:
    """The branches in which they are where they part; None: it is the same client."""
    both = zip(branches_of(one), branches_of(other), strict=False)
    return next((fork for fork in both if fork[0] != fork[1]), None)


class VirtualCounters:
    """Work done for each branch with clients that have open requests."""

    def __init__(self) -> None:
        self._counters: dict[Client, int] = {}
        self._open: Counter[Client] = Counter()

    def arrive(self, client: Client) -> None:
        """The client has one open request more."""
        for branch in branches_of(client):
            if branch not in self._open:
                floor = min(self._beside(branch), default=0)
                self._counters[branch] = max(self._counters.get(branch, 0), floor)
            self._open[branch] += 1

    def leave(self, client: Client) -> None:
        """One of its requests is over."""
        for branch in branches_of(client):
            self._open[branch] -= 1
            if not self._open[branch]:
                del self._open[branch]
                self._forget_beside(branch)

    def charge(self, client: Client, *, prompt: int = 0, answer: int = 0) -> None:
        """So many tokens were computed for a client with open requests."""
        for branch in branches_of(client):
            self._counters[branch] += prompt * PROMPT_WEIGHT + answer * ANSWER_WEIGHT

    def served(self, client: Client) -> list[int]:
        """Weighted tokens of each branch that the client is in; the smallest list is next."""
        return [self._counters[branch] for branch in branches_of(client)]

    def __len__(self) -> int:
        """Branches that are remembered."""
        return len(self._counters)

    def _beside(self, branch: Client) -> list[int]:
        """What those with open requests had, of all branches at the same fork."""
        return [self._counters[each] for each in self._open if each[:-1] == branch[:-1]]

    def _forget_beside(self, branch: Client) -> None:
        """Who is gone and not above the floor would start from there anyway; and once nobody waits
        at a fork there is nothing left to be fair about."""
        floor = min(self._beside(branch), default=inf)
        self._counters = {
            each: count
            for each, count in self._counters.items()
            if each in self._open or count > floor or each[:-1] != branch[:-1]
        }
