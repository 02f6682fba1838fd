"""What the engine process does with a frame while the main thread decodes."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import pytest

from models.engine import GenerationRequest, Priority, Sampling
from models.llama import protocol
from models.llama.worker import Worker


@pytest.mark.parametrize(
    ("computed", "priority", "aborts"),
    [
        (Priority.GUEST, Priority.OWNER, 1),
        (Priority.GUEST, Priority.GUEST, 0),
        (Priority.OWNER, Priority.OWNER, 0),
        (Priority.SPARE, Priority.GUEST, 1),
        (Priority.SPARE, Priority.SPARE, 0),
        (None, Priority.OWNER, 0),
    ],
)
def test_who_goes_first_breaks_off_what_is_computed_for_later_ones_prompts(
    computed: Priority | None, priority: Priority, aborts: int
) -> None:
    aborted: list[bool] = []
    worker = object.__new__(Worker)  # without a model
    worker._commands = queue.SimpleQueue()
    worker._scheduler = SimpleNamespace(prefill_priority=computed)  # type: ignore[assignment]
    worker._backend = SimpleNamespace(abort=lambda: aborted.append(True))  # type: ignore[assignment]
    request = GenerationRequest(b"id", (1, 2), Sampling(), priority, client=b"")
    frame = (protocol.SUBMIT, protocol.pack_request(request))
    worker.receive(frame)
    assert len(aborted) == aborts
    assert worker._commands.get_nowait() == frame
