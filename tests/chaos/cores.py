"""How strong attacks are, and who computes where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: Whether attacks come in full strength, and an honest member's latency is compared.
FULL: Final = os.environ.get("HEARTH_CHAOS") == "full"
#: How much of a core attackers use: that is their strength.
ATTACKER_SHARE: Final = 0.2
_CORES: Final = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def on_other_cores() -> Iterator[None]:
    """What is started within stays off the attackers' core, where there are two.

    Theirs would be another machine: what they take of the victim's time is no part of the attack.
    """
    if not FULL or len(_CORES) < 2:
        yield
        return
    os.sched_setaffinity(0, _CORES[1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, _CORES[:1])
