"""A whole mesh in virtual time: nodes, the network between them, and their clients."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from models.engine import Tokens
from overlay.forwarding import effects as fwd
from overlay.identity.peer_id import PeerId
from overlay.limits import GOSSIP_INTERVAL_S
from overlay.member import Member
from overlay.prefix.chain import BLOCK_TOKENS, block_hashes
from overlay.routing.policy import Policy
from overlay.sim.baselines import Central
from overlay.sim.churn import Fault, Gone, Split
from overlay.sim.clock import Clock
from overlay.sim.connections import Connections
from overlay.sim.engine import blocks_cached
from overlay.sim.machine import Machine
from overlay.sim.network import Network
from overlay.sim.node import MODEL_KEY, SECRET, Node
from overlay.sim.outcome import Counters, Outcome
from overlay.sim.sizes import is_gossip, size_of
from overlay.sim.workload import Session, Turn
from overlay.wire.anti_entropy import Change
from overlay.wire.messages import Forward, Goodbye, Message

#: Nodes know each other's cards before the first client comes: gossip has had so long.
SETTLE_S = 10.0
_ID_BYTES: Final = 16
#: What a model says to a request that arrives when its client was served elsewhere, or is gone.
_UNHEARD: Tokens = (0,) * 128


@dataclass(slots=True)
class _Open:
    """A request that has no answer yet."""

    number: int
    session: Session
    place: int
    turn: Turn
    submitted_s: float


class World:
    """``machines``: one for each node. ``policy_of``: what each node routes by."""

    def __init__(
        self,
        machines: Sequence[Machine],
        cells: Sequence[int],
        network: Network,
        sessions: Iterator[Session],
        *,
        requests: int,
        gossip_interval_s: float = GOSSIP_INTERVAL_S,
        clients: int = 0,
        limited: bool = False,
        faults: Iterable[Fault] = (),
        rng: random.Random,
    ) -> None:
        """``clients``, ``limited``: see `Scenario`. ``faults``: in order of their times, which
        count from the first client."""
        self.clock = Clock()
        self.outcomes: list[Outcome] = []
        self._gossip_bytes = 0
        self._policies: dict[int, Policy] = {}
        #: What nodes had counted when they stopped.
        self._busy_s = [0.0] * len(machines)
        self._blind = 0
        self._network = network
        self._connections = Connections(
            network,
            len(machines),
            self.clock,
            rng,
            up=self._link_up,
            down=self._link_down,
            deliver=self._deliver,
            lost=self._lost,
        )
        self._faults = iter(faults)
        self._split: Split | None = None
        self._sessions = sessions
        self._requests = requests
        #: Turns that were due; those of clients whose node is down are not asked.
        self._due = 0
        #: Turns that are still to come, as far as it is known.
        self._coming_turns = 0
        self._clients = clients
        self._limited = limited
        self._interval_s = gossip_interval_s
        self._rng = rng
        self._machines = machines
        self._cells = cells
        self._open: dict[bytes, _Open] = {}
        #: Requests on their way to a node, with the prompt tokens that they will compute there.
        self._coming: dict[PeerId, dict[bytes, int]] = {}
        self.peers = [PeerId((n + 1).to_bytes(32, "big")) for n in range(len(machines))]
        self._number = {peer: n for n, peer in enumerate(self.peers)}
        self.nodes: list[Node] = []

    def populate(
        self, policy_of: Callable[[PeerId], Policy], *, gossip: bool, spares: bool = True
    ) -> None:
        """Start the nodes; all know each other already.

        ``gossip`` False: nothing more travels. ``spares`` False: engines evict as if alone.
        """
        self._policy_of = policy_of
        self._gossip = gossip
        self._spares = spares
        for n, peer in enumerate(self.peers):
            self._coming[peer] = {}
            self.nodes.append(self._started(n, incarnation=1))
        for a, one in enumerate(self.nodes):
            for b, other in enumerate(self.nodes[:a]):
                _introduce(one, other)
                self._connections.connect(a, b)
            # Not all at once: that is not how nodes come up.
            self.clock.at(self._rng.uniform(0.0, self._interval_s), one.start)

    def _started(self, n: int, incarnation: int) -> Node:
        policy = self._policy_of(self.peers[n])
        self._policies[n] = policy
        member = Member(
            self.peers[n],
            incarnation,
            SECRET,
            policy,
            random.Random(self._rng.random()),
            self.clock.now,
            gossip_interval_s=self._interval_s,
            explained_max=0,
        )
        node = Node(
            member,
            self._machines[n],
            self._cells[n],
            self.clock,
            prompt_of=lambda request_id: self._open[request_id].turn.prompt,
            answer_to=self._answer_to,
            send=self._send,
            tell=self._tell,
            gossip=self._gossip,
            spares=self._spares,
        )
        member.described(f"node {n}", (), self.clock.now)
        return node

    def run(self, on_progress: Callable[[int], None]) -> None:
        """Let everything happen until the last answer. ``on_progress``: answers so far."""
        for _ in range(self._clients or 1):
            self._next_session()
        self._next_fault()
        told = 0
        while self._open or (self._coming_turns and self._due < self._requests):
            self.clock.step()
            if len(self.outcomes) >= told + 100:
                told = len(self.outcomes)
                on_progress(told)
        on_progress(len(self.outcomes))

    def counters(self) -> Counters:
        """Of the run so far."""
        nodes = self.nodes
        return Counters(
            busy_s=[a + b.engine.busy_s for a, b in zip(self._busy_s, nodes, strict=True)],
            gossip_bytes=self._gossip_bytes,
            blind=self._blind + sum(_blind(node) for node in nodes),
        )

    # --- Fleet --------------------------------------------------------------------------------

    def present(self, peer: PeerId) -> int:
        return self._node(peer).engine.present + len(self._coming[peer])

    def pending_prefill_tokens(self, peer: PeerId) -> int:
        coming = sum(self._coming[peer].values())
        return self._node(peer).engine.pending_prefill_tokens() + coming

    def match_tokens(self, peer: PeerId, hashes: Sequence[int]) -> int:
        return BLOCK_TOKENS * blocks_cached(hashes, self._node(peer).engine.blocks)

    def rtt_ms(self, a: PeerId, b: PeerId) -> float:
        return 1e3 * self._network.rtt_s(self._number[a], self._number[b])

    def prefill_rate(self, peer: PeerId) -> float:
        return self._node(peer).engine.prefill_rate()

    def answer_ms(self, peer: PeerId) -> float:
        return 1e3 * self._node(peer).engine.machine.answer_s

    # --- Clients ------------------------------------------------------------------------------

    def _next_session(self) -> None:
        session = next(self._sessions, None)
        if session is not None:
            at = max(self.clock.now, SETTLE_S) if self._clients else SETTLE_S + session.at_s
            self._ask_at(at, session, 0)

    def _ask_at(self, at: float, session: Session, place: int) -> None:
        """Turn ``place`` of the session is due then."""
        self._coming_turns += 1
        self.clock.at(at, self._ask, session, place)

    def _ask(self, session: Session, place: int) -> None:
        self._coming_turns -= 1
        if self._due == self._requests:
            return
        self._due += 1
        if place == 0 and not self._clients:
            self._next_session()
        now, turn, node = self.clock.now, session.turns[place], self.nodes[session.origin]
        if not node.running:
            self._session_over()
            return
        request_id = self._due.to_bytes(_ID_BYTES, "big")
        self._open[request_id] = _Open(self._due, session, place, turn, now)
        node.submit(request_id, len(turn.answer) if self._limited else None)

    def _session_over(self) -> None:
        if self._clients:
            self._next_session()

    def _answer_to(self, run_id: bytes) -> Tokens:
        """``run_id``: by which an engine knows a request; it begins with the request's own."""
        waiting = self._open.get(run_id[:_ID_BYTES])
        return _UNHEARD if waiting is None else waiting.turn.answer

    def _tell(self, peer: PeerId, request_id: bytes, event: fwd.ClientEvent) -> None:
        if isinstance(event, fwd.TextDelta):
            return
        done = self._open.pop(request_id)
        now = self.clock.now
        self.outcomes.append(_outcome(done, event, now, self._number))
        policy = self._policies[done.session.origin]
        if isinstance(policy, Central) and isinstance(event, fwd.Answer):
            policy.ended(event.served_by, block_hashes(SECRET, MODEL_KEY, done.turn.prompt))
        place = done.place + 1
        if place < len(done.session.turns):
            self._ask_at(now + done.session.turns[place].pause_s, done.session, place)
        else:
            self._session_over()

    # --- Links --------------------------------------------------------------------------------

    def _send(self, sender: PeerId, receiver: PeerId, message: Message) -> bool:
        size = size_of(message)
        sent = self._connections.send(self._number[sender], self._number[receiver], message, size)
        if sent and is_gossip(message):
            self._gossip_bytes += size
        if sent and isinstance(message, Forward):
            self._coming[receiver][message.request_id] = max(
                1, len(message.tokens or ()) - message.estimated_match
            )
        return sent

    def _deliver(self, sender: int, receiver: int, message: Message) -> None:
        self._lost(receiver, message)
        self.nodes[receiver].receive(self.peers[sender], message)

    def _lost(self, receiver: int, message: Message) -> None:
        """It is not on its way any more."""
        if isinstance(message, Forward):
            self._coming[self.peers[receiver]].pop(message.request_id, None)

    def _link_up(self, a: int, b: int) -> None:
        if not self._gossip:
            _introduce(self.nodes[a], self.nodes[b])
        for one, other in ((a, b), (b, a)):
            peer = self.peers[other]
            self.nodes[one].link_up(peer, self.rtt_ms(self.peers[one], peer))

    def _link_down(self, a: int, b: int) -> None:
        for one, other in ((a, b), (b, a)):
            if self.nodes[one].running:
                self.nodes[one].link_down(self.peers[other])

    # --- What goes wrong ----------------------------------------------------------------------

    def _next_fault(self) -> None:
        fault = next(self._faults, None)
        if fault is not None:
            self.clock.at(SETTLE_S + fault.at_s, self._happen, fault)

    def _happen(self, fault: Fault) -> None:
        self._next_fault()
        match fault:
            case Gone(node=n) if self.nodes[n].running:
                self._stop(n, goodbye=fault.goodbye)
                if fault.back_s < math.inf:
                    self.clock.at(SETTLE_S + fault.back_s, self._restart, n)
            case Split():
                self._split = fault
                self._connections.partition(fault.part)
                if fault.heals_s < math.inf:
                    self.clock.at(SETTLE_S + fault.heals_s, self._heal, fault)

    def _stop(self, n: int, *, goodbye: bool) -> None:
        node = self.nodes[n]
        if goodbye:
            for peer in [*node.links]:
                self._send(node.peer, peer, Goodbye("the node stops"))
        node.stop()
        if goodbye:
            self._connections.left(n)
        else:
            self._connections.died(n)
        now = self.clock.now
        for request_id, waiting in [*self._open.items()]:
            if waiting.session.origin == n:
                del self._open[request_id]
                self.outcomes.append(_failed(waiting, now))
                self._session_over()

    def _restart(self, n: int) -> None:
        self._connections.restarted(n)
        self._busy_s[n] += self.nodes[n].engine.busy_s
        self._blind += _blind(self.nodes[n])
        self.nodes[n] = self._started(n, incarnation=1 + round(1e3 * self.clock.now))
        self.nodes[n].start()

    def _heal(self, split: Split) -> None:
        if self._split is split:
            self._split = None
            self._connections.partition([0] * len(self.nodes))

    def _node(self, peer: PeerId) -> Node:
        return self.nodes[self._number[peer]]


