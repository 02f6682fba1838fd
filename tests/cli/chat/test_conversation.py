import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cli.chat.conversation import Conversation, Turn

#: Texts as they are asked and answered, and such as might be taken for the transcript's own lines.
TEXTS = st.text("aA#>\\ \n", max_size=12) | st.lists(
    st.sampled_from(["## You", "## Answer", "\\## You", "> a", "", "b"])
).map("\n".join)


def roles(messages: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def test_answered_turns_are_sent_along() -> None:
    conversation = Conversation("Be brief.")
    conversation.ask("a")
    conversation.answered("A")
    assert roles(conversation.ask("b")) == [
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "A"),
        ("user", "b"),
    ]


def test_a_failed_question_is_not_sent_along_but_can_be_asked_again() -> None:
    conversation = Conversation()
    conversation.ask("lost")
    assert conversation.take_back() == "lost"
    assert roles(conversation.ask("other")) == [("user", "other")]


def test_taking_back_an_answered_question_drops_its_answer() -> None:
    conversation = Conversation()
    assert conversation.take_back() is None
    conversation.ask("a")
    conversation.answered("A")
    assert conversation.take_back() == "a"
    assert conversation.messages() == []


def test_a_new_conversation_keeps_nothing() -> None:
    conversation = Conversation()
    conversation.ask("a")
    conversation.answered("A")
    conversation.ask("b")
    conversation.restart("S")
    assert conversation == Conversation("S")


def test_the_transcript_reads_as_markdown() -> None:
    conversation = Conversation("Be brief.\nBe kind.")
    conversation.ask("a")
    conversation.answered(" A\n")
    conversation.ask("b")
    assert conversation.transcript() == (
        "> Be brief.\n> Be kind.\n\n## You\n\na\n\n## Answer\n\nA\n\n## You\n\nb\n"
    )


@given(
    st.none() | st.lists(st.sampled_from(["a", " b", "", "> c", "## You"])).map("\n".join),
    st.lists(st.tuples(TEXTS, TEXTS)),
    st.none() | TEXTS,
)
def test_a_transcript_can_be_gone_on_with(
    system: str | None, said: list[tuple[str, str]], pending: str | None
) -> None:
    system = (system or "").strip("\n") or None
    assume(system or said or pending is not None)
    turns = [Turn(question.strip(), answer.strip()) for question, answer in said]
    whole = Conversation(system, turns, None if pending is None else pending.strip())
    assert Conversation.from_transcript(whole.transcript()) == whole


@pytest.mark.parametrize(
    "text", ["", "# A page\n", "## Answer\n\na\n", "## You\n\na\n\n## You\n\nb\n"]
)
def test_what_is_no_transcript(text: str) -> None:
    with pytest.raises(ValueError, match=r"alternate|no question"):
        Conversation.from_transcript(text)
