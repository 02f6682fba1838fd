"""Links between nodes: how they break when a node is gone, and how they come up again.

A link is a stream. What is sent through a partition waits for its end, or for the moment when both
ends find the link down; then it is lost, as is what was sent to a node that is gone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from overlay.limits import REDIAL_MAX_S
from overlay.sim.clock import Clock
from overlay.sim.network import Network
from overlay.transport.link import SILENCE_S
from overlay.wire.messages import Message

#: Two nodes, the lower number first.
_Pair = tuple[int, int]
_Sent = tuple[int, int, Message, int]


class Connections:
    """All links of a mesh. Nodes are numbers; sizes in bytes."""

    def __init__(
        self,
        network: Network,
        nodes: int,
        clock: Clock,
        rng: random.Random,
        *,
        up: Callable[[int, int], None],
        down: Callable[[int, int], None],
        deliver: Callable[[int, int, Message], None],
        lost: Callable[[int, Message], None],
    ) -> None:
        """``up``, ``down``: the link between these two is so now, at both ends. ``deliver`` takes
        sender, receiver and message; ``lost`` is told of what never arrives, and where."""
        self._network = network
        self._clock = clock
        self._rng = rng
        self._up = up
        self._down = down
        self._deliver = deliver
        self._lost = lost
        self._running = [True] * nodes
        #: The links that are up, each with a number of its own.
        self._links: dict[_Pair, int] = {}
        self._made = 0
        self._held: dict[_Pair, list[_Sent]] = {}

    # --- Messages -----------------------------------------------------------------------------

    def send(self, sender: int, receiver: int, message: Message, size: int) -> bool:
        """False if there is no link."""
        pair = _pair(sender, receiver)
        link = self._links.get(pair)
        if link is None:
            return False
        self._post(pair, link, (sender, receiver, message, size))
        return True

    def _post(self, pair: _Pair, link: int, sent: _Sent) -> None:
        sender, receiver, _, size = sent
        at = self._network.arrival(sender, receiver, size, self._clock.now)
        if at is None:
            self._held.setdefault(pair, []).append(sent)
        else:
            self._clock.at(at, self._arrive, pair, link, sent)

    def _arrive(self, pair: _Pair, link: int, sent: _Sent) -> None:
        sender, receiver, message, _ = sent
        if self._links.get(pair) != link or not self._running[receiver]:
            self._lost(receiver, message)
        elif not self._network.connected(sender, receiver):
            self._held.setdefault(pair, []).append(sent)
        else:
            self._deliver(sender, receiver, message)

    # --- Nodes --------------------------------------------------------------------------------

    def connect(self, a: int, b: int) -> None:
        """Bring the link up, if it is down, both run, and reach each other."""
        pair = _pair(a, b)
        if not (self._running[a] and self._running[b] and self._network.connected(a, b)):
            return
        if pair in self._links:
            return
        self._made += 1
        self._links[pair] = self._made
        self._up(*pair)

    def died(self, node: int) -> None:
        """It runs no more, and says nothing: the others find out."""
        self._running[node] = False
        for pair, link in self._links_of(node):
            self._clock.at(self._clock.now + SILENCE_S, self._cut, pair, link)

    def left(self, node: int) -> None:
        """It closes its links, after what it has sent."""
        self._running[node] = False
        for pair, link in self._links_of(node):
            other = pair[0] if pair[1] == node else pair[1]
            at = self._network.arrival(node, other, 0, self._clock.now)
            self._clock.at(self._clock.now + SILENCE_S if at is None else at, self._cut, pair, link)

    def restarted(self, node: int) -> None:
        """It runs again, and dials everybody: the handshake takes two round trips."""
        self._running[node] = True
        for pair, link in self._links_of(node):
            self._cut(pair, link)  # nobody has noticed yet that it was gone
        for other in range(len(self._running)):
            if other != node:
                at = self._clock.now + 2 * self._network.rtt_s(node, other)
                self._clock.at(at, self.connect, node, other)

    # --- Partitions ---------------------------------------------------------------------------

    def partition(self, part: Sequence[int]) -> None:
        """From now on only nodes with the same number in ``part`` reach each other."""
        apart = self._apart()
        self._network.partition(part)
        now = self._clock.now
        for pair, link in list(self._links.items()):
            if not self._network.connected(*pair):
                if pair not in apart:
                    self._clock.at(now + SILENCE_S, self._cut_if_apart, pair, link)
            else:
                for sent in self._held.pop(pair, ()):
                    self._post(pair, link, sent)
        for pair in sorted(apart):
            if self._network.connected(*pair) and pair not in self._links:
                # Both dial now and then, after longer and longer pauses.
                self._clock.at(now + self._rng.uniform(0.0, REDIAL_MAX_S), self.connect, *pair)

    def _apart(self) -> set[_Pair]:
        count = len(self._running)
        connected = self._network.connected
        return {(a, b) for b in range(count) for a in range(b) if not connected(a, b)}

    # --- Within -------------------------------------------------------------------------------

    def _links_of(self, node: int) -> list[tuple[_Pair, int]]:
        return [(pair, link) for pair, link in self._links.items() if node in pair]

    def _cut_if_apart(self, pair: _Pair, link: int) -> None:
        if not self._network.connected(*pair):
            self._cut(pair, link)

    def _cut(self, pair: _Pair, link: int) -> None:
        if self._links.get(pair) != link:
            return
        del self._links[pair]
        for _, receiver, message, _ in self._held.pop(pair, ()):
            self._lost(receiver, message)
        self._down(*pair)


def _pair(a: int, b: int) -> _Pair:
    return (a, b) if a < b else (b, a)
