"""When to dial a peer: its addresses in turn, with backoff and jitter, for as long as wanted."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from overlay.bucket import Bucket
from overlay.identity.multiaddr import Multiaddr
from overlay.limits import (
    DIALS_AT_ONCE_MAX,
    DIALS_BURST,
    DIALS_PER_S,
    REDIAL_MAX_S,
    REDIAL_MIN_S,
)
from overlay.transport.places import Places

log = logging.getLogger(__name__)

#: A link that lived for so long was a good one, however long its peer had been away before.
_SETTLED_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt to dial ended; ``was_up``: not before there was a link."""

    reason: str
    was_up: bool


#: Dials one address, after so many failures in a row, and serves the connection to its end.
Attempt = Callable[[Multiaddr, int], Awaitable[Ending]]


class Backoff:
    """How long to pause after all addresses have failed: ever longer, and never in step."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._next_s = REDIAL_MIN_S

    def pause_s(self) -> float:
        pause_s = self._next_s * self._rng.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, REDIAL_MAX_S)
        return pause_s

    def link_ended(self, lived_s: float) -> bool:
        """Whether it was a good link: a peer that cuts every one at once is as good as down."""
        good = lived_s >= min(self._next_s, _SETTLED_S)
        if good:
            self.reset()
        return good

    def reset(self) -> None:
        self._next_s = REDIAL_MIN_S


class DialTurns:
    """Who may begin to dial: so many at one time, and so many per second.

    Anybody's word is enough for an address to be dialled, and each attempt takes sockets and time:
    10 s where nothing answers.
    """

    def __init__(self) -> None:
        self._at_once = Places(DIALS_AT_ONCE_MAX)
        self._rate = Bucket(DIALS_PER_S, DIALS_BURST, time.monotonic())

    @asynccontextmanager
    async def turn(self, failures: int) -> AsyncIterator[None]:
        """``failures``: in a row, to the same peer."""
        async with self._at_once.take(failures):
            now = time.monotonic()
            self._rate.take(1, now)
            await asyncio.sleep(self._rate.wait_s(now))
            yield


class Dial:
    """Keeps one peer dialled until `stop`. ``failure`` is why the latest attempt ended."""

    def __init__(
        self, addresses: Sequence[Multiaddr], attempt: Attempt, rng: random.Random
    ) -> None:
        self.failure = ""
        self._addresses = tuple(addresses)
        self._attempt = attempt
        self._rng = rng
        #: In a row.
        self._failures = 0
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
            self.hurry()

    def hurry(self) -> None:
        """There is hope: try at once, if this is only waiting to."""
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
        good: Multiaddr | None = None
        while True:
            self._news.clear()
            for address in sorted(self._addresses, key=lambda each: each != good):
                await self._wanted.wait()
                begun = clock()
                ending = await self._attempted(address)
                self.failure = ending.reason
                self._failures += 1
                if ending.was_up:
                    self._failures = 0
                    if backoff.link_ended(clock() - begun):
                        # Others may take HANDSHAKE_S each to lead nowhere, as a LAN's do from afar.
                        good = address
                        break
            if await self._news_within(backoff.pause_s()):
                backoff.reset()

    async def _attempted(self, address: Multiaddr) -> Ending:
        try:
            return await self._attempt(address, self._failures)
        except Exception:
            # Our bug: the peer is dialled again all the same.
            log.exception("%s could not be dialled", address)
            return Ending("this node failed to dial it", was_up=False)

    async def _news_within(self, pause_s: float) -> bool:
        try:
            async with asyncio.timeout(pause_s):
                return await self._news.wait()
        except TimeoutError:
            return False
