"""A member that only wants to be answered: the product's own mesh, without a model.

It is a process of its own, so that attackers take none of its time; it asks when it is told to.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

from models.engine import Sampling
from overlay.admission.handshake import LocalNode
from overlay.forwarding import effects as fwd
from overlay.http.backend import Ask
from overlay.identity.certificates import Membership
from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from tests.chaos.cores import no_attacker
from tests.overlay.transport.nodes import ANY_PORT, PATIENCE_S
from tests.support.bare_mesh import bare_mesh

#: It takes its time, or it would exceed its own budgets.
_PAUSE_S: Final = 0.01


@dataclass(frozen=True)
class Terms:
    """Who it is, and whom it asks for which model.

    ``nothing_fails``: no request may fail, as is so on a machine with time to spare. On one that is
    busy a link may be lost for that, and the next request must do.
    """

    seed: bytes
    membership: Membership
    peer: PeerId
    address: Multiaddr
    model: str
    peer_process: int
    nothing_fails: bool


class Honest:
    """The member, as a test sees it.

    ``control``: who asks a twin of its peer at the same time, if anybody does. ``processes``: its
    own, and its peer's.
    """

    def __init__(
        self, pipe: Connection, terms: Terms, control: Honest | None, processes: tuple[int, int]
    ) -> None:
        self._pipe = pipe
        self.control = control
        self.processes = processes
        self.peer_id = NodeKey.from_seed(terms.seed).peer_id
        self.certificates = terms.membership.certificates

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[list[float]]:
        """Meanwhile it asks, one request after the other, and all are answered by the peer.

        The list is filled at the end: the seconds that each answer took.
        """
        taken_s: list[float] = []
        self._pipe.send(True)
        try:
            yield taken_s
        finally:
            self._pipe.send(False)
            taken_s += await self.told()

    async def told(self) -> list[float]:
        """What the process answers. Raises AssertionError when it was not served."""
        answer = await asyncio.to_thread(self._pipe.recv)
        assert isinstance(answer, list), answer
        return answer


@asynccontextmanager
async def honest_member(terms: Terms, control: Honest | None = None) -> AsyncIterator[Honest]:
    pipe, its_own = multiprocessing.Pipe()
    spawning = multiprocessing.get_context("spawn")
    process = spawning.Process(target=_run, args=(its_own, terms), daemon=True)
    with no_attacker():
        process.start()
    its_own.close()
    assert process.pid is not None
    honest = Honest(pipe, terms, control, (process.pid, terms.peer_process))
    assert await honest.told() == []
    yield honest
    pipe.close()
    process.join(PATIENCE_S)
    assert process.exitcode == 0


# --- In its process -----------------------------------------------------------------------------


def _run(pipe: Connection, terms: Terms) -> None:
    asyncio.run(_Member(terms).serve(pipe))


class _Member:
    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._answers: dict[bytes, asyncio.Future[fwd.ClientEvent]] = {}
        key = NodeKey.from_seed(terms.seed)
        node = LocalNode(key, terms.membership, "honest", ())
        self._mesh = bare_mesh(node, on_client_event=self._client_event)

    async def serve(self, pipe: Connection) -> None:
        """Ask from a True to the False after it; until the end."""
        await self._mesh.start([ANY_PORT])
        self._mesh.meet(self._terms.peer, [self._terms.address])
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._linked()
            pipe.send([])
            while await asyncio.to_thread(pipe.recv):
                ending = asyncio.create_task(asyncio.to_thread(pipe.recv))
                answer: list[float] | str
                try:
                    answer = await self._ask_until(ending)
                except (AssertionError, TimeoutError) as error:
                    answer = repr(error)
                await ending
                pipe.send(answer)
        except EOFError:
            pass
        finally:
            await self._mesh.close()

    async def _ask_until(self, ending: asyncio.Task[bool]) -> list[float]:
        taken_s: list[float] = []
        while not (ending.done() and taken_s):
            begun = time.perf_counter()
            async with asyncio.timeout(PATIENCE_S):
                await self._answered()
            taken_s.append(time.perf_counter() - begun)
            await asyncio.sleep(_PAUSE_S)
        return taken_s

    async def _answered(self) -> None:
        """Ask; and again if that failed, unless nothing may."""
        while True:
            await self._linked()
            event = await self._ask()
            if isinstance(event, fwd.Answer):
                assert event.served_by == self._terms.peer, "somebody else answered"
                return
            assert not self._terms.nothing_fails, event

    async def _ask(self) -> fwd.ClientEvent:
        request_id = secrets.token_bytes(16)
        answer: asyncio.Future[fwd.ClientEvent] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        ask = Ask(None, "How are you?", Sampling(max_tokens=8))
        self._mesh.submit(request_id, ask, self._terms.model)
        return await answer

    async def _linked(self) -> None:
        """Wait until the peer is there and known to serve the model."""
        while not self._sees_peer():  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def _sees_peer(self) -> bool:
        terms = self._terms
        return self._mesh.member.neighbourhood.card_of(terms.peer, terms.model) is not None

    def _client_event(self, request_id: bytes, event: fwd.ClientEvent) -> None:
        if not isinstance(event, fwd.TextDelta):
            self._answers.pop(request_id).set_result(event)
