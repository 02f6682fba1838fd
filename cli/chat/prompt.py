"""The input line: history, several lines, completion, and a toolbar with the mesh's state."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.styles import Style

from cli.chat.slash import complete
from overlay.home.files import open_at_once

#: Between two redraws of the toolbar.
_TOOLBAR_S = 1.0

_STYLE = Style.from_dict(
    {
        "prompt": "bold ansiyellow",
        "bottom-toolbar": "noreverse ansibrightblack",
        "completion-menu.completion": "bg:default",
        "completion-menu.completion.current": "reverse",
    }
)


def open_prompt(
    history: Path,
    toolbar: Callable[[], str],
    models: Callable[[], tuple[str, ...]],
    terminal_input: Input | None = None,
    terminal_output: Output | None = None,
) -> Callable[[], str]:
    """A function that reads one input; it raises KeyboardInterrupt and EOFError as ``input`` does.

    Ctrl-C raises only when the line is empty; else it clears the line.
    """
    session: PromptSession[str] = PromptSession(
        message=[("class:prompt", "> ")],
        prompt_continuation="  ",
        multiline=True,
        history=_history(history),
        completer=_SlashCompleter(models),
        complete_while_typing=True,
        key_bindings=_bindings(),
        bottom_toolbar=toolbar,
        refresh_interval=_TOOLBAR_S,
        reserve_space_for_menu=5,
        style=_STYLE,
        input=terminal_input,
        output=terminal_output,
    )

    def read() -> str:
        # What the node of this chat warns of stands above the line, not in the middle of it.
        with patch_stdout():
            return session.prompt()

    return read


def _history(path: Path) -> History:
    try:
        # What was asked is nobody else's to read.
        os.close(open_at_once(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY))
    except OSError:
        return InMemoryHistory()
    return _History(path)


class _History(FileHistory):
    def store_string(self, string: str) -> None:
        # On a full disk it is remembered until the chat ends.
        with suppress(OSError):
            super().store_string(string)


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _submit(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")
    def _clear_or_leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return bindings


class _SlashCompleter(Completer):
    def __init__(self, models: Callable[[], tuple[str, ...]]) -> None:
        self._models = models

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        text = document.text_before_cursor
        for line, meaning in complete(text, self._models()):
            yield Completion(line, start_position=-len(text), display_meta=meaning)
