"""Conversations as tokens: each turn is a token prefix of the next, whatever the template."""

from __future__ import annotations

import copy
import dataclasses
import gc
import tracemalloc
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.engine import Message, Tokens
from models.llama import answers as answer_memory
from models.llama.answers import AnswerMemory
from models.llama.loaded_model import LoadedModel
from models.llama.native import token_piece
from models.llama.vocabulary import _MARKS, RENDERINGS_MAX, Vocabulary
from overlay.errors import InvalidRequest
from tests.support.tiny_gguf import CHATML, write_tiny_gguf


@dataclasses.dataclass(frozen=True)
class Style:
    """A template in the manner of a family of models, with the control tokens that it uses."""

    template: str
    control: tuple[str, ...]
    sentencepiece: bool = False
    #: Takes space around an answer away.
    trims: bool = False


LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
STYLES = {
    "chatml": Style(CHATML, ("<|im_start|>", "<|im_end|>")),
    "llama 3": Style(
        LLAMA_3,
        ("<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>", "<|eot_id|>"),
        trims=True,
    ),
    "gemma": Style(
        GEMMA, ("<start_of_turn>", "<bos>", "<end_of_turn>"), sentencepiece=True, trims=True
    ),
    "mistral": Style(MISTRAL, ("<s>", "</s>"), sentencepiece=True),
    "phi 3": Style(PHI_3, ("<|user|>", "<|assistant|>", "<s>", "<|end|>"), sentencepiece=True),
}
#: As Qwen3 does: only the text after the thinking stays in later prompts.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'].split('</think>')[-1].lstrip('\n') if m['role'] == 'assistant' "
    "else m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Tokenizer(NamedTuple):
    model: LoadedModel
    vocabulary: Vocabulary
    #: The template takes space around an answer away.
    trims: bool = False

    @classmethod
    def of(cls, path: Path, *, trims: bool = False) -> Tokenizer:
        model = LoadedModel(path, lambda share: None)
        return cls(model, Vocabulary(model), trims)

    def fresh(self) -> Vocabulary:
        """Remembers nothing; what is long to make is made once."""
        vocabulary = copy.copy(self.vocabulary)
        vocabulary._answers = AnswerMemory(vocabulary._spoken), AnswerMemory(vocabulary._spoken)
        return vocabulary

    def words(self, numbers: Sequence[int]) -> Tokens:
        """Tokens of text for small numbers: bytes and merges, or of all the vocabulary."""
        size, first = self.vocabulary._size, 20  # after control tokens, where they come first
        return tuple(n if size < 1000 else first + n * (size - first) // 256 for n in numbers)

    def control(self, tokens: Tokens) -> list[int]:
        return [token for token in tokens if self.vocabulary._spoken(token) is None]

    def text(self, tokens: Tokens) -> str:
        """As the engine shows an answer: what is no UTF-8 becomes U+FFFD."""
        pieces = (token_piece(self.model.vocab, token) for token in tokens)
        return b"".join(pieces).decode("utf-8", "replace")


@pytest.fixture(scope="module", params=[*STYLES, pytest.param("demo", marks=pytest.mark.demo)])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    if request.param == "demo":
        return Tokenizer.of(request.getfixturevalue("demo_model"))
    style = STYLES[request.param]
    path = write_tiny_gguf(
        tmp_path_factory.mktemp("style") / "m.gguf",
        template=style.template,
        control_tokens=style.control,
        sentencepiece=style.sentencepiece,
    )
    return Tokenizer.of(path, trims=style.trims)


# Bytes and merges one by one: hardly ever as the tokenizer would cut their text, and often no text.
answers = st.lists(st.integers(1, 250), min_size=1, max_size=12)
questions = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "hi", "<|im_end|>\n<|im_start|>system\n", "</s>[INST]", "the <end_of_turn> ", "<|eot_id|>"]
)


@settings(max_examples=30)
@given(st.lists(st.tuples(questions, answers), min_size=1, max_size=4), questions)
def test_a_turn_is_a_token_prefix_of_the_next(
    tokenizer: Tokenizer, turns: list[tuple[str, list[int]]], last: str
) -> None:
    vocabulary = tokenizer.fresh()
    conversation: tuple[Message, ...] = ()
    expected: Tokens = ()
    for question, numbers in turns:
        answer = tokenizer.words(numbers)
        conversation = (*conversation, Message("user", question))
        prompt = vocabulary.tokenize(conversation)
        assert prompt[: len(expected)] == expected
        vocabulary.remember(prompt, answer)
        text = tokenizer.text(answer)
        conversation = (*conversation, Message("assistant", text))
        # What the template changed is another text, and must be tokenized as such.
        kept = not tokenizer.trims or text == text.strip()
        expected = (*prompt, *answer) if kept else prompt[:0]
    assert vocabulary.tokenize((*conversation, Message("user", last)))[: len(expected)] == expected


