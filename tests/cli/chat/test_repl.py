"""The chat's turns and slash commands, with a scripted reader and a real API behind it."""

from __future__ import annotations

import io
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cli.chat.banner import banner
from cli.chat.conversation import Conversation, Turn
from cli.chat.repl import Repl, Settings
from cli.chat.watch import MeshWatch
from cli.client import NodeClient
from models.engine import Message
from overlay.errors import ContextLengthExceeded, EngineFailed
from overlay.http.backend import Route, Text
from tests.cli.fake_node import ADMIN_TOKEN, ANSWERED, REQUEST_ID, FakeBackend, FakeNode, Hold

#: What a reader gives: a line, or Ctrl-C or Ctrl-D.
Input = str | type[BaseException] | Callable[[], str]


class Screen(io.StringIO):
    """Collects output; ``shown`` is set once ``awaited`` has been written."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = ""
        self.shown = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.awaited and self.awaited in self.getvalue():
            self.shown.set()
        return written


class Chat:
    """A Repl whose inputs are given in advance."""

    def __init__(self, node: FakeNode, watch: MeshWatch, client: NodeClient) -> None:
        self.screen = Screen()
        self.conversation = Conversation()
        self.console = Console(
            file=self.screen, width=100, height=40, color_system=None, force_terminal=True
        )
        self.repl = Repl(client, watch, self.console, self.conversation, Settings())

    def run(self, *inputs: Input) -> str:
        """Give the inputs in turn, then Ctrl-D; what was shown."""
        rest = iter(inputs)

        def read() -> str:
            given = next(rest, EOFError)
            if isinstance(given, type):
                raise given
            return given if isinstance(given, str) else given()

        self.repl.run(read)
        self.unread = list(rest)
        return self.screen.getvalue()


@pytest.fixture
def chat(node: FakeNode) -> Iterator[Chat]:
    with NodeClient(node.api_url, ADMIN_TOKEN) as client, MeshWatch(client) as watch:
        yield Chat(node, watch, client)


def test_a_conversation(chat: Chat, backend: FakeBackend) -> None:
    shown = chat.run("Hi", "/model qwen3-1.7b", "/route local", "And you?")
    assert shown.count("Hello.") == 2
    assert "served by bea (12D3…UERE) · forwarded, 1 hop · 612 of 640 prompt tokens" in shown
    assert [(ask.model, ask.route) for ask in backend.asks] == [
        (backend.listings[0].name, Route.MESH),
        ("qwen3-1.7b", Route.LOCAL),
    ]
    assert backend.asks[1].prompt == (
        Message("user", "Hi"),
        Message("assistant", "Hello."),
        Message("user", "And you?"),
    )


def test_a_model_may_be_named_by_its_alias(chat: Chat, backend: FakeBackend) -> None:
    chat.run("/model Demo", "Hi")
    assert [ask.model for ask in backend.asks] == ["SmolLM2-135M-Instruct"]


def test_a_conversation_that_is_too_long_is_to_be_begun_anew(
    chat: Chat, backend: FakeBackend
) -> None:
    too_long = (ContextLengthExceeded("The prompt has 10,272 tokens."),)
    backend.scripts += [too_long, (ANSWERED,), too_long]
    assert "10,272 tokens.  (ask for less at once)" in chat.run("Hi")
    assert "10,272 tokens.  (/new starts afresh)" in chat.run("Hi", "Hi")


def test_a_failed_question_can_be_asked_again(chat: Chat, backend: FakeBackend) -> None:
    backend.scripts.append((Text("Hal"), EngineFailed("llama.cpp ran out of memory")))
    shown = chat.run("Hi\nthere", "/retry")
    assert "error: llama.cpp ran out of memory  (/retry asks again)" in shown
    assert "> Hi …\n\n" in shown
    assert "> Hi …\n\n\n" not in shown
    assert chat.conversation.turns == [Turn("Hi\nthere", "Hello.")]
    assert [ask.prompt for ask in backend.asks] == 2 * [(Message("user", "Hi\nthere"),)]


def test_new_and_system_start_afresh(chat: Chat, backend: FakeBackend) -> None:
    chat.run("a", "/system Be brief.", "b", "/new", "c")
    assert [ask.prompt for ask in backend.asks] == [
        (Message("user", "a"),),
        (Message("system", "Be brief."), Message("user", "b")),
        (Message("system", "Be brief."), Message("user", "c")),
    ]


def test_a_saved_conversation_goes_on_in_another_chat(
    chat: Chat, backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("page").write_text("# No chat\n")
    chat.run("/system Be brief.", "Hi", "/save talk.md", "/new")
    shown = chat.run("/load talk.md", "And you?", "/load no", "/load page", "/load")
    assert "Going on with talk.md: 1 question answered." in shown
    assert "error: no cannot be read: No such file" in shown
    assert "error: page is no conversation that /save wrote" in shown
    assert "error: give a file: /load FILE" in shown
    assert backend.asks[-1].prompt == (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello."),
        Message("user", "And you?"),
    )


def test_save_writes_once_and_never_over_a_file(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    chat.run("Hi", f"/save {path}")
    saved = path.read_text()
    assert saved == "## You\n\nHi\n\n## Answer\n\nHello.\n"
    shown = chat.run("More", f"/save {path}", f"/save {tmp_path}/no/such", "/save")
    assert path.read_text() == saved
    assert "exists already" in shown
    assert "cannot be written" in shown


def test_a_system_prompt_alone_can_be_saved_and_nothing_cannot(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    assert "Nothing was asked yet." in chat.run(f"/save {path}")
    assert not path.exists()
    shown = chat.run("/system Be brief.", f"/save {path}", "/system Be long.", f"/load {path}")
    assert "0 questions" in shown
    assert "Be brief." in chat.run("/system")


def test_what_was_typed_need_not_be_unicode_to_be_saved(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    chat.run("caf\udce9", f"/save {path}")
    assert path.read_bytes() == b"## You\n\ncaf?\n\n## Answer\n\nHello.\n"


def test_a_conversation_that_cannot_be_saved_goes_on(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        shown = chat.run("Hi", f"/save {path}", "/save ~nobody-of-that-name/talk.md")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert shown.count("cannot be written") == 2
    assert not path.exists(), "half a conversation would keep its name from the next try"


def test_mistakes_are_explained(chat: Chat, backend: FakeBackend) -> None:
    shown = chat.run("/nonsense", "/model nobody", "/route moon", "/retry", "/help", "  ")
    for sentence in (
        "there is no /nonsense",
        "no node serves a model named 'nobody'; there is: SmolLM2-135M-Instruct, qwen3-1.7b",
        "the route is local or mesh (now: mesh)",
        "Nothing was asked yet.",
        "ask the last question again",
    ):
        assert sentence in shown
    assert backend.asks == []


def test_status_shows_the_peers(chat: Chat) -> None:
    assert "12D3…UERE" in chat.run("/status")


def test_why_explains_the_last_question(chat: Chat, backend: FakeBackend) -> None:
    known = replace(ANSWERED, hearth={**ANSWERED.hearth, "request_id": REQUEST_ID})
    backend.scripts += [(Text("Hi"), known), (EngineFailed("out of memory"),)]
    shown = chat.run("a", "/why", "b", "/why")
    assert "request 5f0c7a1e" in shown
    assert shown.count("carl was chosen") == 2
    assert backend.explained == [REQUEST_ID, None], "of what failed the client heard no id"


def test_exit_leaves(chat: Chat) -> None:
    chat.run("/exit", "never read")
    assert chat.unread == ["never read"]


def test_ctrl_c_at_the_prompt_leaves_only_twice_in_a_row(chat: Chat) -> None:
    shown = chat.run(KeyboardInterrupt, "/help", KeyboardInterrupt, "  ", KeyboardInterrupt)
    assert shown.count("once more leaves") == 3
    chat.run(KeyboardInterrupt, KeyboardInterrupt, "never read")
    assert chat.unread == ["never read"]


def interrupt_when(event: threading.Event, times: int = 1) -> threading.Thread:
    def press() -> None:
        event.wait()
        main = threading.main_thread().ident
        assert main is not None
        for _ in range(times):
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_ctrl_c_stops_an_answer_and_keeps_what_came(chat: Chat, backend: FakeBackend) -> None:
    hold = Hold()
    backend.scripts.append((Text("Half an"), hold, ANSWERED))
    chat.screen.awaited = "Half an"
    pressing = interrupt_when(chat.screen.shown)
    shown = chat.run("Hi", "Go on")
    pressing.join()
    assert "stopped" in shown
    assert hold.cancelled.wait(10)
    assert chat.conversation.turns == [Turn("Hi", "Half an"), Turn("Go on", "Hello.")]


def test_ctrl_c_before_the_first_token(chat: Chat, backend: FakeBackend) -> None:
    hold = Hold()
    backend.scripts.append((hold,))
    pressing = interrupt_when(hold.reached)
    shown = chat.run("Hi", "/retry")
    pressing.join()
    assert hold.cancelled.wait(10)
    assert "stopped before the first token" in shown
    assert chat.conversation.turns == [Turn("Hi", "Hello.")]


def test_ctrl_c_after_a_stopped_answer_leaves(chat: Chat, backend: FakeBackend) -> None:
    hold = Hold()
    backend.scripts.append((hold,))
    pressing = interrupt_when(hold.reached)
    shown = chat.run("Hi", KeyboardInterrupt, "never read")
    pressing.join()
    assert "once more leaves" in shown
    assert chat.unread == ["never read"]


def test_the_node_goes_away(chat: Chat, node: FakeNode) -> None:
    def close() -> str:
        node.close()
        return "Hi"

    shown = chat.run(close, "/status", "/model x")
    assert shown.count("no node answers at") >= 2
    assert chat.conversation.pending == "Hi"


def test_the_toolbar(chat: Chat) -> None:
    assert chat.repl.toolbar() == (" 1 peer up (bea), 1 down · model SmolLM2-135M-Instruct · /help")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("SmolLM2-135M-Instruct", "135 M parameters"),
        ("demo", "hearth models pull Qwen/Qwen2.5-1.5B-Instruct-GGUF"),
        ("", "Nobody serves a model yet"),
        ("qwen3-1.7b", "Ask away."),
    ],
)
def test_the_welcome_says_what_to_expect(chat: Chat, model: str, sentence: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(banner(chat.repl._watch.state, model, own_node=True, home=""))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert sentence in shown
    assert "laptop (12D3…4oWM), running for this chat" in shown


@pytest.mark.parametrize(("own_node", "command"), [(True, "chat"), (False, "up")])
def test_where_nobody_serves_a_model_the_banner_says_how_to(
    chat: Chat, own_node: bool, command: str
) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(banner(chat.repl._watch.state, "", own_node, " --home x"))
    assert isinstance(console.file, io.StringIO)
    assert f"with: hearth {command} --home x --model demo, or" in console.file.getvalue()
    assert "hearth join TOKEN --home x" in console.file.getvalue()
    console.print(banner(chat.repl._watch.state, "demo", own_node, " --home x"))
    assert f"hearth {command} --home x --model qwen2.5" in console.file.getvalue()
