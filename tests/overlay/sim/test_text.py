from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.prefix.chain import BLOCK_TOKENS
from overlay.sim.text import VOCABULARY, block, name_of, text

names = st.integers(0, 2**108 - 1)


@given(names, st.integers(0, 300), st.integers(0, 300))
def test_a_shorter_text_begins_a_longer_one(name: int, one: int, other: int) -> None:
    short, long = sorted((one, other))
    assert text(name, long)[:short] == text(name, short)
    assert len(text(name, long)) == long


@given(names, names)
def test_texts_differ_in_every_block(one: int, other: int) -> None:
    tokens = text(one, 4 * BLOCK_TOKENS) + text(other, 4 * BLOCK_TOKENS)
    blocks = {tokens[at : at + BLOCK_TOKENS] for at in range(0, len(tokens), BLOCK_TOKENS)}
    assert len(blocks) == (4 if one == other else 8)


@given(st.integers(0, 2**128 - 1))
def test_a_block_is_the_same_every_time(number: int) -> None:
    first = block(number)
    block.cache_clear()
    assert block(number) == first
    assert len(first) == BLOCK_TOKENS
    assert all(0 <= token < VOCABULARY for token in first)


def test_these_tokens_stay_the_same_in_later_versions() -> None:
    assert block(0)[:4] == (7539, 4656, 5887, 17672)
    assert name_of("zipf", 7) == 5982558246571075582


@pytest.mark.parametrize("tokens", [-1, 1 + (32 << 20)])
def test_no_text_is_longer_than_its_blocks_have_numbers(tokens: int) -> None:
    with pytest.raises(ValueError, match="tokens"):
        text(0, tokens)
