"""This node's own records: its card, its load, its prefix summary."""

from __future__ import annotations

from collections.abc import Sequence

from models.engine import CacheChanged, EngineStats, ModelInfo
from overlay.gossip.gossip import Gossip
from overlay.gossip.records import BLOCK_VALUE, CARD, LOAD, Card, Load, ModelCard, block_key
from overlay.identity.multiaddr import Multiaddr
from overlay.limits import SUMMARY_BLOCKS_MAX

#: A measured rate is told anew when it moved by this share: cards are not for every breath.
_RATE_CHANGE_MIN = 0.1


class Publisher:
    """Writes to gossip only what changed."""

    def __init__(self, gossip: Gossip) -> None:
        self._gossip = gossip
        self._published: set[int] = set()
        #: Reusable, but beyond what a summary may hold; first come, first told when there is room.
        self._waiting: dict[int, None] = {}
        self._rates: dict[str, tuple[float, float]] = {}

    def card_and_load(
        self,
        name: str,
        addresses: Sequence[Multiaddr],
        models: Sequence[tuple[ModelInfo, EngineStats]],
        now: float,
    ) -> None:
        """Tell who this node is, what it serves, and how busy it is."""
        cards = tuple(self._model_card(info, stats) for info, stats in models)
        card = Card(name, tuple(str(address) for address in addresses), cards)
        self._gossip.set(CARD, card.pack(), now)
        all_stats = [stats for _, stats in models]
        load = Load(
            running=sum(s.running for s in all_stats),
            queued=sum(s.queued for s in all_stats),
            pending_prefill_tokens=sum(s.pending_prefill_tokens for s in all_stats),
            cells_used=sum(s.cells_used for s in all_stats),
            cells_total=sum(s.cells_total for s in all_stats),
        )
        self._gossip.set(LOAD, load.pack(), now)

    def summary(self, change: CacheChanged, now: float) -> None:
        """Tell which blocks became, or ceased to be, reusable."""
        kept = set(change.added)
        for block in change.removed:
            self._waiting.pop(block, None)
            if block in self._published and block not in kept:
                self._published.discard(block)
                self._gossip.delete(block_key(block), now)
        self._waiting.update(dict.fromkeys(b for b in change.added if b not in self._published))
        while self._waiting and len(self._published) < SUMMARY_BLOCKS_MAX:
            block = next(iter(self._waiting))
            del self._waiting[block]
            self._published.add(block)
            self._gossip.set(block_key(block), BLOCK_VALUE, now)

    @property
    def summary_blocks(self) -> int:
        return len(self._published)

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
