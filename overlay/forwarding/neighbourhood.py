"""What this node knows of who serves what, how fast, how busy, and how warm.

Fed by gossip (others' cards, loads, block hashes), by links (round trip times) and by the local
engines; asked for routing candidates. Holds estimates only: stale ones cost time, not truth.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from models.engine import CacheChanged, Client, EngineStats, ModelInfo, goes_by
from overlay.errors import listed
from overlay.forwarding.copies import Copies
from overlay.forwarding.neighbour import Neighbour
from overlay.forwarding.servers import Servers, model_named, unlike
from overlay.gossip.records import CARD, LOAD, Card, Load, ModelCard, block_of
from overlay.identity.branches import Lineage, spread
from overlay.identity.peer_id import PeerId
from overlay.prefix.chain import BLOCK_TOKENS
from overlay.prefix.index import PeerIndex, leading
from overlay.prefix.summary import Summary
from overlay.routing.cost import Candidate
from overlay.routing.losses import Losses
from overlay.routing.prices import copy_worth, memory_price
from overlay.wire.anti_entropy import Change

#: Averages are over about so many rounds of gossip.
_ROUNDS: Final = 30


@dataclass(slots=True)
class LocalModel:
    """A model served here."""

    info: ModelInfo
    stats: EngineStats = field(default_factory=EngineStats)
    #: All blocks that it can reuse, however many. No other model has the same ones: its name, which
    #: it shares with none, is in its key, and that in their hashes.
    hashes: set[int] = field(default_factory=set)
    #: For the owner alone: neither the model nor its blocks are told.
    private: bool = False


_IDLE = Load()


class Neighbourhood:
    """Pure bookkeeping; `now` is in seconds."""

    def __init__(self, me: PeerId) -> None:
        self.me = me
        self.models: dict[str, LocalModel] = {}
        #: Why a model that was served here is not served now, by each of its names.
        self.lost: dict[str, str] = {}
        self.neighbours: dict[PeerId, Neighbour] = {}
        #: This node is no member any more, so nobody links to it.
        self.outcast = False
        #: The others' blocks, as far as they tell of them.
        self.index: PeerIndex[PeerId] = PeerIndex()
        #: Which of its own this node tells of.
        self.summary = Summary()
        self.losses = Losses()
        #: Which of the local models' blocks others hold, too.
        self._copies: dict[str, Copies] = {}
        self.servers = Servers(self.neighbours, self._info)

    # --- Feeding ------------------------------------------------------------------------------

    def model_loaded(self, info: ModelInfo, *, private: bool = False) -> None:
        self.models[info.name] = LocalModel(info, private=private)
        self._copies[info.name] = Copies(self.me, self.index)
        self.servers.local_changed()

    def model_gone(self, name: str) -> None:
        """Forget a model, and its blocks with it."""
        model = self.models.pop(name)
        self.summary.void(model.hashes)
        del self._copies[name]
        self.servers.local_changed()

    def engine_stats(self, name: str, stats: EngineStats) -> None:
        self.models[name].stats = stats

    def cache_changed(self, name: str, event: CacheChanged) -> None:
        """Apply what the local engine says of its cache."""
        model = self.models[name]
        copies = self._copies[name]
        if event.reset:
            copies.changed_here((), model.hashes)
            self.summary.void(model.hashes)
            model.hashes = set()
        copies.changed_here(event.added, event.removed)
        model.hashes.difference_update(event.removed)
        model.hashes.update(event.added)
        if model.private:
            return
        self.summary.changed(event.added, event.removed)
        self.losses.gone(self._held_nowhere(event.removed))
        self.losses.computed(event.added)

    def prompt_runs(self, name: str, hashes: Sequence[int]) -> None:
        """A prompt with these block hashes goes to the local engine."""
        model = self.models[name]
        if not model.private:
            self.summary.asked(hashes, leading(hashes, model.hashes))

    def records_changed(self, origin: PeerId, changes: Iterable[Change]) -> bool:
        """Apply a peer's changed records; True if its load is news.

        Raises Malformed for a card or a load that cannot be read; all else is known then.
        """
        neighbour = self.neighbours.setdefault(origin, Neighbour())
        added: list[int] = []
        removed: list[int] = []
        others: dict[bytes, bytes | None] = {}
        for change in changes:
            if (block := block_of(change.key)) is None:
                others[change.key] = change.value
            else:
                (removed if change.value is None else added).append(block)
        for name, copies in self._copies.items():
            held = self.models[name].hashes
            copies.changed_elsewhere(b for b in (*added, *removed) if b in held)
        if removed:
            self.index.remove(origin, removed)
            self.losses.gone(self._held_nowhere(removed))
        if added:
            self.index.add(origin, added)
            self.losses.found(added)
        try:
            if LOAD in others:
                load = others[LOAD]
                neighbour.load = None if load is None else Load.unpack(load)
        finally:
            if CARD in others:
                card = others[CARD]
                neighbour.card = None if card is None else Card.unpack(card)
                self.servers.card_changed(origin)
        return LOAD in others

    def origin_reset(self, origin: PeerId) -> None:
        """Its records begin anew (it restarted, or we were away too long), or are forgotten.

        So is the peer, unless it has a link: members can make up others without end.
        """
        self.index.drop(origin)
        neighbour = self.neighbours.get(origin)
        if neighbour is None:
            return
        neighbour.card = neighbour.load = None
        if not neighbour.linked:
            del self.neighbours[origin]
        self.servers.card_changed(origin)

    def introduced(self, peer: PeerId, name: str, lineage: Lineage, now: float) -> None:
        """The peer said its name, and who let it in, on a new link."""
        neighbour = self.neighbours.setdefault(peer, Neighbour())
        neighbour.linked, neighbour.name, neighbour.lineage = True, name, lineage
        neighbour.awaited_since = now

    def link_measured(self, peer: PeerId, rtt_ms: float, summary_at: float) -> None:
        """A link to the peer is up; its summary was current at ``summary_at``."""
        neighbour = self.neighbours.setdefault(peer, Neighbour())
        neighbour.linked, neighbour.rtt_ms, neighbour.awaited_since = True, rtt_ms, -math.inf
        neighbour.summary_at = summary_at

    def summary_current(self, peer: PeerId, at: float) -> None:
        """All that a peer which is known here tells of was known here ``at`` that time."""
        self.neighbours[peer].summary_at = at

    def link_down(self, peer: PeerId, lost_at: float = -math.inf) -> None:
        """``lost_at``: when it broke, unless it was ended on purpose."""
        self.link_stuck(peer, lost_at)
        if peer in self.neighbours:
            self.neighbours[peer].linked = False

    def link_stuck(self, peer: PeerId, since: float) -> None:
        """Nothing can be sent to the peer until its link, or another one, is measured again."""
        if (neighbour := self.neighbours.get(peer)) is not None:
            neighbour.rtt_ms, neighbour.awaited_since = None, since

    # --- Asking -------------------------------------------------------------------------------

    def resolve(self, name: str) -> LocalModel | None:
        """The local model that answers to ``name``."""
        for model in self.models.values():
            if goes_by(name, model.info.name, model.info.aliases):
                return model
        return None

    def why_lost(self, name: str) -> str | None:
        """Why the model that answered to ``name`` here does so no more, if there was one."""
        asked = name.lower()
        return next((why for each, why in self.lost.items() if each.lower() == asked), None)

    def models_for(self, *, guest: bool) -> list[LocalModel]:
        """The local models that the owner may ask for, or a ``guest``."""
        return [model for model in self.models.values() if not (guest and model.private)]

    def card_of(self, peer: PeerId, name: str) -> ModelCard | None:
        """What ``peer`` says of its model ``name``, if it is reachable and has one."""
        neighbour = self.neighbours.get(peer)
        if neighbour is None or neighbour.card is None or neighbour.rtt_ms is None:
            return None
        return model_named(neighbour.card, name)

    def tokenizes_unlike(self, peer: PeerId, name: str) -> bool:
        """Whether the peer's model has the key of ours and yet cuts the probes into other tokens.

        Nothing is known of a peer that tells no digest: its key has to do.
        """
        local, card = self.resolve(name), self.card_of(peer, name)
        return local is not None and card is not None and unlike(local.info, card)

    def models_unlike(self, peer: PeerId) -> list[str]:
        """The models of a peer that tokenize unlike ours of the same keys."""
        neighbour = self.neighbours.get(peer)
        if neighbour is None or neighbour.card is None:
            return []
        return [
            card.name
            for card in neighbour.card.models
            if any(unlike(model.info, card) for model in self.models.values())
        ]

    def unlike(self) -> list[tuple[PeerId, str]]:
        """Every peer, and its model, that tokenizes unlike ours of the same key."""
        return [(p, model) for p in sorted(self.neighbours) for model in self.models_unlike(p)]

    def summary_age_s(self, peer: PeerId, now: float) -> float:
        """Since the summary of a peer that is known here was last known to be current."""
        return max(0.0, now - self.neighbours[peer].summary_at)

    def offered(self, awaited_since: float = math.inf) -> dict[str, ModelCard]:
        """Any one of each name, what most branches of the tree of invitations serve first."""

        def served(cards: dict[PeerId, ModelCard]) -> list[int]:
            return spread([self.neighbours[peer].lineage or (peer,) for peer in cards])

        most = sorted(self.offers(awaited_since).values(), key=served, reverse=True)
        return {card.name: card for card, *_ in map(dict.values, most)}

    def offers(self, awaited_since: float = math.inf) -> dict[str, dict[PeerId, ModelCard]]:
        """By name, and by peers that can be asked, or are awaited since then at the earliest."""
        found: dict[str, dict[PeerId, ModelCard]] = {}
        for peer, it in sorted(self.neighbours.items()):
            for card in it.card.models if it.card else ():
                if it.rtt_ms is not None or it.awaited_since >= awaited_since:
                    found.setdefault(card.name, {})[peer] = card
        return found

    def longest_context(self, name: str, *, here_only: bool) -> int:
        """In tokens, of the models of this name that can be reached; 0 if there are none."""
        local = self.resolve(name)
        found = [0 if local is None else local.info.context_length]
        if not here_only:
            served = ((self.neighbours[peer], card) for peer, card, _ in self.servers.of(name))
            found += [card.context_length for it, card in served if it.rtt_ms is not None]
        return max(found)

    def why_few(self) -> str:
        """`` (bea, carl: paused)``: why fewer nodes serve a model than might, if that is known."""
        if self.outcast:
            return " (this node's membership was revoked; a new invite brings it back)"
        names = [
            neighbour.card.name
            for _, neighbour in sorted(self.neighbours.items())
            if neighbour.card is not None and neighbour.card.paused and neighbour.rtt_ms is not None
        ]
        return f" ({listed(names)}: paused)" if names else ""

    def prefill_rate(self, peer: PeerId, name: str) -> float:
        """Tokens per second at a node, 0 if not measured."""
        if peer == self.me:
            local = self.resolve(name)
            return 0.0 if local is None else local.stats.prefill_rate
        card = self.card_of(peer, name)
        return 0.0 if card is None else card.prefill_rate

    def name_of(self, peer: PeerId) -> str:
        """The name that the peer goes by, or the end of its PeerId."""
        neighbour = self.neighbours.get(peer, Neighbour())
        return (neighbour.card.name if neighbour.card else neighbour.name) or peer.short

    def candidates(
        self,
        model: str,
        hashes: Sequence[int],
        now: float,
        *,
        exclude: Collection[PeerId],
        key: bytes | None = None,
        here_only: bool = False,
        longer_than: int = 0,
    ) -> list[Candidate]:
        """Every node that can serve ``model`` now, with what is known of its costs.

        ``hashes``: block hashes of the prompt, empty if it could not be tokenized here. ``key``:
        only nodes where the model has this key and tokens mean the same. ``here_only``: no peers.
        ``longer_than``: only nodes with a context of more tokens, or of which that is not known.
        """
        found: list[Candidate] = []
        local = self.resolve(model)
        if (
            local is not None
            and self.me not in exclude
            and key in (None, local.info.key)
            and local.info.context_length > longer_than
        ):
            found.append(self._here(local, hashes))
        if here_only:
            return found
        blocks = self.index.match(hashes)
        for peer, card, differs in self.servers.of(model):
            neighbour = self.neighbours[peer]
            rtt_ms = neighbour.rtt_ms
            if (
                rtt_ms is None
                or peer in exclude
                or (key is not None and (differs or key != card.key))
                or 0 < card.context_length <= longer_than
            ):
                continue
            load = neighbour.load or _IDLE
            # By position, in the order of the fields: it takes half the time, and there are many.
            candidate = Candidate(
                peer,
                False,
                rtt_ms,
                # Its blocks are of tokens that this prompt does not become there.
                0 if differs else blocks.get(peer, 0) * BLOCK_TOKENS,
                math.inf if differs else max(0.0, now - neighbour.summary_at),
                card.prefill_rate,
                card.decode_rate,
                load.pending_prefill_tokens,
                load.running,
                load.queued,
                load.lost_permille / 1000,
            )
            found.append(candidate)
        return found

    def _here(self, local: LocalModel, hashes: Sequence[int]) -> Candidate:
        stats = local.stats
        return Candidate(
            peer=self.me,
            is_self=True,
            match_tokens=leading(hashes, local.hashes) * BLOCK_TOKENS,
            prefill_rate=stats.prefill_rate,
            decode_rate=stats.decode_rate,
            pending_prefill_tokens=stats.pending_prefill_tokens,
            running=stats.running,
            queued=stats.queued,
            lost_share=self.losses.share,
            pending_guest_tokens=stats.pending_guest_tokens,
        )

    def client_of(self, guest: PeerId) -> Client:
        """As whom the engines know a peer that sends a request here."""
        lineage = self.neighbours[guest].lineage if guest in self.neighbours else ()
        return (*map(bytes, lineage), bytes(guest))

    def is_full(self, peer: PeerId) -> bool:
        """Whether it said in the latest round that it takes no more requests of guests."""
        neighbour = self.neighbours.get(peer)
        return neighbour is not None and (neighbour.load or _IDLE).guest_places == 0

    def copies_changed(self) -> list[tuple[str, dict[int, int]]]:
        """By local model, what its engine is to be told of blocks that others hold, too.

        Call it once in a round of gossip.
        """
        reachable, lost = [], [self.losses.share]
        for peer, neighbour in self.neighbours.items():
            load = neighbour.load or _IDLE
            neighbour.work += (load.pending_prefill_tokens - neighbour.work) / _ROUNDS
            if neighbour.rtt_ms is not None:
                lost.append(load.lost_permille / 1000)
                if load.guest_places != 0:
                    reachable.append((peer, neighbour.rtt_ms / 1000, neighbour.work))
        worth, found = copy_worth(memory_price(lost)), []
        for name, model in self.models.items():
            rate = model.stats.prefill_rate
            ways = {
                peer: worth * (rtt_s * rate + tokens) for peer, rtt_s, tokens in reachable if rate
            }
            if told := self._copies[name].take(model.hashes, ways):
                found.append((name, told))
        return found

    def _held_nowhere(self, blocks: Iterable[int]) -> list[int]:
        own = [model.hashes for model in self.models.values()]
        return [b for b in blocks if b not in self.index and not any(b in held for held in own)]

    def _info(self, name: str) -> ModelInfo | None:
        local = self.resolve(name)
        return None if local is None else local.info