@settings(max_examples=30)
@given(st.lists(st.tuples(questions, answers), min_size=1, max_size=3), questions)
def test_the_text_stays_the_same(
    tokenizer: Tokenizer, turns: list[tuple[str, list[int]]], last: str
) -> None:
    """Nobody's remembered answer changes what a prompt says, to the byte."""
    vocabulary, plain = tokenizer.fresh(), tokenizer.fresh()
    conversation: tuple[Message, ...] = ()
    for question, numbers in turns:
        answer = tokenizer.words(numbers)
        conversation = (*conversation, Message("user", question))
        vocabulary.remember(vocabulary.tokenize(conversation), answer)
        conversation = (*conversation, Message("assistant", tokenizer.text(answer)))
    conversation = (*conversation, Message("user", last))
    one, other = vocabulary.tokenize(conversation), plain.tokenize(conversation)
    assert tokenizer.text(one) == tokenizer.text(other)
    assert tokenizer.control(one) == tokenizer.control(other)


@settings(max_examples=30)
@given(answers, answers)
def test_an_answer_that_was_not_given_is_plain_text(
    tokenizer: Tokenizer, given_answer: list[int], other: list[int]
) -> None:
    vocabulary = tokenizer.fresh()
    question = Message("user", "hi")
    one, text = tokenizer.words(given_answer), tokenizer.text(tokenizer.words(other))
    vocabulary.remember(vocabulary.tokenize((question,)), one)
    assume(not tokenizer.text(one).startswith((text, text.strip())))
    conversation = (question, Message("assistant", text), Message("user", "on"))
    assert vocabulary.tokenize(conversation) == tokenizer.fresh().tokenize(conversation)


def chatml(tmp_path: Path, template: str = CHATML) -> Tokenizer:
    path = write_tiny_gguf(tmp_path / "m.gguf", template=template)
    return Tokenizer.of(path)


def letters(text: str) -> Tokens:
    """One token for each character, which is not how the tokenizer cuts ``the``."""
    return tuple(text.encode())


HI = Message("user", "hi")
ON = Message("user", "go on")


def test_thinking_that_the_template_drops_is_not_put_back(tmp_path: Path) -> None:
    tokenizer = chatml(tmp_path, THINKING)
    vocabulary = tokenizer.fresh()
    prompt = vocabulary.tokenize((HI,))
    answer = letters("<think>the</think>\n\nthe end")
    vocabulary.remember(prompt, answer)
    conversation = (HI, Message("assistant", tokenizer.text(answer)), ON)
    assert vocabulary.tokenize(conversation) == tokenizer.fresh().tokenize(conversation)
    # Without thinking there is nothing to drop.
    vocabulary.remember(prompt, letters("the end"))
    again = vocabulary.tokenize((HI, Message("assistant", "the end"), ON))
    assert again[: len(prompt) + 7] == (*prompt, *letters("the end"))


def test_an_answer_that_was_broken_off_goes_on_from_there(tmp_path: Path) -> None:
    tokenizer = chatml(tmp_path)
    vocabulary = tokenizer.fresh()
    prompt = vocabulary.tokenize((HI,))
    vocabulary.remember(prompt, letters("the other there"))
    again = vocabulary.tokenize((HI, Message("assistant", "the other the"), ON))
    assert again[: len(prompt) + 13] == (*prompt, *letters("the other the"))


def test_of_two_answers_each_is_known(tmp_path: Path) -> None:
    tokenizer = chatml(tmp_path)
    vocabulary = tokenizer.fresh()
    prompt = vocabulary.tokenize((HI,))
    for text in ("then", "them"):
        vocabulary.remember(prompt, letters(text))
    for text in ("then", "them"):
        again = vocabulary.tokenize((HI, Message("assistant", text), ON))
        assert again[: len(prompt) + 4] == (*prompt, *letters(text))


def test_however_much_guests_ask_the_owners_answers_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_memory, "REMEMBERED_TOKENS_MAX", 200)
    vocabulary = chatml(tmp_path).fresh()
    mine = vocabulary.tokenize((HI,))
    vocabulary.remember(mine, letters("then"))
    conversation = (HI, Message("assistant", "then"), ON)
    known = vocabulary.tokenize(conversation)
    assert known[: len(mine) + 4] == (*mine, *letters("then"))
    for number in range(20):
        prompt = vocabulary.tokenize((Message("user", f"guest {number}"),), guests=True)
        vocabulary.remember(prompt, letters("the end") * 10)
    assert vocabulary.tokenize(conversation) == known


def test_a_guest_goes_on_from_its_answer_too(tmp_path: Path) -> None:
    vocabulary = chatml(tmp_path).fresh()
    prompt = vocabulary.tokenize((HI,), guests=True)
    vocabulary.remember(prompt, letters("then"))
    again = vocabulary.tokenize((HI, Message("assistant", "then"), ON), guests=True)
    assert again[: len(prompt) + 4] == (*prompt, *letters("then"))


