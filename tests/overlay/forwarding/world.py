"""A few forwarders on a virtual network with a virtual clock: real cores, made-up engines."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from models.engine import (
    Alternative,
    CacheChanged,
    Chunk,
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    Sampling,
    Started,
    TokenLogprob,
    Tokens,
)
from overlay.errors import ContextLengthExceeded
from overlay.forwarding import effects as fx
from overlay.forwarding.forwarder import Forwarder
from overlay.forwarding.neighbourhood import Neighbourhood
from overlay.forwarding.terms import NO_BOUNDS, Terms
from overlay.gossip.records import CARD, LOAD, Card, Load, ModelCard, block_key
from overlay.identity.peer_id import PeerId
from overlay.prefix.chain import block_hashes
from overlay.routing.cost_policy import CostPolicy
from overlay.wire.anti_entropy import Change
from overlay.wire.codec import decode, encode
from overlay.wire.messages import Forward, Message

SECRET = b"s" * 32
MODEL = "toy"
KEY = b"k" * 16
ANSWER = tuple(range(100, 140))


def text_of(token: int) -> str:
    return f"<{token}>"


def logprob_of(token: int, alternatives: int) -> TokenLogprob:
    top = tuple(Alternative(b"%d" % other, -other / 2) for other in range(alternatives))
    return TokenLogprob(text_of(token).encode(), -token / 2, top)


def forwarded(**changes: Any) -> Forward:
    """A request as a peer brings it, in text. Not without ``path``."""
    fields: dict[str, Any] = {
        "request_id": b"r" * 16,
        "model": MODEL,
        "model_key": None,
        "tokens": None,
        "prompt": "1 2 3",
        "generated": (),
        "delivered_chars": 0,
        "sampling": Sampling(),
        "hop_limit": 1,
        "deadline_ms": 60_000,
        "estimated_match": 0,
    }
    return Forward(**{**fields, **changes})


@dataclass
class ToyNode:
    peer: PeerId
    forwarder: Forwarder
    neighbourhood: Neighbourhood
    has_model: bool
    alive: bool = True
    events: dict[bytes, list[fx.ClientEvent]] = field(default_factory=dict)
    #: Requests in the engine: how many answer tokens each has still to give.
    running: dict[bytes, GenerationRequest] = field(default_factory=dict)
    given: dict[bytes, int] = field(default_factory=dict)
    cancelled: list[bytes] = field(default_factory=list)
    remembered: list[fx.Remember] = field(default_factory=list)


class World:
    """Nodes, a network that delivers in order (or loses what ``lose`` says), and a clock."""

    def __init__(
        self,
        count: int,
        *,
        models: set[int] | None = None,
        terms: Mapping[int, Terms] = MappingProxyType({}),
        seed: int = 0,
    ) -> None:
        """``models``: who serves; ``terms``: what the owners of these grant guests."""
        self.now = 100.0
        #: How the next requests of clients are to be answered.
        self.sampling = Sampling()
        self.lose: Callable[[PeerId, PeerId, Message], bool] = lambda *_: False
        self.wire: deque[tuple[PeerId, PeerId, bytes]] = deque()
        self.log: list[tuple[PeerId, PeerId, Message]] = []
        self.nodes: dict[PeerId, ToyNode] = {}
        peers = [PeerId(bytes([index + 1]) * 32) for index in range(count)]
        for index, peer in enumerate(peers):
            hood = Neighbourhood(peer)
            granted = terms.get(index, NO_BOUNDS)
            policy = CostPolicy(random.Random(seed + index))
            forwarder = Forwarder(peer, hood, SECRET, policy, terms=granted)
            has_model = models is None or index in models
            self.nodes[peer] = ToyNode(peer, forwarder, hood, has_model)
            if has_model:
                self.load(index)
        for node in self.nodes.values():
            for other in self.nodes.values():
                if other is not node:
                    self.introduce(node, other)

    def load(
        self, index: int, name: str = MODEL, key: bytes = KEY, context_length: int = 4096
    ) -> None:
        """The node serves a model from now on."""
        node = self.node(index)
        info = ModelInfo(name, key, ("alias",), "a toy", context_length, 4096, 1)
        private = node.forwarder.lending.terms.is_private(info.name, info.aliases)
        node.neighbourhood.model_loaded(info, private=private)
        node.neighbourhood.engine_stats(name, EngineStats(prefill_rate=100.0, decode_rate=50.0))

    def shorten(self, index: int, context_length: int) -> None:
        """The node's model has another context, and everybody knows."""
        short = self.node(index)
        short.neighbourhood.model_gone(MODEL)
        self.load(index, context_length=context_length)
        for node in self.nodes.values():
            if node is not short:
                self.introduce(node, short, context_length)

    def introduce(self, node: ToyNode, other: ToyNode, context_length: int = 4096) -> None:
        models = (ModelCard(MODEL, KEY, ("alias",), "a toy", context_length, 100.0, 50.0),)
        card = Card(f"n{other.peer[0]}", (), models if other.has_model else ())
        changes = (
            Change(CARD, 1, card.pack()),
            Change(LOAD, 2, Load().pack()),
        )
        node.neighbourhood.records_changed(other.peer, changes)
        node.neighbourhood.link_measured(other.peer, 1.0, self.now)

    def node(self, index: int) -> ToyNode:
        return list(self.nodes.values())[index]

    def warm(self, index: int, tokens: Tokens) -> None:
        """The node has these tokens cached, and everybody knows."""
        warm = self.node(index)
        hashes = block_hashes(SECRET, KEY, tokens)
        warm.neighbourhood.cache_changed(MODEL, CacheChanged(hashes, ()))
        changes = tuple(Change(block_key(h), 10 + i, b"") for i, h in enumerate(hashes))
        for node in self.nodes.values():
            if node is not warm:
                node.neighbourhood.records_changed(warm.peer, changes)

    def busy(self, index: int, pending_prefill_tokens: int) -> None:
        """The node has prefill to do, and everybody knows."""
        busy = self.node(index)
        load = Load(running=1, queued=3, pending_prefill_tokens=pending_prefill_tokens)
        for node in self.nodes.values():
            if node is not busy:
                change = Change(LOAD, 99, load.pack())
                node.neighbourhood.records_changed(busy.peer, (change,))

    def submit(
        self, index: int, request_id: bytes, prompt: str, model: str = MODEL, **options: bool
    ) -> None:
        """The prompt is a string of numbers; the toy tokenizer reads them."""
        node = self.node(index)
        node.events[request_id] = []
        effects = node.forwarder.submit(
            request_id,
            model,
            prompt,
            self.sampling,
            self.now,
            local_only=options.get("local", False),
        )
        self.carry_out(node, effects)

    def carry_out(self, node: ToyNode, effects: list[fx.Effect]) -> None:
        queue = deque(effects)
        while queue:
            match queue.popleft():
                case fx.Send(peer=peer, message=message):
                    self.wire.append((node.peer, peer, encode(message)))
                case fx.Emit(request_id=request_id, event=event):
                    node.events[request_id].append(event)
                case fx.Tokenize(request_id=request_id, prompt=prompt):
                    assert isinstance(prompt, str)
                    tokens = tuple(int(word) for word in prompt.split())
                    queue.extend(node.forwarder.tokenized(request_id, tokens, self.now))
                case fx.Remember() as answer:
                    node.remembered.append(answer)
                case fx.Generate(model=model, request=request) if (
                    len(request.tokens) >= node.neighbourhood.models[model].info.context_length
                ):
                    code = ContextLengthExceeded.code
                    failed = Failed(request.request_id, code, "it is too long")
                    queue.extend(node.forwarder.on_engine(failed, self.now))
                case fx.Generate(request=request):
                    node.running[request.request_id] = request
                    node.given[request.request_id] = len(request.generated)
                    started = Started(request.request_id, 0, 0.0)
                    queue.extend(node.forwarder.on_engine(started, self.now))
                case fx.CancelGeneration(request_id=request_id):
                    node.cancelled.append(request_id)
                    node.running.pop(request_id, None)

    def deliver(self) -> None:
        """Deliver everything under way, and what follows from it."""
        while self.wire:
            sender, receiver, data = self.wire.popleft()
            message = decode(data)
            if self.lose(sender, receiver, message):
                continue
            assert isinstance(message, fx.ForwardingMessage)
            self.log.append((sender, receiver, message))
            node = self.nodes[receiver]
            if node.alive and self.nodes[sender].alive:
                self.carry_out(node, node.forwarder.receive(sender, message, self.now))

    def step_engines(self) -> None:
        """Every running answer grows by one token."""
        self.now += 0.02
        for node in self.nodes.values():
            for request in list(node.running.values()) if node.alive else []:
                request_id = request.request_id
                given = node.given[request_id]
                event: EngineEvent
                if given < len(ANSWER):
                    node.given[request_id] += 1
                    text = "".join(text_of(t) for t in ANSWER[: given + 1])
                    before = "".join(text_of(t) for t in ANSWER[:given])
                    shown = max(request.delivered_chars, len(before))
                    asked = request.sampling.logprobs
                    logprobs = () if asked is None else (logprob_of(ANSWER[given], asked),)
                    event = Chunk(request_id, (ANSWER[given],), text[shown:], logprobs)
                else:
                    del node.running[request_id]
                    event = Finished(
                        request_id,
                        FinishReason.STOP,
                        len(request.tokens),
                        0,
                        len(ANSWER),
                        0.0,
                        5.0,
                        5.0,
                    )
                self.carry_out(node, node.forwarder.on_engine(event, self.now))

    def run(self, steps: int = 60) -> None:
        self.deliver()
        for _ in range(steps):
            self.step_engines()
            self.deliver()

    def kill(self, index: int) -> None:
        """The node is gone, and its peers notice."""
        dead = self.node(index)
        dead.alive = False
        for node in self.nodes.values():
            if node is not dead:
                node.neighbourhood.link_down(dead.peer)
                self.carry_out(node, node.forwarder.peer_lost(dead.peer, self.now))
        self.deliver()

    def answer(self, index: int, request_id: bytes) -> str:
        events = self.node(index).events[request_id]
        return "".join(e.text for e in events if isinstance(e, fx.TextDelta))

    def logprobs(self, index: int, request_id: bytes) -> list[TokenLogprob]:
        events = self.node(index).events[request_id]
        return [each for e in events if isinstance(e, fx.TextDelta) for each in e.logprobs]

    def ending(self, index: int, request_id: bytes) -> fx.ClientEvent:
        return self.node(index).events[request_id][-1]
