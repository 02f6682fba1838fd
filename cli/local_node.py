"""A node in this process, for as long as a command needs one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cli.progress import StepProgress
from overlay.node import serve

if TYPE_CHECKING:
    from overlay.config import NodeConfig


@contextmanager
def local_node(config: NodeConfig, progress: StepProgress) -> Iterator[None]:
    """Run a node in a thread; inside, it serves, and its home says where.

    Raises what starting a node raises.
    """
    thread = _NodeThread(config, progress)
    thread.start()
    try:
        thread.ready.result()
        progress.close()
        yield
    finally:
        progress.abort()
        thread.end()


class _NodeThread(threading.Thread):
    def __init__(self, config: NodeConfig, progress: StepProgress) -> None:
        super().__init__(name="node", daemon=True)
        self._config = config
        self._progress = progress
        self._stop: asyncio.Event | None = None
        self._serving: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        #: Done when the node serves, or has failed to start.
        self.ready: Future[None] = Future()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve())
            except BaseException as error:
                if not self.ready.done():
                    self.ready.set_exception(error)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._serving = asyncio.ensure_future(
            serve(
                self._config,
                self._stop,
                progress=self._progress,
                ready=lambda node: self.ready.set_result(None),
                any_port=True,
            )
        )
        await self._serving

    def end(self) -> None:
        """Stop the node, or its start, and wait until it is gone."""
        with suppress(RuntimeError):  # the loop is closed: it is gone already
            self._loop.call_soon_threadsafe(self._end)
        self.join()

    def _end(self) -> None:
        if self.ready.done() and self._stop is not None:
            self._stop.set()
        elif self._serving is not None:
            self._serving.cancel()
