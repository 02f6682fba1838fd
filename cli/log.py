"""What ``hearth up`` writes of its node's log to the terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from overlay.bucket import Bucket

_NEWS_PER_S: Final = 0.2
_NEWS_BURST: Final = 100


class Sparing(logging.Filter):
    """Lets warnings pass, and of news as much as people read.

    Members may come and go at any rate, and the terminal may be a file on a disk.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._bucket = Bucket(_NEWS_PER_S, _NEWS_BURST, clock())

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno > logging.INFO:
            return True
        now = self._clock()
        if self._bucket.wait_s(now):
            return False
        self._bucket.take(1, now)
        return True


def log_to_terminal() -> None:
    """Write warnings, and who comes and goes; not if the log goes elsewhere already."""
    if logging.getLogger().handlers:
        return
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    news = logging.getLogger("overlay.mesh_log")
    news.setLevel(logging.INFO)
    news.addFilter(Sparing())
    no_zeroconf()


def no_zeroconf() -> None:
    """Leave out that it tells, with a traceback, when the network is gone for a while, and of
    others' bad packets."""
    logging.getLogger("zeroconf").setLevel(logging.ERROR)
