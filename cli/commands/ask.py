"""``hearth ask``: one question, one answer."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from typing import TYPE_CHECKING

import click

from cli.failures import HearthCommand
from cli.options import (
    ANSWER_TOKENS_MAX,
    NumberRange,
    config_of,
    home_option,
    json_option,
    model_option,
    print_json,
    route_option,
    system_option,
)
from cli.terminal import lenient_stdin

if TYPE_CHECKING:
    from cli.client import NodeClient, Question, Reply


@click.command(cls=HearthCommand)
@click.argument("question", required=False)
@model_option
@system_option
@route_option
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=ANSWER_TOKENS_MAX,
    show_default=True,
    help="End the answer after so many.",
)
@click.option(
    "--temperature", type=NumberRange(0, 2), help="0: always the likeliest token; up to 2."
)
@json_option
@home_option
@click.pass_context
def ask(
    ctx: click.Context,
    question: str | None,
    model: str | None,
    system: str | None,
    route: str,
    max_tokens: int,
    temperature: float | None,
    as_json: bool,
) -> None:
    """Answer QUESTION, and what is piped in, on stdout.

    \b
    hearth ask "Why is the sky blue?"
    git diff | hearth ask "Write a commit message for this."
    """
    piped = _piped_text(bool(question))
    text = "\n\n".join(part for part in (question, piped) if part and part.strip())
    if not text:
        raise click.UsageError("give a QUESTION, or pipe one in", ctx)

    from rich.console import Console

    from cli.client import Question
    from cli.session import open_session

    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    with open_session(config_of(ctx), model, Console(stderr=True)) as session:
        asked = Question(messages, session.model, route, max_tokens, temperature)
        if as_json:
            _answer_json(session.client, asked)
        else:
            _answer_text(session.client, asked)


def _piped_text(has_question: bool) -> str:
    """What was piped in. A question needs no stdin, so it does not wait on anything but a pipe."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    if has_question:
        try:
            mode = os.fstat(sys.stdin.fileno()).st_mode
        except OSError:
            pass
        else:
            if stat.S_ISCHR(mode):
                return ""
    return lenient_stdin().read()


def _answer_json(client: NodeClient, question: Question) -> None:
    from cli.client import Delta

    answer = ""
    for event in client.chat(question):
        if isinstance(event, Delta):
            answer += event.text
        else:
            fields = {
                "answer": answer,
                "model": event.model,
                "usage": event.usage,
                "hearth": event.hearth,
            }
            print_json(fields)


def _answer_text(client: NodeClient, question: Question) -> None:
    from rich.console import Console

    from cli.client import Delta
    from cli.text import printable
    from cli.word_wrap import WordWrap

    terminal = sys.stdout.isatty()
    wrap = WordWrap(_columns)
    last = ""
    reply: Reply | None = None
    status = Console(stderr=True).status("thinking (prefill)…", spinner="dots")
    if terminal:
        status.start()
    try:
        for event in client.chat(question):
            status.stop()
            if isinstance(event, Delta):
                last = event.text
                click.echo(wrap.add(printable(last)) if terminal else last, nl=False)
            else:
                reply = event
    except KeyboardInterrupt:
        wrap.rest()  # Half a word has no place under the ^C that the terminal shows.
        raise
    finally:
        status.stop()
        click.echo(wrap.rest(), nl=False)
        if last and not last.endswith("\n"):
            click.echo()
    if terminal and reply is not None:
        _print_footer(client, reply)


def _print_footer(client: NodeClient, reply: Reply) -> None:
    from cli.footer import footer_parts
    from cli.mesh_state import MeshState
    from cli.text import wrap_parts

    parts = footer_parts(reply, MeshState.from_status(client.status()).names)
    for line in wrap_parts(parts, _columns()):
        click.echo(click.style(line, dim=True))


def _columns() -> int:
    return shutil.get_terminal_size().columns
