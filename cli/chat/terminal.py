"""The parts of the interactive chat, put together."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from cli.chat.banner import banner
from cli.chat.conversation import Conversation
from cli.chat.prompt import open_prompt
from cli.chat.repl import Repl, Settings
from cli.chat.watch import MeshWatch
from cli.session import Session
from overlay.errors import ModelNotFound


def run_chat(
    session: Session,
    conversation: Conversation,
    route: str,
    console: Console,
    history: Path,
    home: str,
) -> None:
    """Chat on this terminal until the user leaves; ``home``: see `banner`. Raises ModelNotFound."""
    with MeshWatch(session.client) as watch:
        if session.model and not watch.error and not watch.model_named(session.model):
            raise ModelNotFound.named(session.model, watch.models)
        repl = Repl(session.client, watch, console, conversation, Settings(session.model, route))
        console.print(banner(watch.state, repl.model, session.own_node, home))
        if watch.error:
            console.print(Text(watch.error, style="red"))
        repl.run(open_prompt(history, repl.toolbar, lambda: watch.models))
