"""What left the KV cache but is worth more than nothing: its state in RAM, then on disk.

Each piece is in one place at a time: it moves from RAM to disk when RAM is full, and is gone from
here once its tokens are in the KV cache again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from models.llama.disk import DiskStore
from models.llama.rate import Rate, Rates
from overlay.prefix.node import Piece

#: Seconds that the disk may take to finish its last writes.
CLOSE_S: Final = 2.0
#: RAM beyond the budget that may wait for a busy disk.
LATE_BYTES_MAX: Final = 64 << 20


@dataclass(slots=True, eq=False)
class SpilledPiece(Piece):
    """A piece, and where it is: ``state`` in RAM, or ``key`` on disk."""

    #: Bytes that the state takes.
    size: int
    state: bytes | None = None
    key: str | None = None
    #: The tokens of the whole path, packed; needed to write it to disk.
    path: bytes = field(default=b"", repr=False)


class Spill:
    """Keeps pieces within its budgets; the caller chooses what is forgotten when they are full.

    ``ram_bytes``: 0 keeps nothing in RAM, and so nothing at all unless there is a ``disk``.
    """

    def __init__(self, ram_bytes: int, disk: DiskStore | None, rates: Rates) -> None:
        self._budget = ram_bytes
        self._disk = disk
        self._closing = False
        self._rates = rates
        # In the order of their coming, which is that of their last use.
        self._in_ram: dict[SpilledPiece, None] = {}
        self._on_disk: dict[str, SpilledPiece] = {}
        self.ram_bytes = self.ram_tokens = self.disk_tokens = 0
        self.spills = self.restores = self._lost = 0

    @property
    def disk_bytes(self) -> int:
        return self._disk.used if self._disk is not None else 0

    @property
    def dropped(self) -> int:
        """Pieces given up since the start: there was no room, or the disk damaged them."""
        return self._lost + (self._disk.damaged if self._disk is not None else 0)

    @property
    def worthwhile(self) -> bool:
        """Whether what is kept now can come back sooner than it is computed again."""
        tiers = bool(self._budget or self._disk)
        # With nothing in RAM, nobody would ever see that it is faster by now.
        return tiers and (not self._in_ram or self._rates.from_ram.beats(self._rates.prefill))

    def keep(self, path: Sequence[int], start: int, state: bytes) -> SpilledPiece:
        """Take in the state of the tokens of ``path`` from ``start`` on."""
        piece = SpilledPiece(start, len(path), len(state), state)
        if self._disk is not None:
            piece.path = array("i", path).tobytes()
        self._in_ram[piece] = None
        self.ram_bytes += piece.size
        self.ram_tokens += piece.end - piece.start
        self.spills += 1
        return piece

    def load(self, piece: Piece) -> bytes | None:
        """The state of a piece; None if computing it again is better, or if it is lost."""
        assert isinstance(piece, SpilledPiece)
        if not self._pays(self._rate(piece)):
            return None
        if piece.state is not None:
            return piece.state
        assert self._disk is not None
        assert piece.key is not None
        return self._disk.read(piece.key)

    def note_restored(self, piece: Piece, tokens: int, seconds: float) -> None:
        """So many tokens of the piece are in the KV cache again; loading took so long."""
        assert isinstance(piece, SpilledPiece)
        self._rate(piece).add(tokens, seconds)
        self.restores += 1

    def drop(self, piece: Piece, *, lost: bool) -> None:
        """Nobody needs the piece any longer; ``lost``: because there was no room for it."""
        assert isinstance(piece, SpilledPiece)
        tokens = piece.end - piece.start
        if piece in self._in_ram:
            self._leave_ram(piece)
        else:
            self.disk_tokens -= tokens
            assert self._disk is not None
            assert piece.key is not None
            del self._on_disk[piece.key]
            self._disk.remove(piece.key)
        self._lost += lost

    def settle(self) -> bool:
        """Bring RAM within its budget by moving pieces to disk; False if something has to go."""
        while self.ram_bytes > self._budget:
            piece = next(reversed(self._in_ram) if self._closing else iter(self._in_ram))
            if not self._move_to_disk(piece):
                return self._waits_for_disk(piece)
        return True

    def found_on_disk(self) -> Iterator[tuple[Sequence[int], SpilledPiece]]:
        """What earlier starts left, with the tokens of its path; short paths first."""
        if self._disk is None:
            return
        for entry in self._disk.entries():
            piece = SpilledPiece(entry.start, len(entry.tokens), entry.size, key=entry.key)
            self.disk_tokens += piece.end - piece.start
            self._on_disk[entry.key] = piece
            yield entry.tokens, piece

    def take_failed(self) -> Iterator[SpilledPiece]:
        """What the disk could not take after all, since the last call."""
        for key in self._disk.take_failed() if self._disk is not None else ():
            if (piece := self._on_disk.get(key)) is not None:
                yield piece

    def pass_on(self) -> None:
        """What comes from now on goes to the disk, which is waited for: the end is near."""
        # A piece is of no use without those before it, and time may run out: short paths go first.
        self._in_ram = dict.fromkeys(sorted(self._in_ram, key=lambda piece: -piece.end))
        self._budget = self.ram_bytes
        self._closing = True

    def move_out(self) -> None:
        """Nothing may stay in RAM any longer."""
        self._budget = 0

    def close(self) -> None:
        """Finish what goes to the disk."""
        if self._disk is not None:
            self._disk.close(CLOSE_S)

    def _move_to_disk(self, piece: SpilledPiece) -> bool:
        if self._disk is None or not self._pays(self._rates.from_disk):
            return False
        assert piece.state is not None
        path = array("i")
        path.frombytes(piece.path)
        wait_s = CLOSE_S if self._closing else 0.0
        key = self._disk.write(path, piece.start, piece.state, wait_s=wait_s)
        if key is None:
            return False
        self._leave_ram(piece)
        piece.state, piece.key, piece.path = None, key, b""
        self._on_disk[key] = piece
        self.disk_tokens += piece.end - piece.start
        return True

    def _waits_for_disk(self, piece: SpilledPiece) -> bool:
        """Whether RAM may hold the piece for a while: the disk has room for it, but is busy.

        Forgetting others for it would not help, as the coldest are on disk already.
        """
        return (
            self._disk is not None
            and not self._closing
            and self._disk.is_late(piece.size)
            and self.ram_bytes <= self._budget + LATE_BYTES_MAX
        )

    def _leave_ram(self, piece: SpilledPiece) -> None:
        del self._in_ram[piece]
        self.ram_bytes -= piece.size
        self.ram_tokens -= piece.end - piece.start

    def _pays(self, rate: Rate) -> bool:
        """Whether it is faster than computing, or might be by now: one slow piece, from a disk
        that had to wake up, say, is not to be the last one."""
        if rate.beats(self._rates.prefill):
            return True
        rate.doubt()
        return False

    def _rate(self, piece: SpilledPiece) -> Rate:
        return self._rates.from_ram if piece.state is not None else self._rates.from_disk
