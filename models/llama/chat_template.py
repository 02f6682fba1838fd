"""Conversations as the text that a model was trained on: the GGUF's own Jinja template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from models.engine import Message
from overlay.errors import InvalidRequest

#: For models that bring no template.
CHATML: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class _Generation(Extension):
    """``{% generation %}…{% endgeneration %}``: marks answers for training, and prints them."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template; the file is not trusted, so it runs in Jinja's sandbox."""

    def __init__(self, source: str | None, *, bos: str, eos: str) -> None:
        self.source = CHATML if source is None else source
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {
            "raise_exception": _reject,
            "bos_token": bos,
            "eos_token": eos,
        }
        self._error = ""
        try:
            self._template: jinja2.Template | None = environment.from_string(self.source)
        except Exception as error:  # too deep for Jinja, or for Python's own compiler
            self._template, self._error = None, str(error)

    def render(self, messages: Sequence[Message], at: datetime | None = None) -> str:
        """The prompt, up to where the assistant's answer begins. Raises InvalidRequest.

        ``at``: the time that the template is told; None for now.
        """
        if not messages:
            raise InvalidRequest("A conversation needs at least one message.")
        if self._template is None:
            raise InvalidRequest(f"The model's chat template is broken: {self._error}")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=turns,
                add_generation_prompt=True,
                strftime_now=lambda form: (at or datetime.now()).strftime(form),
            )
        except Exception as error:  # a template can fail in any way that Python can
            raise InvalidRequest(f"The model's chat template rejects this: {error}") from None


def _reject(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None, **_ignored: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
