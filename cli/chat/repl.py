"""The interactive chat: read, answer, show; and the slash commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cli.chat.conversation import Conversation
from cli.chat.slash import COMMANDS, ROUTES, Call, parse_line
from cli.chat.view import AnswerView
from cli.chat.watch import MeshWatch
from cli.client import Delta, NodeClient, Question, Reply
from cli.explain_view import explanation_view
from cli.footer import footer_parts
from cli.interrupts import StopSwitch
from cli.status_view import status_view
from cli.terminal import drop_keys, keys_unseen, pastes_marked
from cli.text import count, printable, wrap_parts
from overlay.errors import ContextLengthExceeded, HearthError, ModelNotFound

_LEAVES = "Ctrl-C once more leaves"


@dataclass(frozen=True, slots=True)
class Settings:
    """What each question is asked with; ``model`` None: the node's default."""

    model: str | None = None
    route: str = "mesh"


class Repl:
    """One chat on one console."""

    def __init__(
        self,
        client: NodeClient,
        watch: MeshWatch,
        console: Console,
        conversation: Conversation,
        settings: Settings,
    ) -> None:
        self._client = client
        self._watch = watch
        self._console = console
        self._conversation = conversation
        self._settings = settings
        #: The last request, to be explained; None if its id is not known: then the node's latest.
        self._asked: str | None = None
        self._left = False

    def run(self, read: Callable[[], str]) -> None:
        """Until the user leaves: Ctrl-D, ``/exit``, or Ctrl-C twice in a row.

        ``read`` gives an input, or raises KeyboardInterrupt or EOFError as ``input`` does.
        """
        presses = 0
        while not self._left:
            try:
                line = read()
            except EOFError:
                break
            except KeyboardInterrupt:
                presses += 1
                if presses >= 2:
                    break
                self._note(_LEAVES)
                continue
            presses = 0
            if not line.strip():
                continue
            call = parse_line(line)
            presses = self._answer(line.strip()) if call is None else self._run_command(call)
            if presses >= 2:
                drop_keys()
                break

    @property
    def model(self) -> str:
        """The model that answers the next question, "" when nobody serves one."""
        return self._settings.model or next(iter(self._watch.models), "")

    def toolbar(self) -> str:
        state = self._watch.state
        if self._watch.error:
            return f" {self._watch.error}"
        width = self._console.width - 2
        parts = [state.peers_line, f"model {self.model or 'none yet'}"]
        if self._settings.route == "local":
            parts.append("local only")
        parts.append("/help")
        return " " + wrap_parts(parts, width)[0]

    def _answer(self, question: str) -> int:
        """Ask, and show the answer. Returns how often Ctrl-C was pressed meanwhile."""
        asked = Question(
            self._conversation.ask(question), self._settings.model, self._settings.route
        )
        reply: Reply | None = None
        failure: HearthError | None = None
        view = AnswerView(self._console)
        self._console.print()
        unseen = keys_unseen(outlast_ctrl_c=True)
        with unseen, pastes_marked(self._console.file), StopSwitch() as switch:
            try:
                with view:
                    for event in switch.each(self._client.chat(asked)):
                        if isinstance(event, Delta):
                            view.add(event.text)
                        else:
                            reply = event
            except KeyboardInterrupt:
                pass
            except HearthError as error:
                failure = error
            self._after(view.text, reply, failure)
        return switch.presses

    def _after(self, text: str, reply: Reply | None, failure: HearthError | None) -> None:
        self._asked = None if reply is None else reply.hearth.get("request_id")
        if failure is not None:
            hint = "/retry asks again"
            if isinstance(failure, ContextLengthExceeded):
                hint = "/new starts afresh" if self._conversation.turns else "ask for less at once"
            self._fail(f"{printable(str(failure))}  ({hint})")
            return
        if reply is not None or text:
            self._conversation.answered(text)
        if reply is None:
            when = "" if text else " before the first token; /retry asks again"
            self._note(f"stopped{when} ({_LEAVES})")
            return
        if reply.hearth.get("served_by") not in self._watch.state.names:
            self._watch.refresh()
        parts = footer_parts(reply, self._watch.state.names)
        self._note("\n".join(wrap_parts(parts, self._console.width)))

    # --- Slash commands -----------------------------------------------------------------------

    def _run_command(self, call: Call) -> int:
        action = {
            "help": self._help,
            "new": self._new,
            "system": self._system,
            "model": self._model,
            "route": self._route,
            "status": self._status,
            "why": self._why,
            "save": self._save,
            "load": self._load,
            "exit": self._exit,
        }.get(call.name)
        if call.name == "retry":
            return self._retry()
        if action is None:
            self._fail(
                f"there is no /{printable(call.name)}; /help lists the commands "
                "(a space in front sends the text as it is)"
            )
        else:
            action(call.argument)
        return 0

    def _help(self, argument: str) -> None:
        width = max(len(f"{command.name} {command.argument}") for command in COMMANDS)
        for command in COMMANDS:
            usage = f"/{f'{command.name} {command.argument}':<{width}}"
            self._console.print(Text.assemble((usage, "bold"), "  ", command.help))
        self._note("Enter sends, Alt-Enter makes a new line, Ctrl-C stops an answer.")

    def _new(self, argument: str) -> None:
        self._conversation.restart(self._conversation.system)
        self._note("A new conversation.")

    def _system(self, argument: str) -> None:
        if argument:
            self._conversation.restart(argument)
            self._note("A new conversation, with this system prompt.")
        else:
            self._note(printable(self._conversation.system or "No system prompt is set."))

    def _model(self, argument: str) -> None:
        self._watch.refresh()
        if not argument:
            names = ", ".join(map(printable, self._watch.models)) or "none yet"
            self._note(f"Asking {self.model or 'nobody'}. There is: {names}")
        elif model := self._watch.model_named(argument):
            self._settings = replace(self._settings, model=model)
            self._note(f"Asking {printable(model)} from now on.")
        else:
            self._fail(printable(str(ModelNotFound.named(argument, self._watch.models))))

    def _route(self, argument: str) -> None:
        if argument not in ROUTES:
            self._fail(f"the route is {' or '.join(ROUTES)} (now: {self._settings.route})")
            return
        self._settings = replace(self._settings, route=argument)
        words = {
            "local": "Prompts stay on this machine.",
            "mesh": "Whoever answers soonest is asked.",
        }
        self._note(words[argument])

    def _status(self, argument: str) -> None:
        try:
            self._console.print(status_view(self._client.status()))
            self._console.print()
        except HearthError as error:
            self._fail(printable(str(error)))

    def _why(self, argument: str) -> None:
        try:
            self._console.print(explanation_view(self._client.explanation(self._asked)))
            self._console.print()
        except HearthError as error:
            self._fail(printable(str(error)))

    def _retry(self) -> int:
        question = self._conversation.take_back()
        if question is None:
            self._note("Nothing was asked yet.")
            return 0
        first, *more = question.splitlines()
        asked = Text(f"> {printable(first)}{' …' if more else ''}", style="dim")
        self._console.print(asked)  # The blank line below it comes with the answer.
        return self._answer(question)

    def _save(self, argument: str) -> None:
        if not argument:
            self._fail("give a file: /save FILE")
            return
        transcript = self._conversation.transcript()
        if not transcript.strip():
            self._note("Nothing was asked yet.")
            return
        path = Path(os.path.expanduser(argument))
        try:
            # What was typed need not be Unicode: `?` for each odd byte, as where it is asked.
            with path.open("xb") as file:
                try:
                    file.write(transcript.encode(errors="replace"))
                    file.flush()
                except OSError:
                    path.unlink()
                    raise
        except FileExistsError:
            self._fail(f"{path} exists already; choose another name")
        except OSError as error:
            self._fail(f"{path} cannot be written: {error.strerror}")
        else:
            self._note(f"Saved to {path}.")

    def _load(self, argument: str) -> None:
        if not argument:
            self._fail("give a file: /load FILE")
            return
        path = Path(os.path.expanduser(argument))
        try:
            self._conversation = Conversation.from_transcript(path.read_text(encoding="utf-8"))
        except OSError as error:
            self._fail(f"{path} cannot be read: {error.strerror}")
        except ValueError:
            self._fail(f"{path} is no conversation that /save wrote")
        else:
            asked = count(len(self._conversation.turns), "question")
            more = "; /retry asks the last one again" if self._conversation.pending else ""
            self._note(f"Going on with {path}: {asked} answered{more}.")

    def _exit(self, argument: str) -> None:
        self._left = True

    # --- Output -------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))
        self._console.print()

    def _fail(self, text: str) -> None:
        self._console.print(Text(f"error: {text}", style="red"))
        self._console.print()
