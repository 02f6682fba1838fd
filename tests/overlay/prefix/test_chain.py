from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.prefix.chain import BLOCK_TOKENS, block_hashes, extend, root_hash

SECRET, MODEL = b"s" * 32, b"m" * 16
GOLDEN = (0xB640F01EDCBE4CDC, 0x70B263857CECF89E)
tokens = st.lists(st.integers(0, 2**32 - 1), max_size=5 * BLOCK_TOKENS)


@given(tokens)
def test_hashing_a_prompt_is_extending_block_by_block(prompt: list[int]) -> None:
    parent = root_hash(SECRET, MODEL)
    expected = []
    for start in range(0, len(prompt) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        parent = extend(SECRET, parent, prompt[start : start + BLOCK_TOKENS])
        expected.append(parent)
    assert block_hashes(SECRET, MODEL, prompt) == tuple(expected)


@given(tokens, tokens)
def test_prompts_share_hashes_exactly_as_far_as_they_share_blocks(
    a: list[int], b: list[int]
) -> None:
    b = a[: len(a) // 2] + b
    shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if shared is None:
        shared = min(len(a), len(b))
    pairs = zip(block_hashes(SECRET, MODEL, a), block_hashes(SECRET, MODEL, b), strict=False)
    same = [x == y for x, y in pairs]
    assert same == [i < shared // BLOCK_TOKENS for i in range(len(same))]


def test_the_value_is_fixed_for_the_wire() -> None:
    """A change here makes every hash of older nodes miss."""
    assert block_hashes(SECRET, MODEL, range(2 * BLOCK_TOKENS)) == GOLDEN


def test_secret_and_model_key_separate_meshes_and_models() -> None:
    prompt = range(BLOCK_TOKENS)
    hashes = {
        block_hashes(secret, model, prompt)
        for secret in (SECRET, b"t" * 32)
        for model in (MODEL, b"n" * 16)
    }
    assert len(hashes) == 4


@pytest.mark.parametrize("block", [[0] * 31, [0] * 33, [0] * 31 + [-1], [0] * 31 + [2**32]])
def test_only_whole_blocks_of_real_tokens_are_hashed(block: list[int]) -> None:
    with pytest.raises(ValueError, match="token"):
        extend(SECRET, 0, block)
