from cli.chat.conversation import Conversation


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
