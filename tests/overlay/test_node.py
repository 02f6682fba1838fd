"""A whole node in this process: real engine, real links, real files."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from openai.types.chat import ChatCompletionMessageParam

from models.engine import Message, Sampling
from models.llama.engine import LlamaEngine
from models.store.store import ModelFile, ModelStore
from overlay.config import load_config
from overlay.engines import EnginePool
from overlay.errors import (
    AlreadyMember,
    ConfigError,
    EngineFailed,
    HearthError,
    HomeInUse,
    IdentityError,
    InviteUnknown,
    NoRoute,
    Revoked,
)
from overlay.http.backend import Answered, Ask, Route, Text
from overlay.identity.certificates import Membership, issue
from overlay.identity.invites import JoinToken
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId
from overlay.limits import BAN_S, CERTIFICATE_TTL_S
from overlay.node import Node
from overlay.prefix.chain import BLOCK_TOKENS, block_hashes
from overlay.thread import run_in_thread
from overlay.transport import budgets
from tests.overlay.transport.nodes import eventually

ASK = Ask(None, (Message("user", "hello"),), Sampling(max_tokens=8, temperature=0.0))
ANY = "127.0.0.1:0"


async def answer(node: Node, ask: Ask = ASK) -> tuple[str, Answered]:
    text = ""
    async for event in node.ask(ask):
        if isinstance(event, Text):
            text += event.text
        else:
            return text, event
    raise AssertionError("an answer ends with Answered")


StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start(tmp_path: Path, tiny_model: Path) -> AsyncIterator[StartNode]:
    async with AsyncExitStack() as stack:

        async def start(name: str, model: str = str(tiny_model), listen: str = ANY) -> Node:
            config = load_config(
                tmp_path / name, name=name, listen=listen, api=ANY, models=(model,), lan=False
            )
            node = await Node.start(config)
            stack.push_async_callback(node.close)
            return node

        yield start


async def test_a_node_answers_and_says_how(start: StartNode) -> None:
    node = await start("ann")
    _, first = await answer(node)
    _, again = await answer(node)
    assert first.hearth["route"] == "local"
    assert first.hearth["served_by"] == str(node.key.peer_id)
    assert first.completion_tokens == again.completion_tokens
    assert (first.cached_tokens, again.cached_tokens) == (0, again.prompt_tokens - 1)


async def test_the_openai_package_talks_to_a_node(start: StartNode) -> None:
    node = await start("ann")
    async with AsyncOpenAI(base_url=f"{node.api_url}/v1", api_key="none") as client:
        (model,) = [listed.id async for listed in client.models.list()]
        question: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
        whole = await client.chat.completions.create(
            model=model, messages=question, max_tokens=8, temperature=0
        )
        stream = await client.chat.completions.create(
            model=model, messages=question, max_tokens=8, temperature=0, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.prompt_tokens_details is not None
        assert whole.usage.prompt_tokens_details.cached_tokens == 0
        with pytest.raises(NotFoundError):
            await client.chat.completions.create(model="no-such-model", messages=question)
        long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "word " * 5000}]
        with pytest.raises(BadRequestError, match="context"):
            await client.chat.completions.create(model=model, messages=long)


async def test_each_turn_over_http_finds_the_one_before(start: StartNode) -> None:
    """Though its answer's tokens are hardly those that its text would be cut into."""
    node = await start("ann")
    async with AsyncOpenAI(base_url=f"{node.api_url}/v1", api_key="none") as client:
        (model,) = [listed.id async for listed in client.models.list()]
        engine = node.engine(model)
        assert engine is not None
        # Chosen at random, it would be a control token amid the answer, which nobody remembers.
        begin, *_ = await engine.tokenize((Message("user", ""),))
        talk: list[ChatCompletionMessageParam] = []
        known = 0
        for turn in range(4):
            talk.append({"role": "user", "content": f"say {turn}"})
            reply = await client.chat.completions.create(
                model=model,
                messages=talk,
                max_tokens=9,
                temperature=2,
                top_p=1,
                seed=turn,
                logit_bias={str(begin): -100},
            )
            assert reply.usage is not None
            assert reply.usage.prompt_tokens_details is not None
            assert (reply.usage.prompt_tokens_details.cached_tokens or 0) >= known
            known = reply.usage.total_tokens - 1
            talk.append({"role": "assistant", "content": reply.choices[0].message.content})


QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer"}},
    "required": ["ok", "n"],
}


async def test_an_answer_has_the_form_that_was_asked_for(start: StartNode) -> None:
    node = await start("ann")
    async with AsyncOpenAI(base_url=f"{node.api_url}/v1", api_key="none") as client:
        (model,) = [listed.id async for listed in client.models.list()]
        reply = await client.chat.completions.create(
            model=model,
            messages=QUESTION,
            max_tokens=200,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA},
            },
        )
        said = json.loads(reply.choices[0].message.content or "")
        assert isinstance(said["ok"], bool)
        assert isinstance(said["n"], int)
        assert reply.choices[0].finish_reason == "stop"
        reply = await client.chat.completions.create(
            model=model,
            messages=QUESTION,
            extra_body={"grammar": 'root ::= "yes" | "no"'},
        )
        assert reply.choices[0].message.content in ("yes", "no")
        with pytest.raises(BadRequestError, match="left recursion"):
            await client.chat.completions.create(
                model=model,
                messages=QUESTION,
                extra_body={"grammar": 'root ::= root "a"'},
            )
        with pytest.raises(BadRequestError, match="Unrecognized schema"):
            await client.chat.completions.create(
                model=model,
                messages=QUESTION,
                extra_body={"json_schema": {"type": "colour"}},
            )


async def test_several_answers_share_their_prompt(start: StartNode) -> None:
    node = await start("ann")
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "word " * 50}]
    async with AsyncOpenAI(base_url=f"{node.api_url}/v1", api_key="none") as client:
        (model,) = [listed.id async for listed in client.models.list()]
        before = node.mesh.member.neighbourhood.models[model].stats
        whole = await client.chat.completions.create(
            model=model, messages=long, max_tokens=8, seed=5, n=4
        )
        assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
        assert whole.usage is not None
        prompt = whole.usage.prompt_tokens
        assert whole.usage.completion_tokens <= 4 * 8
        assert whole.usage.prompt_tokens_details is not None
        assert whole.usage.prompt_tokens_details.cached_tokens == 0
        # A prompt counts once its request has ended.
        await eventually(
            lambda: node.mesh.member.neighbourhood.models[model].stats.prompt_tokens > 0
        )
        await eventually(lambda: node.status()["requests"]["running"] == 0)
        after = node.mesh.member.neighbourhood.models[model].stats
        assert after.prompt_tokens - before.prompt_tokens == 4 * prompt
        # All of it once, and at most its last block for each of the others.
        shared = after.cached_tokens - before.cached_tokens
        assert 3 * (prompt - 1 - BLOCK_TOKENS) <= shared <= 3 * (prompt - 1)
        alone = await client.chat.completions.create(
            model=model, messages=long, max_tokens=8, seed=7
        )
        assert alone.choices[0].message.content == whole.choices[2].message.content
        stream = await client.chat.completions.create(
            model=model,
            messages=long,
            max_tokens=8,
            seed=5,
            n=4,
            stream=True,
            stream_options={"include_usage": True},
        )
        texts, reasons, usage = [""] * 4, [""] * 4, None
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] += choice.finish_reason or ""
        assert texts == [choice.message.content for choice in whole.choices]
        assert reasons == [choice.finish_reason for choice in whole.choices]
        assert usage is not None
        assert usage.prompt_tokens == prompt
        assert usage.completion_tokens == whole.usage.completion_tokens


