"""The digest of the probes tells tokenizers apart, and says the same of the same ones."""

from __future__ import annotations

import pytest

from models.engine import Message, Prompt, Tokens
from models.probes import PROBE_DIGEST_BYTES, PROBES, probe_digest
from overlay.errors import InvalidRequest


def by_bytes(prompt: Prompt) -> Tokens:
    """A toy: one token for each byte."""
    if not isinstance(prompt, str):
        prompt = "".join(f"[{turn.role}]{turn.content}" for turn in prompt)
    return tuple(prompt.encode())


def test_the_digest_is_that_of_the_protocol() -> None:
    """It must never change: nodes of different versions compare it."""
    assert probe_digest(by_bytes).hex() == "f3e03c424ec8db042356fcacfc3bc97f"
    assert len(probe_digest(by_bytes)) == PROBE_DIGEST_BYTES


@pytest.mark.parametrize("odd", range(len(PROBES)))
def test_one_probe_that_differs_is_enough(odd: int) -> None:
    def begins_otherwise(prompt: Prompt) -> Tokens:
        tokens = by_bytes(prompt)
        return (1, *tokens) if prompt == PROBES[odd] else tokens

    assert probe_digest(begins_otherwise) != probe_digest(by_bytes)


def test_where_one_prompt_ends_and_the_next_begins_counts() -> None:
    def shifted(prompt: Prompt) -> Tokens:
        """The same tokens in a row, cut elsewhere."""
        tokens = by_bytes(prompt)
        if prompt == PROBES[1]:
            return tokens[:-1]
        return (by_bytes(PROBES[1])[-1], *tokens) if prompt == PROBES[2] else tokens

    assert probe_digest(shifted) != probe_digest(by_bytes)


def test_to_reject_the_same_conversations_is_to_agree() -> None:
    def without_system(prompt: Prompt) -> Tokens:
        if not isinstance(prompt, str) and prompt[0].role == "system":
            raise InvalidRequest("no system role here")
        return by_bytes(prompt)

    def in_other_words(prompt: Prompt) -> Tokens:
        try:
            return without_system(prompt)
        except InvalidRequest:
            raise InvalidRequest("system messages are not supported") from None

    assert probe_digest(without_system) == probe_digest(in_other_words)
    assert probe_digest(without_system) != probe_digest(by_bytes)


def test_probes_are_both_kinds_of_prompts() -> None:
    assert any(isinstance(probe, str) for probe in PROBES)
    assert (Message("user", "Hi"),) in PROBES
    assert len(set(PROBES)) == len(PROBES)
