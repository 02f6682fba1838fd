"""How a direct link takes over from a relayed one, so that no word overtakes another.

Each side says that it has moved there as its last word on the old link, and what it sends on the
new one is kept back by the other side until that word has come. A relay that holds it up must not
hold up the direct link for as long as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from overlay.admission.refusals import refusal
from overlay.errors import StreamReset
from overlay.identity.peer_id import PeerId
from overlay.limits import HANDSHAKE_S, PARKED_BYTES_MAX, SEND_QUEUE_MESSAGES_MAX
from overlay.transport.connection import Exchange, Line
from overlay.transport.link import Link, LinkState, Received
from overlay.wire.between_transports import Moved
from overlay.wire.codec import encode

_TOO_SLOW: Final = "it was too slow to move to a direct link"


class RelayedLine(Line):
    """``say``: the way for what the link says itself, which may overtake what is sent. ``waits``:
    whether something that was to be sent has not left yet, as far as is known."""

    def __init__(
        self,
        link: Link,
        send: Callable[[bytes], BaseException | None],
        exchange: Exchange,
        say: Callable[[bytes], BaseException | None],
        waits: Callable[[], bool],
    ) -> None:
        super().__init__(link, send, exchange)
        self._say = say
        self.waits = waits
        #: A direct one has taken over: nothing more is sent on this one, and nothing more comes.
        self.moved_out = self.moved_in = False
        #: Since when there is a direct one.
        self.moving_since: float | None = None

    def say(self, data: bytes) -> bool:
        return self._sent(data, self._say(data))

    def close(self, reason: str) -> None:
        # No connection ends with it, and the peer would take it for well until it has been silent
        # for long enough.
        if self.link.state is LinkState.UP:
            self.say(encode(refusal(StreamReset(reason))))
        super().close(reason)


class Handover:
    """``tell`` gets what is kept back no longer."""

    def __init__(self, tell: Callable[[PeerId, Received], None]) -> None:
        self._tell = tell
        #: What came on a peer's direct links and must wait for what is to come on a relayed one.
        self._kept: dict[PeerId, list[Received]] = {}

    def keep(self, peer: PeerId, lines: Sequence[Line], event: Received) -> bool:
        """Keep back what came on a direct one of the peer's ``lines``; False: there is no need."""
        # The relayed ones come last, and there is hardly ever one.
        if not lines or not isinstance(lines[-1], RelayedLine) or not _more_to_come(lines):
            return False
        kept = self._kept.setdefault(peer, [])
        kept.append(event)
        if (
            len(kept) > SEND_QUEUE_MESSAGES_MAX
            or sum(each.size for each in kept) > PARKED_BYTES_MAX
        ):
            for relayed in _relayed(lines):
                relayed.close(_TOO_SLOW)
        return True

    def proceed(self, peer: PeerId, lines: Sequence[Line], now: float) -> None:
        """The peer's ``lines``, the direct ones first, are others, or have moved: what follows?

        Once a direct one is up, the relayed ones have had their day. Call it now and then.
        """
        if lines and lines[0].link.relay is None:
            for line in _relayed(lines):
                if line.moving_since is None:
                    line.moving_since = now
                if not line.moved_out:
                    # If its queue is full, then at the next tick.
                    line.moved_out = line.transmit(encode(Moved()))
                if line.moved_in and line.moved_out and not line.waits():
                    # Without a word, as the peer does: a Goodbye might end the direct one, too.
                    line.carry_out(line.link.close("a direct link took over"))
                elif now >= line.moving_since + HANDSHAKE_S:
                    # And with it all others (see `lossy`).
                    line.close(_TOO_SLOW)
                    return
        if not _more_to_come(lines):
            for event in self._kept.pop(peer, ()):
                self._tell(peer, event)

    def forget(self, peer: PeerId) -> None:
        """There is no line to the peer any more: what came before what is kept back is lost."""
        self._kept.pop(peer, None)


def lossy(line: Line, lines: Sequence[Line]) -> bool:
    """Whether something may be lost that was under way on one of a peer's lines when it ended."""
    if line is lines[0]:
        return True
    if not isinstance(line, RelayedLine) or isinstance(lines[0], RelayedLine):
        return False
    return not (line.moved_in and line.moved_out)


def _relayed(lines: Sequence[Line]) -> list[RelayedLine]:
    return [line for line in lines if isinstance(line, RelayedLine)]


def _more_to_come(lines: Sequence[Line]) -> bool:
    return any(not line.moved_in for line in _relayed(lines))
