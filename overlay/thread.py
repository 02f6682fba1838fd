"""A node on a thread of its own, for a client in the same process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from overlay.config import NodeConfig
from overlay.engines import Progress
from overlay.node import Node, serve


class RunningNode:
    """See `run_in_thread`."""

    def __init__(self, thread: threading.Thread, node: Node, stop: Callable[[], None]) -> None:
        self._thread = thread
        self._stop = stop
        self.api_url = node.api_url
        self.admin_token = node.admin_token

    def close(self) -> None:
        """Stop the node and wait until it is gone; idempotent."""
        self._stop()
        self._thread.join()


@contextlib.contextmanager
def run_in_thread(config: NodeConfig, progress: Progress | None = None) -> Iterator[RunningNode]:
    """Start a node in this process, on any free port, for as long as the context lasts.

    Raises what `Node.start` raises.
    """
    started: Future[RunningNode] = Future()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop_soon() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(stop.set)

        def ready(node: Node) -> None:
            started.set_result(RunningNode(thread, node, stop_soon))

        await serve(config, stop, progress=progress, ready=ready, any_port=True)

    def run() -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(main())
        except BaseException as error:  # A loop takes descriptors, of which there may be none.
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="hearth-node", daemon=True)
    thread.start()
    running = started.result()
    try:
        yield running
    finally:
        running.close()
