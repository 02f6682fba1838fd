"""Meshes in virtual time that only gossip: Hearth's cores, and a plain push of what is known."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from overlay.gossip.effects import Effect, GossipMessage, RecordsChanged, Send
from overlay.gossip.gossip import JITTER, Gossip
from overlay.gossip.records import BLOCK_VALUE, CARD, LOAD, Card, Load, ModelCard, block_key
from overlay.identity.peer_id import PeerId
from overlay.limits import GOSSIP_INTERVAL_S
from overlay.sim.clock import Clock
from overlay.sim.network import Links, Network, uniform
from overlay.wire import codec
from overlay.wire.anti_entropy import Change, GossipAck, OriginDelta

RTT_S: Final = 0.03
LINKS: Final = Links(jitter=0.2)
#: Nodes whose messages are packed, to know their bytes: all, or some of a large mesh.
WEIGHED_NODES_MAX: Final = 30
#: Any start: milliseconds since 1970, which take as many bytes as a real one's.
INCARNATION: Final = 1_700_000_000_000


class VirtualMesh(ABC):
    """``count`` nodes, all linked to each other. Each writes records, numbered 1, 2, 3…"""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.dice = random.Random(seed)
        self.clock = Clock()
        self._network = Network(uniform(count, RTT_S), LINKS, random.Random(f"{seed} network"))
        #: ``known[reader, origin]``: all records of the origin up to this number are known.
        self.known: npt.NDArray[np.int64] = np.zeros((count, count), np.int64)
        #: Every node's load changes in every round, just before it gossips.
        self.busy = False
        self._loads: list[list[tuple[int, float]]] = [[] for _ in range(count)]
        for node in range(count):
            self.clock.at(self.dice.uniform(0.0, GOSSIP_INTERVAL_S), self._round, node)

    def change_load(self, origin: int) -> None:
        version = self.known[origin, origin] = self.known[origin, origin] + 1
        self._loads[origin].append((int(version), self.clock.now))
        self._write(origin, LOAD, load_value(int(version)))

    def run(self, rounds: float) -> None:
        end = self.clock.now + rounds * GOSSIP_INTERVAL_S
        self.clock.at(end, lambda: None)
        while self.clock.now < end:
            self.clock.step()

    def ages_s(self) -> npt.NDArray[np.float64]:
        """How old each node's news of each other's load is; all loads must have changed by then.

        A node sees a load at least that old as the truth.
        """
        ages = np.empty((self.count, self.count))
        for origin, changes in enumerate(self._loads):
            versions, times = np.array(changes).T
            seen = np.searchsorted(versions, self.known[:, origin], side="right") - 1
            ages[:, origin] = self.clock.now - times[seen]
        return ages[~np.eye(self.count, dtype=bool)]

    def _round(self, node: int) -> None:
        if self.busy:
            self.change_load(node)
        self.clock.at(self._gossip(node), self._round, node)

    def _post(self, sender: int, receiver: int, message: object) -> None:
        at = self._network.arrival(sender, receiver, 0, self.clock.now)
        assert at is not None
        self.clock.at(at, self._receive, sender, receiver, message)

    @abstractmethod
    def _write(self, origin: int, key: bytes, value: bytes) -> None:
        """``origin`` writes its next record."""

    @abstractmethod
    def _gossip(self, node: int) -> float:
        """A round of ``node`` begins; returns when the next one will."""

    @abstractmethod
    def _receive(self, sender: int, receiver: int, message: object) -> None: ...


class PushMesh(VirtualMesh):
    """Each node tells ``fanout`` others at random all that it knows, and asks nothing."""

    def __init__(self, count: int, seed: int, fanout: int) -> None:
        super().__init__(count, seed)
        self._fanout = fanout

    def _write(self, origin: int, key: bytes, value: bytes) -> None:
        pass  # its number is all that matters

    def _gossip(self, node: int) -> float:
        for other in self.dice.sample(range(self.count - 1), self._fanout):
            self._post(node, other + (other >= node), self.known[node].copy())
        return self.clock.now + GOSSIP_INTERVAL_S * self.dice.uniform(1 - JITTER, 1 + JITTER)

    def _receive(self, sender: int, receiver: int, message: object) -> None:
        assert isinstance(message, np.ndarray)
        np.maximum(self.known[receiver], message, out=self.known[receiver])


class HearthMesh(VirtualMesh):
    """`Gossip` cores that know each other's cards and loads, and take each other for alive."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__(count, seed)
        self.bytes_sent = 0
        self._weighed = range(min(count, WEIGHED_NODES_MAX))
        self._peers = [PeerId(self.dice.randbytes(32)) for _ in range(count)]
        self._numbers = {peer: number for number, peer in enumerate(self._peers)}
        self._linked = [[q for q in self._peers if q != p] for p in self._peers]
        self._cores = [
            Gossip(peer, INCARNATION, random.Random(self.dice.random()), 0.0)
            for peer in self._peers
        ]
        introductions = [introduction(peer) for peer in self._peers]
        for node, core in enumerate(self._cores):
            for key, _, value in introductions[node].changes:
                assert value is not None
                core.set(key, value, 0.0)
            others = introductions[:node] + introductions[node + 1 :]
            core.receive(self._linked[node][0], GossipAck(tuple(others)), 0.0)
            for peer in self._linked[node]:
                core.prove(peer)
                core.alive(peer, 0.0)
        self.known[:] = len(introductions[0].changes)

    def change_summary(self, origin: int, blocks: int) -> None:
        """So many blocks come to be cached."""
        for _ in range(blocks):
            self.known[origin, origin] += 1
            self._write(origin, block_key(self.dice.getrandbits(64)), BLOCK_VALUE)

    def bytes_per_node_s(self, seconds: float) -> float:
        """What a node sent per second, since ``bytes_sent`` was 0 so many seconds ago."""
        return self.bytes_sent / len(self._weighed) / seconds

    def _write(self, origin: int, key: bytes, value: bytes) -> None:
        self._cores[origin].set(key, value, self.clock.now)

    def _gossip(self, node: int) -> float:
        core = self._cores[node]
        self._carry_out(node, core.tick(self.clock.now, self._linked[node]))
        return core.next_deadline()

    def _receive(self, sender: int, receiver: int, message: object) -> None:
        assert isinstance(message, GossipMessage)
        core = self._cores[receiver]
        self._carry_out(receiver, core.receive(self._peers[sender], message, self.clock.now))

    def _carry_out(self, node: int, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer=peer, message=message):
                    if node in self._weighed:
                        self.bytes_sent += len(codec.encode(message))
                    self._post(node, self._numbers[peer], message)
                case RecordsChanged(origin=origin, changes=changes):
                    self.known[node, self._numbers[origin]] = changes[-1].version


def introduction(origin: PeerId) -> OriginDelta:
    """A node's first records: a card with one model, and its load."""
    model = ModelCard(
        "qwen3-1.7b", bytes(16), ("qwen3",), "a model", 32_768, 191.0, 41.0, bytes(16)
    )
    card = Card("a friend's node", ("/ip4/192.0.2.7/tcp/7710",), (model,))
    changes = (Change(CARD, 1, card.pack()), Change(LOAD, 2, load_value(2)))
    return OriginDelta(origin, INCARNATION, 0, False, changes, 2, 0)


def load_value(number: int) -> bytes:
    """Another load for each number."""
    return Load(1, 2, 1000 + number, 8_000, 16_384).pack()
