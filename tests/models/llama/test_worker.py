"""What the engine process does with a frame while the main thread decodes."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from models.engine import GenerationRequest, Priority, Prompt, Sampling, Tokens
from models.llama import protocol
from models.llama.worker import Worker
from overlay.errors import EngineFailed


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
    worker._scheduler = SimpleNamespace(yielding=computed)  # type: ignore[assignment]
    worker._backend = SimpleNamespace(abort=lambda: aborted.append(True))  # type: ignore[assignment]
    request = GenerationRequest(b"id", (1, 2), Sampling(), priority)
    frame = (protocol.SUBMIT, protocol.pack_request(request))
    worker.receive(frame)
    assert len(aborted) == aborts
    assert worker._commands.get_nowait() == frame


def test_nothing_waits_behind_a_long_prompt() -> None:
    """Neither a short one, nor whatever else the reader is told."""
    tokenized: list[tuple[str, str]] = []
    every = threading.Semaphore(0)

    def tokenize(prompt: Prompt, *, guests: bool) -> Tokens:
        kind = "long" if isinstance(prompt, tuple) or len(prompt) > 100 else "short"
        tokenized.append((kind, threading.current_thread().name))
        return ()

    worker = object.__new__(Worker)  # without a model
    worker._commands, worker._long_prompts = queue.SimpleQueue(), queue.SimpleQueue()
    worker._vocabulary = SimpleNamespace(tokenize=tokenize)  # type: ignore[assignment]
    worker._writer = SimpleNamespace(  # type: ignore[assignment]
        write=lambda frame: every.release()
    )
    worker.receive((protocol.TOKENIZE, 1, "x" * (protocol.LONG_PROMPT_CHARS + 1), False))
    worker.receive((protocol.TOKENIZE, 2, (("user", "x"),) * protocol.LONG_PROMPT_CHARS, True))
    worker.receive((protocol.TOKENIZE, 3, "hello", True))
    assert tokenized == [("short", threading.current_thread().name)]
    thread = threading.Thread(target=worker.tokenize_long_prompts, daemon=True, name="long")
    thread.start()
    for _ in range(3):
        assert every.acquire(timeout=60)
    assert tokenized[1:] == [("long", "long"), ("long", "long")]


def test_a_bug_in_the_tokenizer_refuses_one_prompt() -> None:
    def fail(prompt: Prompt, *, guests: bool) -> Tokens:
        raise StopIteration

    written: list[list[Any]] = []
    worker = object.__new__(Worker)  # without a model
    worker._vocabulary = SimpleNamespace(tokenize=fail)  # type: ignore[assignment]
    worker._writer = SimpleNamespace(write=written.append)  # type: ignore[assignment]
    worker.receive((protocol.TOKENIZE, 7, "hello", False))
    ((kind, query, code, reason),) = written
    assert (kind, query, code) == (protocol.REJECTED, 7, EngineFailed.code)
    assert "StopIteration" in reason
