"""``hearth chat``: the interactive one."""

from __future__ import annotations

import sys

import click

from cli.failures import EXIT_FAILED, HearthCommand
from cli.options import (
    config_of,
    home_flag,
    home_option,
    model_option,
    route_option,
    system_option,
)
from cli.terminal import lenient_stdin


@click.command(cls=HearthCommand)
@model_option
@system_option
@route_option
@home_option
@click.pass_context
def chat(ctx: click.Context, model: str | None, system: str | None, route: str) -> None:
    """Chat with the mesh, or with this machine alone.

    Uses the node that runs in the home; if none does, one is started for as long as the chat
    lasts. Without a terminal, each line of stdin is asked in turn.
    """
    from rich.console import Console

    from cli.chat.conversation import Conversation
    from cli.session import open_session

    config = config_of(ctx)
    conversation = Conversation(system)
    console = Console()
    interactive = sys.stdin.isatty() and console.is_terminal and not console.is_dumb_terminal
    with open_session(config, model, Console(stderr=True)) as session:
        if interactive:
            from cli.chat.terminal import run_chat

            history = config.home / "chat_history"
            run_chat(session, conversation, route, console, history, home_flag(ctx))
        else:
            from cli.chat.plain import answer_lines, typed

            lines = typed(sys.stdin) if sys.stdin.isatty() else lenient_stdin()
            if not answer_lines(lines, session.client, conversation, session.model, route):
                ctx.exit(EXIT_FAILED)
