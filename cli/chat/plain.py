"""The chat where nothing can be drawn: each line is asked in turn, answers are plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TextIO

import click

from cli.chat.conversation import Conversation
from cli.client import Delta, NodeClient, Question
from overlay.errors import HearthError


def typed(terminal: TextIO) -> Iterator[str]:
    """The lines that somebody types at ``terminal``, until Ctrl-D; a prompt asks for each."""
    while True:
        click.echo("> ", nl=False, err=True)
        line = terminal.readline()
        if not line:
            click.echo(err=True)
            return
        yield line


def answer_lines(
    lines: Iterable[str],
    client: NodeClient,
    conversation: Conversation,
    model: str | None,
    route: str,
) -> bool:
    """Answer each line on stdout, errors on stderr. False if a line got no answer."""
    all_answered = True
    for line in lines:
        if not line.strip():
            continue
        answer = ""
        try:
            for event in client.chat(Question(conversation.ask(line.strip()), model, route)):
                if isinstance(event, Delta):
                    answer += event.text
                    click.echo(event.text, nl=False)
        except HearthError as error:
            all_answered = False
            click.echo(f"\nerror: {error}" if answer else f"error: {error}", err=True)
        else:
            click.echo()
            conversation.answered(answer)
    return all_answered
