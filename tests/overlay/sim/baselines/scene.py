"""Nodes, candidates and questions for the rivals' tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from overlay.identity.peer_id import PeerId
from overlay.prefix.chain import BLOCK_TOKENS, block_hashes
from overlay.routing.cost import Candidate
from overlay.routing.policy import Policy, Question


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def peers(count: int) -> list[PeerId]:
    return [peer(number) for number in range(count)]


@dataclass
class FakeFleet:
    """A fleet whose truth the test writes."""

    peers: Sequence[PeerId]
    requests: dict[PeerId, int] = field(default_factory=dict)
    pending: dict[PeerId, int] = field(default_factory=dict)
    #: Block hashes in each cache.
    blocks: dict[PeerId, set[int]] = field(default_factory=dict)
    rtt: dict[tuple[PeerId, PeerId], float] = field(default_factory=dict)
    rates: dict[PeerId, float] = field(default_factory=dict)

    def present(self, peer: PeerId) -> int:
        return self.requests.get(peer, 0)

    def pending_prefill_tokens(self, peer: PeerId) -> int:
        return self.pending.get(peer, 0)

    def match_tokens(self, peer: PeerId, hashes: Sequence[int]) -> int:
        cached = self.blocks.get(peer, set())
        return BLOCK_TOKENS * max((k + 1 for k, h in enumerate(hashes) if h in cached), default=0)

    def rtt_ms(self, a: PeerId, b: PeerId) -> float:
        return 0.0 if a == b else self.rtt.get((a, b), 10.0)

    def prefill_rate(self, peer: PeerId) -> float:
        return self.rates.get(peer, 1000.0)

    def answer_ms(self, peer: PeerId) -> float:
        return 2000.0 / self.prefill_rate(peer)


def prompt(*words: int, blocks: int = 1, forwarded: bool = False) -> Question:
    """A prompt in which each word fills ``blocks`` blocks; equal words begin equal prompts."""
    tokens = [word for word in words for _ in range(blocks * BLOCK_TOKENS)]
    return Question(
        prompt_tokens=len(tokens),
        hashes=block_hashes(b"secret", b"model", tokens),
        answer_tokens=64,
        forwarded=forwarded,
    )


def candidate(
    number: int, *, own: bool = False, match: int = 0, running: int = 0, queued: int = 0
) -> Candidate:
    return Candidate(peer(number), is_self=own, match_tokens=match, running=running, queued=queued)


def idle(count: int) -> list[Candidate]:
    """Node 0, which decides, and others; nobody knows anything."""
    return [candidate(number, own=number == 0) for number in range(count)]


def choices(
    policy: Policy, questions: Iterable[Question], candidates: Sequence[Candidate]
) -> list[PeerId]:
    return [policy.decide(question, candidates, 0.0).choice for question in questions]
