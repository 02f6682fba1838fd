"""What a peer asks for at the bounds of what it may; beyond them, see `test_forwarder`."""

from __future__ import annotations

from typing import Any

import pytest

from models.engine import Message as Turn
from overlay.forwarding.inbound import job_of_forward
from overlay.forwarding.job import Job
from overlay.identity.peer_id import PeerId
from overlay.limits import HOP_LIMIT_MAX, PROMPT_MESSAGES_MAX, REQUEST_DEADLINE_S
from tests.overlay.forwarding.world import forwarded

ME, *OTHERS = (PeerId(bytes([number]) * 32) for number in range(1, HOP_LIMIT_MAX + 2))
NOW = 1000.0


def asked(**changes: Any) -> Job:
    message = forwarded(**{"path": (OTHERS[0],), **changes})
    return job_of_forward(ME, message.path[-1], (), message, NOW)


@pytest.mark.parametrize(
    ("deadline_ms", "left_s"),
    [
        (60_000, 60.0),
        (1 << 40, REQUEST_DEADLINE_S),
        (0, 0.0),
        # Not before it came, or it would seem that this node had slept since.
        (-60_000, 0.0),
    ],
)
def test_a_deadline_is_neither_over_before_it_begins_nor_without_end(
    deadline_ms: int, left_s: float
) -> None:
    assert asked(deadline_ms=deadline_ms).deadline == NOW + left_s


def test_a_long_conversation_is_taken_as_it_is() -> None:
    conversation = (Turn("user", "hello"),) * PROMPT_MESSAGES_MAX
    assert asked(prompt=conversation).prompt == conversation


def test_the_longest_path_ends_here() -> None:
    path = tuple(OTHERS[:HOP_LIMIT_MAX])
    job = asked(path=path, hop_limit=HOP_LIMIT_MAX)
    assert (job.path, job.upstream, job.hop_limit) == (path, path[-1], 0)
    assert asked(hop_limit=HOP_LIMIT_MAX).hop_limit == HOP_LIMIT_MAX - 1


def test_an_answer_goes_on_from_what_its_origin_has() -> None:
    job = asked(
        prompt=None, tokens=(1, 2), generated=(3, 4), delivered_chars=5, model_key=b"k" * 16
    )
    assert (job.tokens, job.generated, job.delivered_chars) == ((1, 2), [3, 4], 5)
    assert job.key_needed == b"k" * 16
