"""A few members on a virtual network in virtual time: real cores, made-up engines."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from models.engine import (
    CacheChanged,
    Chunk,
    EngineEvent,
    EngineStats,
    Finished,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    Sampling,
    Started,
    Tokens,
)
from overlay.effects import Effect
from overlay.forwarding import effects as fwd
from overlay.forwarding.terms import NO_BOUNDS, Terms
from overlay.identity.peer_id import PeerId
from overlay.member import Member
from overlay.prefix.chain import block_hashes
from overlay.routing.cost_policy import CostPolicy
from overlay.wire.codec import decode, encode
from overlay.wire.messages import Message

SECRET = b"s" * 32
TOY = ModelInfo("toy", b"k" * 16, ("alias",), "a toy", 4096, 8192, 1)
STATS = EngineStats(prefill_rate=100.0, decode_rate=50.0)
#: Of every answer: its tokens, and the time between two of them.
ANSWER = tuple(range(100, 120))
TOKEN_S = 0.02
#: From the request to the last token, with time to spare.
ANSWER_S = 1.5 * len(ANSWER) * TOKEN_S
RTT_MS = 1.0


@dataclass
class VirtualMember:
    """A member, its engine's cache, and what came out."""

    member: Member
    alive: bool = True
    cached: set[int] = field(default_factory=set)
    running: set[bytes] = field(default_factory=set)
    #: The latest run of each request: one may come again.
    runs: dict[bytes, object] = field(default_factory=dict)
    events: dict[bytes, list[fwd.ClientEvent]] = field(default_factory=dict)
    #: Effects that are neither messages nor work.
    told: list[Effect] = field(default_factory=list)