async def test_log_probabilities_at_home_and_from_a_peer(start: StartNode) -> None:
    ann, bob = await start("ann"), await start("bob", model="none")
    await bob.join(ann.invite(3600, 1, "")["token"])
    await eventually(lambda: any(p["models"] and p["rtt_ms"] for p in bob.status()["peers"]))
    told = []
    for node in (ann, bob):
        async with AsyncOpenAI(base_url=f"{node.api_url}/v1", api_key="none") as client:
            (model,) = [listed.id async for listed in client.models.list()]
            whole = await client.chat.completions.create(
                model=model,
                messages=QUESTION,
                max_tokens=8,
                temperature=0,
                logprobs=True,
                top_logprobs=3,
            )
            stream = await client.chat.completions.create(
                model=model,
                messages=QUESTION,
                max_tokens=8,
                temperature=0,
                logprobs=True,
                top_logprobs=3,
                stream=True,
            )
            assert whole.choices[0].logprobs is not None
            content = whole.choices[0].logprobs.content
            assert content is not None
            streamed = []
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].logprobs is not None:
                    streamed += chunk.choices[0].logprobs.content or []
            assert whole.usage is not None
            assert len(content) == whole.usage.completion_tokens
            assert [entry.bytes for entry in streamed] == [entry.bytes for entry in content]
            for entry in content:
                assert entry.bytes == entry.top_logprobs[0].bytes, "the likeliest was taken"
                assert len(entry.top_logprobs) == 3
            told.append([entry.bytes for entry in content])
            old = await client.completions.create(
                model=model, prompt="hello", max_tokens=4, logprobs=2
            )
            assert old.choices[0].logprobs is not None
            assert old.usage is not None
            assert len(old.choices[0].logprobs.tokens or ()) == old.usage.completion_tokens
            assert (old.choices[0].logprobs.text_offset or [0])[0] == 0
    assert told[0] == told[1]


async def test_an_answer_explains_itself_when_asked(start: StartNode) -> None:
    ann, bob = await start("ann"), await start("bob", model="none")
    await bob.join(ann.invite(3600, 1, "")["token"])
    await eventually(lambda: any(p["models"] and p["rtt_ms"] for p in bob.status()["peers"]))
    _, plain = await answer(bob)
    assert "explanation" not in plain.hearth
    _, answered = await answer(bob, replace(ASK, explain=True))
    told = answered.hearth["explanation"]
    (decision,) = told["decisions"]
    assert (decision["choice_name"], told["actual"]["served_by_name"]) == ("ann", "ann")
    assert decision["reason"] == answered.hearth["reason"]
    assert [each["name"] for each in decision["candidates"]] == ["ann"]
    assert told["actual"]["cached_tokens"] == answered.cached_tokens
    assert told["actual"]["ttft_ms"] == answered.hearth["ttft_ms"]
    # The same can be asked for later, here and at the node that served it.
    request_id = answered.hearth["request_id"]
    later = bob.explanation(request_id[:12])
    assert {**later, "age_s": 0} == {**told, "age_s": 0}
    assert bob.explanation(None)["request_id"] == request_id
    served = ann.explanation(request_id)
    assert served["asked_by_name"] == "bob"
    assert served["decisions"][0]["candidates"][0]["self"]
    assert [each["state"] for each in ann.explanations()] == ["answered"] * 2
    assert ann.status()["routing"]["decisions"] == {"self": 2, "peer": 0}
    json.dumps([told, bob.explanations()], allow_nan=False)


