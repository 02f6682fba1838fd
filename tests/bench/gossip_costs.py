"""What one exchange of gossip costs, what a new block does, and what replicas take of memory.

python -m tests.bench.gossip_costs    # memory alone, in a process of its own
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import time
from dataclasses import dataclass
from typing import Final

import psutil

from overlay.gossip.effects import GossipMessage, Send
from overlay.gossip.gossip import Gossip
from overlay.gossip.records import BLOCK_VALUE, LOAD, block_key
from overlay.identity.peer_id import PeerId
from overlay.limits import GOSSIP_INTERVAL_S, SUMMARY_BLOCKS_MAX
from overlay.wire import codec
from overlay.wire.anti_entropy import Change, DigestEntry, GossipAck, OriginDelta, Syn
from tests.bench.gossip_mesh import INCARNATION, introduction, load_value

EXCHANGES: Final = 60
#: Before these: until the two tell compact digests.
WARM_UP: Final = 5
MEMORY_ORIGINS: Final = 100
_MESSAGE_BLOCKS: Final = 1024
#: More than a jittered interval: each tick is a round.
_ROUND_S: Final = 1.2 * GOSSIP_INTERVAL_S + 1e-6


@dataclass(frozen=True, slots=True)
class Exchange:
    """Of both ends together: CPU milliseconds (median), and bytes (mean)."""

    gossip_ms: float
    codec_ms: float
    bytes: float


class Pair:
    """Two nodes that know the same ``origins``, themselves among them; all messages are packed."""

    def __init__(self, origins: int) -> None:
        self.dice = random.Random(origins)
        self.peers = [PeerId(self.dice.randbytes(32)) for _ in range(origins)]
        self.now = 0.0
        self.sent: list[bytes] = []
        self._heartbeat = 0
        self._versions = dict.fromkeys(self.peers, 2)
        first = [introduction(peer) for peer in self.peers]
        self.cores = [self._core(place, first) for place in (0, 1)]

    def exchange(self) -> tuple[float, float]:
        """The first opens an exchange with the second. CPU seconds of gossip, and of the codec."""
        self.now += _ROUND_S
        self.cores[1].tick(self.now, ())  # it lives on, and opens nothing itself
        begun_s = time.process_time()
        effects = self.cores[0].tick(self.now, self.peers[1:2])
        gossip_s, codec_s = time.process_time() - begun_s, 0.0
        for receiver in (1, 0, 1):
            messages = [effect.message for effect in effects if isinstance(effect, Send)]
            for message in messages:
                sent_s = time.process_time()
                packed = codec.encode(message)
                arrived = codec.decode(packed)
                arrived_s = time.process_time()
                assert isinstance(arrived, GossipMessage)
                effects = self.cores[receiver].receive(self.peers[1 - receiver], arrived, self.now)
                gossip_s += time.process_time() - arrived_s
                codec_s += arrived_s - sent_s
                self.sent.append(packed)
        return gossip_s, codec_s

    def others_live_on(self, *, busy: bool) -> None:
        """Every other's heartbeat rises, which one of the two has heard; ``busy``: its load too."""
        self._heartbeat += 1
        others = self.peers[2:]
        self.dice.shuffle(others)
        half = len(others) // 2
        for core, heard in zip(self.cores, (others[:half], others[half:]), strict=True):
            deltas = [self.changed_load(peer) for peer in heard] if busy else []
            digest = [
                DigestEntry(peer, INCARNATION, self._heartbeat, self._versions[peer], 0)
                for peer in heard
            ]
            core.receive(others[0], GossipAck(tuple(deltas)), self.now)
            core.receive(others[0], Syn(tuple(digest)), self.now)

    def changed_load(self, peer: PeerId) -> OriginDelta:
        """The peer's next load, in none of the two yet."""
        before = self._versions[peer]
        version = self._versions[peer] = before + 1
        change = Change(LOAD, version, load_value(version))
        return OriginDelta(peer, INCARNATION, before, False, (change,), version, 0)

    def _core(self, place: int, introductions: list[OriginDelta]) -> Gossip:
        core = Gossip(self.peers[place], INCARNATION, random.Random(place), 0.0)
        for key, _, value in introductions[place].changes:
            assert value is not None
            core.set(key, value, 0.0)
        others = introductions[:place] + introductions[place + 1 :]
        core.receive(others[0].origin, GossipAck(tuple(others)), 0.0)
        for delta in others:
            core.prove(delta.origin)
            core.alive(delta.origin, 0.0)
        return core