class VirtualMesh:
    """``size`` members, all linked; messages and engines take time, and nothing is lost."""

    def __init__(
        self, size: int, *, serving: Sequence[int], seed: int = 0, gossip_interval_s: float = 1.0
    ) -> None:
        self.now = 100.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.nodes: list[VirtualMember] = []
        self._gossip_interval_s = gossip_interval_s
        for index in range(size):
            self.nodes.append(self._started(index, random.Random(seed * 1000 + index)))
            if index in serving:
                self.load(index)
        self._link_all()

    def _started(
        self, index: int, rng: random.Random, *, incarnation: int = 1, terms: Terms = NO_BOUNDS
    ) -> VirtualMember:
        peer = PeerId(bytes([index + 1]) * 32)
        member = Member(
            peer,
            incarnation,
            SECRET,
            CostPolicy(rng),
            rng,
            self.now,
            terms=terms,
            gossip_interval_s=self._gossip_interval_s,
        )
        member.described(f"n{index}", (), self.now)
        return VirtualMember(member)

    def load(self, index: int) -> None:
        """The node serves the model from now on."""
        member = self.nodes[index].member
        member.models_changed([TOY], {}, self.now)
        member.engine_event(TOY.name, STATS, self.now)

    def _link_all(self) -> None:
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    name = f"n{self.nodes.index(other)}"
                    node.member.gossip.prove(other.member.me)  # As its chain would.
                    self.perform(node, node.member.link_up(other.member.me, name, self.now))

    def submit(self, index: int, request_id: bytes, tokens: Tokens) -> None:
        """A client of the node asks; the prompt's text is its tokens as numbers."""
        node = self.nodes[index]
        self.measure(node)
        prompt = " ".join(map(str, tokens))
        node.events[request_id] = []
        effects = node.member.submit(request_id, TOY.name, prompt, Sampling(), self.now)
        self.perform(node, effects)

    def compute(self, index: int, tokens: Tokens) -> None:
        """The node's engine holds these tokens now."""
        self._cache(self.nodes[index], tokens)

    def kill(self, index: int) -> None:
        """The node is gone; its peers' links break."""
        dead = self.nodes[index]
        dead.alive = False
        for node in self.nodes:
            if node.alive:
                self.perform(node, node.member.link_down(dead.member.me, self.now))

    def wake(self, index: int) -> None:
        """The node was only asleep, and is back, with all that it knew."""
        back = self.nodes[index]
        back.alive = True
        for node in self.nodes:
            if node.alive and node is not back:
                self.perform(node, node.member.link_up(back.member.me, "", self.now))
                self.perform(back, back.member.link_up(node.member.me, "", self.now))

    def restart(self, index: int) -> None:
        """The node that was killed is there again: a new process, that serves nothing yet."""
        self.nodes[index] = self._started(index, random.Random(index), incarnation=2)
        for other in self.nodes:
            self.nodes[index].member.gossip.prove(other.member.me)  # As its chain would.
        self.wake(index)

    def run(self, seconds: float) -> None:
        """Let time pass: messages, engines and timers in order of time."""
        end = self.now + seconds
        while True:
            awake = self._awake()
            ticking = min(awake, key=lambda node: node.member.next_deadline(), default=None)
            deadline = math.inf
            if ticking is not None:
                deadline = max(self.now, ticking.member.next_deadline())
            if self._due and self._due[0][0] <= min(deadline, end):
                at, _, happen = heapq.heappop(self._due)
                self.now = max(self.now, at)
                happen()
            elif ticking is not None and deadline <= end:
                self.now = deadline
                self.measure(ticking)
                self.perform(ticking, ticking.member.tick(self.now, self._linked(ticking)))
            else:
                break
        self.now = end

    def perform(self, node: VirtualMember, effects: Sequence[Effect]) -> None:
        """Carry out effects, as a driver must."""
        queue = deque(effects)
        while queue:
            match effect := queue.popleft():
                case fwd.Send(peer=peer, message=message):
                    if not self._send(node, self._node(peer), message):
                        queue.extend(node.member.undeliverable(peer, message, self.now))
                case fwd.Emit(request_id=request_id, event=event):
                    node.events[request_id].append(event)
                case fwd.Tokenize(request_id=request_id, prompt=prompt):
                    assert isinstance(prompt, str)
                    tokens = tuple(int(word) for word in prompt.split())
                    queue.extend(node.member.tokenized(request_id, tokens, self.now))
                case fwd.Generate(request=request):
                    self._generate(node, request)
                case fwd.CancelGeneration(request_id=request_id):
                    self._cancel(node, request_id)
                case _:
                    node.told.append(effect)

    def text(self, index: int, request_id: bytes) -> str:
        events = self.nodes[index].events[request_id]
        return "".join(e.text for e in events if isinstance(e, fwd.TextDelta))

    def ending(self, index: int, request_id: bytes) -> fwd.ClientEvent:
        return self.nodes[index].events[request_id][-1]

    def measure(self, node: VirtualMember) -> None:
        node.member.links_measured(dict.fromkeys(self._linked(node), RTT_MS), self.now)

    def _awake(self) -> list[VirtualMember]:
        return [node for node in self.nodes if node.alive]

    def _node(self, peer: PeerId) -> VirtualMember:
        return next(node for node in self.nodes if node.member.me == peer)

    def _send(self, node: VirtualMember, receiver: VirtualMember, message: Message) -> bool:
        """Whether there is a link to send it on."""
        if receiver.alive:
            self._later(RTT_MS / 2000, self._delivery(node, receiver, encode(message)))
        return receiver.alive

    def _cancel(self, node: VirtualMember, request_id: bytes) -> None:
        """The engine forgets it, as it has ended it."""
        if request_id in node.running:
            node.running.discard(request_id)
            done = Finished(request_id, FinishReason.CANCELLED, 0, 0, 0, 0.0, 0.0, 0.0)
            self._later(TOKEN_S, lambda: self._tell(node, done))

    def _tell(self, node: VirtualMember, event: EngineEvent) -> None:
        if node.alive:
            self.perform(node, node.member.engine_event(TOY.name, event, self.now))

    def _linked(self, node: VirtualMember) -> list[PeerId]:
        return [n.member.me for n in self.nodes if n.alive and n is not node]

    def _later(self, delay_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + delay_s, next(self._order), happen))

    def _delivery(
        self, sender: VirtualMember, receiver: VirtualMember, data: bytes
    ) -> Callable[[], None]:
        def deliver() -> None:
            if receiver.alive:
                message = decode(data)
                self.perform(receiver, receiver.member.receive(sender.member.me, message, self.now))

        return deliver

    def _cache(self, node: VirtualMember, tokens: Tokens) -> int:
        """Returns how many of the tokens were cached before."""
        hashes = block_hashes(SECRET, TOY.key, tokens)
        new = tuple(h for h in hashes if h not in node.cached)
        node.cached.update(new)
        event = CacheChanged(new, ())
        self.perform(node, node.member.engine_event(TOY.name, event, self.now))
        return (len(hashes) - len(new)) * 32

    def _generate(self, node: VirtualMember, request: GenerationRequest) -> None:
        """An engine that computes every answer at the same pace."""
        request_id = request.request_id
        node.running.add(request_id)
        run = node.runs[request_id] = object()
        cached = self._cache(node, request.tokens)
        left = ANSWER[len(request.generated) :]
        done = Finished(
            request_id, FinishReason.STOP, len(request.tokens), cached, len(left), 0.0, 5.0, 5.0
        )
        events: list[Started | Chunk | Finished] = [
            Started(request_id, cached, 0.0),
            *(Chunk(request_id, (token,), f"<{token}>") for token in left),
            done,
        ]
        for step, event in enumerate(events):

            def happen(event: Started | Chunk | Finished = event) -> None:
                if request_id in node.running and node.runs[request_id] is run:
                    if event is done:
                        node.running.discard(request_id)
                    self._tell(node, event)

            self._later(step * TOKEN_S, happen)
