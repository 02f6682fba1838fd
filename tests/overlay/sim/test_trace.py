from __future__ import annotations

import gzip
import json
import os
import pickle
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.errors import ConfigError
from overlay.sim.trace import CONVERSATION_REQUESTS_MAX, HASHED_TOKENS, Trace, parse, read
from overlay.sim.workload import Session

ids = st.lists(st.integers(0, 2**40), min_size=1, max_size=4)


def line(hash_ids: list[int], *, at_ms: float = 0, last: int = HASHED_TOKENS, out: int = 5) -> str:
    length = (len(hash_ids) - 1) * HASHED_TOKENS + last
    fields = {"timestamp": at_ms, "input_length": length, "output_length": out}
    return json.dumps({**fields, "hash_ids": hash_ids}) + "\n"


def written(folder: Path, *lines: str, name: str = "trace.jsonl") -> Path:
    path = folder / name
    data = "".join(lines).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def sessions(path: Path, *, nodes: int = 4, rate_per_s: float = 1.0) -> list[Session]:
    made = Trace.opened(path).sessions(random.Random(1), nodes=nodes, rate_per_s=rate_per_s)
    return list(made)


@settings(max_examples=30, deadline=None)
@given(requests=st.lists(st.tuples(ids, st.integers(1, HASHED_TOKENS), st.integers(1, 9))))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[list[int], int, int]]
) -> None:
    lines = [
        line(hash_ids, at_ms=100 * n, last=last, out=out)
        for n, (hash_ids, last, out) in enumerate(requests)
    ]
    path = written(tmp_path_factory.mktemp("trace"), *lines)
    for request, (hash_ids, last, out) in zip(read(path), requests, strict=True):
        assert request.hash_ids == tuple(hash_ids)
        assert request.input_tokens == (len(hash_ids) - 1) * HASHED_TOKENS + last
        assert request.output_tokens == out


@settings(max_examples=30, deadline=None)
@given(one=ids, other=ids)
def test_equal_ids_are_equal_tokens(
    tmp_path_factory: pytest.TempPathFactory, one: list[int], other: list[int]
) -> None:
    path = written(tmp_path_factory.mktemp("trace"), line(one), line(other, last=100))
    first, second = (session.turns[0].prompt for session in sessions(path))
    assert len(first) == len(one) * HASHED_TOKENS
    assert len(second) == (len(other) - 1) * HASHED_TOKENS + 100
    for depth in range(0, min(len(first), len(second)), HASHED_TOKENS):
        piece = slice(depth, min(depth + HASHED_TOKENS, len(first), len(second)))
        block = depth // HASHED_TOKENS
        assert (first[piece] == second[piece]) == (one[block] == other[block])


def test_the_rate_is_the_one_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, *(line([n], at_ms=5000 + 40 * n) for n in range(101)))
    times = [session.at_s for session in sessions(path, rate_per_s=2.0)]
    assert times == pytest.approx([n / 2 for n in range(101)])


def test_requests_of_one_moment(tmp_path: Path) -> None:
    path = written(tmp_path, line([1], at_ms=7), line([2], at_ms=7))
    assert [session.at_s for session in sessions(path)] == [0, 0]


def test_a_conversation_stays_at_its_origin_and_others_spread(tmp_path: Path) -> None:
    # Everybody has block 0; each of 200 conversations goes on for three turns.
    many = range(1, 2 * CONVERSATION_REQUESTS_MAX)
    lines = [
        line([0, 1000 * talk, *(1000 * talk + k for k in range(1, turn + 1))], at_ms=turn)
        for turn in range(3)
        for talk in many
    ]
    made = sessions(written(tmp_path, *lines))
    thirds = [made[at :: len(many)] for at in range(len(many))]
    assert all(len({session.origin for session in talk}) == 1 for talk in thirds)
    assert min(Counter(session.origin for session in made).values()) > len(made) / 8


def test_the_seed_says_which_conversation_is_where(tmp_path: Path) -> None:
    trace = Trace.opened(written(tmp_path, *(line([n]) for n in range(40))))
    one, again, other = (
        [s.origin for s in made.sessions(random.Random(seed), nodes=4, rate_per_s=1)]
        for made, seed in ((trace, 1), (pickle.loads(pickle.dumps(trace)), 1), (trace, 2))
    )
    assert one == again != other


def test_compressed_files_and_empty_lines(tmp_path: Path) -> None:
    plain = written(tmp_path, line([1, 2]), "\n", line([3]))
    packed = written(tmp_path, line([1, 2]), "\n", line([3]), name="trace.jsonl.gz")
    assert sessions(plain) == sessions(packed)
    assert Trace.opened(packed).name == str(packed)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("9" * 5_000, "no JSON"),
        ("[]", "no JSON object"),
        ("{}", "no timestamp"),
        (line([1]).replace("0,", '"now",', 1), "timestamp must be a number"),
        (line([1], at_ms=-1), "timestamp must be a number"),
        (line([1], at_ms=float("nan")), "timestamp must be a number"),
        (line([1]).replace("512", "512.0"), "input_length must be a whole number from 1"),
        (line([1], last=0), "input_length must be"),
        (line([1], out=-1), "output_length must be"),
        (line([1]).replace("[1]", '"1"'), "hash_ids must be a list"),
        (line([1]).replace("[1]", "[true]"), "hash_ids must be a list"),
        (line([1]).replace("[1]", "[-1]"), "hash_ids must be a list"),
        (
            line([1, 2]).replace("[1, 2]", "[1]"),
            "input_length 1024 makes 2 blocks of 512 tokens, but there are 1 hash_ids",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(bad)
    path = written(tmp_path, line([1]), "\n", bad)
    with pytest.raises(ConfigError) as caught:
        Trace.opened(path)
    assert str(caught.value).startswith(f"{path}, line 3: {message}")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "trace.jsonl")
    with pytest.raises(ConfigError, match="is no file: a trace is read more than once"):
        Trace.opened(tmp_path / "trace.jsonl")


def test_lines_out_of_order_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, line([1], at_ms=5), line([1], at_ms=4))
    with pytest.raises(ConfigError, match=r"line 2: timestamp is earlier .*: sort the file"):
        Trace.opened(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.jsonl", b"", "has no requests"),
        ("bytes.jsonl", b"\xff\xfe\x00", "after line 0: this is no text"),
        ("plain.gz", b"{}", "cannot read .*plain.gz: Not a gzipped file"),
        ("short.gz", gzip.compress(line([1]).encode())[:-12], "the file is cut off"),
        ("odd.gz", gzip.compress(b"")[:10] + b"\xff" * 20, "cannot read .*odd.gz"),
    ],
)
def test_what_is_no_trace_is_said(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        Trace.opened(path)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.jsonl"):
        with pytest.raises(ConfigError, match="cannot read"):
            Trace.opened(path)
