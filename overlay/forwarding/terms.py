"""The owner's terms for guests, and the account of what each guest has had of late."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from models.engine import goes_by
from overlay.identity.peer_id import PeerId
from overlay.limits import QUOTA_WINDOW_S

#: What is spent within so long is one entry of a guest's account, so that it has few.
_ENTRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """None: no bound. A guest is a member that sends requests here."""

    #: Guests' requests that are open here at one time, all together.
    guest_requests: int | None = None
    #: Tokens computed here for one guest in a minute, of prompts and of answers.
    guest_tokens_per_minute: int | None = None
    #: Names of models that the mesh is not told of.
    private: tuple[str, ...] = ()

    def is_private(self, name: str, aliases: Collection[str]) -> bool:
        """Whether the model that answers to these names stays at home."""
        return any(goes_by(each, name, aliases) for each in self.private)


#: Whoever is a member may have whatever is free.
NO_BOUNDS: Final = Terms()


@dataclass(slots=True)
class _Spent:
    """Tokens that were spent between two moments. It counts until all of them are old enough."""

    first_at: float
    last_at: float
    tokens: int


class TokenQuota:
    """At most ``per_minute`` tokens for each guest within any minute, whatever comes when.

    A token bucket would let twice as many through: what it has saved, and what flows in meanwhile.
    So each guest has an account of the last minute. What a request is expected to take is reserved
    for it before it begins, and spent as it is computed.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        #: Who had something last is last.
        self._spent: dict[PeerId, deque[_Spent]] = {}
        #: Of requests that are under way: the guest, and tokens that are reserved and not spent.
        self._reserved: dict[bytes, tuple[PeerId, int]] = {}

    def reserve(self, guest: PeerId, request_id: bytes, tokens: int, now: float) -> float:
        """Set tokens aside for a request.

        Returns 0 if that was done, or after how many seconds to try again; infinity for more than
        anybody may have.
        """
        if tokens > self.per_minute:
            return float("inf")
        wait_s = self._wait_s(guest, tokens, now)
        if not wait_s:
            self._reserved[request_id] = (guest, tokens)
        return wait_s

    def spend(self, request_id: bytes, tokens: int, now: float) -> float:
        """Tokens are about to be computed for a request, or just were.

        Returns 0 if the guest may have them, or else after how many seconds it may; then none of
        them are counted.
        """
        guest, reserved = self._reserved[request_id]
        wait_s = self._wait_s(guest, max(0, tokens - reserved), now)
        if wait_s:
            return wait_s
        self._reserved[request_id] = (guest, max(0, reserved - tokens))
        self._forget(now)
        entries = self._spent[guest] = self._spent.pop(guest, deque())
        if entries and now - entries[-1].first_at < _ENTRY_S:
            entries[-1].last_at = now
            entries[-1].tokens += tokens
        elif tokens:
            entries.append(_Spent(now, now, tokens))
        return 0.0

    def release(self, request_id: bytes) -> None:
        """The request is over: what it did not spend is free."""
        self._reserved.pop(request_id, None)

    def spent(self, now: float) -> dict[PeerId, int]:
        """What each guest has had within the last minute; those that had nothing are left out."""
        for guest in list(self._spent):
            self._expire(guest, now)
        return {g: sum(e.tokens for e in self._spent[g]) for g in sorted(self._spent)}

    def _wait_s(self, guest: PeerId, tokens: int, now: float) -> float:
        """Until so many more tokens fit into the guest's minute; 0: they do."""
        self._expire(guest, now)
        entries = self._spent.get(guest, ())
        taken = sum(entry.tokens for entry in entries)
        taken += sum(left for owner, left in self._reserved.values() if owner == guest)
        too_many = taken + tokens - self.per_minute
        if too_many <= 0:
            return 0.0
        for entry in entries:
            too_many -= entry.tokens
            if too_many <= 0:
                return entry.last_at + QUOTA_WINDOW_S - now
        return QUOTA_WINDOW_S  # until requests of the guest that are under way have ended

    def _forget(self, now: float) -> None:
        """Close the accounts of those that had nothing within the last minute."""
        for guest in list(self._spent):
            self._expire(guest, now)
            if guest in self._spent:
                break

    def _expire(self, guest: PeerId, now: float) -> None:
        entries = self._spent.get(guest)
        while entries and now >= entries[0].last_at + QUOTA_WINDOW_S:
            entries.popleft()
        if entries is not None and not entries:
            del self._spent[guest]
