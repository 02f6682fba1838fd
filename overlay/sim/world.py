"""A whole mesh in virtual time: nodes, the network between them, and their clients."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from models.engine import Tokens
from overlay.forwarding import effects as fwd
from overlay.identity.peer_id import PeerId
from overlay.limits import GOSSIP_INTERVAL_S
from overlay.member import Member
from overlay.prefix.chain import BLOCK_TOKENS, block_hashes
from overlay.routing.policy import Policy
from overlay.sim.baselines import Central
from overlay.sim.clock import Clock
from overlay.sim.engine import blocks_cached
from overlay.sim.machine import Machine
from overlay.sim.network import Network
from overlay.sim.node import MODEL_KEY, SECRET, Node
from overlay.sim.outcome import Outcome
from overlay.sim.sizes import is_gossip, size_of
from overlay.sim.workload import Session, Turn
from overlay.wire.messages import Change, Forward, Message

#: Nodes know each other's cards before the first client comes: gossip has had so long.
SETTLE_S = 10.0
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
        rng: random.Random,
    ) -> None:
        """``clients``, ``limited``: see `Scenario`."""
        self.clock = Clock()
        self.outcomes: list[Outcome] = []
        self.gossip_bytes = 0
        self._policies: list[Policy] = []
        self._network = network
        self._sessions = sessions
        self._requests = requests
        self._submitted = 0
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

    def populate(self, policy_of: Callable[[PeerId], Policy], *, gossip: bool) -> None:
        """Start the nodes; all know each other already. ``gossip`` False: nothing more travels."""
        for n, peer in enumerate(self.peers):
            self._coming[peer] = {}
            policy = policy_of(peer)
            self._policies.append(policy)
            member = Member(
                peer,
                1,
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
                gossip=gossip,
            )
            member.described(f"node {n}", (), self.clock.now)
            self.nodes.append(node)
        for node in self.nodes:
            node.links = {p: self.rtt_ms(node.peer, p) for p in self.peers if p != node.peer}
            for other in self.nodes:
                if other is not node:
                    records = other.member.gossip.records(other.peer)
                    changes = [Change(key, 1, value) for key, value in records.items()]
                    node.member.neighbourhood.records_changed(other.peer, changes)
                    node.member.link_up(other.peer, "", self.clock.now)
            node.member.links_measured(node.links, self.clock.now)
            # Not all at once: that is not how nodes come up.
            self.clock.at(self._rng.uniform(0.0, self._interval_s), node.start)

    def run(self, on_progress: Callable[[int], None]) -> None:
        """Let everything happen until the last answer. ``on_progress``: answers so far."""
        for _ in range(self._clients or 1):
            self.clock.at(SETTLE_S, self._next_session)
        told = 0
        while self._submitted < self._requests or self._open:
            if not self.clock.step():
                break
            if len(self.outcomes) >= told + 100:
                told = len(self.outcomes)
                on_progress(told)
        on_progress(len(self.outcomes))

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
        if session is not None and self._submitted < self._requests:
            at = self.clock.now if self._clients else SETTLE_S + session.at_s
            self.clock.at(at, self._begin, session)

    def _begin(self, session: Session) -> None:
        self._submit(session, 0)
        if not self._clients:
            self._next_session()

    def _submit(self, session: Session, place: int) -> None:
        """Turn ``place`` of the session is asked."""
        if self._submitted == self._requests:
            return
        self._submitted += 1
        request_id = self._submitted.to_bytes(16, "big")
        turn = session.turns[place]
        now = self.clock.now
        self._open[request_id] = _Open(self._submitted, session, place, turn, now)
        limit = len(turn.answer) if self._limited else None
        self.nodes[session.origin].submit(request_id, limit)

    def _answer_to(self, request_id: bytes) -> Tokens:
        waiting = self._open.get(request_id)
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
            pause_s = done.session.turns[place].pause_s
            self.clock.at(now + pause_s, self._submit, done.session, place)
        elif self._clients:
            self._next_session()

    # --- Links --------------------------------------------------------------------------------

    def _send(self, sender: PeerId, receiver: PeerId, message: Message) -> bool:
        size = size_of(message)
        if is_gossip(message):
            self.gossip_bytes += size
        to = self._number[receiver]
        at = self._network.arrival(self._number[sender], to, size, self.clock.now)
        if at is None:
            return False
        if isinstance(message, Forward):
            self._coming[receiver][message.request_id] = max(
                1, len(message.tokens or ()) - message.estimated_match
            )
        self.clock.at(at, self._deliver, sender, to, message)
        return True

    def _deliver(self, sender: PeerId, to: int, message: Message) -> None:
        node = self.nodes[to]
        if isinstance(message, Forward):
            self._coming[node.peer].pop(message.request_id, None)
        node.receive(sender, message)

    def _node(self, peer: PeerId) -> Node:
        return self.nodes[self._number[peer]]


def _outcome(
    done: _Open, event: fwd.Answer | fwd.Failure, now: float, number: dict[PeerId, int]
) -> Outcome:
    if isinstance(event, fwd.Failure):
        total_ms = 1e3 * (now - done.submitted_s)
        length = len(done.turn.prompt)
        return Outcome(
            done.number,
            done.session.origin,
            done.session.origin,
            0,
            done.submitted_s,
            total_ms,
            total_ms,
            length,
            0,
            0,
            failed=True,
        )
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
