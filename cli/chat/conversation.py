"""The turns of a chat: what was said, what failed, what to send next."""

from __future__ import annotations

from dataclasses import dataclass, field


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
        """The conversation as Markdown."""
        parts = [f"> {line}".rstrip() for line in (self.system or "").splitlines()]
        sections = ["\n".join(parts)] if parts else []
        for turn in self.turns:
            sections += [f"## You\n\n{turn.question}", f"## Answer\n\n{turn.answer.strip()}"]
        if self.pending is not None:
            sections.append(f"## You\n\n{self.pending}")
        return "\n\n".join(sections) + "\n"
