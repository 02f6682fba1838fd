"""What guests' grammars take of the engine's time, and when they have to wait for others.

Some are legal and slow, to read or to follow, and nobody's token is chosen meanwhile. One request
has a bound (see `models.llama.sampling`), but there may be any number of them, one after another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from models.engine import Client, Priority
from models.llama.load import LoadMeter
from models.llama.run import Run
from models.llama.turns import Turns
from overlay.bucket import Bucket

#: While others run, the grammars of a branch of guests may take so much of the time, and so many
#: seconds at once. One that admits the model's own choice, as most do, takes a hundredth.
BRANCH_SHARE: Final = 0.2
BRANCH_BURST_S: Final = 0.05


class GrammarTime:
    """The time that guests' grammars take: a share for each whom the founder let in."""

    def __init__(
        self, turns: Turns, load: LoadMeter, running: Sequence[Run], clock: Callable[[], float]
    ) -> None:
        """``running``: whoever does, at any time."""
        self._turns = turns
        self._running = running
        self._load = load
        self._clock = clock
        self._shares: dict[Client, Bucket] = {}

    @contextlib.contextmanager
    def taken_by(self, run: Run) -> Iterator[None]:
        """What is done here is reading the run's grammar, or following it by a token.

        Whose turn is next depends on it as on prompts that could have been computed meanwhile.
        """
        began = self._clock()
        try:
            yield
        finally:
            now = self._clock()
            if _shares(run):
                self._take(run.request.client[:1], now - began, now)
            self._turns.charge(run, int((now - began) * self._load.prefill_rate))

    def waits(self, run: Run) -> bool:
        """Whether the run has to wait, as its branch had its share and others run."""
        share = self._shares.get(run.request.client[:1]) if _shares(run) else None
        return (
            share is not None
            and share.wait_s(self._clock()) > 0
            and any(
                not _shares(other) and other.priority is not Priority.SPARE
                for other in self._running
            )
        )

    def _take(self, branch: Client, seconds: float, now: float) -> None:
        self._shares = {each: share for each, share in self._shares.items() if not share.full(now)}
        share = self._shares.setdefault(branch, Bucket(BRANCH_SHARE, BRANCH_BURST_S, now))
        share.take(seconds, now)


def _shares(run: Run) -> bool:
    return run.guest and run.request.sampling.has_grammar
