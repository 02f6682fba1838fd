"""Some real nodes in one process, but for their engines: ``python -m tests.bench.scale_host``.

Reads commands as lines of JSON, ``[name, argument…]``, and answers each with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from models.llama.engine import LlamaEngine
from overlay.config import load_config
from overlay.gossip.effects import GossipMessage
from overlay.gossip.records import CARD, block_key
from overlay.home.home import Home
from overlay.identity.invites import JoinToken
from overlay.identity.keys import curve_public
from overlay.identity.peer_id import PeerId
from overlay.joining import join_mesh
from overlay.limits import STRANGERS_MAX
from overlay.node import Node
from overlay.transport import budgets, incoming
from overlay.transport.link import Link, LinkEvent
from overlay.transport.transport import Transport
from overlay.wire.codec import encode
from overlay.wire.messages import Message
from tests.support.token_source import TokenSource

#: How often it is looked whether the news are there.
LOOK_S: Final = 0.02
#: No bound, in effect.
_HANDSHAKES_PER_S: Final = 1000
_ANY: Final = "127.0.0.1:0"

#: Of each node: CARD and the latest block, as hex, and its incarnation. "at": when that was so.
Truth = dict[str, list[Any]]


class Counted:
    """What the nodes of this process gossip, while ``on``: packing twice takes time."""

    on = False
    messages = 0
    bytes = 0


class Parted:
    """The part that each peer is in, by CURVE key: what another part says is thrown away."""

    by_key: dict[bytes, int] = {}  # noqa: RUF012


class Host:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = folder / "tiny.gguf"
        self._nodes: dict[int, Node] = {}
        #: The latest block of each node, and the next one of all.
        self._blocks: dict[int, int] = {}

    async def start(self, numbers: list[int], ports: list[int]) -> Truth:
        """Start these nodes at their ports, all with a block in their caches; and when each served.

        Times are monotonic.
        """
        served = []
        for number in numbers:
            config = load_config(
                self._folder / f"node{number}",
                name=f"node{number}",
                listen=f"127.0.0.1:{ports[number]}",
                api=_ANY,
                models=(str(self._model),),
                lan=False,
            )
            self._nodes[number] = await Node.start(config)
            self._cache(number, 1)
            served.append(time.monotonic())
        return {"at": served, **self._truth()}

    async def invite(self, uses: int) -> str:
        (node,) = self._nodes.values()
        return str(node.invite(3600, uses, "")["token"])

    async def join(self, numbers: list[int], token: str) -> None:
        for number in numbers:
            home = Home(self._folder / f"node{number}")
            home.lock()
            await join_mesh(home, JoinToken.parse(token), f"node{number}")
            home.unlock()

    async def cache(self, numbers: list[int], count: int) -> Truth:
        """So many blocks come to be cached at each."""
        for number in numbers:
            self._cache(number, count)
        return {"at": [time.monotonic()], **self._truth()}

    def _cache(self, number: int, count: int) -> None:
        node = self._nodes[number]
        (listing,) = [each for each in node.models() if each.local]
        engine = node.engine(listing.name)
        assert isinstance(engine, TokenSource)
        first = self._blocks.get(number, (number + 1) << 40) + 1
        self._blocks[number] = first + count - 1
        engine.caches(*range(first, first + count))

    async def truth(self) -> Truth:
        """Of the nodes here."""
        return self._truth()

    def _truth(self) -> Truth:
        told = {}
        for number, node in self._nodes.items():
            gossip = node.mesh.member.gossip
            card = gossip.record(gossip.me, CARD)
            assert card is not None
            last = block_key(self._blocks[number])
            told[bytes(gossip.me).hex()] = [gossip.incarnation(gossip.me), card.hex(), last.hex()]
        return told

    async def know(self, truth: Truth, within_s: float) -> float:
        """When (monotonic time) all nodes here know all that is true; -1: not so soon."""
        wanted = [
            (PeerId(bytes.fromhex(peer)), incarnation, bytes.fromhex(card), bytes.fromhex(block))
            for peer, (incarnation, card, block) in truth.items()
        ]
        end_s = time.monotonic() + within_s
        for node in self._nodes.values():
            gossip = node.mesh.member.gossip
            for peer, incarnation, card, block in wanted:
                while not (
                    gossip.record(peer, block) is not None
                    and gossip.incarnation(peer) == incarnation
                    and gossip.record(peer, CARD) == card
                ):
                    if time.monotonic() > end_s:
                        return -1.0
                    await asyncio.sleep(LOOK_S)
        return time.monotonic()

    async def part(self, parts: dict[str, int]) -> None:
        Parted.by_key = {curve_public(PeerId(bytes.fromhex(p))): n for p, n in parts.items()}

    async def count(self, on: bool) -> list[int]:
        """What was counted until now; begin anew, or stop."""
        counted = [Counted.messages, Counted.bytes]
        Counted.on, Counted.messages, Counted.bytes = on, 0, 0
        return counted

    async def links(self) -> list[int]:
        """Of each node: its links, and the messages and bytes that it has sent over them."""
        links = [node.mesh.transport.links().values() for node in self._nodes.values()]
        return [
            sum(map(len, links)),
            sum(link.sent_messages for each in links for link in each),
            sum(link.sent_bytes for each in links for link in each),
        ]

    async def close(self) -> None:
        await asyncio.gather(*(node.close() for node in self._nodes.values()))


def _prepare() -> None:
    # All nodes are at one address here, as no household's are.
    patch.object(incoming, "STRANGERS_PER_ADDRESS_MAX", STRANGERS_MAX).start()
    patch.object(budgets, "HANDSHAKES_PER_S", _HANDSHAKES_PER_S).start()
    LlamaEngine.start = TokenSource.start  # type: ignore[method-assign, assignment]
    send, receive = Transport.send, Link.receive

    def counting(self: Transport, peer: PeerId, message: Message) -> bool:
        if Counted.on and isinstance(message, GossipMessage):
            Counted.messages += 1
            Counted.bytes += len(encode(message))
        return send(self, peer, message)

    def parted(self: Link, data: bytes, now: float, today: float) -> list[LinkEvent]:
        handshake, parts = self._handshake, Parted.by_key
        if parts:
            mine = curve_public(handshake._me.key.peer_id)
            if parts.get(mine) != parts.get(handshake._remote_curve):
                return []
        return receive(self, data, now, today)

    Transport.send = counting  # type: ignore[method-assign]
    Link.receive = parted  # type: ignore[method-assign]


async def main() -> None:
    host = Host(Path(sys.argv[1]))
    commands = asyncio.StreamReader(limit=1 << 26)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        name, *arguments = json.loads(line)
        answer = await getattr(host, name)(*arguments)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _prepare()
    asyncio.run(main())
