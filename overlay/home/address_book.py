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

#: Members may change what they tell of themselves at any rate, and a disk may be slow.
WRITE_AFTER_S: Final = 1.0


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
        self._due: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """What ``met`` tells is news: it is written soon, or at `close`."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(WRITE_AFTER_S, self._write)

    def close(self) -> None:
        """Write what is not written yet. Idempotent."""
        if self._due is not None:
            self._due.cancel()
            self._write()

    def _write(self) -> None:
        self._due = None
        try:
            before = self._home.peers()
            met, excluded = self._met(), self._excluded()
            # Those who are away stay in it, as far as there is room.
            known = {**met, **before, **met}
            kept = [peer for peer in known if peer not in excluded][:MEMBERS_MAX]
            book = {peer: known[peer] for peer in kept}
            if book != before:
                self._home.save_peers(book)
        except ConfigError as error:
            log.warning("where members are is not remembered: %s", error)
