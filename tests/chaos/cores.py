"""How strong attacks are, and who computes where."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import psutil

#: Whether attacks come in full strength, and an honest member's latency is compared.
FULL: Final = os.environ.get("HEARTH_CHAOS") == "full"
#: How much of a core attackers use: that is their strength.
ATTACKER_SHARE: Final = 0.2
_CORES: Final = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
#: How long two nodes compute on one core each, before they change places.
_TURN_S: Final = 0.25


@contextmanager
def no_attacker() -> Iterator[None]:
    """What is started within is none: attackers compute on the first core, while nobody else does.

    Theirs would be another machine: what they take of the victim's time is no part of the attack.
    """
    if not FULL or len(_CORES) < 2:
        yield
        return
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.sched_setaffinity(0, _CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, _CORES[:1])
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


async def take_turns(some: Sequence[int], others: Sequence[int]) -> None:
    """Of these processes some compute on one core, and the others on another; for ever.

    So neither takes the other's time. Cores of one machine may differ by a third, so they change
    places all the time.
    """
    if len(_CORES) < 2:
        return
    for cores in itertools.cycle([_CORES[-2:], _CORES[-1:-3:-1]]):
        for core, processes in zip(cores, (some, others), strict=True):
            for process in processes:
                for thread in psutil.Process(process).threads():
                    with suppress(ProcessLookupError):  # It has ended.
                        os.sched_setaffinity(thread.id, {core})
        await asyncio.sleep(_TURN_S)
