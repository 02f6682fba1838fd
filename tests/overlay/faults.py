"""A virtual mesh in which everything goes wrong that can: links, machines, engines, people."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from functools import partial

from models.engine import EngineEvent, Failed
from overlay.errors import EngineFailed, RemoteProtocolError
from overlay.forwarding import effects as fwd
from overlay.forwarding.terms import NO_BOUNDS, Terms
from overlay.identity.peer_id import PeerId
from overlay.wire.codec import decode, encode
from overlay.wire.messages import Goodbye, Message
from tests.overlay.members import RTT_MS, TOY, VirtualMember, VirtualMesh

#: A link on which nothing was heard for so long is down.
SILENCE_S = 3.0
#: From the end of a link to the next one.
REDIAL_S = 0.5
#: Between an engine's death and its next start.
RESTART_S = 1.0


class FaultyMesh(VirtualMesh):
    """Each end of a link knows of it by itself; what is under way when it breaks is lost.

    ``untidy``: the share of messages that are lost, and of those that come twice, and late.
    """

    def __init__(
        self,
        serving: Sequence[bool],
        terms: Sequence[Terms],
        apart: Sequence[tuple[int, int]],
        seed: int,
        untidy: float,
    ) -> None:
        """``apart``: pairs that reach each other through others only."""
        self._rng = random.Random(seed)
        self._terms = terms
        self._apart = {frozenset(pair) for pair in apart}
        self._untidy = untidy
        self._incarnation = 0
        self._generation = 0
        #: By (whose, to whom): which link it takes to be up.
        self._ends: dict[tuple[PeerId, PeerId], int] = {}
        self._sleeps_until: dict[int, float] = {}
        self.revoked: set[PeerId] = set()
        #: Lies that were found, in a mesh without a liar.
        self.lies: list[str] = []
        places = [index for index, serves in enumerate(serving) if serves]
        super().__init__(len(serving), serving=places, seed=seed)

    # --- What goes wrong ----------------------------------------------------------------------

    def cut(self, a: int, b: int) -> None:
        """The link breaks; both find out, and dial again."""
        self._break(self.nodes[a], self.nodes[b], REDIAL_S)

    def sleep(self, index: int, seconds: float) -> None:
        """The machine stands still; what comes waits for it, but others give up its links."""
        node = self.nodes[index]
        if not node.alive or self._asleep(node):
            return
        self._sleeps_until[id(node)] = self.now + seconds
        if seconds > SILENCE_S:
            for other in self.nodes:
                self._later(SILENCE_S, partial(self._lose, other, node))
                self._later(seconds + RTT_MS, partial(self._break, node, other, 0.0))

    def sleep_all(self, seconds: float) -> None:
        """Nothing happens anywhere for so long, as the clocks show."""
        self.now += seconds
        self._due = [(at + seconds, order, happen) for at, order, happen in self._due]
        self._sleeps_until = {node: at + seconds for node, at in self._sleeps_until.items()}

    def crash(self, index: int) -> None:
        """The process is gone, with all that it knew."""
        node = self.nodes[index]
        node.alive = False
        self._sleeps_until.pop(id(node), None)
        for other in self.nodes:
            self._lose(other, node)
            self._lose(node, other)

    def start(self, index: int, *, serving: bool) -> None:
        if self.nodes[index].alive:
            return
        node = self._started(index, random.Random(self._rng.random()))
        node.events = self.nodes[index].events
        self.nodes[index] = node
        if serving:
            self.load(index)
        self._link_all()

    def kill_engine(self, index: int) -> None:
        """Its requests fail, and it is started again."""
        node = self.nodes[index]
        if not node.alive or not node.member.neighbourhood.models:
            return
        failed, node.running, node.cached = sorted(node.running), set(), set()
        for request_id in failed:
            self._tell(node, Failed(request_id, EngineFailed.code, "it died"))
        self._when_awake(node, lambda: node.member.models_changed([], {}, self.now))
        again = lambda: self._when_awake(node, lambda: self.load(index))  # noqa: E731
        self._later(RESTART_S, again)

    def revoke(self, index: int) -> None:
        """It is no member any more, as all but itself know."""
        node = self.nodes[index]
        self.revoked.add(node.member.me)
        for other in self.nodes:
            if other is not node:
                self._break(other, node, REDIAL_S)
                if other.alive:
                    self.perform(other, other.member.exclude(node.member.me, self.now))

    def leave(self, index: int) -> None:
        """It says goodbye, and is gone."""
        node = self.nodes[index]
        for peer in self._linked(node):
            self._send(node, self._node(peer), Goodbye("off to bed"))
        self.run(RTT_MS / 1000)
        self.crash(index)

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self._untidy = 0.0
        self._apart = set()
        for index, node in enumerate(self.nodes):
            if not node.alive:
                self.start(index, serving=True)
        self.run(max([0.0, *(until - self.now for until in self._sleeps_until.values())]))
        self._link_all()

    # --- Links --------------------------------------------------------------------------------

    def _started(
        self, index: int, rng: random.Random, *, incarnation: int = 1, terms: Terms = NO_BOUNDS
    ) -> VirtualMember:
        self._incarnation += 1
        return super()._started(index, rng, incarnation=self._incarnation, terms=self._terms[index])

    def _link_all(self) -> None:
        for place, one in enumerate(self.nodes):
            for other in self.nodes[:place]:
                self._link(one, other)

    def _link(self, one: VirtualMember, other: VirtualMember) -> None:
        pair = (one.member.me, other.member.me)
        if (
            frozenset((self.nodes.index(one), self.nodes.index(other))) in self._apart
            or any(not node.alive or self._asleep(node) for node in (one, other))
            or self.revoked.intersection(pair)
            or pair in self._ends
            or pair[::-1] in self._ends
        ):
            return
        self._generation += 1
        self._ends[pair] = self._ends[pair[::-1]] = self._generation
        for node, peer in ((one, pair[1]), (other, pair[0])):
            node.member.gossip.prove(peer)
            self.perform(node, node.member.link_up(peer, "", self.now))
            node.member.links_measured({peer: RTT_MS}, self.now)

    def _lose(self, node: VirtualMember, other: VirtualMember) -> None:
        """Its end of the link, if it has one, is gone."""
        me, peer = node.member.me, other.member.me
        if self._ends.pop((me, peer), None) is not None and node.alive:
            self._when_awake(
                node, lambda: self.perform(node, node.member.link_down(peer, self.now))
            )

    def _break(self, one: VirtualMember, other: VirtualMember, redial_s: float) -> None:
        if one is other:
            return
        self._lose(one, other)
        self._lose(other, one)
        self._later(redial_s, lambda: self._link(self._now_of(one), self._now_of(other)))

    def _now_of(self, node: VirtualMember) -> VirtualMember:
        """The node as it is since its latest start."""
        return self._node(node.member.me)

    def _linked(self, node: VirtualMember) -> list[PeerId]:
        return [peer for me, peer in self._ends if me == node.member.me]

    def _send(self, node: VirtualMember, receiver: VirtualMember, message: Message) -> bool:
        generation = self._ends.get((node.member.me, receiver.member.me))
        if generation is None:
            return False
        data = encode(message)
        for _ in range(2 if self._rng.random() < self._untidy else 1):
            if self._rng.random() >= self._untidy:
                late = self._rng.random() * 0.05 if self._rng.random() < self._untidy else 0.0
                arrive = self._arrival(node, receiver, data, generation)
                self._later(RTT_MS / 2000 + late, arrive)
        return True

    def _arrival(
        self, sender: VirtualMember, receiver: VirtualMember, data: bytes, generation: int
    ) -> Callable[[], None]:
        def arrive() -> None:
            if self._ends.get((receiver.member.me, sender.member.me)) != generation:
                return
            try:
                message = decode(data)
                effects = receiver.member.receive(sender.member.me, message, self.now)
            except RemoteProtocolError as error:
                self.lies.append(f"{sender.member.me} to {receiver.member.me}: {error}")
                self._break(sender, receiver, REDIAL_S)
                return
            self.perform(receiver, effects)

        return lambda: self._when_awake(receiver, arrive)

    # --- Machines -----------------------------------------------------------------------------

    def _asleep(self, node: VirtualMember) -> bool:
        return self._sleeps_until.get(id(node), 0.0) > self.now

    def _awake(self) -> list[VirtualMember]:
        return [node for node in super()._awake() if not self._asleep(node)]

    def _when_awake(self, node: VirtualMember, happen: Callable[[], None]) -> None:
        if self._asleep(node):
            # At that very time, or what came first might happen last.
            heapq.heappush(self._due, (self._sleeps_until[id(node)], next(self._order), happen))
        elif node.alive:
            happen()

    def _tell(self, node: VirtualMember, event: EngineEvent) -> None:
        def tell() -> None:
            self.perform(node, node.member.engine_event(TOY.name, event, self.now))

        self._when_awake(node, tell)

    def noticed(self) -> list[fwd.Noticed]:
        return [e for node in self.nodes for e in node.told if isinstance(e, fwd.Noticed)]