def _introduce(one: Node, other: Node) -> None:
    """Each knows the other's card, as if gossip had told it."""
    for knowing, known in ((one, other), (other, one)):
        records = known.member.gossip.records(known.peer)
        changes = [Change(key, 1, value) for key, value in records.items()]
        knowing.member.neighbourhood.records_changed(known.peer, changes)


def _blind(node: Node) -> int:
    return node.member.forwarder.hindsight.blind_decisions


def _failed(waiting: _Open, now: float) -> Outcome:
    origin = waiting.session.origin
    total_ms = 1e3 * (now - waiting.submitted_s)
    return Outcome(
        request=waiting.number,
        origin=origin,
        executor=origin,
        hops=0,
        submitted_s=waiting.submitted_s,
        ttft_ms=total_ms,
        total_ms=total_ms,
        prompt_tokens=len(waiting.turn.prompt),
        cached_tokens=0,
        estimated_match=0,
        failed=True,
    )


def _outcome(
    done: _Open, event: fwd.Answer | fwd.Failure, now: float, number: dict[PeerId, int]
) -> Outcome:
    if isinstance(event, fwd.Failure):
        return _failed(done, now)
    return Outcome(
        request=done.number,
        origin=done.session.origin,
        executor=number[event.served_by],
        hops=event.hops,
        submitted_s=done.submitted_s,
        ttft_ms=event.ttft_ms,
        total_ms=1e3 * (now - done.submitted_s),
        prompt_tokens=event.prompt_tokens,
        cached_tokens=event.cached_tokens,
        estimated_match=event.decision.chosen.match_tokens,
        failed=False,
    )
