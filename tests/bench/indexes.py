"""The prefix indexes that are compared: Hearth's, and the radix tree of ``ai-dynamo-runtime``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Final, Protocol

from overlay.prefix.chain import BLOCK_TOKENS, block_hashes
from overlay.prefix.index import PeerIndex

HEARTH: Final = "Hearth"
DYNAMO: Final = "Dynamo"

Update = Callable[[], None]


class NoDynamo(Exception):
    """The rival is not installed; the message says what helps."""


class Index(Protocol):
    """What both can do. Updates are prepared first, so that making the input is not measured."""

    def storing(self, peer: int, blocks: Sequence[int], parent: int | None) -> Update:
        """``blocks``, which follow on each other and on ``parent``, come to be held."""

    def removing(self, peer: int, blocks: Sequence[int]) -> Update:
        """``blocks`` are held no longer."""

    def drop(self, peer: int) -> None: ...

    def match(self, hashes: list[int]) -> dict[Any, int]:
        """Blocks that match, for each peer that has any."""


class Hearth:
    """`overlay.prefix.index`, as a node uses it."""

    def __init__(self) -> None:
        self._index: PeerIndex[int] = PeerIndex()
        self.drop = self._index.drop
        self.match = self._index.match

    def storing(self, peer: int, blocks: Sequence[int], parent: int | None) -> Update:
        return lambda: self._index.add(peer, blocks)

    def removing(self, peer: int, blocks: Sequence[int]) -> Update:
        return lambda: self._index.remove(peer, blocks)

    @staticmethod
    def hash_prompt(tokens: list[int]) -> Sequence[int]:
        return block_hashes(b"s" * 32, b"m" * 16, tokens)


class Dynamo:
    """The tree with which Dynamo's router finds the workers that have a prefix.

    It is written in Rust, and a thread of its own does the work, one thing after the other. From
    Python it takes events as JSON. Raises NoDynamo.
    """

    def __init__(self) -> None:
        try:
            from dynamo.llm import RadixTree
        except ImportError as error:
            raise NoDynamo(f"{error}; to compare with it: pip install ai-dynamo-runtime") from None
        self._tree = RadixTree()
        self._events = 0
        self.drop = self._tree.remove_worker

    def storing(self, peer: int, blocks: Sequence[int], parent: int | None) -> Update:
        entries = [{"block_hash": block, "tokens_hash": block} for block in blocks]
        return self._event(peer, "stored", parent_hash=parent, blocks=entries)

    def removing(self, peer: int, blocks: Sequence[int]) -> Update:
        return self._event(peer, "removed", block_hashes=list(blocks))

    def match(self, hashes: list[int]) -> dict[Any, int]:
        scores: dict[Any, int] = self._tree.find_matches(hashes).scores
        return scores

    @staticmethod
    def hash_prompt(tokens: list[int]) -> Sequence[int]:
        from dynamo.llm import compute_block_hash_for_seq

        hashes: list[int] = compute_block_hash_for_seq(tokens, BLOCK_TOKENS)
        return hashes

    def _event(self, peer: int, kind: str, **data: Any) -> Update:
        self._events += 1
        event = {"event_id": self._events, "data": {kind: data}, "dp_rank": 0}
        packed = json.dumps(event).encode()
        return lambda: self._tree.apply_event(peer, packed)


INDEXES: Final[dict[str, type[Hearth] | type[Dynamo]]] = {HEARTH: Hearth, DYNAMO: Dynamo}


def dynamo_version() -> str:
    """Raises NoDynamo."""
    Dynamo()
    return metadata.version("ai-dynamo-runtime")
