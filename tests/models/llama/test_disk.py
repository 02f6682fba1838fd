"""Pieces on disk survive everything that happens to disks, as themselves or as a miss."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from models.llama import disk, piece_file
from models.llama.disk import DiskStore, Entry
from models.llama.folder_lock import lock

OURS, THEIRS = b"o" * 16, b"t" * 16
#: Room for some pieces of the sizes that the tests write.
BUDGET = 4000
CLOSE_S = 60.0


def settle(store: DiskStore) -> None:
    """Wait until what was told to the writing thread so far is done."""
    done = threading.Event()
    store._jobs.put(done.set)
    assert done.wait(CLOSE_S)


def files(folder: Path, fingerprint: bytes = OURS) -> list[Path]:
    own = folder / fingerprint.hex()
    return sorted(path for path in own.iterdir() if path.name != "lock")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


octets = st.integers(0, 255)


class Machine(RuleBasedStateMachine):
    """Against a dict: whatever is damaged, the store gives what was written, or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.kept: dict[str, tuple[tuple[int, ...], int, bytes]] = {}
        #: Damaged on disk: in the header or in size, which shows at opening, or in the payload.
        self.broken: set[str] = set()
        self.spoilt: set[str] = set()

    @initialize()
    def open(self) -> None:
        self.store = DiskStore(self.folder, OURS, BUDGET)
        assert self.store.in_use

    @rule(
        tokens=st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple),
        cut=st.floats(0, 0.99),
        payload=st.builds(lambda size, byte: bytes([byte]) * size, st.integers(0, 1500), octets),
    )
    def write(self, tokens: tuple[int, ...], cut: float, payload: bytes) -> None:
        start = int(cut * len(tokens))
        fits = self.store.used + piece_file.file_bytes(len(tokens), len(payload)) <= BUDGET
        key = self.store.write(tokens, start, payload)
        if key is None:
            assert not fits
        elif key not in self.kept:
            assert fits
            self.kept[key] = (tokens, start, payload)
        else:
            assert self.kept[key][:2] == (tokens, start), "one name for two pieces"

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), settled=st.booleans())
    def read(self, data: st.DataObject, settled: bool) -> None:
        if settled:
            settle(self.store)
        key = data.draw(st.sampled_from(sorted(self.kept)))
        _, _, payload = self.kept[key]
        bad = key in self.broken | self.spoilt
        assert self.store.read(key) == (None if bad else payload)
        if bad:
            self.gone(key)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.kept)))
        self.store.remove(key)
        assert self.store.read(key) is None
        self.gone(key)

    @precondition(lambda self: self.kept.keys() - self.broken - self.spoilt)
    @rule(data=st.data(), how=st.sampled_from(["flip", "spoil", "cut", "grow", "vanish"]))
    def damage(self, data: st.DataObject, how: str) -> None:
        settle(self.store)
        whole = sorted(self.kept.keys() - self.broken - self.spoilt)
        key = data.draw(st.sampled_from(whole))
        path = self.folder / OURS.hex() / key
        content = bytearray(path.read_bytes())
        header_bytes = len(content) - len(self.kept[key][2])
        in_payload = how == "spoil" and header_bytes < len(content)
        first, last = (header_bytes, len(content)) if in_payload else (0, header_bytes)
        at = data.draw(st.integers(first, last - 1))
        match how:
            case "flip" | "spoil":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
                path.write_bytes(content)
            case "cut":
                path.write_bytes(content[:at])
            case "grow":
                path.write_bytes(content + b"\0")
            case "vanish":
                path.unlink()
        (self.spoilt if in_payload else self.broken).add(key)

    @precondition(lambda self: self.kept)
    @rule()
    def reopen(self) -> None:
        self.store.close(CLOSE_S)
        self.open()
        for key in self.broken & self.kept.keys():
            self.gone(key)
        expected = {
            (key, tokens, start, piece_file.file_bytes(len(tokens), len(payload)))
            for key, (tokens, start, payload) in self.kept.items()
        }
        entries = list(self.store.entries())
        assert {(e.key, e.tokens, e.start, e.size) for e in entries} == expected
        lengths = [len(entry.tokens) for entry in entries]
        assert lengths == sorted(lengths), "children before their parents"

    @rule(payload=st.binary(max_size=BUDGET // 4))
    def another_model(self, payload: bytes) -> None:
        other = DiskStore(self.folder, THEIRS, BUDGET)
        other.write((1, 2, 3), 0, payload)
        other.close(CLOSE_S)

    @invariant()
    def accounts(self) -> None:
        sizes = [piece_file.file_bytes(len(t), len(p)) for t, _, p in self.kept.values()]
        assert self.store.used == sum(sizes) <= BUDGET

    def gone(self, key: str) -> None:
        del self.kept[key]
        self.broken.discard(key)
        self.spoilt.discard(key)

    def teardown(self) -> None:
        settle(self.store)
        names = {path.name for path in files(self.folder)}
        assert names - self.broken == self.kept.keys() - self.broken, "files and books differ"
        self.store.close(CLOSE_S)
        shutil.rmtree(self.folder)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def write_paths(store: DiskStore, paths: Sequence[Sequence[int]], payload: bytes) -> list[str]:
    keys = []
    for path in paths:
        key = store.write(path, len(path) - 1, payload)
        assert key is not None
        keys.append(key)
    return keys


def test_pieces_survive_a_restart_parents_first(folder: Path) -> None:
    store = DiskStore(folder, OURS, BUDGET)
    key = store.write((1, 2, 3), 1, b"deep")
    parent = store.write((1,), 0, b"root")
    store.close(CLOSE_S)
    store = DiskStore(folder, OURS, BUDGET)
    size = piece_file.file_bytes(3, 4)
    assert key is not None
    assert [entry.key for entry in store.entries()] == [parent, key]
    assert list(store.entries())[1] == Entry(key, (1, 2, 3), 1, size)
    assert store.read(key) == b"deep"
    assert store.damaged == 0
    store.close(CLOSE_S)


def test_only_the_owner_may_read(folder: Path) -> None:
    store = DiskStore(folder, OURS, BUDGET)
    store.write((1, 2), 0, b"secret")
    store.close(CLOSE_S)
    assert folder.stat().st_mode & 0o777 == 0o700
    (piece,) = files(folder)
    assert piece.parent.stat().st_mode & 0o777 == 0o700
    assert piece.stat().st_mode & 0o777 == 0o600
    assert (folder / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f068")


def test_other_fingerprints_never_mix_and_go_first(folder: Path) -> None:
    payload = b"x" * (BUDGET // 4)
    theirs = DiskStore(folder, THEIRS, BUDGET)
    write_paths(theirs, [(1,), (2,)], payload)
    theirs.close(CLOSE_S)
    store = DiskStore(folder, OURS, BUDGET)
    assert list(store.entries()) == []
    assert store.used == 0
    (key,) = write_paths(store, [(1,)], payload)
    settle(store)
    assert len(files(folder, THEIRS)) == 2, "there is room for both"
    write_paths(store, [(2,)], payload)
    settle(store)
    assert not (folder / THEIRS.hex()).exists()
    assert store.read(key) == payload
    store.close(CLOSE_S)


def test_another_model_in_use_is_left_alone(folder: Path) -> None:
    payload = b"x" * (BUDGET // 4)
    stale = DiskStore(folder, b"s" * 16, BUDGET)
    write_paths(stale, [(1,)], payload)
    stale.close(CLOSE_S)
    theirs = DiskStore(folder, THEIRS, BUDGET)
    (key,) = write_paths(theirs, [(1,)], payload)
    settle(theirs)
    store = DiskStore(folder, OURS, BUDGET)
    write_paths(store, [(1,), (2,)], payload)
    settle(store)
    assert files(folder, b"s" * 16), "there is room: the one in use has a budget of its own"
    write_paths(store, [(3,)], payload)
    settle(store)
    assert not (folder / (b"s" * 16).hex()).exists()
    assert theirs.read(key) == payload
    for each in (store, theirs):
        each.close(CLOSE_S)


@pytest.mark.parametrize("oldest", [b"a", b"b", b"c"])
def test_the_longest_unused_model_goes_first(folder: Path, oldest: bytes) -> None:
    payload = b"x" * (BUDGET // 4)
    for name, used_s in ((b"a", 200), (b"b", 300), (b"c", 400)):
        other = DiskStore(folder, name * 16, BUDGET)
        write_paths(other, [(1,)], payload)
        other.close(CLOSE_S)
        used_s = 100 if name == oldest else used_s
        os.utime(folder / (name * 16).hex() / "lock", (used_s, used_s))
    store = DiskStore(folder, OURS, BUDGET)
    write_paths(store, [(1,)], payload)
    settle(store)
    left = {path.name for path in folder.iterdir() if path.is_dir()}
    assert left == {(name * 16).hex() for name in {b"a", b"b", b"c", b"o"} - {oldest}}
    store.close(CLOSE_S)


def test_models_that_share_a_budget_leave_each_others_pieces_alone(folder: Path) -> None:
    payload = b"x" * (2 * BUDGET // 5)
    stale = DiskStore(folder, b"s" * 16, BUDGET)
    write_paths(stale, [(1,)], payload)
    stale.close(CLOSE_S)
    os.utime(folder / (b"s" * 16).hex() / "lock", (100, 100))
    names = (OURS, THEIRS, b"u" * 16)
    for again in (False, True):
        stores = [DiskStore(folder, name, 3 * BUDGET // 2, len(names)) for name in names]
        for store in stores:
            assert bool(store.used) == again, "found, whoever was open before"
            write_paths(store, [(1,)], payload)
            settle(store)
        assert not (folder / (b"s" * 16).hex()).exists(), "there is no room for all four"
        for name, store in zip(names, stores, strict=True):
            assert len(files(folder, name)) == 1
            assert store.write((2,), 0, payload) is None, "its share is full"
            store.close(CLOSE_S)


def test_a_smaller_budget_keeps_the_shortest_paths(folder: Path) -> None:
    store = DiskStore(folder, OURS, BUDGET)
    keys = write_paths(store, [(1,), (1, 2), (1, 2, 3)], b"x" * 500)
    store.close(CLOSE_S)
    store = DiskStore(folder, OURS, BUDGET // 3)
    assert [entry.key for entry in store.entries()] == keys[:2]
    settle(store)
    assert [path.name for path in files(folder)] == keys[:2]
    store.close(CLOSE_S)


def test_a_smaller_budget_is_kept_from_the_start(folder: Path) -> None:
    theirs = DiskStore(folder, THEIRS, BUDGET)
    write_paths(theirs, [(1,)], b"x" * 500)
    theirs.close(CLOSE_S)
    store = DiskStore(folder, OURS, 500)
    settle(store)
    assert not (folder / THEIRS.hex()).exists()
    store.close(CLOSE_S)


def test_what_is_not_ours_stays(folder: Path) -> None:
    DiskStore(folder, OURS, BUDGET).close(CLOSE_S)
    strange = [folder / OURS.hex() / "notes.txt", folder / "photos" / "cat.jpg"]
    for path in strange:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    broken_write = folder / OURS.hex() / ("0" * 8 + "-" + "0" * 32 + ".new")
    broken_write.write_bytes(b"half")
    store = DiskStore(folder, OURS, 1)
    assert list(store.entries()) == []
    store.close(CLOSE_S)
    assert all(path.exists() for path in strange)
    assert not broken_write.exists()


@pytest.mark.parametrize("suffix", ["", ".new"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nowhere"])
def test_what_is_no_file_hides_no_piece(folder: Path, kind: str, suffix: str) -> None:
    for fingerprint in (OURS, THEIRS):
        store = DiskStore(folder, fingerprint, BUDGET)
        keys = write_paths(store, [(1,), (2,)], b"x" * 500)
        store.close(CLOSE_S)
        odd = folder / fingerprint.hex() / ("0" * 8 + "-" + "0" * 32 + suffix)
        if kind == "folder":
            odd.mkdir()
        elif kind == "pipe":
            os.mkfifo(odd)
        else:
            odd.symlink_to(folder / "nowhere")
    (folder / ("f" * 32)).write_bytes(b"in the place of a model's folder")
    store = DiskStore(folder, OURS, BUDGET)
    assert [entry.key for entry in store.entries()] == keys
    assert store.used == 2 * piece_file.file_bytes(1, 500)
    assert [store.read(key) for key in keys] == [b"x" * 500] * 2
    write_paths(store, [(3,)], b"x" * 3 * (BUDGET // 5))
    settle(store)
    assert not (folder / THEIRS.hex()).exists(), "its pieces were counted"
    store.close(CLOSE_S)


def test_a_piece_that_vanishes_during_the_look_hides_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskStore(folder, OURS, BUDGET)
    keys = write_paths(store, [(1,), (2,), (3,)], b"x")
    store.close(CLOSE_S)

    def look(path: Path) -> os._ScandirIterator[str]:
        found = scandir(path)
        (folder / OURS.hex() / keys[1]).unlink(missing_ok=True)
        return found

    scandir = os.scandir
    monkeypatch.setattr("models.llama.disk.os.scandir", look)
    store = DiskStore(folder, OURS, BUDGET)
    assert [entry.key for entry in store.entries()] == [keys[0], keys[2]]
    store.close(CLOSE_S)


def test_a_piece_renamed_to_another_is_a_miss(folder: Path) -> None:
    store = DiskStore(folder, OURS, BUDGET)
    first, second = write_paths(store, [(1,), (2,)], b"x")
    settle(store)
    (folder / OURS.hex() / first).replace(folder / OURS.hex() / second)
    assert store.read(second) is None
    assert store.read(first) is None
    assert store.damaged == 2
    store.close(CLOSE_S)


# --- a disk that fails ----------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Error numbers that the next writes end with."""
    errors: list[int] = []
    write = os.write

    def failing_write(fd: int, data: bytes) -> int:
        if errors:
            number = errors.pop(0)
            raise OSError(number, os.strerror(number))
        return write(fd, data)

    monkeypatch.setattr("models.llama.disk.os.write", failing_write)
    return errors


class Gate:
    """Stops the writing thread in the middle of its next write, which then may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._go = threading.Event(), threading.Event()
        self._error: OSError | None = None
        write = os.write

        def gated_write(fd: int, data: bytes) -> int:
            if not self.reached.is_set():
                self.reached.set()
                self._go.wait(CLOSE_S)
                if self._error is not None:
                    raise self._error
            return write(fd, data)

        monkeypatch.setattr("models.llama.disk.os.write", gated_write)

    def open(self, error: OSError | None = None) -> None:
        self._error = error
        self._go.set()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_a_piece_removed_while_it_is_being_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails: bool, again: bool
) -> None:
    gate, store = Gate(monkeypatch), DiskStore(folder, OURS, BUDGET)
    (key,) = write_paths(store, [(1,)], b"old")
    assert gate.reached.wait(CLOSE_S)
    store.remove(key)
    if again:
        write_paths(store, [(1,)], b"new")
    gate.open(OSError(errno.EIO, "broken") if fails else None)
    settle(store)
    assert store.read(key) == (b"new" if again else None)
    assert [path.name for path in files(folder)] == ([key] if again else [])
    assert store.used == (piece_file.file_bytes(1, 3) if again else 0)
    store.close(CLOSE_S)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
def test_a_failed_write_is_a_miss_and_told_once(
    folder: Path, failing: list[int], number: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(folder, OURS, BUDGET)
    failing += [number, number]
    keys = write_paths(store, [(1,), (2,), (3,)], b"x")
    settle(store)
    assert [store.read(key) for key in keys] == [None, None, b"x"]
    assert store.used == piece_file.file_bytes(1, 1)
    assert [path.name for path in files(folder)] == keys[2:]
    assert caplog.text.count(os.strerror(number)) == 1
    store.close(CLOSE_S)


def test_the_last_of_a_disk_is_left_to_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk, "FREE_BYTES_MIN", sys.maxsize)
    store = DiskStore(folder, OURS, BUDGET)
    (key,) = write_paths(store, [(1,)], b"x")
    settle(store)
    assert store.read(key) is None
    assert "would stay free" in caplog.text
    store.close(CLOSE_S)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    monkeypatch.setattr(disk, "FREE_BYTES_MIN", 0)
    try:
        store = DiskStore(tmp_path, OURS, 1 << 20)
        payload = os.urandom(20_000)
        keys = write_paths(store, [(n,) for n in range(9)], payload)
        settle(store)
        kept = [key for key in keys if store.read(key) == payload]
        assert 0 < len(kept) < len(keys)
        assert {path.name for path in files(tmp_path)} == set(kept), "no halves are left"
        store.remove(kept[0])
        (key,) = write_paths(store, [(99,)], payload)
        settle(store)
        assert store.read(key) == payload, "room again"
        store.close(CLOSE_S)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.parametrize("blocked", ["file", "forbidden"])
def test_a_folder_that_cannot_be_used(
    folder: Path, blocked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if blocked == "file":
        folder.write_bytes(b"not a folder")
    else:

        def forbid(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Path, "mkdir", forbid)
    store = DiskStore(folder, OURS, BUDGET)
    assert not store.in_use
    assert store.used == 0
    assert "cannot be used" in caplog.text
    assert store.write((1,), 0, b"x") is None
    assert store.read("0" * 8 + "-" + "0" * 32) is None
    assert list(store.entries()) == []
    store.close(CLOSE_S)


# --- a slow disk ----------------------------------------------------------------------------------


@pytest.fixture
def stuck(folder: Path) -> Iterator[tuple[DiskStore, threading.Event]]:
    """A store whose thread waits until the event is set."""
    store, go = DiskStore(folder, OURS, BUDGET), threading.Event()
    store._jobs.put(lambda: go.wait(CLOSE_S))
    yield store, go
    go.set()
    store.close(CLOSE_S)


def test_pieces_are_readable_before_they_are_on_disk(
    folder: Path, stuck: tuple[DiskStore, threading.Event]
) -> None:
    store, go = stuck
    (key,) = write_paths(store, [(1,)], b"early")
    assert files(folder) == []
    assert store.read(key) == b"early"
    go.set()
    settle(store)
    assert [path.name for path in files(folder)] == [key]
    assert store.read(key) == b"early"


def test_a_piece_removed_before_it_is_written_is_never_written(
    folder: Path, stuck: tuple[DiskStore, threading.Event]
) -> None:
    store, go = stuck
    first, second = write_paths(store, [(1,), (2,)], b"x")
    store.remove(first)
    store.remove(second)
    (again,) = write_paths(store, [(2,)], b"x")
    assert again == second
    go.set()
    settle(store)
    assert [path.name for path in files(folder)] == [second]
    assert store.read(first) is None
    assert store.read(second) == b"x"


def test_what_waits_for_the_disk_is_bounded(
    stuck: tuple[DiskStore, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, go = stuck
    monkeypatch.setattr(disk, "HELD_BYTES_MAX", 100)
    (key,) = write_paths(store, [(1,)], b"x" * 101)
    assert store.is_late(1)
    assert store.write((2,), 0, b"y") is None
    assert store.write((1,), 0, b"x" * 101) == key, "it is there already"
    go.set()
    settle(store)
    assert not store.is_late(1)
    go.clear()
    store._jobs.put(lambda: go.wait(CLOSE_S))
    write_paths(store, [(2,), (3,)], b"y" * 50)
    assert store.write((4,), 0, b"y") is None
    opener = threading.Timer(0.01, go.set)
    opener.start()
    assert store.write((4,), 0, b"y", wait_s=CLOSE_S) is not None, "who can wait gets in"
    opener.join()


def test_closing_does_not_wait_for_ever(stuck: tuple[DiskStore, threading.Event]) -> None:
    store, _ = stuck
    write_paths(store, [(1,)], b"x")
    store.close(0)
    assert not store.in_use
    assert store.write((2,), 0, b"x") is None


# --- two at once ----------------------------------------------------------------------------------

_OTHER_PROCESS = """
import sys
from pathlib import Path
from models.llama.disk import DiskStore
store = DiskStore(Path(sys.argv[1]), b"o" * 16, 4000)
print(store.in_use, store.write((1,), 0, b"theirs"), flush=True)
sys.stdin.read()
"""


def test_two_processes_never_share_a_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk, "LOCK_WAIT_S", 0)
    root = Path(disk.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER_PROCESS, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        in_use, key = process.stdout.readline().split()
        assert in_use == "True"
        with caplog.at_level(logging.WARNING):
            late = DiskStore(folder, OURS, BUDGET)
        assert "in use by another process" in caplog.text
        assert not late.in_use
        assert late.write((2,), 0, b"ours") is None
        assert list(late.entries()) == []
        process.kill()
    store = DiskStore(folder, OURS, BUDGET)
    assert store.in_use, "the lock ends with its process"
    assert store.read(key) in (b"theirs", None), "killed before it was written, it is a miss"
    store.close(CLOSE_S)


def test_a_folder_deleted_while_it_is_locked_is_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, deletions = fcntl.flock, [folder]

    def slow_flock(fd: int, how: int) -> None:
        if deletions:
            shutil.rmtree(deletions.pop())
            folder.mkdir()
        flock(fd, how)

    monkeypatch.setattr("models.llama.folder_lock.fcntl.flock", slow_flock)
    store = DiskStore(folder, OURS, BUDGET)
    (key,) = write_paths(store, [(1,)], b"x")
    settle(store)
    assert [path.name for path in files(folder)] == [key]
    assert (folder / OURS.hex() / "lock").exists()
    store.close(CLOSE_S)


@pytest.mark.parametrize("deleted", ["all", "one model's"])
def test_a_folder_deleted_while_it_is_in_use_is_made_anew(folder: Path, deleted: str) -> None:
    store = DiskStore(folder, OURS, BUDGET)
    (lost,) = write_paths(store, [(1,)], b"x")
    settle(store)
    shutil.rmtree(folder if deleted == "all" else folder / OURS.hex())
    (key,) = write_paths(store, [(2,)], b"y")
    settle(store)
    assert [path.name for path in files(folder)] == [key]
    assert (store.read(lost), store.read(key)) == (None, b"y")
    assert (folder / "CACHEDIR.TAG").exists()
    assert lock(folder / OURS.hex()) is None, "it is locked again"
    store.close(CLOSE_S)
    again = DiskStore(folder, OURS, BUDGET)
    assert [entry.key for entry in again.entries()] == [key]
    again.close(CLOSE_S)


def test_a_home_that_was_deleted_stays_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever deletes it wants no more prompts there."""
    home = folder / "home"
    store = DiskStore(home / "cache", OURS, BUDGET)
    shutil.rmtree(home)
    (key,) = write_paths(store, [(1,)], b"x")
    settle(store)
    assert store.read(key) is None
    assert not home.exists()
    assert os.strerror(errno.ENOENT) in caplog.text
    store.close(CLOSE_S)


def test_a_folder_that_was_deleted_belongs_to_whoever_comes_first(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(folder, OURS, BUDGET)
    shutil.rmtree(folder)
    second = DiskStore(folder, OURS, BUDGET)
    assert second.in_use, "the lock was deleted with the folder"
    (key,) = write_paths(store, [(1,)], b"x")
    settle(store)
    assert store.read(key) is None
    assert files(folder) == []
    assert "another process uses it now" in caplog.text
    for each in (store, second):
        each.close(CLOSE_S)