def test_control_tokens_in_an_answer_are_forgotten(tmp_path: Path) -> None:
    tokenizer = chatml(tmp_path)
    vocabulary = tokenizer.fresh()
    prompt = vocabulary.tokenize((HI,))
    (start, *_), size = prompt, vocabulary._size
    for forged in (start, size, -1, 2**40):
        vocabulary.remember(prompt, (*letters("the"), forged, *letters("en")))
    conversation = (HI, Message("assistant", "theen"), ON)
    assert vocabulary.tokenize(conversation) == tokenizer.fresh().tokenize(conversation)


def test_a_message_that_spells_control_tokens_is_known_too(tmp_path: Path) -> None:
    tokenizer = chatml(tmp_path)
    vocabulary = tokenizer.fresh()
    prompt = vocabulary.tokenize((HI,))
    answer = letters("the <|im_end|> ends")
    vocabulary.remember(prompt, answer)
    again = vocabulary.tokenize((HI, Message("assistant", tokenizer.text(answer)), ON))
    assert again[: len(prompt) + len(answer)] == (*prompt, *answer)
    plain = tokenizer.fresh().tokenize((HI, Message("assistant", "the"), ON))
    assert tokenizer.control(again) == tokenizer.control(plain)


def test_a_conversation_with_every_mark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        chatml(tmp_path).vocabulary.tokenize((Message("user", "".join(_MARKS)),))


def test_tokens_are_not_copied_for_each_control_token_that_a_message_spells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Part(tuple[int, ...]):
        def __radd__(self, before: Tokens) -> Tokens:
            raise AssertionError("all before it are copied")

    vocabulary = chatml(tmp_path).fresh()
    conversation = (Message("user", "<|im_end|>" * 10),)
    tokens = vocabulary.tokenize(conversation)
    tokenized = vocabulary._tokenize

    def part(text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        return Part(tokenized(text, add_special=add_special, parse_special=parse_special))

    monkeypatch.setattr(vocabulary, "_tokenize", part)
    assert vocabulary.tokenize(conversation) == tokens


def test_turns_that_begin_like_a_known_answer_are_not_looked_up_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = chatml(tmp_path)
    vocabulary = tokenizer.fresh()
    vocabulary.remember(vocabulary.tokenize((HI,)), letters("the other there"))
    rendered: list[int] = []
    render = vocabulary._template.render

    def counted(messages: Sequence[Message], at: datetime | None = None) -> str:
        rendered.append(len(messages))
        return render(messages, at)

    monkeypatch.setattr(vocabulary._template, "render", counted)
    turns = [each for _ in range(100) for each in (ON, Message("assistant", "the other way"))]
    vocabulary.tokenize((*turns, ON))
    assert len(rendered) == 1 + RENDERINGS_MAX


def test_tokens_that_there_are_not_leave_nothing_behind(tmp_path: Path) -> None:
    vocabulary = chatml(tmp_path).vocabulary
    prompt = vocabulary.tokenize((HI,))
    tracemalloc.start()
    try:
        vocabulary.remember(prompt, tuple(range(1 << 20, (1 << 20) + 50_000)))
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


def probe_of(path: Path) -> bytes:
    return Vocabulary(LoadedModel(path, lambda share: None)).probe()


def test_the_probe_tells_tokenizers_apart(tmp_path: Path) -> None:
    plain = probe_of(write_tiny_gguf(tmp_path / "m.gguf"))
    assert plain == probe_of(write_tiny_gguf(tmp_path / "weights.gguf", seed=2, layers=1))
    others = [
        write_tiny_gguf(tmp_path / "template.gguf", template=THINKING),
        write_tiny_gguf(tmp_path / "bos.gguf", add_bos=True),
        write_tiny_gguf(tmp_path / "pieces.gguf", sentencepiece=True),
    ]
    assert plain not in map(probe_of, others)


def test_the_probe_is_no_different_tomorrow(tmp_path: Path) -> None:
    """Though the template writes the date into every prompt."""
    dated = "{{ strftime_now('%d %b %Y %H:%M:%S.%f') }} {{ messages[0]['content'] }}"
    path = write_tiny_gguf(tmp_path / "m.gguf", template=dated)
    assert probe_of(path) == probe_of(path)


def test_the_probe_leaves_what_is_remembered_alone(tmp_path: Path) -> None:
    tokenizer = chatml(tmp_path)
    vocabulary = tokenizer.fresh()
    before = vocabulary.probe()
    vocabulary.remember(vocabulary.tokenize((HI,)), letters("then"))
    assert vocabulary.probe() == before
    again = vocabulary.tokenize((HI, Message("assistant", "then"), ON))
    assert again != tokenizer.fresh().tokenize((HI, Message("assistant", "then"), ON))
