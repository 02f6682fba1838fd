"""The turns of a chat: what was said, what failed, what to send next."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self

_HEADING: Final = re.compile(r"^## (?:You|Answer)$", re.MULTILINE)
#: Such a line within a text, which Markdown shows without its backslash.
_QUOTED: Final = re.compile(r"^\\(?=\\*## (?:You|Answer)$)", re.MULTILINE)
_TO_QUOTE: Final = re.compile(r"^(?=\\*## (?:You|Answer)$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Turn:
    question: str
    answer: str


@dataclass(slots=True)
class Conversation:
    """Only answered turns are sent; a question without an answer waits for ``/retry``."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    #: Asked, and not answered (yet).
    pending: str | None = None

    def ask(self, question: str) -> list[dict[str, str]]:
        """Make ``question`` the pending one; the messages to send."""
        self.pending = question
        return [*self.messages(), {"role": "user", "content": question}]

    def answered(self, answer: str) -> None:
        """The pending question has its answer, whole or stopped midway."""
        assert self.pending is not None
        self.turns.append(Turn(self.pending, answer))
        self.pending = None

    def take_back(self) -> str | None:
        """The question to ask once more: the pending one, or the last one (its answer is dropped).

        None when nothing was asked yet.
        """
        if self.pending is None and self.turns:
            self.pending = self.turns.pop().question
        return self.pending

    def restart(self, system: str | None) -> None:
        """Forget all turns."""
        self.system, self.turns, self.pending = system, [], None

    def messages(self) -> list[dict[str, str]]:
        """The answered turns in OpenAI's form."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def transcript(self) -> str:
        """The conversation as Markdown, which `from_transcript` reads."""
        parts = [f"> {line}".rstrip() for line in (self.system or "").splitlines()]
        sections = ["\n".join(parts)] if parts else []
        for turn in self.turns:
            sections += [_section("You", turn.question), _section("Answer", turn.answer)]
        if self.pending is not None:
            sections.append(_section("You", self.pending))
        return "\n\n".join(sections) + "\n"

    @classmethod
    def from_transcript(cls, text: str) -> Self:
        """The conversation, but for white space at the ends of its texts. Raises ValueError."""
        head, *texts = _HEADING.split(text)
        names = _HEADING.findall(text)
        if names != (["## You", "## Answer"] * len(names))[: len(names)]:
            raise ValueError("questions and answers do not alternate")
        system = head.strip().split("\n")
        if not texts and not all(line.startswith(">") for line in system):
            raise ValueError("there is no question, and no system prompt")
        said = [_QUOTED.sub("", each).strip() for each in texts]
        quoted = [line.removeprefix(">").removeprefix(" ") for line in system]
        turns = [Turn(*pair) for pair in zip(said[::2], said[1::2], strict=False)]
        pending = said[-1] if len(said) % 2 else None
        return cls("\n".join(quoted) or None, turns, pending)


def _section(heading: str, text: str) -> str:
    quoted = _TO_QUOTE.sub(r"\\", text.strip())
    return f"## {heading}\n\n{quoted}"
