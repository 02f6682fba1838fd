"""What the engine benchmarks run with, and how each engine is started for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.bench.contenders import Contender, Hearth, LlamaServerClient
from tests.bench.llama_server import LlamaServer
from tests.bench.workload import Vocabulary

#: Without a page that nobody opens. Flash attention is on by default, as Hearth has it.
SERVER_OPTIONS: Final = ("--no-ui",)
#: For what leaves Hearth's KV cache; llama-server takes up to 8 GiB for that by itself.
RAM_BYTES: Final = 2 << 30


@dataclass(frozen=True, slots=True)
class Setting:
    """One model on one machine."""

    model: Path
    vocabulary: Vocabulary
    threads: int
    #: The rival's binary; None where it cannot be had.
    server: Path | None
    #: For homes and logs.
    folder: Path
    quick: bool

    async def hearth(self, **options: Any) -> Hearth:
        """With room in RAM, as a node has it; ``options`` as those of `LlamaEngine.start`."""
        options = {"threads": self.threads, "ram_bytes": RAM_BYTES, **options}
        return await Hearth.start(self.model, self.vocabulary.ends, **options)

    async def llama_server(
        self, *options: object, name: str = LlamaServerClient.name
    ) -> LlamaServerClient:
        """The rival with these options; only where there is one."""
        assert self.server is not None, "there is no llama-server here"
        threads = ("--threads", self.threads)
        log = self.folder / "llama-server.log"
        return LlamaServerClient(
            await LlamaServer.start(
                self.server, self.model, log, *threads, *SERVER_OPTIONS, *options
            ),
            name,
        )

    @asynccontextmanager
    async def engines(
        self, hearth: dict[str, Any], server: Sequence[object]
    ) -> AsyncIterator[list[Contender]]:
        """Hearth with these options, then llama-server with these, if there is one."""
        async with AsyncExitStack() as running:
            engines: list[Contender] = [await self.hearth(**hearth)]
            running.push_async_callback(engines[0].close)
            if self.server is not None:
                engines.append(await self.llama_server(*server))
                running.push_async_callback(engines[1].close)
            yield engines


T = TypeVar("T")


def in_turn(contenders: Sequence[T], number: int) -> Sequence[T]:
    """All of them, another first each time: who goes second finds another machine."""
    first = number % len(contenders)
    return [*contenders[first:], *contenders[:first]]
