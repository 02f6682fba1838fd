"""Where members are is remembered, whatever their number and however often they change it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from overlay.home import address_book
from overlay.home.address_book import AddressBook
from overlay.home.contents import Contact
from overlay.home.home import Home
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from tests.overlay.identity.strategies import key
from tests.overlay.transport.nodes import PATIENCE_S

ANN, BEN, CYD = (key(number).peer_id for number in (1, 2, 3))


def at(port: int) -> Contact:
    return Contact("somebody", (Multiaddr("ip4", "192.0.2.1", port),))


class Counted(Home):
    """A home that tells of each time that the book is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.written: asyncio.Queue[Mapping[PeerId, Contact]] = asyncio.Queue()
        self.looks = 0

    def peers(self) -> dict[PeerId, Contact]:
        self.looks += 1
        return super().peers()

    def save_peers(self, peers: Mapping[PeerId, Contact]) -> None:
        super().save_peers(peers)
        self.written.put_nowait(peers)


async def test_the_first_news_are_written_at_once_and_then_once_all_that_come_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address_book, "WRITE_PAUSE_S", 0.01)
    home, met = Counted(tmp_path), {ANN: at(1)}
    book = AddressBook(home, lambda: met, set)
    book.changed()
    assert home.written.get_nowait() == Home(tmp_path).peers() == {ANN: at(1)}
    assert home.looks == 1
    for port in range(2, 100):
        met[ANN] = at(port)
        book.changed()
    async with asyncio.timeout(PATIENCE_S):
        assert await home.written.get() == {ANN: at(99)}
    assert Home(tmp_path).peers() == {ANN: at(99)}
    book.close()
    assert home.written.empty(), "there is nothing new"
    assert home.looks == 1, "nobody else writes it"


async def test_who_changes_all_the_time_has_it_written_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(pause_s: float, then: Callable[[], None]) -> SimpleNamespace:
        timers.append((pause_s, then))
        return SimpleNamespace(cancel=lambda: None)

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
    home, met = Counted(tmp_path), {ANN: at(1)}
    book = AddressBook(home, lambda: met, set)
    book.changed()
    pauses = []
    for port in range(2, 10):
        met[ANN] = at(port)
        book.changed()
        assert home.written.qsize() == port - 1, "it waits"
        [(pause_s, then)] = timers
        timers.clear()
        pauses.append(pause_s)
        then()
        assert home.written.qsize() == port
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 64]
    # Nothing is written where there is no news, and in the end it is as at the beginning.
    book.changed()
    while timers:
        timers.pop()[1]()
    assert home.written.qsize() == 9
    met[ANN] = at(10)
    book.changed()
    assert home.written.qsize() == 10
    assert [pause_s for pause_s, _ in timers] == [1]


async def test_what_is_not_written_yet_is_at_the_end(tmp_path: Path) -> None:
    home, met = Counted(tmp_path), {ANN: at(1)}
    book = AddressBook(home, lambda: met, set)
    book.changed()
    met[ANN] = at(2)
    book.changed()
    assert home.peers() == {ANN: at(1)}
    book.close()
    assert home.peers() == {ANN: at(2)}
    book.changed()
    book.close()
    assert home.written.qsize() == 2, "the same need not be written again"


async def test_those_who_are_away_are_remembered_unless_they_are_excluded(tmp_path: Path) -> None:
    home = Counted(tmp_path)
    home.save_peers({BEN: at(2), CYD: at(3)})
    book = AddressBook(home, lambda: {ANN: at(1), BEN: at(4)}, lambda: {CYD})
    book.changed()
    book.close()
    assert home.peers() == {ANN: at(1), BEN: at(4)}


async def test_a_book_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    home = Counted(tmp_path)
    book = AddressBook(home, lambda: {ANN: at(1)}, set)
    book.changed()
    book.close()
    home.save_peers({BEN: at(2)})
    book.reread()
    book.changed()
    book.close()
    assert home.peers() == {ANN: at(1), BEN: at(2)}


async def test_of_too_many_those_who_are_away_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address_book, "MEMBERS_MAX", 2)
    home = Counted(tmp_path)
    home.save_peers({BEN: at(2), CYD: at(3)})
    book = AddressBook(home, lambda: {ANN: at(1), CYD: at(3)}, set)
    book.changed()
    book.close()
    assert home.peers() == {ANN: at(1), CYD: at(3)}


@pytest.mark.parametrize("at_the_end", [False, True])
async def test_what_could_not_be_written_is_written_once_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_the_end: bool
) -> None:
    """Though nothing changes any more: the disk was full for a moment."""
    monkeypatch.setattr(address_book, "WRITE_PAUSE_S", 60.0 if at_the_end else 0.01)
    (tmp_path / "home").write_text("in the way")
    home = Counted(tmp_path / "home")
    book = AddressBook(home, lambda: {ANN: at(1)}, set)
    book.changed()
    (tmp_path / "home").unlink()
    if at_the_end:
        book.close()
    async with asyncio.timeout(PATIENCE_S):
        assert await home.written.get() == {ANN: at(1)}
    book.close()


async def test_where_nothing_can_be_written_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    book = AddressBook(Home(tmp_path / "file"), lambda: {ANN: at(1)}, set)
    for _ in range(3):
        book.changed()
        book.close()
    assert ["is not remembered" in line for line in caplog.messages] == [True]
