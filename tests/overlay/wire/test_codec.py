"""The codec: every message survives the trip, and no bytes whatsoever do harm."""

from __future__ import annotations

import contextlib
import math
import struct
from dataclasses import MISSING, fields
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engine import Message as Turn
from models.engine import Sampling
from overlay.errors import LimitExceeded, LocalProtocolError, Malformed, RemoteProtocolError
from overlay.identity.peer_id import PeerId
from overlay.limits import MESSAGE_BYTES_MAX, PROMPT_TOKENS_MAX
from overlay.wire.anti_entropy import (
    COUNTER_MAX,
    Change,
    DigestEntry,
    OriginDelta,
    OwnContents,
    Syn,
)
from overlay.wire.codec import decode, encode
from overlay.wire.messages import (
    Accepted,
    Batch,
    BatchedFrame,
    Begun,
    Cancel,
    Forward,
    Goodbye,
    Hello,
    Message,
    Ping,
    StreamAck,
    TokenFrame,
)

KINDS = get_args(Message)
PEER = PeerId(bytes(range(32)))

st.register_type_strategy(int, st.integers(-(2**63), 2**64 - 1))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(str, st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
st.register_type_strategy(PeerId, st.binary(min_size=32, max_size=32).map(PeerId))

counters = st.integers(0, COUNTER_MAX - 1)
peers = st.from_type(PeerId)
st.register_type_strategy(DigestEntry, st.builds(DigestEntry, peers, *[counters] * 4))
st.register_type_strategy(OwnContents, st.builds(OwnContents, *[counters] * 3, st.binary()))
changes = st.builds(Change, st.binary(), counters, st.none() | st.binary())
st.register_type_strategy(
    OriginDelta,
    st.builds(
        OriginDelta,
        *(peers, counters, counters, st.booleans()),
        *(st.lists(changes).map(tuple), counters, counters),
    ),
)

messages = st.one_of([st.from_type(kind) for kind in KINDS])


def packed(*values: Any) -> bytes:
    data: bytes = msgpack.packb(values)
    return data


def test_kinds_are_distinct() -> None:
    assert len({kind.KIND for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_message_survives_the_trip(kind: Any, data: st.DataObject) -> None:
    message = data.draw(st.from_type(kind))
    arrived = decode(encode(message))
    assert arrived == message
    assert type(arrived) is kind
    assert encode(arrived) == encode(message)


def test_types_survive_the_trip() -> None:
    arrived = decode(encode(Accepted(b"id", PEER, 1, 600)))
    assert isinstance(arrived, Accepted)
    assert type(arrived.executor) is PeerId
    arrived = decode(encode(Syn((DigestEntry(PEER, 1, 2, 3, 4),))))
    assert isinstance(arrived, Syn)
    assert type(arrived.digest[0]) is DigestEntry
    assert type(arrived.digest[0].origin) is PeerId


def test_a_conversation_and_a_raw_prompt_stay_apart() -> None:
    for prompt in ((Turn("user", "hi"),), (), "hi", "", None):
        message = Forward(
            b"id", "demo", None, None, prompt, (), 0, Sampling(), (PEER,), 2, 60_000, 0
        )
        arrived = decode(encode(message))
        assert isinstance(arrived, Forward)
        assert arrived.prompt == prompt
        assert type(arrived.prompt) is type(prompt)


def test_the_longest_prompt_fits() -> None:
    tokens = tuple(range(PROMPT_TOKENS_MAX))
    message = Forward(b"id", "demo", None, tokens, None, (), 0, Sampling(), (PEER,), 2, 60_000, 0)
    assert decode(encode(message)) == message


# --- What a peer may send -----------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_protocol_errors(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode(data)


#: Heads that make a decoder reserve, recurse or call back: arrays, maps, strings, extensions.
TEMPTING = st.sampled_from(
    [
        *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
        *(b"\xdb\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\xff", b"\xd6\xff\x00\x00\x00\x00"),
        *(b"\xc7\x00\xff", b"\x91" * 40, b"\xc1", b"\xc0", b"\xcb\x7f\xf8" + bytes(6), b"\xa1\xff"),
    ]
)


@given(messages, st.data())
def test_mutated_messages_raise_only_protocol_errors(message: Message, data: st.DataObject) -> None:
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        cut = data.draw(st.integers(0, 3))
        raw[at : at + cut] = data.draw(st.one_of(st.binary(max_size=3), TEMPTING))
    try:
        arrived = decode(bytes(raw))
    except RemoteProtocolError:
        return
    assert decode(encode(arrived)) == arrived


@given(messages)
def test_truncated_messages_are_malformed(message: Message) -> None:
    raw = encode(message)
    for end in range(len(raw)):
        with pytest.raises(Malformed):
            decode(raw[:end])


@given(messages, st.binary(min_size=1, max_size=4))
def test_nothing_may_follow_a_message(message: Message, rest: bytes) -> None:
    with pytest.raises(Malformed):
        decode(encode(message) + rest)


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(b"\x91" * 500_000, id="nested"),
        pytest.param(b"\x92\x0a" + b"\x91" * 500_000, id="nested-field"),
        pytest.param(b"\x93\x0a\x90" + b"\xdd\x00\x01\x00\x00" * 100_000, id="nested-skipped"),
        pytest.param(b"\xdd\xff\xff\xff\xff\x01", id="array"),
        pytest.param(b"\x92\x0a\xdd\xff\xff\xff\xff", id="sequence"),
        pytest.param(b"\x92\x1b\xc6\xff\xff\xff\xff", id="bytes"),
        pytest.param(b"\x92\x07\xdb\xff\xff\xff\xff", id="text"),
        pytest.param(b"\x92\x05\xd6\xff\x00\x00\x00\x00", id="timestamp"),
        pytest.param(b"\x92\x05\x80", id="map"),
        pytest.param(b"\x90", id="no-kind"),
        pytest.param(b"\x80", id="map-outside"),
        pytest.param(b"", id="empty"),
    ],
)
def test_hostile_bytes_are_malformed(hostile: bytes) -> None:
    with pytest.raises(Malformed):
        decode(hostile)


def test_too_many_bytes_exceed_the_limit() -> None:
    with pytest.raises(LimitExceeded):
        decode(bytes(MESSAGE_BYTES_MAX + 1))


def test_too_many_items_exceed_the_limit() -> None:
    count = PROMPT_TOKENS_MAX + 1
    head = packed(TokenFrame.KIND, b"id", 0)[1:]
    with pytest.raises(LimitExceeded):
        decode(b"\x95" + head + b"\xdd" + struct.pack(">I", count) + bytes(count) + b"\xa0")
    rows = packed(Batch.KIND, [[b"", 0, [], ""]] * count, [])
    assert len(rows) <= MESSAGE_BYTES_MAX
    with pytest.raises(LimitExceeded):
        decode(rows)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(packed(99, 1), id="unknown kind"),
        pytest.param(packed(True, 1), id="kind true"),
        pytest.param(packed(Ping.KIND, True), id="bool for int"),
        pytest.param(packed(Ping.KIND, 1.0), id="float for int"),
        pytest.param(packed(Ping.KIND, None), id="nil for int"),
        pytest.param(packed(Ping.KIND), id="missing field"),
        pytest.param(packed(Cancel.KIND, "id"), id="text for bytes"),
        pytest.param(packed(Goodbye.KIND, b"id"), id="bytes for text"),
        pytest.param(b"\x92\x07\xa1\xff", id="no UTF-8"),
        pytest.param(packed(Accepted.KIND, b"id", bytes(31), 1, 1), id="short PeerId"),
        pytest.param(packed(TokenFrame.KIND, b"id", 0, [1, "2"], ""), id="text among tokens"),
        pytest.param(packed(TokenFrame.KIND, b"id", 0, [True], ""), id="bool among tokens"),
        pytest.param(packed(TokenFrame.KIND, b"id", 0, 5, ""), id="int for tokens"),
        pytest.param(packed(TokenFrame.KIND, b"id", 0, [[1]], ""), id="array among tokens"),
        *(
            pytest.param(packed(Batch.KIND, [[b"id", 0, *fields]], []), id=f"{fields} in a batch")
            for fields in ([[1, "2"], ""], [[True], ""], [5, ""], [[[1]], ""], [[1], b""], [[1]])
        ),
        pytest.param(packed(22, b"id", 0, math.nan), id="not a number"),
        pytest.param(packed(22, b"id", 0, math.inf), id="infinite"),
        pytest.param(packed(22, b"id", 0, "1"), id="text for float"),
        pytest.param(packed(Syn.KIND, [[PEER, 1, 1]]), id="nested record too short"),
        pytest.param(packed(Syn.KIND, [5]), id="int for nested record"),
    ],
)
def test_wrong_types_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data)


