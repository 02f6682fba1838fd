"""KV cache, RAM and disk together: what was computed once is found again, or computed again."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from models.llama import disk, spill
from models.llama.disk import DiskStore
from models.llama.piece_file import FINGERPRINT_BYTES
from tests.models.llama.fake_backend import answer_alone
from tests.models.llama.test_disk import settle
from tests.models.llama.test_scheduler import Bench

FINGERPRINT = bytes(FINGERPRINT_BYTES)
RAM_BYTES, DISK_BYTES = 60, 6_000


def open_bench(folder: Path, *, ram_bytes: int = RAM_BYTES, disk_bytes: int = DISK_BYTES) -> Bench:
    store = DiskStore(folder, FINGERPRINT, disk_bytes)
    assert store.in_use
    return Bench(cells=100, context=100, sequences=4, ram_bytes=ram_bytes, disk=store)


def ask(bench: Bench, prompt: list[int]) -> int:
    """Answers must be right; returns how much was cached."""
    request_id = bench.submit(prompt, max_tokens=3)
    bench.run()
    bench.check()
    assert bench.tokens(request_id) == answer_alone(prompt, 3)
    return bench.end(request_id).cached_tokens


class TiersMachine(RuleBasedStateMachine):
    """Prompts with common beginnings, restarts, and a disk that loses and damages files."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self.patch = pytest.MonkeyPatch()
        self.bench = open_bench(self.folder)

    @rule(beginning=st.sampled_from([1, 2, 3]), length=st.integers(1, 80), last=st.integers(1, 3))
    def ask(self, beginning: int, length: int, last: int) -> None:
        ask(self.bench, [beginning] * length + [last])

    @rule()
    def restart(self) -> None:
        self.bench.scheduler.close()
        self.bench = open_bench(self.folder)
        self.bench.check()

    @rule(data=st.data(), damage=st.sampled_from(["gone", "cut", "changed"]))
    def damage(self, data: st.DataObject, damage: str) -> None:
        assert self.bench.disk is not None
        settle(self.bench.disk)
        files = sorted(path for path in self.folder.rglob("*-*") if path.is_file())
        if not files:
            return
        path = data.draw(st.sampled_from(files))
        content = path.read_bytes()
        if damage == "gone":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        else:
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    @rule(full=st.booleans())
    def fill(self, full: bool) -> None:
        assert self.bench.disk is not None
        settle(self.bench.disk)
        self.patch.setattr(disk, "FREE_BYTES_MIN", sys.maxsize if full else 0)

    def teardown(self) -> None:
        self.patch.undo()
        self.bench.scheduler.close()
        self._folder.cleanup()


TiersMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestTiers = TiersMachine.TestCase


def test_a_restart_finds_all_that_was_cached(tmp_path: Path) -> None:
    bench = open_bench(tmp_path, disk_bytes=100_000)
    for beginning in (1, 2, 3):
        ask(bench, [beginning] * 60)
    blocks = bench.blocks
    bench.scheduler.close()
    bench = open_bench(tmp_path, disk_bytes=100_000)
    bench.scheduler.rekey(bench.secret)
    assert bench.blocks == blocks
    for beginning in (1, 2, 3):
        assert ask(bench, [beginning] * 60) == 59
    bench.scheduler.close()


def test_a_damaged_piece_counts_as_given_up(tmp_path: Path) -> None:
    bench = open_bench(tmp_path, disk_bytes=100_000)
    ask(bench, [1] * 60)
    bench.scheduler.close()
    path = next(path for path in sorted(tmp_path.rglob("*-*")) if path.is_file())
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    bench = open_bench(tmp_path, disk_bytes=100_000)
    assert ask(bench, [1] * 60) < 59
    assert bench.spill.dropped == 1
    bench.scheduler.close()


def test_what_a_full_disk_does_not_take_is_not_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "FREE_BYTES_MIN", sys.maxsize)
    bench = open_bench(tmp_path, disk_bytes=100_000)
    assert bench.disk is not None
    for beginning in range(1, 9):
        ask(bench, [beginning] * 80)
    settle(bench.disk)
    bench.cache.evict(0)
    assert bench.spill.disk_tokens == 0
    assert bench.spill.dropped > 0
    ask(bench, [9])
    assert bench.blocks == bench.expected_blocks()
    assert len(bench.blocks) <= 3
    bench.scheduler.close()


