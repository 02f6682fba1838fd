"""A mesh of `Gossip` cores over a virtual network that loses, doubles, delays and parts."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from overlay.errors import RemoteProtocolError
from overlay.gossip.effects import (
    Disputed,
    Effect,
    OriginReset,
    PeerDown,
    PeerState,
    PeerUp,
    RecordsChanged,
    Send,
)
from overlay.gossip.gossip import Gossip
from overlay.identity.peer_id import PeerId

INTERVAL_S = 1.0


@dataclass
class Faults:
    """What the network does to messages."""

    loss: float = 0.0
    doubling: float = 0.0
    delay_s_max: float = 0.05


def peer_id(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


@dataclass
class VirtualNode:
    """A node, what it truly publishes, and what its effects said about the others."""

    gossip: Gossip
    truth: dict[bytes, bytes] = field(default_factory=dict)
    mirror: dict[PeerId, dict[bytes, bytes]] = field(default_factory=dict)
    states: dict[PeerId, PeerState] = field(default_factory=dict)
    story: list[tuple[float, Effect]] = field(default_factory=list)
    running: bool = True


class Mesh:
    """``count`` nodes, all linked to each other."""

    def __init__(self, count: int, seed: int, faults: Faults | None = None) -> None:
        self.rng = random.Random(seed)
        self.faults = faults or Faults()
        self.now = 0.0
        self.ids = [peer_id(i + 1) for i in range(count)]
        self.nodes: dict[PeerId, VirtualNode] = {}
        self.parts: dict[PeerId, int] = dict.fromkeys(self.ids, 0)
        self._flying: list[tuple[float, int, PeerId, PeerId, object]] = []
        self._sent = 0
        self._starts = 0
        for peer in self.ids:
            self.start(peer)

    def start(self, peer: PeerId) -> None:
        """(Re)start a node: a new incarnation that has published nothing."""
        self._starts += 1
        gossip = Gossip(
            peer, self._starts, random.Random(self.rng.random()), self.now, interval_s=INTERVAL_S
        )
        self.nodes[peer] = VirtualNode(gossip)

    def kill(self, peer: PeerId) -> None:
        self.nodes[peer].running = False

    def set(self, peer: PeerId, key: bytes, value: bytes) -> None:
        self.nodes[peer].gossip.set(key, value, self.now)
        self.nodes[peer].truth[key] = value

    def delete(self, peer: PeerId, key: bytes) -> None:
        self.nodes[peer].gossip.delete(key, self.now)
        self.nodes[peer].truth.pop(key, None)

    def run(self, rounds: int) -> None:
        end = self.now + rounds * INTERVAL_S
        while True:
            running = [n.gossip for n in self.nodes.values() if n.running]
            ticking = min(running, key=lambda g: (g.next_deadline(), g.me))
            at = max(self.now, ticking.next_deadline())
            if self._flying and self._flying[0][0] <= min(at, end):
                self._deliver_next()
            elif at <= end:
                self.now = at
                others = [other for other in self.ids if other != ticking.me]
                self._perform(ticking.me, ticking.tick(at, others))
            else:
                break
        self.now = end

    def converged(self) -> bool:
        running = [n for n in self.nodes.values() if n.running]
        return all(dict(a.gossip.records(b.gossip.me)) == b.truth for a in running for b in running)

    def _deliver_next(self) -> None:
        at, _, sender, receiver, message = heapq.heappop(self._flying)
        self.now = max(self.now, at)
        node = self.nodes[receiver]
        if node.running:
            self._perform(receiver, node.gossip.receive(sender, message, self.now))

    def _perform(self, peer: PeerId, effects: list[Effect]) -> None:
        node = self.nodes[peer]
        for effect in effects:
            match effect:
                case Send(to, message):
                    self._send(peer, to, message)
                    continue
                case OriginReset(origin):
                    node.mirror[origin] = {}
                case RecordsChanged(origin, changes):
                    self._reflect(node.mirror.setdefault(origin, {}), changes)
                case PeerUp(other):
                    node.states[other] = PeerState.UP
                case PeerDown(other):
                    node.states[other] = PeerState.DOWN
                case Disputed():
                    pass
            node.story.append((self.now, effect))

    @staticmethod
    def _reflect(mirror: dict[bytes, bytes], changes: tuple) -> None:
        for change in changes:
            if change.value is None:
                mirror.pop(change.key, None)
            else:
                mirror[change.key] = change.value

    def _send(self, sender: PeerId, receiver: PeerId, message: object) -> None:
        if self.parts[sender] != self.parts[receiver]:
            return
        copies = 1 + (self.rng.random() < self.faults.doubling)
        for _ in range(copies):
            if self.rng.random() < self.faults.loss:
                continue
            self._sent += 1
            at = self.now + self.rng.uniform(0.001, self.faults.delay_s_max)
            heapq.heappush(self._flying, (at, self._sent, sender, receiver, message))


def deliver_quietly(gossip: Gossip, sender: PeerId, message: object, now: float) -> list[Effect]:
    """Receive what may be hostile: only errors that blame the peer may come out."""
    try:
        return gossip.receive(sender, message, now)
    except RemoteProtocolError:
        return []
