"""The documentation says what is: links, commands, limits, and the protocol's test vectors."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import re
import shlex
import textwrap
from pathlib import Path
from typing import get_args

import click
import pytest
import zmq
from nacl import bindings

from cli.main import hearth
from models.engine import Alternative, Message, Prompt, Sampling, TokenLogprob, Tokens
from models.llama.loaded_model import LoadedModel
from models.llama.vocabulary import Vocabulary
from models.probes import PROBE_MOMENT, PROBES, probe_digest
from overlay import limits
from overlay.admission.circuit import Circuit, Pass
from overlay.admission.handshake import Role
from overlay.config import _SETTINGS
from overlay.gossip.compact import CompactDigest
from overlay.gossip.latest import LatestChanges
from overlay.gossip.records import CARD, LOAD, block_key, revocation_key
from overlay.identity.certificates import Certificate, Membership, format_mesh_id, mesh_id
from overlay.identity.invites import JoinToken
from overlay.identity.keys import NodeKey, curve_public
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.revocations import Revocations, revoke
from overlay.prefix.chain import block_hashes, root_hash
from overlay.wire import anti_entropy, messages
from overlay.wire.announcement import Announcement, seal
from overlay.wire.codec import encode
from overlay.wire.messages import Ping, TokenFrame
from tests.bench.__main__ import PARTS, asked
from tests.support.limits_page import limits_page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
#: Made from the commands, and compared with them in tests/cli.
HAND_WRITTEN = [page for page in PAGES if page != DOCS / "reference" / "cli.md"]


def named(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda p: str(p.relative_to(ROOT)))


# --- Links ------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@named(PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = page if not path else (page.parent / path).resolve()
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


@named([page for page in PAGES if page.is_relative_to(DOCS) and page != DOCS / "index.md"])
def test_the_maps_name_every_page(page: Path) -> None:
    maps = [folder / "index.md" for folder in page.parents if folder.is_relative_to(DOCS)]
    nearest = next(path for path in maps if path.exists() and path != page)
    assert f"({page.relative_to(nearest.parent)})" in nearest.read_text()


# --- Commands ---------------------------------------------------------------------------------


def commands(text: str) -> list[list[str]]:
    """The words of each ``hearth`` command: in the running text, and on lines of code."""
    found = [
        shlex.split(inline) for inline in re.findall(r"(?<!`)`(hearth(?: [^`\n]+)?)`(?! ?`)", text)
    ]
    fenced = re.findall(r"^```.*?\n(.*?)^```", text.replace("\\\n", " "), re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    .*", text.replace("\\\n", " "), re.MULTILINE)
    for line in [*"".join(fenced).splitlines(), *indented]:
        begun = re.match(r" *(?:\$ )?(?:[A-Z_]+=\S+ |\S[^\"']*[|&] )*(hearth .*)", line)
        if begun:
            lexer = shlex.shlex(begun[1], posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            found.append(list(itertools.takewhile(lambda word: word[0] not in "|&;<>", lexer)))
    return found


@named(HAND_WRITTEN)
def test_commands_exist(page: Path) -> None:
    for words in commands(page.read_text()):
        line = " ".join(words)
        command: click.Command = hearth
        # A command made without its parent would keep the help option that it has then.
        parent = click.Context(hearth, **hearth.context_settings)
        words.pop(0)
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        if not words:  # a command by its name, as a sentence has it
            continue
        try:
            command.make_context(line, words, parent, resilient_parsing=words == ["--version"])
        except click.ClickException as error:
            pytest.fail(f"{page.name} shows {line!r}: {error.message}")


def test_commands_are_found() -> None:
    text = """\
    Run `hearth up`, or:

    ```console
    $ git diff | hearth ask "Why? Is it; so?" --json | tee answer
    ```

        HEARTH_MODEL=none hearth up --name \\
          ada > log   # a comment

    hearth is no command at the beginning of a sentence.
    """
    assert commands(textwrap.dedent(text)) == [
        ["hearth", "up"],
        ["hearth", "ask", "Why? Is it; so?", "--json"],
        ["hearth", "up", "--name", "ada"],
    ]


@named(HAND_WRITTEN)
def test_benchmarks_exist(page: Path) -> None:
    for words in re.findall(r"python -m tests\.bench((?: [^`#\n]*)?)", page.read_text()):
        asked(shlex.split(words))


def test_every_benchmark_is_told_how_to_run() -> None:
    told = re.findall(
        r"-m tests\.bench (\w+)", (DOCS / "explanation" / "benchmarks.md").read_text()
    )
    assert {*PARTS} <= {*told}


def test_a_benchmark_is_asked_wrongly(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, message in {
        ("index", "--json", f"{tmp_path}/missing/x.json"): "--json: there is no folder",
        ("regret", "--seeds", "0"): "--seeds: give a whole number from 1 on",
        ("regret", "--nodes", "x"): "there are cells with 2, 8, 24, 100 nodes",
        ("regret", "--quick", "--nodes", "24"): "no cell of --quick has 24 nodes",
    }.items():
        with pytest.raises(SystemExit):
            asked(words)
        assert message in capsys.readouterr().err


# --- Error messages ---------------------------------------------------------------------------


def texts_of_the_code() -> list[str]:
    """Every string in the sources; an f-string as its fixed parts."""
    code = [path for name in ("cli", "models", "overlay") for path in (ROOT / name).rglob("*.py")]
    found = [(ROOT / "Makefile").read_text(), (ROOT / ".ci" / "install_llama.py").read_text()]
    for path in code:
        nodes = ast.walk(ast.parse(path.read_text()))
        found += [
            n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)
        ]
    return found


def test_messages_are_those_of_the_code() -> None:
    page = (DOCS / "how-to" / "troubleshooting.md").read_text()
    messages = re.findall(r"``(.+?) ?``", page)
    assert messages
    texts = texts_of_the_code()
    for part in {part.strip() for message in messages for part in message.split("…")}:
        assert any(part in text for text in texts), f"no message of the code says {part!r}"


# --- Limits and vectors -----------------------------------------------------------------------


def test_the_page_of_limits_is_current() -> None:
    told = (DOCS / "reference" / "limits.md").read_text()
    assert told == limits_page(), (
        "run: python -m tests.support.limits_page > docs/reference/limits.md"
    )
    assert "| PEER_BYTES_PER_S | 16 MiB a second |" in told
    assert "| BAN_S | 60 s |" in told


@named(HAND_WRITTEN)
def test_limits_and_settings_that_are_named_exist(page: Path) -> None:
    settings = {"HEARTH_HOME", *_SETTINGS.values()}
    of_others = {
        *("GOMP_SPINCOUNT", "NO_COLOR", "OPENAI_API_KEY", "OPENAI_BASE_URL", "PIP_INDEX_URL"),
        *("HF_ENDPOINT", "HF_TOKEN", "HTTPS_PROXY"),
        *("HEARTH_LLAMA_SERVER", "HEARTH_SGLANG_ROUTER"),  # the benchmarks'
    }
    for name in re.findall(r"(?<![$\w])[A-Z]+(?:_[A-Z]+)+\b", page.read_text()):
        known = name in settings | of_others or hasattr(limits, name) or hasattr(zmq, name)
        assert known, f"{page.name} names {name}"


def test_vectors_of_the_protocol_hold() -> None:
    founder, joiner = (NodeKey.from_seed(bytes(range(at, at + 32))).peer_id for at in (0, 64))
    secret, mesh = bytes(range(32, 64)), mesh_id(founder)
    address = Multiaddr.parse("/ip4/192.0.2.7/tcp/7710")
    token = JoinToken(founder, mesh[:8], 2_000_000_000, bytes(range(16)), (address,))
    key = NodeKey.from_seed(bytes(range(32)))
    certificate = Certificate(mesh, joiner, founder, 1_900_000_000, 2_000_000_000, True).sign(key)
    _, revocation = revoke(
        key, Membership(founder, secret, ()), Revocations(founder), joiner, 1_950_000_000
    )
    likely = TokenLogprob(b"Hi", -0.5, (Alternative(b"Yo", -1.5),))
    blocks = block_hashes(secret, bytes(16), range(64))
    contents = LatestChanges()
    for change in (
        anti_entropy.Change(CARD, 2, b"\x01"),
        anti_entropy.Change(block_key(blocks[0]), 3, b""),
        anti_entropy.Change(LOAD, 5, None),
    ):
        contents.put(change)
    digest = [
        anti_entropy.DigestEntry(founder, 1_900_000_000_000, 65537, 3, 0),
        anti_entropy.DigestEntry(joiner, 1_900_000_000_001, 5, 70000, 65536),
    ]
    asked = messages.Forward(
        *(bytes(16), "demo", None, None, (Message("user", "Hi"),), (), 0),
        *(Sampling(max_tokens=8), (founder,), 1, 60_000, 0),
    )
    vectors = [
        *(str(founder), bytes(founder).hex(), curve_public(founder).hex(), str(joiner)),
        *(mesh.hex(), format_mesh_id(mesh), token.encode(), token.invite_id.hex()),
        *(token.prove(bytes(16), joiner).hex(), f"{root_hash(secret, bytes(16)):016x}"),
        *(f"{block:016x}" for block in blocks),
        *(certificate.hex(), revocation.hex(), revocation_key(revocation).hex()),
        encode(TokenFrame(bytes(16), 0, (1, 2), "Hi")).hex(),
        encode(TokenFrame(bytes(16), 0, (7,), "Hi", (likely,))).hex(),
        *(
            seal(secret, Announcement(founder, (address,)), bytes(24)).hex(),
            contents.digest().hex(),
        ),
        *(encode(CompactDigest(digest).syn()).hex(), encode(asked).hex()),
        *circuit_of(key, NodeKey.from_seed(bytes(range(64, 96)))),
    ]
    page = (DOCS / "reference" / "wire-protocol.md").read_text()
    assert [vector for vector in vectors if f"`{vector}`" not in page] == []


def circuit_of(ann: NodeKey, bob: NodeKey) -> list[str]:
    """The secret keys of a circuit, and what is passed on in it."""
    seeds = [bytes(range(at, at + 32)) for at in (96, 128)]
    dialer = Circuit(Role.DIALER, ann, bob.peer_id, seeds[0])
    listener = Circuit(Role.LISTENER, bob, ann.peer_id, seeds[1])
    [accept] = listener.receive(dialer.open())
    assert isinstance(accept, Pass)
    [confirm, _] = dialer.receive(accept.payload)
    assert isinstance(confirm, Pass)
    payloads = (dialer.open(), accept.payload, confirm.payload, dialer.seal(encode(Ping(1))))
    secrets = (bindings.crypto_kx_seed_keypair(seed)[1] for seed in seeds)
    return [each.hex() for each in (*secrets, *payloads)]


@pytest.mark.demo
def test_the_demo_model_is_told_as_the_protocol_says(demo_model: Path) -> None:
    vocabulary = Vocabulary(LoadedModel(demo_model, lambda share: None))
    page = (DOCS / "reference" / "wire-protocol.md").read_text()
    assert f"`{vocabulary.model_key('SmolLM2-135M-Instruct').hex()}`" in page
    assert f"`{vocabulary.probe().hex()}`" in page


STRUCTURES = [
    *(anti_entropy.DigestEntry, anti_entropy.OriginDelta, anti_entropy.Change),
    *(anti_entropy.OwnContents, Sampling, TokenLogprob, Alternative, messages.BatchedFrame),
]
#: As the page writes defaults.
_DEFAULTS = {None: "nil", b"": '""', "": '""', (): "[]"}


def test_the_messages_of_the_protocol_are_those_of_the_code() -> None:
    page = (DOCS / "reference" / "wire-protocol.md").read_text()
    for message in get_args(messages.Message):
        (row,) = re.findall(rf"^\| {message.KIND} \| {message.__name__} \|.*", page, re.M)
        assert told_fields(row) == fields_of(message)
    for structure in STRUCTURES:
        (row,) = re.findall(rf"^\| {structure.__name__} \|.*", page, re.M)
        assert told_fields(row) == fields_of(structure)


def told_fields(row: str) -> list[tuple[str, str]]:
    """Names, and defaults as they are written; those without one have none."""
    return re.findall(r"`(\w+): [^`=]+?(?: = ([^`]+))?`", row)


def fields_of(kind: type) -> list[tuple[str, str]]:
    """In their order; a named tuple's may be those of its base."""
    if dataclasses.is_dataclass(kind):
        fields = [(field.name, field.default) for field in dataclasses.fields(kind)]
    else:
        defaults: dict[str, object] = kind._field_defaults  # type: ignore[attr-defined]
        names: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
        fields = [(name, defaults.get(name, dataclasses.MISSING)) for name in names]
    return [
        (name, "" if value is dataclasses.MISSING else _DEFAULTS.get(value, repr(value)))
        for name, value in fields
    ]


def test_the_probes_of_the_protocol_are_those_of_the_code() -> None:
    page = (DOCS / "reference" / "wire-protocol.md").read_text()
    (block,) = re.findall(r"^```json\n(.*?)^```", page.partition("### Probes")[2], re.M | re.S)
    told = [
        probe if isinstance(probe, str) else tuple(Message(*turn) for turn in probe)
        for probe in json.loads(block)
    ]
    assert tuple(told) == PROBES
    assert f"{PROBE_MOMENT:%Y-%m-%d %H:%M:%S}" in page
    assert f"`{probe_digest(one_token_a_byte).hex()}`" in page


def one_token_a_byte(prompt: Prompt) -> Tokens:
    if not isinstance(prompt, str):
        prompt = "".join(f"[{turn.role}]{turn.content}" for turn in prompt)
    return tuple(prompt.encode())
