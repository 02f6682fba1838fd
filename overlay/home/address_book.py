"""Where members were last reached, kept on disk for the next start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final

from overlay.errors import ConfigError
from overlay.home.contents import Contact
from overlay.home.home import Home
from overlay.identity.peer_id import PeerId
from overlay.limits import MEMBERS_MAX

log = logging.getLogger(__name__)

#: After it was written: members may change what they tell of themselves at any rate, and a disk may
#: be slow. The next pause is twice as long, up to the longest, and half as long after one in which
#: nothing was to be written: a crowd that changes its addresses all the time has 2 MB written anew
#: each time, in 60 ms of the loop.
WRITE_PAUSE_S: Final = 1.0
WRITE_PAUSE_MAX_S: Final = 64.0


class AddressBook:
    """``met`` tells who is known now, and ``excluded`` who is to be forgotten."""

    def __init__(
        self,
        home: Home,
        met: Callable[[], Mapping[PeerId, Contact]],
        excluded: Callable[[], Collection[PeerId]],
    ) -> None:
        self._home = home
        self._met = met
        self._excluded = excluded
        #: What the file holds, once it has been looked at: nobody else writes it.
        self._book: Mapping[PeerId, Contact] | None = None
        #: Nothing is written until it is over.
        self._pause: asyncio.TimerHandle | None = None
        self._pause_s = WRITE_PAUSE_S
        #: There is something to write then.
        self._news = False
        #: Why it could not be written the last time, or empty.
        self._failure = ""

    def known(self) -> Mapping[PeerId, Contact]:
        """All whom the file holds. Raises ConfigError."""
        if self._book is None:
            self._book = self._home.peers()
        return self._book

    def changed(self) -> None:
        """What ``met`` tells is news: it is written now, after the pause, or at `close`.

        The first news are not put off: who is killed a moment later could find nobody again.
        """
        self._news = True
        if self._pause is None:
            self._write()

    def reread(self) -> None:
        """The home belongs to another mesh now, and its file was written anew."""
        self._book = None

    def close(self) -> None:
        """Write what is not written yet. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._news:
            self._save()

    def _write(self) -> None:
        self._pause = None
        looks, pause_s = self._news, self._pause_s
        if looks and self._save():
            self._pause_s = min(2 * pause_s, WRITE_PAUSE_MAX_S)
        else:
            self._pause_s = max(pause_s / 2, WRITE_PAUSE_S)
        if looks or pause_s > WRITE_PAUSE_S:
            self._pause = asyncio.get_running_loop().call_later(pause_s, self._write)

    def _save(self) -> bool:
        """Write it, if it is another one; whether it was."""
        self._news = False
        try:
            before = self.known()
            met, excluded = self._met(), self._excluded()
            # Those who are away stay in it, as far as there is room.
            known = {**met, **before, **met}
            kept = [peer for peer in known if peer not in excluded][:MEMBERS_MAX]
            book = {peer: known[peer] for peer in kept}
            if book == before:
                return False
            self._home.save_peers(book)
            self._book = book
            self._failure = ""
        except ConfigError as error:
            # Said once: a full disk would else be filled further, every second.
            if str(error) != self._failure:
                log.warning("where members are is not remembered: %s", error)
            self._failure = str(error)
            self._news = True  # There may be room later.
        return True
