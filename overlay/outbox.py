"""Tokens and acknowledgements that are ready at one time leave in one message for each peer.

An engine brings a token for each of its answers at every step, and a message that came may bring
many on their way. Each message costs both ends several times what one more frame in it does. What
is to leave in one turn of the loop is sent at its end, so that nothing waits for what is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from overlay.identity.peer_id import PeerId
from overlay.limits import BATCH_FRAMES_MAX
from overlay.wire.messages import Batch, BatchedFrame, Message, StreamAck, TokenFrame

#: Characters of all frames in a message, which stays far below MESSAGE_BYTES_MAX then.
_CHARS_MAX: Final = 16 << 10


class Outbox:
    """``send`` tells whether it could; ``on_lost`` gets what could not be sent at a turn's end."""

    def __init__(
        self,
        send: Callable[[PeerId, Message], bool],
        on_lost: Callable[[PeerId, Message], None],
    ) -> None:
        self._send = send
        self._on_lost = on_lost
        self._waiting: dict[PeerId, list[TokenFrame | StreamAck]] = {}
        #: What waits is sent at this turn's end. If that fails, so is all at the next one's.
        self._flush_due = False

    def send(self, peer: PeerId, message: Message) -> list[Message]:
        """Send now, or with all that this turn brings, in order. Returns what could not be sent."""
        if isinstance(message, (TokenFrame, StreamAck)):
            self._waiting.setdefault(peer, []).append(message)
            if not self._flush_due:
                self._flush_due = True
                asyncio.get_running_loop().call_soon(self._flush)
            return []
        lost = self._send_waiting(peer)
        return lost if self._send(peer, message) else [*lost, message]

    def _flush(self) -> None:
        self._flush_due = False
        for peer in list(self._waiting):
            for message in self._send_waiting(peer):
                self._on_lost(peer, message)

    def _send_waiting(self, peer: PeerId) -> list[Message]:
        lost: list[Message] = []
        for message in batches(self._waiting.pop(peer, ())):
            if not self._send(peer, message):
                lost += message.parts() if isinstance(message, Batch) else [message]
        return lost


def batches(waiting: Iterable[TokenFrame | StreamAck]) -> list[Batch | TokenFrame | StreamAck]:
    """As few messages as they fit into. Frames stay in order, and so do acknowledgements."""
    messages: list[Batch | TokenFrame | StreamAck] = []
    frames: list[TokenFrame] = []
    acks: list[StreamAck] = []
    chars = 0
    for each in waiting:
        # Log probabilities take some hundred bytes for each token, and have no place in a batch.
        alone = isinstance(each, TokenFrame) and bool(each.logprobs)
        if alone or len(frames) + len(acks) == BATCH_FRAMES_MAX or chars > _CHARS_MAX:
            messages += _batch(frames, acks)
            frames, acks, chars = [], [], 0
        if alone:
            messages.append(each)
        elif isinstance(each, StreamAck):
            acks.append(each)
        else:
            frames.append(each)
            chars += len(each.text)
    return messages + _batch(frames, acks)


def _batch(frames: list[TokenFrame], acks: list[StreamAck]) -> list[Batch | TokenFrame | StreamAck]:
    if len(frames) + len(acks) == 1:
        return [(frames or acks)[0]]
    if not frames and not acks:
        return []
    rows = [BatchedFrame(f.request_id, f.seq, f.tokens, f.text) for f in frames]
    return [Batch(tuple(rows), tuple(acks))]
