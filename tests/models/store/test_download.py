"""Downloads over real HTTP from a server with troubles of every kind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.store import download
from models.store.hub import HubName, client, find
from overlay.errors import DownloadFailed, ModelFileInvalid
from tests.models.store.wheels import write_gguf
from tests.support.hub import Hub, serving

NAME = HubName("o/m", "Pocket-Q8_0.gguf")
FILE = NAME.wanted


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return write_gguf(tmp_path / "made.gguf", tensors=64).read_bytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, content: bytes) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(download, "_PAUSES_S", (0.0, 0.0))
    with serving(Hub(repos={"o/m": {FILE: content}})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models"


def pulled(root: Path, seen: list[tuple[int, int]] | None = None) -> Path:
    with client() as http:
        progress = (lambda done, total: seen.append((done, total))) if seen is not None else ignore
        return download.fetch(http, find(http, NAME), root, progress)[0]


def ignore(done: int, total: int) -> None:
    pass


def left_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_model_comes_whole_with_progress(hub: Hub, root: Path, content: bytes) -> None:
    seen: list[tuple[int, int]] = []
    assert pulled(root, seen).read_bytes() == content
    assert left_in(root) == [FILE]
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == ((0, len(content)), (len(content), len(content)))


def test_what_is_there_is_not_fetched_again(hub: Hub, root: Path) -> None:
    pulled(root)
    hub.asked.clear()
    pulled(root)
    assert not hub.asked


@pytest.mark.parametrize("gives_length", [True, False])
def test_a_broken_connection_goes_on_where_it_broke(
    hub: Hub, root: Path, content: bytes, gives_length: bool
) -> None:
    hub.gives_length = gives_length
    hub.trouble = lambda begin: (0, 50_000)
    assert pulled(root).read_bytes() == content
    begins = [begin for begin, _ in hub.asked]
    assert len(begins) > 3
    assert begins == [50_000 * index for index in range(len(begins))]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_cannot_for_a_moment(
    hub: Hub, root: Path, content: bytes, status: int
) -> None:
    answers = iter([(status, None), (0, 50_000), (status, None), (0, None)])
    hub.trouble = lambda begin: next(answers)
    assert pulled(root).read_bytes() == content
    assert [begin for begin, _ in hub.asked] == [0, 0, 50_000, 50_000]


def test_what_has_arrived_is_kept_for_the_next_time(hub: Hub, root: Path, content: bytes) -> None:
    answers = iter([(0, 50_000), *[(503, None)] * 3])
    hub.trouble = lambda begin: next(answers)
    with pytest.raises(DownloadFailed, match=r"broke off after 0 of 0 MB \(503 .*same command"):
        pulled(root)
    assert len(left_in(root)) == 1
    hub.trouble = lambda begin: (0, None)
    hub.asked.clear()
    seen: list[tuple[int, int]] = []
    assert pulled(root, seen).read_bytes() == content
    assert seen[0] == (50_000, len(content))
    assert [begin for begin, _ in hub.asked] == [50_000]
    assert left_in(root) == [FILE]


@pytest.mark.parametrize("status", [200, 416])
def test_an_answer_in_place_of_the_file_costs_nothing_of_what_has_arrived(
    hub: Hub, root: Path, content: bytes, status: int
) -> None:
    answers = iter([(0, 50_000), *[(status, None)] * 3])
    hub.trouble = lambda begin: next(answers)
    with pytest.raises(DownloadFailed, match="broke off after"):
        pulled(root)
    (part,) = root.iterdir()
    assert part.read_bytes() == content[:50_000]


def test_a_file_that_is_exchanged_meanwhile_spoils_nothing_of_what_has_arrived(
    hub: Hub, root: Path, content: bytes
) -> None:
    def exchange(begin: int) -> tuple[int, int | None]:
        if begin:
            hub.repos["o/m"][FILE] = content + b"x"
        return 0, 50_000

    hub.trouble = exchange
    with pytest.raises(DownloadFailed, match="another range"):
        pulled(root)
    (part,) = root.iterdir()
    assert content.startswith(part.read_bytes())


def test_a_server_without_ranges_begins_anew(hub: Hub, root: Path, content: bytes) -> None:
    hub.gives_ranges = False
    answers = iter([(0, 50_000), (0, None)])
    hub.trouble = lambda begin: next(answers)
    assert pulled(root).read_bytes() == content


@pytest.mark.parametrize("gives_length", [True, False])
def test_a_server_that_sends_nothing_is_not_asked_for_ever(
    hub: Hub, root: Path, gives_length: bool
) -> None:
    hub.gives_length = gives_length
    hub.trouble = lambda begin: (0, 0)
    with pytest.raises(DownloadFailed, match="broke off after 0 of"):
        pulled(root)
    assert len(hub.asked) == 3


def test_a_server_that_sends_more_than_it_announced(hub: Hub, root: Path, content: bytes) -> None:
    hub.gives_ranges = hub.gives_length = False
    seen: list[tuple[int, int]] = []
    with client() as http:
        files = find(http, NAME)
        hub.repos["o/m"][FILE] = content + bytes(100_000)
        with pytest.raises(DownloadFailed, match="its SHA-256 differs"):
            download.fetch(http, files, root, lambda done, total: seen.append((done, total)))
    assert max(seen) == (len(content), len(content))
    assert not (root / FILE).exists()


def test_another_file_than_was_announced_is_not_stored(hub: Hub, root: Path) -> None:
    hub.digests[FILE] = "0" * 64
    with pytest.raises(DownloadFailed, match="its SHA-256 differs"):
        pulled(root)
    assert not (root / FILE).exists()
    hub.digests.clear()
    assert pulled(root).exists()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda content: b"x" * 50_000, id="other bytes"),
        pytest.param(lambda content: content + b"x", id="longer than the whole"),
    ],
)
def test_what_was_spoiled_on_the_way_is_fetched_anew(
    hub: Hub, root: Path, content: bytes, spoil: Callable[[bytes], bytes]
) -> None:
    answers = iter([(0, 50_000), *[(503, None)] * 3])
    hub.trouble = lambda begin: next(answers)
    with pytest.raises(DownloadFailed):
        pulled(root)
    (part,) = root.iterdir()
    part.write_bytes(spoil(content))
    hub.trouble = lambda begin: (0, None)
    with pytest.raises(DownloadFailed, match="its SHA-256 differs"):
        pulled(root)
    assert pulled(root).read_bytes() == content


def test_what_is_no_gguf_is_not_stored(hub: Hub, root: Path) -> None:
    hub.repos["o/m"][FILE] = b"<html>a page</html>"
    with pytest.raises(ModelFileInvalid, match="no GGUF"):
        pulled(root)
    assert not (root / FILE).exists()


def test_a_file_of_the_users_is_not_overwritten(hub: Hub, root: Path) -> None:
    root.mkdir(parents=True)
    (root / FILE).write_bytes(b"mine")
    with pytest.raises(DownloadFailed, match=r"another file than the one .* at 127\.0\.0\.1"):
        pulled(root)
    assert (root / FILE).read_bytes() == b"mine"


def test_the_users_token_goes_to_the_hub_and_no_further(
    hub: Hub, root: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "secret"
    with pytest.raises(DownloadFailed, match=r"restricted; accept its terms .* set HF_TOKEN"):
        pulled(root)
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serving(Hub(repos=hub.repos)) as cdn:
        hub.elsewhere = cdn.url
        assert pulled(root).read_bytes() == content
        assert [token for _, token in cdn.asked] == [None]
    assert left_in(root) == [FILE]


def test_two_at_once_do_not_spoil_each_other(hub: Hub, root: Path, content: bytes) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(done: int, total: int) -> None:
        begun.set()
        assert go_on.wait(30)

    def first() -> None:
        with client() as http:
            download.fetch(http, find(http, NAME), root, wait)

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert begun.wait(30)
        with pytest.raises(DownloadFailed, match="another process fetches"):
            pulled(root)
    finally:
        go_on.set()
        thread.join()
    assert pulled(root).read_bytes() == content
    assert left_in(root) == [FILE]


def test_what_had_arrived_of_an_older_revision_goes_once_the_newer_one_is_whole(
    hub: Hub, root: Path, content: bytes
) -> None:
    def part(digit: str) -> Path:
        return root / f".{FILE}.{digit * 16}.part"

    root.mkdir(parents=True)
    other = f".Other-{part('a').name[1:]}"
    for each in (part("a"), part("b"), root / other):
        each.write_bytes(b"half")
    hub.trouble = lambda begin: (503, None)
    with pytest.raises(DownloadFailed):
        pulled(root)
    assert part("a").exists(), "it is not known yet that the newer one will come"
    hub.trouble = lambda begin: (0, None)
    with part("b").open("ab") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert pulled(root).read_bytes() == content
    assert left_in(root) == [other, part("b").name, FILE]
    pulled(root)
    assert not part("b").exists()


def test_no_room_is_noticed_before_anything_comes(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(DownloadFailed, match=r"no room for .* the same command goes on"):
        pulled(root)
    assert not hub.asked


def test_a_command_that_is_killed_goes_on_the_next_time(
    hub: Hub, root: Path, content: bytes
) -> None:
    stalled, go_on = threading.Event(), threading.Event()

    def stall(begin: int) -> tuple[int, int | None]:
        if begin:
            stalled.set()
            go_on.wait(30)
        return 0, 50_000 if not begin else None

    hub.trouble = stall
    command = [sys.executable, "-m", "cli", "models", "pull", f"{NAME.repo}:{FILE}", "--json"]
    environment = {**os.environ, "HEARTH_MODELS": str(root)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        assert stalled.wait(60)
        process.send_signal(signal.SIGKILL)
    go_on.set()
    hub.asked.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert str(root / FILE) in done.stdout
    assert (root / FILE).read_bytes() == content
    assert hub.asked[-1][0] > 0


def test_a_redirect_to_nowhere(root: Path, hub: Hub) -> None:
    hub.elsewhere = "http://127.0.0.1:1"
    with pytest.raises(DownloadFailed, match="broke off after 0"):
        pulled(root)


@pytest.fixture
def parts(hub: Hub, content: bytes) -> list[str]:
    """What is to be fetched is in three files, of which each is a GGUF."""
    names = [f"Pocket-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    hub.repos["o/m"] = dict.fromkeys(names, content)
    return names


def pulled_parts(root: Path, seen: list[tuple[int, int]]) -> list[Path]:
    with client() as http:
        files = find(http, HubName("o/m", "Q8_0"))
        return download.fetch(http, files, root, lambda done, total: seen.append((done, total)))


def test_all_files_of_a_model_come_as_one(parts: list[str], root: Path, content: bytes) -> None:
    seen: list[tuple[int, int]] = []
    paths = pulled_parts(root, seen)
    assert [path.name for path in paths] == parts == left_in(root)
    assert {path.read_bytes() for path in paths} == {content}
    assert seen == sorted(seen)
    assert seen[-1] == (3 * len(content), 3 * len(content))


def test_what_is_there_of_a_models_files_stays(
    parts: list[str], hub: Hub, root: Path, content: bytes
) -> None:
    answers = iter([(0, None), (0, 50_000), *[(503, None)] * 3])
    hub.trouble = lambda begin: next(answers)
    with pytest.raises(DownloadFailed, match="00002-of-00003"):
        pulled_parts(root, [])
    hub.trouble = lambda begin: (0, None)
    hub.asked.clear()
    seen: list[tuple[int, int]] = []
    pulled_parts(root, seen)
    assert seen[0] == (len(content) + 50_000, 3 * len(content))
    assert [begin for begin, _ in hub.asked] == [50_000, 0]
    assert left_in(root) == parts


def test_room_is_needed_for_what_is_missing_alone(
    parts: list[str], root: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled_parts(root, [])
    (root / parts[2]).unlink()

    class Usage:
        free = len(content) - 1

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(DownloadFailed, match="no room"):
        pulled_parts(root, [])
    Usage.free += 1
    pulled_parts(root, [])
    assert left_in(root) == parts
