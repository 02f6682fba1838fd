"""Who misbehaves is named in the log; but not so often that a flood of it fills the disk."""

from __future__ import annotations

import logging
import math
from typing import Final

from overlay.recent import Recent

log = logging.getLogger(__name__)

#: Of one name, and of one matter, so many seconds pass until it is told again.
_AGAIN_S: Final = 60.0
#: So many are remembered; of more than that, each may be told again before.
_NAMES_MAX: Final = 4096
#: So many of one branch are named in that time, and the others counted: there may be any number.
_NAMED_MAX: Final = 20


class Complaints:
    """``now`` is in seconds, of one monotonic clock."""

    def __init__(self) -> None:
        self._told: Recent[tuple[str, str], float] = Recent(_NAMES_MAX)
        #: By head and matter: since when is counted, and how many there were.
        self._counts: Recent[tuple[str, str], tuple[float, int]] = Recent(_NAMES_MAX)

    def about(
        self, name: object, matter: str, detail: str, now: float, *, head: object = None
    ) -> None:
        """``name``, a PeerId or an address, did something wrong: what, and more precisely.

        ``head``: of the branch that a member is in, itself if the founder let it in.
        """
        key = (str(name), matter)
        told = self._told.get(key)
        if told is not None and now - told < _AGAIN_S:
            return
        self._told.put(key, now)
        head = str(head or name)
        since, count = self._counts.get((head, matter), (-math.inf, 0))
        if now - since >= _AGAIN_S:
            since, count = now, 0
        self._counts.put((head, matter), (since, count + 1))
        more = count + 1 - _NAMED_MAX
        if more <= 0:
            log.warning("%s %s: %s", name, matter, detail)
        elif more.bit_count() == 1:
            # Said as they double: nothing would tell when the last one has come.
            log.warning("each of %d or more others whom %s let in %s", more, head, matter)
