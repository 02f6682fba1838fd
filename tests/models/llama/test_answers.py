"""What the memory of answers keeps, and what it forgets."""

from __future__ import annotations

import pytest

from models.llama import answers
from models.llama.answers import AnswerMemory
from overlay.limits import ANSWERS_PER_PROMPT_MAX

CONTROL = 200


def piece(token: int) -> bytes | None:
    """Tokens are bytes, but for one."""
    return None if token == CONTROL else bytes([token])


@pytest.fixture
def memory() -> AnswerMemory:
    return AnswerMemory(piece)


def test_the_newest_of_equal_answers_is_taken(memory: AnswerMemory) -> None:
    memory.note_prompt("prompt", (1, 2))
    for answer in (b"one two", b"one two three"):
        memory.note_answer((1, 2), tuple(answer))
    assert memory.beginning("prompt", "one") == (1, 2, *b"one")
    assert memory.beginning("prompt", "one two") == (1, 2, *b"one two")
    assert memory.beginning("prompt", "one two four") is None
    assert memory.beginning("other", "one two") is None


def test_of_two_texts_with_the_same_tokens_the_latest_is_answered(memory: AnswerMemory) -> None:
    for text in ("a b", "a\u2581b", "a b"):
        memory.note_prompt(text, (1, 2))
    memory.note_answer((1, 2), tuple(b"one"))
    assert memory.beginning("a b", "one") == (1, 2, *b"one")
    assert memory.size == 2 * 2 + 3


def test_only_what_begins_alike_is_looked_up(memory: AnswerMemory) -> None:
    memory.note_prompt("prompt", (1, 2))
    memory.note_answer((1, 2), tuple(b" Good morning to you"))
    assert memory.may_know("Good morning")
    assert not memory.may_know("Good evening")


def test_an_answer_to_an_unknown_prompt_is_nothing_to_keep(memory: AnswerMemory) -> None:
    memory.note_answer((1, 2), (3,))
    memory.note_answer((2**40,), (3,))
    assert memory.size == 0


def test_half_a_character_is_no_end(memory: AnswerMemory) -> None:
    memory.note_prompt("prompt", (1,))
    memory.note_answer((1,), tuple("aé".encode()))
    assert memory.beginning("prompt", "a") == (1, *b"a")
    memory.note_answer((1,), tuple("bé".encode()[:2]))
    assert memory.beginning("prompt", "b\N{REPLACEMENT CHARACTER}") == (1, *"bé".encode()[:2])
    assert memory.beginning("prompt", "") is None


def test_to_note_an_answer_only_its_beginning_is_read() -> None:
    read: list[int] = []

    def counted(token: int) -> bytes | None:
        read.append(token)
        return piece(token)

    memory = AnswerMemory(counted)
    memory.note_prompt("prompt", (1,))
    memory.note_answer((1,), tuple(b" " * 100_000))
    assert len(read) < 100
    assert memory.beginning("prompt", "something else") is None
    assert len(read) < 200


def test_with_control_tokens_it_is_no_text(memory: AnswerMemory) -> None:
    memory.note_prompt("prompt", (1,))
    memory.note_answer((1,), (65, CONTROL, 66))
    assert memory.beginning("prompt", "AB") is None
    assert memory.beginning("prompt", "A") == (1, 65)


def test_a_prompt_has_a_few_answers(memory: AnswerMemory) -> None:
    memory.note_prompt("prompt", (1,))
    for n in range(ANSWERS_PER_PROMPT_MAX + 1):
        memory.note_answer((1,), (65 + n, 65))
    assert memory.beginning("prompt", "AA") is None
    assert memory.beginning("prompt", "BA") == (1, 66, 65)
    assert memory.size == 1 + 2 * ANSWERS_PER_PROMPT_MAX


def test_what_was_used_longest_ago_is_forgotten(
    memory: AnswerMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "REMEMBERED_TOKENS_MAX", 20)
    for n in range(4):
        memory.note_prompt(f"prompt {n}", (n,))
        memory.note_answer((n,), (65, 66, 67, 68))
    assert memory.size == 20
    assert memory.beginning("prompt 0", "ABCD") is not None
    memory.note_prompt("prompt 4", (4,))
    assert memory.beginning("prompt 1", "ABCD") is None
    assert memory.beginning("prompt 0", "ABCD") is not None
    memory.note_prompt("long", tuple(range(21)))
    assert memory.size == 0
    assert not memory.may_know("ABCD")


def test_a_text_that_is_forgotten_takes_no_answer_from_a_later_one_with_its_tokens(
    memory: AnswerMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "REMEMBERED_TOKENS_MAX", 6)
    for text in ("a b", "a\u2581b"):
        memory.note_prompt(text, (1, 2))
    memory.note_prompt("other", (3, 4, 5))
    memory.note_answer((1, 2), (65,))
    assert memory.beginning("a\u2581b", "A") == (1, 2, 65)
