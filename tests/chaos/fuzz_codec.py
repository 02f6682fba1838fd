"""Feeds the codec bytes of all kinds: ``python -m tests.chaos.fuzz_codec [--inputs N] [--jobs N]``.

Nine of ten inputs are messages of every kind, mutated; the others are random. Whatever they are,
`decode` raises nothing but its own errors, what it reads is packed again to a message that is read
alike, and nothing gets longer on the way than a message may be. Each slice of the inputs has a seed
of its own: a failure tells it, with the input, and ``--seed`` repeats it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from overlay.errors import LimitExceeded, RemoteProtocolError
from overlay.identity.peer_id import PeerId
from overlay.limits import MESSAGE_BYTES_MAX
from overlay.wire.anti_entropy import COUNTER_MAX
from overlay.wire.anti_entropy import Counter as WireCounter
from overlay.wire.codec import decode, encode
from overlay.wire.messages import Message

KINDS: Final[tuple[type[Message], ...]] = get_args(Message)

#: Inputs that one seed stands for.
_SLICE_INPUTS: Final = 100_000
_PROGRESS_INPUTS: Final = 1_000_000
#: Messages are made anew after so many inputs: to make one takes longer than to mutate one.
_CORPUS_INPUTS: Final = 20_000
_CORPUS_MESSAGES: Final = 400
_RANDOM_SHARE: Final = 0.1
_RANDOM_BYTES_MAX: Final = 64
_MUTATIONS: Final = (1, 1, 1, 2, 4)
_ITEMS_MAX: Final = 4

#: Heads that make a decoder reserve, recurse or call back; numbers at the edges.
_TEMPTING: Final = (
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdc\xff\xff"),
    *(b"\xdb\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\xff", b"\xd6\xff\x00\x00\x00\x00", b"\x80"),
    *(b"\xc7\x00\xff", b"\x91" * 40, b"\x81\x81", b"\xc1", b"\xc0", b"\xc2", b"\xc3", b"\xa1\xff"),
    *(b"\xcb\x7f\xf8" + bytes(6), b"\xca\x7f\x80\x00\x00", b"\xcf" + b"\xff" * 8, b"\x90", b"\xa0"),
    *(b"\xd3\x80" + bytes(7), b"\xcf\x40" + bytes(7), b"\xc4\x20" + bytes(32), b"\xff", b"\x00"),
)


def valid_messages(rng: random.Random, count: int) -> list[Message]:
    """Messages of every kind, their fields drawn at random from what the annotations allow."""
    return [_value(rng, KINDS[number % len(KINDS)]) for number in range(count)]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The data with some bytes flipped, cut out, put in, doubled or swapped for tempting ones."""
    raw = bytearray(data)
    for _ in range(rng.choice(_MUTATIONS)):
        at = rng.randint(0, len(raw))
        match rng.randrange(10):
            case 0:
                del raw[at : at + rng.randint(1, 8)]
            case 1:
                raw[at:at] = rng.randbytes(rng.randint(1, 4))
            case 2:
                raw[at : at + rng.randint(0, 5)] = rng.choice(_TEMPTING)
            case 3:
                raw[at:at] = raw[at : at + rng.randint(1, 64)]
            case 4:
                del raw[at:]
            case _ if at < len(raw):
                raw[at] ^= 1 << rng.randrange(8)
    return bytes(raw)


def inputs(rng: random.Random) -> Iterator[bytes]:
    """Endless."""
    while True:
        corpus = [encode(message) for message in valid_messages(rng, _CORPUS_MESSAGES)]
        yield from corpus
        for _ in range(_CORPUS_INPUTS - len(corpus)):
            if rng.random() < _RANDOM_SHARE:
                yield rng.randbytes(rng.randint(0, _RANDOM_BYTES_MAX))
            else:
                yield mutated(rng, rng.choice(corpus))


def check(data: bytes) -> str:
    """What became of the input: the name of a message's kind or of an error.

    Raises AssertionError, or what the codec should not have raised.
    """
    try:
        message = decode(data)
    except RemoteProtocolError as error:
        return type(error).__name__
    assert len(data) <= MESSAGE_BYTES_MAX, "too long a message was read"
    try:
        again = encode(message)
    except LimitExceeded:
        # Read from shorter forms than it is packed in: numbers as floats, say.
        return "grew too long"
    assert decode(again) == message, "read otherwise the second time"
    return type(message).__name__


def fuzz(seed: int, count: int) -> Counter[str]:
    """What became of so many inputs. Raises `AssertionError` with the input that failed."""
    found: Counter[str] = Counter()
    source = inputs(random.Random(seed))
    for _ in range(count):
        data = next(source)
        try:
            found[check(data)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {data.hex()}: {error!r}") from error
    return found


def _value(rng: random.Random, annotation: Any) -> Any:
    """A value that the annotation allows."""
    if (scalar := _SCALARS.get(annotation)) is not None:
        return scalar(rng)
    if isinstance(annotation, UnionType):
        return _value(rng, rng.choice(get_args(annotation)))
    if get_origin(annotation) is tuple:
        *items, last = get_args(annotation)
        if last is Ellipsis:
            return tuple(_value(rng, items[0]) for _ in range(rng.randint(0, _ITEMS_MAX)))
        return tuple(_value(rng, item) for item in (*items, last))
    hints = get_type_hints(annotation, include_extras=True)
    names = [f.name for f in fields(annotation)] if is_dataclass(annotation) else annotation._fields
    return annotation(*(_value(rng, hints[name]) for name in names))


_EDGES: Final = (0, 1, -1, 31, 32, 127, 128, 255, 256, 65535, 65536, 1 << 31, 1 << 32, -(1 << 63))

_SCALARS: Final[dict[Any, Callable[[random.Random], Any]]] = {
    NoneType: lambda rng: None,
    bool: lambda rng: rng.random() < 0.5,
    int: lambda rng: rng.choice((*_EDGES, (1 << 64) - 1, rng.getrandbits(40))),
    float: lambda rng: rng.choice((0.0, -1.5, 1e308, rng.random())),
    str: lambda rng: rng.choice(("", "demo", "Käse", "\x1b[2J", "x" * 40)),
    bytes: lambda rng: rng.randbytes(rng.choice((0, 1, 9, 16, 32, 64))),
    PeerId: lambda rng: PeerId(rng.randbytes(32)),
    WireCounter: lambda rng: rng.choice((0, 1, COUNTER_MAX - 1, rng.getrandbits(61))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="tests.chaos.fuzz_codec")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    slices = -(-options.inputs // _SLICE_INPUTS)
    seeds = range(options.seed, options.seed + slices)
    begun = time.monotonic()
    found: Counter[str] = Counter()
    with multiprocessing.Pool(options.jobs) as pool:
        for outcomes in pool.imap_unordered(_fuzz_slice, seeds):
            found += outcomes
            if found.total() % _PROGRESS_INPUTS == 0:
                seconds = time.monotonic() - begun
                print(f"{found.total():,} of {slices * _SLICE_INPUTS:,} inputs in {seconds:.0f} s")
    for outcome, times in found.most_common():
        print(f"{times:>12,}  {outcome}")
    print("none did harm")


def _fuzz_slice(seed: int) -> Counter[str]:
    return fuzz(seed, _SLICE_INPUTS)


if __name__ == "__main__":
    main()
