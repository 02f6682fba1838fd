"""When to dial a peer: its addresses in turn, with backoff and jitter, for as long as wanted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from overlay.identity.multiaddr import Multiaddr
from overlay.limits import REDIAL_MAX_S, REDIAL_MIN_S
from overlay.transport.connection import Ending

#: Dials one address and serves the connection to its end.
Attempt = Callable[[Multiaddr], Awaitable[Ending]]


class Backoff:
    """How long to pause after all addresses have failed: ever longer, and never in step."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._next_s = REDIAL_MIN_S

    def pause_s(self) -> float:
        pause_s = self._next_s * self._rng.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, REDIAL_MAX_S)
        return pause_s

    def link_ended(self, lived_s: float) -> None:
        """A peer that cuts every link at once is no better than one that is down."""
        if lived_s >= self._next_s:
            self.reset()

    def reset(self) -> None:
        self._next_s = REDIAL_MIN_S


class Dial:
    """Keeps one peer dialled until `stop`. ``failure`` is why the latest attempt ended."""

    def __init__(
        self, addresses: Sequence[Multiaddr], attempt: Attempt, rng: random.Random
    ) -> None:
        self.failure = ""
        self._addresses = tuple(addresses)
        self._attempt = attempt
        self._rng = rng
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def update(self, addresses: Sequence[Multiaddr]) -> None:
        """The peer's addresses; new ones are tried at once."""
        if tuple(addresses) != self._addresses:
            self._addresses = tuple(addresses)
            self._news.set()

    def hold(self) -> None:
        """No need to dial: the peer has dialled us."""
        self._wanted.clear()

    def resume(self) -> None:
        self._wanted.set()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        backoff = Backoff(self._rng)
        while True:
            self._news.clear()
            for address in self._addresses:
                await self._wanted.wait()
                begun = clock()
                ending = await self._attempt(address)
                self.failure = ending.reason
                if ending.was_up:
                    backoff.link_ended(clock() - begun)
            if await self._news_within(backoff.pause_s()):
                backoff.reset()

    async def _news_within(self, pause_s: float) -> bool:
        try:
            async with asyncio.timeout(pause_s):
                return await self._news.wait()
        except TimeoutError:
            return False
