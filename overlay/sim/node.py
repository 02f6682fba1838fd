"""A node in virtual time: the mesh's own `Member`, with a model of the engine."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from models.engine import EngineEvent, ModelInfo, Sampling, Tokens
from overlay.effects import Effect
from overlay.forwarding import effects as fwd
from overlay.identity.peer_id import PeerId
from overlay.member import Member
from overlay.prefix.radix import RadixTree
from overlay.sim.clock import Clock
from overlay.sim.engine import SimEngine
from overlay.sim.machine import Machine
from overlay.wire.messages import Message

MODEL = "model"
MODEL_KEY = b"the sim's model."
SECRET = b"the secret of the simulator's..."


class Node:
    """Drives one `Member` as `overlay.mesh.Mesh` does: carries out its effects, in order."""

    def __init__(
        self,
        member: Member,
        machine: Machine,
        cells: int,
        clock: Clock,
        *,
        prompt_of: Callable[[bytes], Tokens],
        answer_to: Callable[[bytes], Tokens],
        send: Callable[[PeerId, PeerId, Message], bool],
        tell: Callable[[PeerId, bytes, fwd.ClientEvent], None],
        gossip: bool,
        spares: bool,
    ) -> None:
        """``send`` says whether there was a link; ``tell`` passes on what clients would see.

        ``gossip`` False: it never tells anybody of itself. ``spares``: its engine hears of what can
        be had elsewhere.
        """
        self.member = member
        self.peer = member.me
        self._clock = clock
        self._prompt_of = prompt_of
        self._send = send
        self._tell = tell
        self._gossip = gossip
        self._spares = spares
        #: When it is woken next; not at all before it has started.
        self._due = -math.inf
        self.running = True
        #: The peers to which a link is up, and how far they are, in milliseconds.
        self.links: dict[PeerId, float] = {}
        tree = RadixTree(SECRET, MODEL_KEY, cells)
        self.engine = SimEngine(machine, tree, cells, clock, answer_to, self._engine_event)
        info = ModelInfo(MODEL, MODEL_KEY, (), "", 1 << 20, cells, 0)
        member.models_changed([info], {}, clock.now)
        self.engine.announce()

    def submit(self, request_id: bytes, max_tokens: int | None) -> None:
        """A client of this node asks, for an answer of ``max_tokens`` at most if it says so."""
        prompt = request_id.hex()
        sampling = Sampling(max_tokens=max_tokens)
        effects = self.member.submit(request_id, MODEL, prompt, sampling, self._clock.now)
        self.carry_out(effects)

    def receive(self, sender: PeerId, message: Message) -> None:
        self.carry_out(self.member.receive(sender, message, self._clock.now))

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Carry out effects, and those that follow from them."""
        queue = deque(effects)
        while queue:
            match queue.popleft():
                case fwd.Send(peer=peer, message=message):
                    if not self._send(self.peer, peer, message):
                        queue.extend(self.member.undeliverable(peer, message, self._clock.now))
                case fwd.Emit(request_id=request_id, event=event):
                    self._tell(self.peer, request_id, event)
                case fwd.Tokenize(request_id=request_id):
                    tokens = self._prompt_of(request_id)
                    queue.extend(self.member.tokenized(request_id, tokens, self._clock.now))
                case fwd.Generate(request=request):
                    self.engine.submit(request)
                case fwd.CancelGeneration(request_id=request_id):
                    self.engine.cancel(request_id)
                case fwd.CopiesChanged(changed=changed) if self._spares:
                    self.engine.copies_changed(changed)
                case _:
                    pass  # what only tells, and what answers' tokens are (the engine knows)
        self._wake()

    def start(self) -> None:
        """Time passes for it from now on."""
        self._due = math.inf
        self._wake()

    def stop(self) -> None:
        """Nothing happens in it any more."""
        self.running = False
        self._due = -math.inf
        self.engine.stop()

    def link_up(self, peer: PeerId, rtt_ms: float) -> None:
        now = self._clock.now
        self.links[peer] = rtt_ms
        self.member.gossip.prove(peer)  # Chains are not simulated.
        self.carry_out(self.member.link_up(peer, "", now))
        self.member.links_measured({peer: rtt_ms}, now)

    def link_down(self, peer: PeerId) -> None:
        del self.links[peer]
        self.carry_out(self.member.link_down(peer, self._clock.now))

    def _wake(self) -> None:
        """See to it that it ticks in time."""
        ticking = self.member if self._gossip else self.member.forwarder
        due = ticking.next_deadline()
        if due < self._due:
            self._due = due
            self._clock.at(due, self._tick, due)

    def _tick(self, due: float) -> None:
        if due != self._due:
            return  # it has ticked before that, and sleeps until another time
        self._due = math.inf
        now = self._clock.now
        self.member.links_measured(self.links, now)
        if self._gossip:
            self.carry_out(self.member.tick(now, list(self.links)))
        else:
            self.carry_out(self.member.forwarder.tick(now))

    def _engine_event(self, event: EngineEvent) -> None:
        self.carry_out(self.member.engine_event(MODEL, event, self._clock.now))
