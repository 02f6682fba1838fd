"""A scheduler on any backend and cache, with everything it said, sorted by request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.engine import (
    CacheChanged,
    Chunk,
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    GenerationRequest,
    Priority,
    Sampling,
    Started,
)
from models.llama.backend import Backend
from models.llama.cache import Cache
from models.llama.rate import Rates
from models.llama.scheduler import Scheduler


class SchedulerBench:
    def __init__(
        self,
        backend: Backend,
        cache: Cache,
        rates: Rates,
        *,
        context: int,
        clock: Callable[[], float],
    ) -> None:
        self.scheduler = Scheduler(
            backend,
            cache,
            rates,
            context_length=context,
            clock=clock,
            emit=self.hear,
            tell=self.tell,
        )
        #: What of each answer was told at the latest, before a step's end.
        self.told: dict[bytes, list[int]] = {}
        self.requests: dict[bytes, GenerationRequest] = {}
        self.said: dict[bytes, list[EngineEvent]] = {}
        self.blocks: set[int] = set()
        self.stats = EngineStats()

    def hear(self, event: EngineEvent) -> None:
        match event:
            case CacheChanged(added=added, removed=removed, reset=reset):
                if reset:
                    self.blocks = set()
                assert self.blocks.isdisjoint(added)
                assert self.blocks.issuperset(removed)
                self.blocks = self.blocks.union(added).difference(removed)
            case EngineStats():
                self.stats = event
            case Started() | Chunk() | Finished() | Failed():
                assert not self.ended(event.request_id), "nothing follows the end"
                self.said[event.request_id].append(event)

    def tell(self) -> None:
        self.told = {request_id: self.tokens(request_id) for request_id in self.said}

    def submit(
        self,
        tokens: Sequence[int],
        max_tokens: int | None = 5,
        *,
        priority: Priority = Priority.OWNER,
        stop: tuple[str, ...] = (),
        grammar: str = "",
        generated: Sequence[int] = (),
        delivered_chars: int = 0,
        client: bytes = b"",
        let_in_by: tuple[bytes, ...] = (),
    ) -> bytes:
        """Ask for the likeliest tokens; returns the request's id. ``client``: a guest's name."""
        request = GenerationRequest(
            request_id=len(self.requests).to_bytes(2, "big"),
            tokens=tuple(tokens),
            sampling=Sampling(temperature=0, max_tokens=max_tokens, stop=stop, grammar=grammar),
            priority=priority,
            generated=tuple(generated),
            delivered_chars=delivered_chars,
            client=(*let_in_by, client) if client else (),
        )
        self.requests[request.request_id] = request
        self.said[request.request_id] = []
        self.scheduler.submit(request)
        return request.request_id

    def run(self) -> None:
        """Until there is nothing to do."""
        while self.scheduler.step():
            pass

    def text(self, request_id: bytes) -> str:
        return "".join(event.text for event in self.said[request_id] if isinstance(event, Chunk))

    def tokens(self, request_id: bytes) -> list[int]:
        said = self.said[request_id]
        return [token for event in said if isinstance(event, Chunk) for token in event.tokens]

    def ended(self, request_id: bytes) -> bool:
        return any(isinstance(event, Finished | Failed) for event in self.said[request_id])

    def end(self, request_id: bytes) -> Finished:
        last = self.said[request_id][-1]
        assert isinstance(last, Finished), last
        return last
