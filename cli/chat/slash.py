"""Slash commands: what there is, and how a line is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class SlashCommand:
    name: str
    argument: str
    help: str


COMMANDS = (
    SlashCommand("help", "", "show these commands"),
    SlashCommand("new", "", "forget the conversation and start afresh"),
    SlashCommand("system", "TEXT", "set the system prompt and start afresh (no TEXT: show it)"),
    SlashCommand("model", "NAME", "ask another model (no NAME: list them)"),
    SlashCommand("route", "local|mesh", "keep prompts on this machine, or let the mesh answer"),
    SlashCommand("status", "", "show the mesh"),
    SlashCommand("why", "", "say why the last question went where it went"),
    SlashCommand("retry", "", "ask the last question again"),
    SlashCommand("save", "FILE", "write the conversation to a Markdown file"),
    SlashCommand("load", "FILE", "go on with a conversation that was saved"),
    SlashCommand("exit", "", "leave (also Ctrl-D)"),
)

ROUTES = ("local", "mesh")

#: The argument may begin on the next line: a long system prompt, say.
_CALL: Final = re.compile(r"/(?P<name>\S*)(?P<argument>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A slash command as typed; ``name`` may be unknown."""

    name: str
    argument: str


def parse_line(line: str) -> Call | None:
    """The command of a line that begins with ``/``; None for anything that is to be asked.

    A leading space sends a text that begins with a slash as it is.
    """
    call = _CALL.match(line)
    return None if call is None else Call(call["name"].lower(), call["argument"].strip())


def complete(text: str, models: tuple[str, ...]) -> list[tuple[str, str]]:
    """Ways to go on from ``text``: (the whole line, what it means)."""
    if not text.startswith("/") or "\n" in text:
        return []
    name, space, argument = text[1:].partition(" ")
    if not space:
        return [
            (f"/{command.name}" + (" " if command.argument else ""), command.help)
            for command in COMMANDS
            if command.name.startswith(name.lower())
        ]
    values = {"model": models, "route": ROUTES}.get(name.lower(), ())
    return [(f"/{name} {value}", "") for value in values if value.startswith(argument)]
