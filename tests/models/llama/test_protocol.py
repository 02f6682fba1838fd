"""Frames survive the pipe, however it cuts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engine import (
    Alternative,
    CacheChanged,
    Chunk,
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Message,
    ModelInfo,
    Sampling,
    Started,
    TokenLogprob,
)
from models.llama import protocol

tokens = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(tuple)
blocks = st.lists(st.integers(0, 2**64 - 1), max_size=10).map(tuple)
counts = st.integers(0, 2**40)
numbers = st.floats(0, 1e12)
texts = st.text(max_size=20)
ids = st.binary(max_size=16)

alternatives = st.builds(Alternative, ids, numbers)
logprobs = st.builds(TokenLogprob, ids, numbers, st.lists(alternatives, max_size=3).map(tuple))

events: st.SearchStrategy[EngineEvent] = st.one_of(
    st.builds(Started, ids, counts, numbers),
    st.builds(Chunk, ids, tokens, texts),
    st.builds(Chunk, ids, tokens, texts, st.lists(logprobs, max_size=2).map(tuple)),
    st.builds(Finished, ids, st.sampled_from(FinishReason), counts, counts, counts, *[numbers] * 3),
    st.builds(Failed, ids, texts, texts),
    st.builds(CacheChanged, blocks, blocks, st.booleans()),
    st.builds(
        EngineStats, counts, counts, counts, numbers, numbers, hits=counts, preemptions=counts
    ),
)
samplings = st.builds(
    Sampling,
    max_tokens=st.none() | counts,
    temperature=numbers,
    seed=st.none() | counts,
    logprobs=st.none() | counts,
    grammar=texts,
    json_schema=texts,
    stop=st.lists(texts, max_size=3).map(tuple),
    logit_bias=st.lists(st.tuples(st.integers(0, 9), numbers), max_size=3).map(tuple),
)
requests = st.builds(
    GenerationRequest,
    ids,
    tokens,
    samplings,
    generated=tokens,
    delivered_chars=counts,
    client=st.lists(st.binary(max_size=32), max_size=3).map(tuple),
)


@given(st.dictionaries(st.integers(0, 2**64 - 1), counts))
def test_copies(changed: dict[int, int]) -> None:
    unpacker = protocol.unpacker()
    unpacker.feed(protocol.pack([protocol.COPIES, protocol.pack_copies(changed)]))
    ((kind, packed),) = unpacker
    assert kind == protocol.COPIES
    assert protocol.unpack_copies(packed) == changed


@given(st.lists(events, max_size=5), st.integers(1, 50))
def test_events(said: list[EngineEvent], size: int) -> None:
    data = protocol.pack([protocol.EVENTS, [protocol.pack_event(event) for event in said]])
    unpacker = protocol.unpacker()
    frames = []
    for at in range(0, len(data), size):
        unpacker.feed(data[at : at + size])
        frames += list(unpacker)
    ((kind, packed),) = frames
    assert kind == protocol.EVENTS
    assert [protocol.unpack_event(event) for event in packed] == said


def through_pipe(value: object) -> object:
    unpacker = protocol.unpacker()
    unpacker.feed(protocol.pack([value]))
    ((result,),) = unpacker
    return result


@given(requests)
def test_requests(request: GenerationRequest) -> None:
    assert protocol.unpack_request(through_pipe(protocol.pack_request(request))) == request


@given(st.one_of(texts, st.lists(st.builds(Message, texts, texts), max_size=4).map(tuple)))
def test_prompts(prompt: str | tuple[Message, ...]) -> None:
    assert protocol.unpack_prompt(through_pipe(protocol.pack_prompt(prompt))) == prompt


@given(st.builds(ModelInfo, texts, ids, st.tuples(texts), texts, counts, counts, counts))
def test_model_info(info: ModelInfo) -> None:
    assert protocol.unpack_info(through_pipe(protocol.pack_info(info))) == info


@given(
    st.integers(0, 9000), st.integers(0, 9000), st.booleans(), st.sampled_from([1000, 4096, 8192])
)
def test_a_large_change_of_the_cache_comes_in_parts(
    added: int, removed: int, reset: bool, most: int
) -> None:
    whole = CacheChanged(tuple(range(added)), tuple(range(10_000, 10_000 + removed)), reset)
    told: list[EngineEvent] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "EVENT_HASHES_MAX", most)
        for _, packed in protocol.event_frames([Failed(b"", "", ""), whole, EngineStats(queued=7)]):
            events = [protocol.unpack_event(data) for data in packed]
            sizes = [len(e.added) + len(e.removed) for e in events if isinstance(e, CacheChanged)]
            assert sum(sizes) <= most
            told += events
    first, *changes, last = told
    assert (first, last) == (Failed(b"", "", ""), EngineStats(queued=7))
    held = {-1, *whole.removed}
    for change in changes:
        assert isinstance(change, CacheChanged)
        if change.reset:
            held = set()
        held = held.difference(change.removed).union(change.added)
    assert held == ({-1} if not reset else set()).union(whole.added)