async def test_peers_that_tokenize_unlike_each_other_say_so_once(
    start: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    ann, bob = await start("ann"), await start("bob")
    await bob.join(ann.invite(3600, 1, "")["token"])
    await eventually(lambda: any(p["models"] and p["rtt_ms"] for p in bob.status()["peers"]))
    assert [peer["tokenizes_unlike"] for peer in bob.status()["peers"]] == [[]]
    # As if Bob's llama.cpp were of another version.
    (model,) = bob.mesh.member.neighbourhood.models.values()
    model.info = replace(model.info, probe=b"o" * 16)
    for _ in range(2):
        bob.mesh.models_changed()
    assert [peer["tokenizes_unlike"] for peer in bob.status()["peers"]] == [[model.info.name]]
    assert caplog.text.count("tokenizes") == 1
    assert "ann" in caplog.text
    _, answered = await answer(bob, replace(ASK, explain=True))
    of_ann, of_bob = sorted(
        answered.hearth["explanation"]["decisions"][0]["candidates"], key=lambda c: c["name"]
    )
    assert (of_ann["tokenizes_unlike"], of_bob["tokenizes_unlike"]) == (True, False)


async def test_closing_an_answer_cancels_it(start: StartNode) -> None:
    node = await start("ann")
    long = Ask(None, ASK.prompt, Sampling(max_tokens=400, temperature=0.0))
    events = node.ask(long)
    await anext(events)
    await events.aclose()
    await eventually(lambda: node.status()["requests"]["running"] == 0)
    assert node.status()["requests"]["open"] == 0


async def test_a_crash_of_llama_cpp_fails_the_request_and_the_node_lives_on(
    start: StartNode,
) -> None:
    node = await start("ann")
    name = node.models()[0].name
    engine = node.engine(name)
    assert isinstance(engine, LlamaEngine)
    long = Ask(None, ASK.prompt, Sampling(max_tokens=400, temperature=0.0))
    events = node.ask(long)
    await anext(events)
    os.kill(engine.process_id, signal.SIGKILL)
    with pytest.raises(EngineFailed):
        async for _ in events:
            pass
    with pytest.raises(NoRoute, match="it is being started again"):
        await answer(node)
    await eventually(lambda: node.engine(name) not in (None, engine))
    _, answered = await answer(node)
    assert answered.hearth["route"] == "local"
    assert answered.cached_tokens == 0


async def test_joining_a_mesh_while_running(start: StartNode) -> None:
    ann, bob = await start("ann"), await start("bob", model="none")
    with pytest.raises(NoRoute):
        await answer(bob)
    token = ann.invite(3600, 1, "")["token"]
    joined = await bob.join(token)
    assert joined["inviter"] == str(ann.key.peer_id)
    assert joined["mesh_id"] == bob.status()["mesh_id"] == ann.status()["mesh_id"]
    await eventually(lambda: bob.status()["peers"] != [])
    assert [peer["name"] for peer in bob.status()["peers"]] == ["ann"], "by name from the first"
    await eventually(lambda: any(p["models"] and p["rtt_ms"] for p in bob.status()["peers"]))
    _, answered = await answer(bob)
    assert (answered.hearth["route"], answered.hearth["hops"]) == ("forwarded", 1)
    assert answered.hearth["served_by_name"] == "ann"
    with pytest.raises(NoRoute, match="does not serve"):
        await answer(bob, Ask(ann.models()[0].name, ASK.prompt, ASK.sampling, Route.LOCAL))
    with pytest.raises(AlreadyMember):
        await bob.join(token)


async def test_two_changes_of_mesh_at_once_are_made_one_after_the_other(start: StartNode) -> None:
    ann, cat = await start("ann", model="none"), await start("cat", model="none")
    bob = await start("bob", model="none")
    tokens = [inviter.invite(3600, 1, "")["token"] for inviter in (ann, cat)]
    first, second = await asyncio.gather(*map(bob.join, tokens), return_exceptions=True)
    assert isinstance(first, dict)
    assert isinstance(second, AlreadyMember)
    assert bob.status()["mesh_id"] == first["mesh_id"] == ann.status()["mesh_id"]
    await eventually(lambda: peers(ann).get(str(bob.key.peer_id)) == "UP")


async def test_a_pause_outlasts_a_restart_and_a_change_of_mesh(start: StartNode) -> None:
    ann, bob = await start("ann"), await start("bob")
    bob.pause(hand_back=False)
    await bob.join(ann.invite(3600, 1, "")["token"])
    await eventually(lambda: [peer["paused"] for peer in ann.status()["peers"]] == [True])
    assert ann.status()["peers"][0]["models"] == []
    since = bob.status()["lending"]["paused_since"]
    assert since is not None
    await bob.close()
    bob = await start("bob")
    assert bob.status()["lending"] == {
        "paused": True,
        "paused_since": since,
        "guest_requests": None,
        "guest_tokens_per_minute": None,
        "private": [],
        "open_guest_requests": 0,
        "tokens_last_minute": {},
        "refused": {},
    }
    # The owner's requests go on.
    _, own = await answer(bob, replace(ASK, route=Route.LOCAL))
    assert own.hearth["served_by"] == str(bob.key.peer_id)
    assert bob.resume()["paused"] is False
    await eventually(lambda: ann.status()["peers"][0]["models"] != [])


async def test_a_private_model_must_be_there(tmp_path: Path, tiny_model: Path) -> None:
    config = load_config(tmp_path / "ann", models=(str(tiny_model),), private=("typo",), lan=False)
    config = replace(config, listen=ANY, api=ANY)
    with pytest.raises(ConfigError, match="no model here is named 'typo', to be private"):
        await Node.start(config)


@pytest.mark.parametrize(
    ("aliases", "name"), [((), "tiny-Q8_0.gguf"), (("demo",), "demo.gguf"), ((), "Tiny.gguf")]
)
async def test_two_models_with_one_name_are_refused(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    aliases: tuple[str, ...],
    name: str,
) -> None:
    other = shutil.copy(tiny_model, tmp_path / name)

    def ensure(store: ModelStore, path: str, progress: object) -> ModelFile:
        found = store.resolve(path)
        return replace(found, aliases=aliases) if path == str(tiny_model) else found

    monkeypatch.setattr(ModelStore, "ensure", ensure)
    config = load_config(tmp_path / "ann", models=(str(tiny_model), str(other)), lan=False)
    config = replace(config, listen=ANY, api=ANY)
    with pytest.raises(ConfigError, match=f"two models would answer to .*{name}"):
        await Node.start(config)


async def test_a_peer_that_sends_too_much_is_banned_and_the_status_says_why(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = await start("ann"), await start("bob")
    monkeypatch.setattr(budgets, "PEER_MESSAGES_BURST", 0)
    monkeypatch.setattr(budgets, "PARKED_MESSAGES_MAX", 0)
    await bob.join(ann.invite(3600, 1, "")["token"])

    def has_banned(node: Node) -> bool:
        return any(peer["banned"] for peer in node.status()["peers"])

    # Each sends too much for the other: whoever is first to notice bans.
    await eventually(lambda: has_banned(ann) or has_banned(bob))
    judge, banned = (ann, bob) if has_banned(ann) else (bob, ann)
    (peer,) = judge.status()["peers"]
    assert (peer["peer_id"], peer["link"]) == (str(banned.key.peer_id), None)
    assert peer["banned"]["reason"].startswith("it sent more than")
    left = datetime.fromisoformat(peer["banned"]["until"]) - datetime.now(UTC)
    assert timedelta(0) < left <= timedelta(seconds=BAN_S)


async def test_the_summary_of_a_node_that_joins_is_hashed_anew(start: StartNode) -> None:
    ann, bob = await start("ann"), await start("bob")
    prompt = (Message("user", "word " * 60),)
    await answer(bob, Ask(None, prompt, ASK.sampling))
    await bob.join(ann.invite(3600, 1, "")["token"])
    engine = ann.engine(ann.models()[0].name)
    assert engine is not None
    tokens = await engine.tokenize(prompt)
    hashes = block_hashes(ann.mesh.membership.mesh_secret, engine.info.key, tokens)
    assert len(hashes) >= 2
    # Ann finds, for a prompt that she tokenized and hashed, the blocks that Bob has cached.
    index = ann.mesh.member.neighbourhood.index
    await eventually(lambda: index.match(hashes).get(bob.key.peer_id) == len(hashes))


async def test_a_node_that_stops_is_left_at_once(start: StartNode) -> None:
    ann, bob = await start("ann", model="none"), await start("bob", model="none")
    await bob.join(ann.invite(3600, 1, "")["token"])
    await eventually(lambda: any(p["state"] == "UP" for p in ann.status()["peers"]))
    await bob.close()
    await eventually(lambda: any(p["state"] == "LEFT" for p in ann.status()["peers"]))


async def test_who_asks_while_a_link_is_made_anew_need_not_name_a_model(start: StartNode) -> None:
    ann, bob = await start("ann"), await start("bob", model="none")
    await joined(ann, bob)
    await eventually(lambda: bool(bob.models()))
    line = bob.mesh.transport._links.line(ann.key.peer_id)
    assert line is not None
    line.close("a cable was pulled")
    assert bob.models() == []
    _, answered = await answer(bob)
    assert answered.hearth["served_by"] == str(ann.key.peer_id)


async def test_members_met_before_a_start_are_absent_until_they_are_heard_of(
    start: StartNode,
) -> None:
    ann, bob = await start("ann", model="none"), await start("bob", model="none")
    await joined(ann, bob)
    await bob.close()
    await ann.close()
    ann = await start("ann", model="none", listen=str(ann.listen[0]))
    assert ann.status()["absent"] == [{"peer_id": str(bob.key.peer_id), "name": "bob"}]
    await start("bob", model="none")
    await eventually(lambda: not ann.status()["absent"])


async def test_a_home_serves_one_node_and_is_free_afterwards(start: StartNode) -> None:
    node = await start("ann", model="none")
    with pytest.raises(HomeInUse):
        await start("ann", model="none")
    await node.close()
    again = await start("ann", model="none")
    assert again.key.peer_id == node.key.peer_id


async def test_a_node_starts_with_damaged_peers_and_is_found_again(start: StartNode) -> None:
    ann, bob, cyd = [await start(name, model="none") for name in ("ann", "bob", "cyd")]
    await joined(ann, bob)
    peer, listen = str(ann.key.peer_id), ann.listen
    await ann.close()
    await eventually(lambda: peers(bob)[peer] == "LEFT")
    (ann.home.path / "peers.json").write_bytes(b"\x00")
    ann = await start("ann", model="none", listen=str(listen[0]))
    # It forgot who they are, but not that there are others, who would be left without a founder.
    with pytest.raises(AlreadyMember, match="other members"):
        await ann.join(cyd.invite(3600, 1, "")["token"])
    await eventually(lambda: peers(bob)[peer] == "UP")
    await eventually(lambda: bob.key.peer_id in ann.home.peers())


async def test_who_asks_while_the_model_is_loaded_is_told_so(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes: list[Node] = []
    refusals: list[HearthError] = []

    async def bind(self: Node, any_port: bool) -> None:
        nodes.append(self)
        await bound(self, any_port)

    async def load(self: EnginePool, *given: Any) -> None:
        (node,) = nodes
        with pytest.raises(NoRoute) as caught:
            await answer(node, replace(ASK, model=node.default_model()))
        refusals.append(caught.value)
        await loaded(self, *given)

    bound, loaded = Node._bind, EnginePool.load
    monkeypatch.setattr(Node, "_bind", bind)
    monkeypatch.setattr(EnginePool, "load", load)
    await answer(await start("ann"))
    assert [str(each).endswith("now: it is being loaded") for each in refusals] == [True]


async def test_a_failed_start_leaves_the_home_free(start: StartNode) -> None:
    with pytest.raises(HearthError):
        await start("ann", model="/no/such/model.gguf")
    await start("ann", model="none")


async def test_tokens_name_where_the_node_listens(start: StartNode) -> None:
    node = await start("ann", model="none")
    token = JoinToken.parse(node.invite(60, 2, "for bob")["token"])
    assert token.addresses == node.listen
    assert token.inviter == node.key.peer_id


def test_a_node_on_a_thread_serves_while_the_context_lasts(
    tmp_path: Path, tiny_model: Path
) -> None:
    config = load_config(
        tmp_path / "home", name="t", listen=ANY, api=ANY, models=(str(tiny_model),), lan=False
    )
    seen: list[str] = []
    with run_in_thread(config, lambda what, share: seen.append(what)) as running:
        assert running.api_url.startswith("http://127.0.0.1:")
    assert seen[-1] == "loading tiny"
    with run_in_thread(config):
        pass


def test_a_thread_that_cannot_even_have_a_loop_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(asyncio.events, "new_event_loop", exhausted)
    node = run_in_thread(load_config(tmp_path / "home", listen=ANY, api=ANY, lan=False))
    with pytest.raises(OSError, match="too many open files"), node:
        pass


# --- Coming and going -------------------------------------------------------------------------


async def joined(inviter: Node, *others: Node) -> None:
    token = inviter.invite(3600, len(others), "")["token"]
    for other in others:
        await other.join(token)
        await eventually(lambda: other.key.peer_id in inviter.home.peers())  # noqa: B023
        await eventually(lambda: peers(other).get(str(inviter.key.peer_id)) == "UP")  # noqa: B023


def peers(node: Node) -> dict[str, str]:
    return {peer["peer_id"]: peer["state"] for peer in node.status()["peers"]}


async def test_a_revoked_node_stands_alone_until_it_is_invited_again(start: StartNode) -> None:
    ann, bob = await start("ann", model="none"), await start("bob", model="none")
    await joined(ann, bob)
    old = bob.standing.membership
    assert ann.status()["peers"][0]["invited_by"] == str(ann.key.peer_id)
    told = ann.revoke(bob.key.peer_id)
    assert (told["peer_id"], told["name"]) == (str(bob.key.peer_id), "bob")
    assert peers(ann) == {}
    await eventually(lambda: ann.home.peers() == {})
    assert [each["peer_id"] for each in ann.status()["revocations"]] == [str(bob.key.peer_id)]
    await eventually(lambda: bob.status()["revoked"] is not None)
    assert bob.status()["revoked"]["by"] == str(ann.key.peer_id)
    with pytest.raises(Revoked):
        bob.invite(3600, 1, "")
    # What both know is in their homes.
    for node in (ann, bob):
        assert len(node.home.revocations(ann.key.peer_id).records()) == 1

    await joined(ann, bob)
    assert bob.status()["revoked"] is None
    assert bob.standing.membership.mesh_id == old.mesh_id
    assert bob.standing.membership.certificates != old.certificates
    assert ann.home.peers().keys() == {bob.key.peer_id}


async def test_a_membership_that_ends_soon_is_renewed(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = await start("ann", model="none"), await start("bob", model="none")
    assert ann.status()["membership_ends"] is None
    await joined(ann, bob)
    first = bob.status()["membership_ends"]
    monkeypatch.setattr("overlay.standing.RENEWAL_S", CERTIFICATE_TTL_S)
    later = time.time() + 60
    monkeypatch.setattr("overlay.admission.handshake.issue", partial(_issue_at, later))
    await joined(ann, bob)
    assert bob.status()["membership_ends"] > first


def _issue_at(
    now: float, key: NodeKey, by: Membership, subject: PeerId, _: float, **options: Any
) -> tuple[bytes, ...]:
    """As by a clock that is some way ahead."""
    return issue(key, by, subject, now, **options)


async def test_who_leaves_founds_a_mesh_of_its_own_and_may_come_back(start: StartNode) -> None:
    ann, bob = await start("ann", model="none"), await start("bob", model="none")
    with pytest.raises(IdentityError, match="founded its mesh"):
        await ann.leave()
    mesh_id = ann.status()["mesh_id"]
    await joined(ann, bob)
    bob.invite(3600, 1, "")
    with pytest.raises(AlreadyMember):
        await bob.join(ann.invite(3600, 1, "")["token"])
    assert (await bob.leave())["mesh_id"] == mesh_id
    assert bob.status()["mesh_id"] != mesh_id
    assert bob.status()["peers"] == []
    assert bob.invites() == []
    assert bob.home.peers() == {}
    await eventually(lambda: peers(ann)[str(bob.key.peer_id)] == "LEFT")
    await joined(ann, bob)
    assert bob.status()["mesh_id"] == mesh_id


async def test_invites_are_listed_and_cancelled(start: StartNode) -> None:
    ann, bob = await start("ann", model="none"), await start("bob", model="none")
    token = ann.invite(3600, 1, "for bob", may_invite=False)["token"]
    await bob.join(token)
    with pytest.raises(IdentityError, match="does not allow"):
        bob.invite(3600, 1, "")
    await eventually(lambda: bob.key.peer_id in ann.home.peers())
    made = ann.invite(3600, 2, "")
    latest, first = sorted(ann.invites(), key=lambda each: bool(each["joined"]))
    assert (first["label"], first["state"], first["may_invite"]) == ("for bob", "used up", False)
    assert first["joined"] == [{"peer_id": str(bob.key.peer_id), "name": "bob"}]
    assert (latest["id"], latest["state"], latest["uses"]) == (made["id"], "open", 2)
    assert ann.cancel_invites(None) == [made["id"]]
    cyd = await start("cyd", model="none")
    with pytest.raises(InviteUnknown):
        await cyd.join(made["token"])
    with pytest.raises(InviteUnknown):
        ann.cancel_invites("ffff")
    made = ann.invite(3600, 2, "")
    assert ann.cancel_invites(made["id"][:15]) == [made["id"]]
