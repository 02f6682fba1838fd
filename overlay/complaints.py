"""Who misbehaves is named in the log; but not so often that a flood of it fills the disk."""

from __future__ import annotations

import logging
from typing import Final

from overlay.recent import Recent

log = logging.getLogger(__name__)

#: Of one name, and of one matter, so many seconds pass until it is told again.
_AGAIN_S: Final = 60.0
#: So many are remembered; of more than that, each may be told again before.
_NAMES_MAX: Final = 4096


class Complaints:
    """``now`` is in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._told: Recent[tuple[str, str], float] = Recent(_NAMES_MAX)

    def about(self, name: object, matter: str, detail: str, now: float) -> None:
        """``name``, a PeerId or an address, did something wrong: what, and more precisely."""
        key = (str(name), matter)
        told = self._told.get(key)
        if told is not None and now - told < _AGAIN_S:
            return
        self._told.put(key, now)
        log.warning("%s %s: %s", name, matter, detail)
