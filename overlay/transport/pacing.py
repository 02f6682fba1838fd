"""When something may leave through a relay, so that the relay has nothing to refuse.

A relay bounds what one member sends through it, and what all together send to one receiver
(`overlay.transport.relaying`). It keeps nothing: what is too much it refuses, and a message that
is missing is the end of a circuit. So the ends hold themselves to a little less, each with token
buckets like the relay's, and keep what must wait. Of the other bound only the relay knows how near
it is. It tells with all that it passes on, and each end sends the less to a receiver, the less
room there is for it.

What the links themselves say, their pings above all, must not wait behind messages. A part of the
relay's grant is set aside for it.

Pure: times are in seconds, of one monotonic clock.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from overlay.admission.circuit import SEAL_BYTES
from overlay.limits import RELAY_QUEUE_BYTES_MAX, SEND_QUEUE_MESSAGES_MAX
from overlay.transport.message_queue import MessageQueue
from overlay.transport.relaying import RelayBudget

#: Of what a relay grants per second: for messages, and for what links say themselves.
_MESSAGES_RATE: Final = 7 / 8
_WORDS_RATE: Final = 1 / 8
#: Of what it grants at once. The rest is for what a network holds up and then delivers together,
#: and for several that begin to send to one receiver at one time.
_BURST: Final = 1 / 32
#: Below so much room for a receiver, in percent, its senders slow down: with the square of it, so
#: that many find their share as calmly as few.
_ROOM: Final = 90
#: They never stop, or a relay could hold up a circuit and seem to be well.
_SHARE_MIN: Final = 1 / 64


#: Whatever stands for one receiver.
Lane = TypeVar("Lane")


class _Queue(MessageQueue):
    """What goes to one receiver."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self.budget = RelayBudget(_MESSAGES_RATE, _BURST, now)


class Pace(Generic[Lane]):
    """All that leaves through one relay. Lanes in which something waits take turns."""

    def __init__(self, now: float) -> None:
        self._messages = RelayBudget(_MESSAGES_RATE, _BURST, now)
        self._words = RelayBudget(_WORDS_RATE, _BURST, now)
        self._queues: dict[Lane, _Queue] = {}
        #: Those that are not empty, the one whose turn it is first.
        self._waiting: dict[Lane, _Queue] = {}

    def may_say(self, size: int, now: float) -> bool:
        """Whether a link may say something of itself at once, in so many bytes; then it does."""
        if self._words.wait_s(now):
            return False
        self.say(size, now)
        return True

    def say(self, size: int, now: float) -> None:
        """It says so in any case; what follows waits the longer."""
        self._words.take(size, now)

    def put(self, lane: Lane, message: bytes, now: float) -> bool:
        """A message waits for its turn. False: the lane's queue is full.

        Then nothing has changed. A single message always has room.
        """
        queue = self._queue(lane, now)
        if queue and (
            len(queue) >= SEND_QUEUE_MESSAGES_MAX
            or queue.bytes + len(message) > RELAY_QUEUE_BYTES_MAX
        ):
            return False
        queue.put(message)
        self._waiting[lane] = queue
        return True

    def take(self, now: float) -> tuple[Lane, bytes] | None:
        """A message that leaves now, sealed; None: nothing may."""
        if self._messages.wait_s(now):
            return None
        ready = (lane for lane, queue in self._waiting.items() if not queue.budget.wait_s(now))
        lane = next(ready, None)
        if lane is None:
            return None
        queue = self._waiting.pop(lane)
        message = queue.take()
        for budget in (self._messages, queue.budget):
            budget.take(len(message) + SEAL_BYTES, now)
        if queue:
            self._waiting[lane] = queue
        return lane, message

    def wait_s(self, now: float) -> float | None:
        """Until something may leave; None: nothing waits."""
        if not self._waiting:
            return None
        first_s = min(queue.budget.wait_s(now) for queue in self._waiting.values())
        return max(self._messages.wait_s(now), first_s)

    def waits(self, lane: Lane) -> bool:
        """Whether something waits in the lane."""
        return lane in self._waiting

    def room(self, lane: Lane, percent: int, now: float) -> None:
        """The relay told how much more it would pass on to the receiver at once."""
        share = min(1.0, max(_SHARE_MIN, (max(0, percent) / _ROOM) ** 2))
        self._queue(lane, now).budget.change(share * _MESSAGES_RATE, share * _BURST, now)

    def close(self, lane: Lane) -> None:
        """What waits in the lane is dropped. Idempotent."""
        self._queues.pop(lane, None)
        self._waiting.pop(lane, None)

    def idle(self, now: float) -> bool:
        """Whether it may be forgotten: a new one would allow the same."""
        return not self._queues and self._messages.full(now) and self._words.full(now)

    def _queue(self, lane: Lane, now: float) -> _Queue:
        queue = self._queues.get(lane)
        if queue is None:
            queue = self._queues[lane] = _Queue(now)
        return queue
