"""What the engine process does with a frame while the main thread decodes."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import pytest

from models.engine import GenerationRequest, Priority, Sampling
from models.llama import protocol
from models.llama.worker import Worker


@pytest.mark.parametrize(
    ("only_guests_prefill", "priority", "aborts"),
    [
        (True, Priority.OWNER, 1),
        (True, Priority.GUEST, 0),
        (False, Priority.OWNER, 0),
    ],
)
def test_the_owner_breaks_off_what_is_computed_for_guests_prompts(
    only_guests_prefill: bool, priority: Priority, aborts: int
) -> None:
    aborted: list[bool] = []
    worker = object.__new__(Worker)  # without a model
    worker._commands = queue.SimpleQueue()
    worker._scheduler = SimpleNamespace(only_guests_prefill=only_guests_prefill)  # type: ignore[assignment]
    worker._backend = SimpleNamespace(abort=lambda: aborted.append(True))  # type: ignore[assignment]
    request = GenerationRequest(b"id", (1, 2), Sampling(), priority, client=b"")
    frame = (protocol.SUBMIT, protocol.pack_request(request))
    worker.receive(frame)
    assert len(aborted) == aborts
    assert worker._commands.get_nowait() == frame
