"""Templates come with untrusted files: they render conversations and can do nothing else."""

from __future__ import annotations

from datetime import datetime

import pytest

from models.engine import Message
from models.llama.chat_template import ChatTemplate
from overlay.errors import InvalidRequest


def render(source: str | None, *messages: Message) -> str:
    template = ChatTemplate(source, bos="<s>", eos="</s>")
    return template.render(messages or (Message("user", "hi"),))


def test_chatml_is_the_fallback() -> None:
    assert render(None, Message("system", "Be brief."), Message("user", "hi")) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}", "<s>hi</s>"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "hi"}'),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% for m in messages %}{{ m.content }}{% break %}{% endfor %}", "hi"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "hi!"),
        ("{% if true %}\n  {% if true %}\nhi{% endif %}{% endif %}", "hi"),
        ("{% if tools is defined and tools %}tools{% else %}none{% endif %}", "none"),
    ],
)
def test_what_templates_use(source: str, text: str) -> None:
    assert render(source) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0]['content'] / 2 }}",
        "{% for",
        "{% for each in messages %}" * 30 + "{% endfor %}" * 30,
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ " + "9" * 5000 + " }}",
    ],
)
def test_a_template_that_fails_is_a_clear_refusal(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template"):
        render(source)


def test_a_conversation_needs_a_message() -> None:
    with pytest.raises(InvalidRequest):
        ChatTemplate(None, bos="", eos="").render(())


def test_a_template_can_be_told_another_time() -> None:
    template = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}", bos="", eos="")
    assert template.render((Message("user", "hi"),), datetime(1999, 12, 31)) == "1999-12-31"
