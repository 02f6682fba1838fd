"""What has many parts counts as many messages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.engine import Alternative, Sampling, TokenLogprob
from models.engine import Message as Turn
from overlay.gossip.records import block_key
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    BATCH_FRAMES_MAX,
    BATCH_FRAMES_PER_MESSAGE,
    CHANGES_PER_MESSAGE,
    DELTA_BYTES_MAX,
    DIGEST_MESSAGES,
    ENTRIES_PER_MESSAGE,
    FORWARD_MESSAGES,
    MEMBERS_MAX,
    OPEN_REQUESTS_PER_PEER_MAX,
    PEER_MESSAGES_BURST,
    PEER_MESSAGES_PER_S,
    PROMPT_MESSAGES_PER_MESSAGE,
    PROMPT_TOKENS_MAX,
    TOKENS_PER_MESSAGE,
)
from overlay.wire.anti_entropy import (
    Change,
    CompactSyn,
    CompactSynAck,
    DigestEntry,
    GossipAck,
    OriginDelta,
    Syn,
    SynAck,
)
from overlay.wire.codec import encode
from overlay.wire.messages import (
    Batch,
    BatchedFrame,
    Forward,
    Message,
    Ping,
    StreamAck,
    TokenFrame,
)
from overlay.wire.weight import weight

PEER = PeerId(bytes([1]) * 32)
ENTRY = DigestEntry(PEER, 1, 1, 1, 0)
LOGPROB = TokenLogprob(b"", 0.0, (Alternative(b"", 0.0),) * 20)
REQUEST = Forward(b"r", "toy", None, None, "Hi", (), 0, Sampling(), (PEER,), 1, 1000, 0)


def delta(changes: int) -> OriginDelta:
    blocks = tuple(Change(block_key(number), number + 1, b"") for number in range(changes))
    return OriginDelta(PEER, 1, 0, False, blocks, changes, 0)


@pytest.mark.parametrize(
    ("message", "messages"),
    [
        (Ping(1), 1),
        (Batch((), (StreamAck(b"r", 1),)), 1),
        (Batch((), (StreamAck(b"r", 1),) * BATCH_FRAMES_MAX), 64 / BATCH_FRAMES_PER_MESSAGE),
        (REQUEST, FORWARD_MESSAGES),
        (TokenFrame(b"r", 0, (1,), "a"), 1),
        (TokenFrame(b"r", 0, (), "a", (LOGPROB,) * 640), 210),
        (TokenFrame(b"r", 0, (1,) * 10 * TOKENS_PER_MESSAGE, "a"), 10),
        (Batch((BatchedFrame(b"r", 0, (1,) * 10 * TOKENS_PER_MESSAGE, "a"),) * 8, ()), 81),
        (
            replace(REQUEST, tokens=(1,) * PROMPT_TOKENS_MAX, prompt=None),
            FORWARD_MESSAGES + PROMPT_TOKENS_MAX / TOKENS_PER_MESSAGE,
        ),
        (
            replace(REQUEST, generated=(1,) * 10 * TOKENS_PER_MESSAGE),
            FORWARD_MESSAGES + 10,
        ),
        (
            replace(REQUEST, prompt=(Turn("user", ""),) * 6400),
            FORWARD_MESSAGES + 6400 / PROMPT_MESSAGES_PER_MESSAGE,
        ),
        (Syn(()), DIGEST_MESSAGES),
        (Syn((ENTRY,) * 1000), 1000 / ENTRIES_PER_MESSAGE),
        (GossipAck((delta(0),) * 100), 100),
        (GossipAck((delta(20_000),)), 1 + 20_000 / CHANGES_PER_MESSAGE),
        (CompactSyn(b"", b"", b""), DIGEST_MESSAGES),
        (CompactSynAck(b"", b"", b"", ()), DIGEST_MESSAGES),
        (CompactSynAck(b"", b"", b"", (delta(0),) * 1000), 1000),
        (SynAck((ENTRY,) * 100, (delta(0),) * 100), 100 + 100 / ENTRIES_PER_MESSAGE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parts_count(message: Message, messages: float) -> None:
    assert weight(message) == messages


def test_an_honest_peer_in_the_largest_mesh_is_far_from_being_slowed() -> None:
    """All of a digest, and a full delta either of loads or of blocks, twice a second."""
    digest = (ENTRY,) * MEMBERS_MAX
    load = OriginDelta(PEER, 1 << 41, 1, False, (Change(b"load", 2, bytes(16)),), 2, 0)
    of_load = len(encode(GossipAck((load, load)))) - len(encode(GossipAck((load,))))
    blocks = len(encode(GossipAck((delta(1000),)))) / 1000
    for deltas in (
        (load,) * (DELTA_BYTES_MAX // of_load),
        (delta(int(DELTA_BYTES_MAX / blocks)),),
    ):
        assert 2 * (weight(Syn(digest)) + weight(SynAck((), deltas))) < PEER_MESSAGES_PER_S


def test_so_is_one_whose_requests_take_a_fifth_of_a_second_each() -> None:
    gossip = 2 * (weight(CompactSyn(b"", b"", b"")) + weight(CompactSynAck(b"", b"", b"", ())))
    assert gossip + OPEN_REQUESTS_PER_PEER_MAX * 5 * weight(REQUEST) < PEER_MESSAGES_PER_S


def test_so_is_one_that_brings_as_many_of_the_longest_prompts_as_it_may_at_once() -> None:
    longest = replace(REQUEST, tokens=(1,) * PROMPT_TOKENS_MAX, prompt=None)
    assert OPEN_REQUESTS_PER_PEER_MAX * weight(longest) < PEER_MESSAGES_BURST
