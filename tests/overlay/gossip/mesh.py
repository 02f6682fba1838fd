"""A mesh of `Gossip` cores over a virtual network that loses, doubles, delays, reorders and parts,
on machines whose clocks run fast, slow, or were set back."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from overlay.errors import RemoteProtocolError
from overlay.gossip.effects import (
    Disputed,
    Effect,
    GossipMessage,
    OriginReset,
    PeerDown,
    PeerState,
    PeerUp,
    RecordsChanged,
    Send,
)
from overlay.gossip.gossip import Gossip
from overlay.identity.peer_id import PeerId
from overlay.wire.anti_entropy import Change, CompactSyn, CompactSynAck, DigestEntry, Syn, SynAck

INTERVAL_S = 1.0
#: When the virtual mesh begins, in milliseconds since 1970 by an honest clock.
_BEGIN_MS = 10_000_000
#: No two starts of a mesh fall on the same millisecond, nor on one that a dispute leads to.
_START_MS = 1000


@dataclass
class Faults:
    """What the network does to messages. Whatever is delayed by unequal times is reordered."""

    loss: float = 0.0
    doubling: float = 0.0
    #: The share that is held back until much of what was sent later has arrived.
    reordering: float = 0.0
    delay_s_max: float = 0.05
    held_back_s: float = 4 * INTERVAL_S


def peer_id(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


@dataclass
class VirtualNode:
    """A node, what it truly publishes, and what its effects said about the others."""

    gossip: Gossip
    #: Which start of the mesh's nodes it was.
    life: int = 0
    #: Seconds of its monotonic clock per virtual second, and what that clock showed at 0.
    rate: float = 1.0
    shown_s: float = 0.0
    truth: dict[bytes, bytes] = field(default_factory=dict)
    #: Every change that it made, by version from 1 on.
    written: list[Change] = field(default_factory=list)
    mirror: dict[PeerId, dict[bytes, Change]] = field(default_factory=dict)
    states: dict[PeerId, PeerState] = field(default_factory=dict)
    story: list[tuple[float, Effect]] = field(default_factory=list)
    running: bool = True

    def clock(self, now: float) -> float:
        return self.shown_s + self.rate * now

    def wrote(self, change: Change) -> bool:
        return (
            0 < change.version <= len(self.written) and self.written[change.version - 1] == change
        )

    def due(self) -> float:
        """When it must tick, in virtual time."""
        return (self.gossip.next_deadline() - self.shown_s) / self.rate


class Mesh:
    """``count`` nodes, all linked to each other unless ``linked`` says otherwise."""

    def __init__(
        self,
        count: int,
        seed: int,
        faults: Faults | None = None,
        *,
        rates: Sequence[float] = (1.0,),
        linked: dict[PeerId, list[PeerId]] | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.faults = faults or Faults()
        self.now = 0.0
        self.ids = [peer_id(i + 1) for i in range(count)]
        self.linked = linked or {p: [q for q in self.ids if q != p] for p in self.ids}
        self.rates = {peer: rates[i % len(rates)] for i, peer in enumerate(self.ids)}
        self.nodes: dict[PeerId, VirtualNode] = {}
        self.parts: dict[PeerId, int] = dict.fromkeys(self.ids, 0)
        #: Told of every message that a node sends, before the network has it.
        self.on_send: Callable[[PeerId, PeerId, GossipMessage], None] = lambda *_: None
        #: Told of every node that ticked, after all that follows from it.
        self.on_ticked: Callable[[PeerId], None] = lambda *_: None
        #: Told of every message that a node took in, after all that follows from it.
        self.on_received: Callable[[PeerId, GossipMessage], None] = lambda *_: None
        #: The life to which each incarnation of an origin belongs.
        self.lives: dict[tuple[PeerId, int], VirtualNode] = {}
        self._kept: dict[PeerId, int] = {}
        self._flying: list[tuple[float, int, PeerId, PeerId, GossipMessage]] = []
        self._ticks: list[tuple[float, int, VirtualNode]] = []
        self._sent = 0
        self._starts = 0
        for peer in self.ids:
            self.start(peer)

    def start(self, peer: PeerId, *, set_back_s: float = 0.0, home_lost: bool = False) -> None:
        """(Re)start a node: a new incarnation that has published nothing.

        Its wall clock was ``set_back_s``. The last incarnation is kept in its home, as in
        `overlay.home`, unless that is lost. Its monotonic clock begins anew, anywhere.
        """
        self._starts += 1
        today_ms = _BEGIN_MS + round((self.now - set_back_s) * 1000) + self._starts * _START_MS
        kept = 0 if home_lost else self._kept.get(peer, 0)
        incarnation = self._kept[peer] = max(today_ms, kept + 1)
        rate = self.rates[peer]
        shown_s = self.rng.uniform(0, 1e6) if self._starts > len(self.ids) else 0.0
        gossip = Gossip(
            peer,
            incarnation,
            random.Random(self.rng.random()),
            shown_s + rate * self.now,
            interval_s=INTERVAL_S,
        )
        for member in self.ids:
            gossip.prove(member)
        node = self.nodes[peer] = VirtualNode(gossip, self._starts, rate, shown_s)
        self.lives[peer, incarnation] = node
        heapq.heappush(self._ticks, (self.now, self._starts, node))

    def kill(self, peer: PeerId) -> None:
        self.nodes[peer].running = False

    def set(self, peer: PeerId, key: bytes, value: bytes) -> None:
        self._write(peer, key, value)
        self.nodes[peer].truth[key] = value

    def delete(self, peer: PeerId, key: bytes) -> None:
        self._write(peer, key, None)
        self.nodes[peer].truth.pop(key, None)

    def heal(self) -> None:
        """From now on the network is perfect, and everybody is reachable."""
        self.parts = dict.fromkeys(self.ids, 0)
        self.faults = Faults()

    def run(self, rounds: float) -> None:
        end = self.now + rounds * INTERVAL_S
        while True:
            tick_s = self._next_tick_s()
            if self._flying and self._flying[0][0] <= min(tick_s, end):
                self._deliver_next()
            elif tick_s <= end:
                self._tick_next()
            else:
                break
        self.now = end

    def running(self) -> list[VirtualNode]:
        return [node for node in self.nodes.values() if node.running]

    def converged(self) -> bool:
        """All running nodes know each other's present lives, and the records of these."""
        running = self.running()
        return all(
            a.gossip.incarnation(b.gossip.me) == b.gossip.incarnation(b.gossip.me)
            and dict(a.gossip.records(b.gossip.me)) == b.truth
            for a in running
            for b in running
        )

    def digest_of(self, peer: PeerId, message: GossipMessage) -> Sequence[DigestEntry]:
        """What ``message`` tells of what its sender knows, as ``peer`` reads it.

        In a compact digest each reads only what it knows as well but for the lowest bits.
        """
        match message:
            case Syn(digest) | SynAck(digest):
                return digest
            case CompactSyn() | CompactSynAck():
                # Whoever asks as if it knew nothing is told everything.
                *_, answer = self.nodes[peer].gossip.receive(peer_id(99), Syn(()), self.now)
                assert isinstance(answer, Send)
                assert isinstance(answer.message, SynAck)
                return answer.message.digest
        return ()

    def _write(self, peer: PeerId, key: bytes, value: bytes | None) -> None:
        node = self.nodes[peer]
        if node.truth.get(key) != value:
            node.written.append(Change(key, len(node.written) + 1, value))
        clock_s = node.clock(self.now)
        if value is None:
            node.gossip.delete(key, clock_s)
        else:
            node.gossip.set(key, value, clock_s)

    def _next_tick_s(self) -> float:
        while self._ticks:
            at, _, node = self._ticks[0]
            if node.running and self.nodes[node.gossip.me] is node:
                return max(at, self.now)
            heapq.heappop(self._ticks)
        return float("inf")

    def _tick_next(self) -> None:
        at, life, node = heapq.heappop(self._ticks)
        peer = node.gossip.me
        self.now = max(self.now, at)
        self._perform(peer, node.gossip.tick(node.clock(self.now), self.linked[peer]))
        self.on_ticked(peer)
        # A clock's rounding must not make a tick come a moment before its deadline, for ever.
        heapq.heappush(self._ticks, (node.due() + 1e-6, life, node))

    def _deliver_next(self) -> None:
        at, _, sender, receiver, message = heapq.heappop(self._flying)
        self.now = max(self.now, at)
        node = self.nodes[receiver]
        if node.running:
            effects = node.gossip.receive(sender, message, node.clock(self.now))
            self._perform(receiver, effects)
            self.on_received(receiver, message)

    def _perform(self, peer: PeerId, effects: list[Effect]) -> None:
        node = self.nodes[peer]
        for effect in effects:
            if isinstance(effect, Send):
                self._send(peer, effect.peer, effect.message)
                continue
            match effect:
                case OriginReset(origin):
                    node.mirror[origin] = {}
                case RecordsChanged(origin, changes):
                    self._reflect(node.mirror.setdefault(origin, {}), changes)
                case PeerUp(other):
                    node.states[other] = PeerState.UP
                case PeerDown(other):
                    node.states[other] = PeerState.DOWN
                case Disputed(_, incarnation):
                    self._kept[peer] = incarnation
                    self.lives[peer, incarnation] = node
            node.story.append((self.now, effect))

    @staticmethod
    def _reflect(mirror: dict[bytes, Change], changes: tuple[Change, ...]) -> None:
        for change in changes:
            if change.value is None:
                mirror.pop(change.key, None)
            else:
                mirror[change.key] = change

    def _send(self, sender: PeerId, receiver: PeerId, message: GossipMessage) -> None:
        self.on_send(sender, receiver, message)
        if self.parts[sender] != self.parts[receiver]:
            return
        faults = self.faults
        copies = 1 + (self.rng.random() < faults.doubling)
        for _ in range(copies):
            if self.rng.random() < faults.loss:
                continue
            self._sent += 1
            held_back = self.rng.random() < faults.reordering
            delay_s = faults.held_back_s if held_back else faults.delay_s_max
            at = self.now + self.rng.uniform(0.001, delay_s)
            heapq.heappush(self._flying, (at, self._sent, sender, receiver, message))


def deliver_quietly(
    gossip: Gossip, sender: PeerId, message: GossipMessage, now: float
) -> list[Effect]:
    """Receive what may be hostile: only errors that blame the peer may come out."""
    try:
        return gossip.receive(sender, message, now)
    except RemoteProtocolError:
        return []
