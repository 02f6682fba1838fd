"""Bad input: one clear sentence, a non-zero exit, and every file as it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.nodes import RunningNode, ending, hearth, token_of

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def node(tmp_path: Path, tiny_model: Path) -> AsyncIterator[RunningNode]:
    running = RunningNode(tmp_path / "ann", "ann", ("--model", str(tiny_model)))
    async with ending([running]):
        yield await running.start()


def files_of(home: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.suffix != ".log" and path.name != "lock"
    }


async def refused(*args: str, home: Path) -> str:
    """Run a command that must fail in one sentence and change nothing; returns the sentence."""
    before = files_of(home)
    finished = await hearth(*args, "--home", str(home))
    assert finished.code in (1, 2), finished
    assert "Traceback" not in finished.err + finished.out
    assert finished.err.strip(), "an error is told"
    # A new home may have got its identity by now; what was there is as it was.
    assert before.items() <= files_of(home).items()
    return finished.err


async def test_tokens_that_open_nothing(node: RunningNode, tmp_path: Path) -> None:
    guest = tmp_path / "guest"
    guest.mkdir()
    token = await token_of(node)
    middle = len(token) // 2
    mangled = token[:middle] + ("2" if token[middle] != "2" else "3") + token[middle + 1 :]
    assert "typo" in await refused("join", mangled, home=guest)
    assert "hearth1" in await refused("join", "hello", home=guest)
    expired = await token_of(node, "--expires", "1s")
    issued = time.time()
    await asyncio.sleep(max(0.0, issued + 1.2 - time.time()))  # the clock is what must pass
    assert "expired" in await refused("join", expired, home=guest)
    assert (await hearth("join", token, "--home", str(guest))).code == 0
    other = tmp_path / "other"
    other.mkdir()
    assert "used" in await refused("join", token, home=other)
    # Guest belongs to Ann's mesh now; a token of another mesh is refused.
    foreign = RunningNode(tmp_path / "eve", "eve", ("--model", "none"))
    async with ending([foreign]):
        theirs = await token_of(await foreign.start())
        assert "another" in await refused("join", theirs, home=guest)
    # And with nobody there, the addresses tried are named.
    assert "127.0.0.1" in await refused("join", theirs, home=other)


async def test_a_home_and_ports_in_use(node: RunningNode, tmp_path: Path) -> None:
    api = node.api.removeprefix("http://")
    ports = ("--listen", "127.0.0.1:0", "--model", "none")
    # The running node itself writes to its home, so only the message is checked here.
    taken = await hearth("up", "--home", str(node.home), *ports, "--api", "127.0.0.1:0")
    assert taken.code == 1
    assert "use" in taken.err
    other = tmp_path / "other"
    told = await hearth("up", "--home", str(other), *ports, "--api", api)
    assert told.code == 1
    assert api.rsplit(":")[-1] in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize("damage", ["missing", "truncated", "not-gguf"])
async def test_model_files_that_cannot_be(damage: str, tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "model.gguf"
    if damage == "truncated":
        path.write_bytes(tiny_model.read_bytes()[:-1000])
    elif damage == "not-gguf":
        path.write_bytes(b"PK\x03\x04 this is a zip file" * 100)
    finished = await hearth(
        *("up", "--home", str(tmp_path / "home"), "--model", str(path)),
        *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0"),
    )
    assert finished.code == 1
    assert "model.gguf" in finished.err
    assert "Traceback" not in finished.err
    assert len(finished.err.strip().splitlines()) == 1


async def test_unknown_model_names(tmp_path: Path) -> None:
    finished = await hearth(
        *("up", "--home", str(tmp_path / "home"), "--model", "no-such-model"),
        *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0"),
    )
    assert finished.code == 1
    assert "no-such-model" in finished.err


async def test_http_errors_are_openai_shaped(node: RunningNode) -> None:
    async def post(**body: object) -> tuple[int, dict[str, object]]:
        messages = [{"role": "user", "content": "hi"}]
        response = await node.http.post(
            "/v1/chat/completions", json={"messages": messages, "max_tokens": 4, **body}
        )
        return response.status_code, response.json().get("error", {})

    status, error = await post(model="no-such-model")
    assert (status, error["code"]) == (404, "model_not_found")
    status, error = await post(messages=[{"role": "user", "content": "word " * 5000}])
    assert (status, error["code"]) == (400, "context_length_exceeded")
    status, error = await post(temperature=9)
    assert (status, error["param"]) == (400, "temperature")
    response = await node.http.post("/v1/chat/completions", content=b'{"messages": [')
    assert response.status_code == 400
    assert response.json()["error"]["message"]


async def test_commands_without_a_node_say_how_to_start_one(tmp_path: Path) -> None:
    for command in ("invite", "status"):
        finished = await hearth(command, "--home", str(tmp_path / "empty"))
        assert finished.code == 1
        assert "hearth up" in finished.err
