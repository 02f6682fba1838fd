"""What leaves at one time leaves together, in order; nothing waits for what is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from models.engine import TokenLogprob
from overlay.identity.peer_id import PeerId
from overlay.limits import BATCH_FRAMES_MAX, FRAME_TOKENS_MAX, TOKEN_CHARS_MAX
from overlay.outbox import Outbox, batches
from overlay.wire.codec import encode
from overlay.wire.messages import Batch, Cancel, Message, StreamAck, TokenFrame

PEER, OTHER, THIRD = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))
REQUESTS = [bytes([number]) * 16 for number in range(3)]


def frame(seq: int, text: str = " token", request: bytes = REQUESTS[0]) -> TokenFrame:
    return TokenFrame(request, seq, (4711,), text)


def parts(message: Message) -> Sequence[Message]:
    return message.parts() if isinstance(message, Batch) else (message,)


texts = st.sampled_from(["", " token", "\U0001f525" * FRAME_TOKENS_MAX * TOKEN_CHARS_MAX])
logprobs = st.sampled_from([(), (TokenLogprob(b" token", -1.0, ()),)])
frames = st.builds(
    TokenFrame, st.sampled_from(REQUESTS), st.just(0), st.just((4711,)), texts, logprobs
)
acks = st.builds(StreamAck, st.sampled_from(REQUESTS), st.integers(0, 99))


@given(st.lists(frames | acks, max_size=3 * BATCH_FRAMES_MAX))
@example([frame(seq) for seq in range(2 * BATCH_FRAMES_MAX + 1)])
@example([frame(seq, "\U0001f525" * FRAME_TOKENS_MAX * TOKEN_CHARS_MAX) for seq in range(9)])
def test_batches_hold_all_in_order_and_fit_into_messages(
    waiting: list[TokenFrame | StreamAck],
) -> None:
    messages = list(batches(waiting))
    sent = [part for message in messages for part in parts(message)]
    for kind in (TokenFrame, StreamAck):
        assert [p for p in sent if isinstance(p, kind)] == [
            w for w in waiting if isinstance(w, kind)
        ]
    for message in messages:
        assert 1 <= len(parts(message)) <= BATCH_FRAMES_MAX
        assert not isinstance(message, Batch) or len(parts(message)) > 1
        encode(message)  # or it is too long


def test_an_engine_step_is_one_message() -> None:
    step = [frame(7, request=request) for request in REQUESTS]
    (message,) = batches(step)
    assert isinstance(message, Batch)
    assert message.parts() == step


class Link:
    """Records what is sent; ``down``: nothing can be."""

    def __init__(self) -> None:
        self.sent: list[tuple[PeerId, Message]] = []
        self.lost: list[tuple[PeerId, Message]] = []
        self.down = False
        self.outbox = Outbox(self._send, lambda peer, message: self.lost.append((peer, message)))

    def _send(self, peer: PeerId, message: Message) -> bool:
        if not self.down:
            self.sent.append((peer, message))
        return not self.down


async def test_what_one_turn_brings_leaves_at_its_end() -> None:
    link = Link()
    for seq in range(2):
        assert link.outbox.send(PEER, frame(seq)) == []
    link.outbox.send(PEER, StreamAck(REQUESTS[1], 3))
    link.outbox.send(OTHER, frame(0))
    assert link.sent == []
    await asyncio.sleep(0)
    [(to_peer, batch), to_other] = link.sent
    assert to_peer == PEER
    assert parts(batch) == [frame(0), frame(1), StreamAck(REQUESTS[1], 3)]
    assert to_other == (OTHER, frame(0))
    link.outbox.send(PEER, frame(2))
    await asyncio.sleep(0)
    assert link.sent[2:] == [(PEER, frame(2))]


async def test_other_messages_stay_behind_what_was_before_them() -> None:
    link = Link()
    link.outbox.send(PEER, frame(0))
    link.outbox.send(OTHER, frame(0))
    assert link.outbox.send(PEER, Cancel(REQUESTS[0])) == []
    assert link.sent == [(PEER, frame(0)), (PEER, Cancel(REQUESTS[0]))]
    await asyncio.sleep(0)
    assert link.sent[2:] == [(OTHER, frame(0))]


async def test_what_could_not_be_sent_is_told_part_by_part() -> None:
    link = Link()
    link.down = True
    for seq in range(2):
        link.outbox.send(PEER, frame(seq))
    assert link.outbox.send(PEER, Cancel(REQUESTS[0])) == [frame(0), frame(1), Cancel(REQUESTS[0])]
    link.outbox.send(PEER, frame(2))
    link.outbox.send(PEER, StreamAck(REQUESTS[1], 3))
    await asyncio.sleep(0)
    assert link.lost == [(PEER, frame(2)), (PEER, StreamAck(REQUESTS[1], 3))]


async def test_what_is_sent_at_the_news_of_a_loss_leaves_too() -> None:
    sent: list[PeerId] = []

    def send(peer: PeerId, message: Message) -> bool:
        sent.append(peer)
        return peer != PEER

    def lost(peer: PeerId, message: Message) -> None:
        outbox.send(THIRD, frame(0))

    outbox = Outbox(send, lost)
    outbox.send(PEER, frame(0))
    outbox.send(OTHER, frame(0))
    for _ in range(2):
        await asyncio.sleep(0)
    assert sent == [PEER, OTHER, THIRD]


async def test_a_turn_that_failed_holds_nothing_back_for_good() -> None:
    sent: list[Message] = []

    def send(peer: PeerId, message: Message) -> bool:
        sent.extend(parts(message) if peer == OTHER else ())
        return peer == OTHER

    def lost(peer: PeerId, message: Message) -> None:
        raise ValueError("a bug")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    outbox = Outbox(send, lost)
    outbox.send(PEER, frame(0))
    outbox.send(OTHER, frame(0))
    await asyncio.sleep(0)
    outbox.send(OTHER, frame(1))
    await asyncio.sleep(0)
    assert sent == [frame(0), frame(1)]