def exchange(origins: int, *, busy: bool) -> Exchange:
    """Two nodes between whose exchanges a round passes; each hears half of the news elsewhere."""
    pair = Pair(origins)
    for _ in range(WARM_UP):
        pair.others_live_on(busy=busy)
        pair.exchange()
    pair.sent.clear()
    samples = []
    gc.disable()
    for _ in range(EXCHANGES):
        pair.others_live_on(busy=busy)
        samples.append(pair.exchange())
    gc.enable()
    gossip_s, codec_s = map(statistics.median, zip(*samples, strict=True))
    return Exchange(1e3 * gossip_s, 1e3 * codec_s, sum(map(len, pair.sent)) / EXCHANGES)


def loads_bytes(origins: int) -> int:
    """Of a message with the loads of so many, and nothing else."""
    pair = Pair(origins)
    return len(codec.encode(GossipAck(tuple(pair.changed_load(peer) for peer in pair.peers))))


def news_bytes() -> dict[str, int]:
    """A message that tells of one new block beside a full summary, and those that tell it all."""
    pair = Pair(2)
    teller, hearer = pair.cores
    for block in range(SUMMARY_BLOCKS_MAX - 1):
        teller.set(block_key(block), BLOCK_VALUE, pair.now)
    whole = _told(pair)
    teller.set(block_key(SUMMARY_BLOCKS_MAX), BLOCK_VALUE, pair.now)
    one = _told(pair)
    assert hearer.records(teller.me) == teller.records(teller.me)
    return {"one_block": one, "whole_summary": whole}


def _told(pair: Pair) -> int:
    """Bytes of the messages by which the second comes to know all that the first does."""
    pair.sent.clear()
    teller, hearer = pair.cores
    while hearer.records(teller.me) != teller.records(teller.me):
        pair.exchange()
    return sum(len(sent) for sent in pair.sent if isinstance(codec.decode(sent), GossipAck))


def memory_mb() -> float:
    """What this process grows by when a node comes to know full summaries of `MEMORY_ORIGINS`."""
    dice = random.Random(0)
    knower = Gossip(PeerId(dice.randbytes(32)), INCARNATION, dice, 0.0)
    _tell_summary(knower, dice)  # what is loaded on first use is not the replicas'
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(MEMORY_ORIGINS):
        _tell_summary(knower, dice)
    gc.collect()
    return (process.memory_info().rss - before) / 1e6


def _tell_summary(knower: Gossip, dice: random.Random) -> None:
    """A new origin's, in messages of some size, as they come over a link."""
    origin = PeerId(dice.randbytes(32))
    for begin in range(0, SUMMARY_BLOCKS_MAX, _MESSAGE_BLOCKS):
        changes = tuple(
            Change(block_key(dice.getrandbits(64)), version, BLOCK_VALUE)
            for version in range(begin + 1, begin + _MESSAGE_BLOCKS + 1)
        )
        last = changes[-1].version
        delta = OriginDelta(origin, INCARNATION, begin, False, changes, last, 0)
        message = codec.decode(codec.encode(GossipAck((delta,))))
        assert isinstance(message, GossipAck)
        knower.receive(origin, message, 0.0)


if __name__ == "__main__":
    print(json.dumps({"memory_mb": memory_mb()}))