@pytest.mark.parametrize("number", [-1, COUNTER_MAX, 1.0, True])
@pytest.mark.parametrize("field", range(1, 5))
def test_counters_are_bounded(number: Any, field: int) -> None:
    entry: list[Any] = [PEER, 0, 0, 0, 0]
    assert decode(packed(Syn.KIND, [entry])) == Syn((DigestEntry(*entry),))
    entry[field] = number
    with pytest.raises(Malformed):
        decode(packed(Syn.KIND, [entry]))


def test_a_number_without_a_fraction_is_a_float_too() -> None:
    arrived = decode(packed(Begun.KIND, b"id", 0, 3))
    assert isinstance(arrived, Begun)
    assert type(arrived.queue_ms) is float


# --- Growing within a version -------------------------------------------------------------------


@given(st.from_type(DigestEntry))
def test_unknown_trailing_fields_are_skipped(entry: DigestEntry) -> None:
    newer = [*msgpack.unpackb(encode(Syn((entry,))))[1][0], "new", {"nested": [1, 2]}]
    assert decode(packed(Syn.KIND, [newer], "newer")) == Syn((entry,))


def test_missing_fields_with_defaults_are_filled_in() -> None:
    old = [b"id", "demo", None, None, "hi", [], 0, [16, 0.5], [PEER], 2, 1000, 0]
    arrived = decode(packed(Forward.KIND, *old))
    assert isinstance(arrived, Forward)
    assert arrived.sampling == Sampling(max_tokens=16, temperature=0.5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_missing_fields_without_defaults_are_malformed(kind: Any, data: st.DataObject) -> None:
    message = data.draw(st.from_type(kind))
    values = msgpack.unpackb(encode(message), strict_map_key=False)
    required = 1 + (
        len(kind._fields) - len(kind._field_defaults)
        if issubclass(kind, tuple)
        else sum(field.default is MISSING for field in fields(kind))
    )
    with pytest.raises(Malformed):
        decode(packed(*values[: required - 1]))


# --- Our own mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Syn((DigestEntry(PEER, -1, 0, 0, 0),)),
        pytest.param(Ping(2**64), id="beyond 64 bit"),
        pytest.param(Ping(True), id="bool for int"),
        pytest.param(Ping(None), id="nil"),  # type: ignore[arg-type]
        pytest.param(Goodbye("\ud800"), id="surrogate"),
        pytest.param(StreamAck("id", 1), id="text for bytes"),  # type: ignore[arg-type]
        pytest.param(TokenFrame(b"id", 0, ("1",), ""), id="text among tokens"),  # type: ignore[arg-type]
        pytest.param(Batch((BatchedFrame(b"id", 0, (True,), ""),), ()), id="bool in a batch"),
        pytest.param(Batch((TokenFrame(b"id", 0, (1,), ""),), ()), id="another record"),  # type: ignore[arg-type]
        pytest.param(
            Hello((1,), bytes(32), b"", "", (), (), b""),  # type: ignore[arg-type]
            id="bytes for PeerId",
        ),
    ],
)
def test_messages_that_break_their_types_are_our_bug(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        encode(message)


def test_a_message_too_long_is_not_packed() -> None:
    with pytest.raises(LimitExceeded):
        encode(Goodbye("x" * MESSAGE_BYTES_MAX))
