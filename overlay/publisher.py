"""This node's own records: its card, its load, its prefix summary."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from models.engine import EngineStats, ModelInfo
from overlay.gossip.gossip import Gossip
from overlay.gossip.records import BLOCK_VALUE, CARD, LOAD, Card, Load, ModelCard, block_key
from overlay.identity.multiaddr import Multiaddr
from overlay.prefix.changes import Changes

#: A measured rate is told anew when it moved by this share: cards are not for every breath.
_RATE_CHANGE_MIN = 0.1


class Publisher:
    """Writes to gossip only what changed."""

    def __init__(self, gossip: Gossip) -> None:
        self._gossip = gossip
        self._rates: dict[str, tuple[float, float]] = {}

    def card_and_load(
        self,
        name: str,
        addresses: Sequence[Multiaddr],
        models: Sequence[tuple[ModelInfo, EngineStats]],
        lost_share: float,
        now: float,
        *,
        paused: bool = False,
        private: Collection[str] = (),
        guest_places: int | None = None,
    ) -> None:
        """Tell who this node is, what it serves, how busy it is, and what its cache lacks.

        ``lost_share``: see `overlay.routing.losses`. ``paused``: it serves nobody else for now, so
        no model is told; nor are the ``private`` ones ever. ``guest_places``: requests of other
        members that it would take on top.
        """
        told = [(info, stats) for info, stats in models if not paused and info.name not in private]
        cards = tuple(self._model_card(info, stats) for info, stats in told)
        card = Card(name, tuple(str(address) for address in addresses), cards, paused)
        self._gossip.set(CARD, card.pack(), now)
        all_stats = [stats for _, stats in models]
        load = Load(
            running=sum(s.running for s in all_stats),
            queued=sum(s.queued for s in all_stats),
            pending_prefill_tokens=sum(s.pending_prefill_tokens for s in all_stats),
            cells_used=sum(s.cells_used for s in all_stats),
            cells_total=sum(s.cells_total for s in all_stats),
            lost_permille=round(1000 * lost_share),
            guest_places=guest_places,
        )
        self._gossip.set(LOAD, load.pack(), now)

    def summary(self, changes: Changes, now: float) -> None:
        """Tell of blocks, and withdraw what was told of others."""
        for block in changes.removed:
            self._gossip.delete(block_key(block), now)
        for block in changes.added:
            self._gossip.set(block_key(block), BLOCK_VALUE, now)

    def _model_card(self, info: ModelInfo, stats: EngineStats) -> ModelCard:
        told = self._rates.get(info.name, (0.0, 0.0))
        measured = (stats.prefill_rate, stats.decode_rate)
        if any(
            abs(new - old) > _RATE_CHANGE_MIN * old for new, old in zip(measured, told, strict=True)
        ):
            told = self._rates[info.name] = measured
        return ModelCard(
            name=info.name,
            key=info.key,
            aliases=info.aliases,
            description=info.description,
            context_length=info.context_length,
            prefill_rate=told[0],
            decode_rate=told[1],
            probe=info.probe,
        )
