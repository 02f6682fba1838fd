"""Feeds the codec what leads to code that no input has reached: libFuzzer, by way of atheris.

    pip install -e '.[fuzz]'
    python -m tests.chaos.fuzz_codec_guided [-runs=N] [-max_total_time=SECONDS] [CORPUS]

What must hold of an input is the same as in `tests.chaos.fuzz_codec`, where inputs are drawn at
random; here those that reach new code are kept, and mutated further. The options are libFuzzer's.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["overlay.wire"]):
    from overlay.wire.codec import encode
    from tests.chaos.fuzz_codec import check, mutated, valid_messages

_SEEDS = 1000


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """By turns libFuzzer's way, which knows what was compared, and ours, which knows msgpack."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        guided: bytes = atheris.Mutate(data, max_size)
        return guided
    return mutated(rng, data)[:max_size]


def main() -> None:
    with tempfile.TemporaryDirectory() as seeds:
        for number, message in enumerate(valid_messages(random.Random(1), _SEEDS)):
            Path(seeds, str(number)).write_bytes(encode(message))
        options = sys.argv[1:]
        atheris.Setup([sys.argv[0], *options, seeds], check, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