def test_a_disk_that_had_to_wake_up_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_bench(tmp_path, ram_bytes=0, disk_bytes=1_000_000)
    for beginning in range(1, 50):
        ask(bench, [beginning, *[1] * 60])
    bench.scheduler.close()
    bench = open_bench(tmp_path, ram_bytes=0, disk_bytes=1_000_000)
    bench.scheduler.warm_up()  # the speed of computing is known
    read = DiskStore.read

    def wake_up(store: DiskStore, key: str) -> bytes | None:
        bench.backend.now += 1
        monkeypatch.setattr(DiskStore, "read", read)
        return read(store, key)

    monkeypatch.setattr(DiskStore, "read", wake_up)
    cached = [ask(bench, [beginning, *[1] * 60]) for beginning in range(1, 50)]
    assert cached[:2] == [8, 0]
    assert all(cached[-5:])
    bench.scheduler.close()
    bench = open_bench(tmp_path, ram_bytes=0, disk_bytes=1_000_000)
    assert ask(bench, [2, *[1] * 60])
    bench.scheduler.close()


def test_a_restart_with_a_small_disk_keeps_whole_beginnings(tmp_path: Path) -> None:
    bench = open_bench(tmp_path, disk_bytes=700)
    ask(bench, [1] * 80)
    bench.scheduler.close()
    bench = open_bench(tmp_path, disk_bytes=700)
    assert 0 < ask(bench, [1] * 80) < 79
    bench.scheduler.close()


def test_a_busy_disk_makes_nobody_forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "HELD_BYTES_MAX", 1)
    bench = open_bench(tmp_path, disk_bytes=100_000)
    assert bench.disk is not None
    for beginning in (1, 2, 3):
        ask(bench, [beginning] * 80)
    settle(bench.disk)
    go = threading.Event()
    bench.disk._jobs.put(lambda: go.wait(60))
    for beginning in (4, 5, 6):
        ask(bench, [beginning] * 80)
    assert bench.spill.ram_bytes > RAM_BYTES
    go.set()
    settle(bench.disk)
    for beginning in (1, 2, 3, 4, 5, 6):
        assert ask(bench, [beginning] * 80) == 79
    assert bench.spill.dropped == 0
    bench.scheduler.close()


def test_a_disk_that_stays_busy_costs_no_more_ram_than_is_bearable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "HELD_BYTES_MAX", 1)
    monkeypatch.setattr(spill, "LATE_BYTES_MAX", 100)
    bench = open_bench(tmp_path, disk_bytes=100_000)
    assert bench.disk is not None
    go = threading.Event()
    bench.disk._jobs.put(lambda: go.wait(60))
    for beginning in range(1, 9):
        ask(bench, [beginning] * 80)
        assert bench.spill.ram_bytes <= RAM_BYTES + 100
    assert bench.spill.dropped > 0
    go.set()
    bench.scheduler.close()


def test_an_end_that_is_cut_short_leaves_whole_beginnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_bench(tmp_path, ram_bytes=10_000, disk_bytes=100_000)
    for beginning in (1, 2, 3):
        for ending in (4, 5):
            ask(bench, [beginning] * 40 + [ending] * 40)
    assert bench.spill.ram_tokens > 0
    kept, written = bench.spill.spills, list[tuple[list[int], int]]()
    write = DiskStore.write

    def noted_write(
        self: DiskStore, tokens: Sequence[int], start: int, payload: bytes, **how: float
    ) -> str | None:
        written.append((list(tokens), start))
        return write(self, tokens, start, payload, **how)

    monkeypatch.setattr(DiskStore, "write", noted_write)
    bench.scheduler.close()
    resident = bench.spill.spills - kept
    assert 0 < resident < len(written)
    for count in range(resident, len(written) + 1):
        for path, start in written[:count]:
            covered = sum(
                len(other) - begin
                for other, begin in written[:count]
                if begin < start and other == path[: len(other)]
            )
            assert covered == start, "its beginning would be missing"
