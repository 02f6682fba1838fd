"""The processes of the benchmark of links: each is one end, or the relay between two.

    python -m tests.bench.link_ends echo KIND
    python -m tests.bench.link_ends pinger KIND --port PORT
    python -m tests.bench.link_ends member NUMBER [--serves] [--hidden]

It prints ``ready`` and answers JSON lines. An echo sends back what a pinger of its kind sends. A
member is a node without API and home: a whole `Mesh` with real links, and an engine that always
has the next token. `--hidden` ones tell a wrong address: only a relay leads from one to another.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import random
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from unittest.mock import patch

from models.engine import (
    Chunk,
    EngineEvent,
    EngineStats,
    GenerationRequest,
    ModelInfo,
    Prompt,
    Sampling,
    Started,
    Tokens,
)
from overlay.admission.handshake import LocalNode
from overlay.forwarding import effects as fwd
from overlay.http.backend import REQUEST_ID_BYTES, Ask
from overlay.identity.branches import Lineage
from overlay.identity.certificates import Membership, found_mesh, issue
from overlay.identity.invites import InviteLedger
from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations
from overlay.transport.transport import Transport
from overlay.wire.messages import Hello, Message, TokenFrame
from tests.bench.report import percentile
from tests.support.bare_mesh import bare_mesh

#: What goes to and fro: a token as it is on its way, and as many bytes for the rivals.
FRAME: Final = TokenFrame(b"r" * REQUEST_ID_BYTES, 1000, (4711,), " token")
PAYLOAD_BYTES: Final = 35
GRPC_SERVICE: Final = "bench.Echo"
ANY_PORT: Final = Multiaddr("ip4", "127.0.0.1", 0)
#: Nobody listens there.
NOWHERE: Final = Multiaddr("ip4", "127.0.0.1", 1)
MODEL: Final = ModelInfo("bench", b"k" * 16, (), "", 1 << 17, 1 << 17, 1)
#: Each token's text is when it was made, and as long as a token's of English is: what goes through
#: a relay is bounded in bytes.
STAMP_CHARS: Final = 4
_STAMPS: Final = 1 << 6 * STAMP_CHARS

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Ping = Callable[[], Awaitable[object]]


def local_node(number: int) -> LocalNode:
    """The member of that number, of a mesh that everybody here knows the founder's key of."""
    keys = [NodeKey.from_seed(bytes([each + 1]) * 32) for each in (0, number)]
    founded = found_mesh(keys[0], b"s" * 32)
    if number == 0:
        return LocalNode(keys[0], founded, "member 0", ())
    chain = issue(keys[0], founded, keys[1].peer_id, time.time())
    membership = Membership(founded.founder, founded.mesh_secret, chain)
    return LocalNode(keys[1], membership, f"member {number}", ())


# --- Echoes -----------------------------------------------------------------------------------


async def tcp_echo() -> dict[str, Any]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                writer.write(await reader.readexactly(PAYLOAD_BYTES))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return {"port": server.sockets[0].getsockname()[1]}


async def grpc_echo() -> dict[str, Any]:
    import grpc

    async def one(request: bytes, context: Any) -> bytes:
        return request

    async def stream(requests: Any, context: Any) -> Any:
        async for request in requests:
            yield request

    server = grpc.aio.server()
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(one),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    handler = grpc.method_handlers_generic_handler(GRPC_SERVICE, handlers)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    KEPT.append(server)
    return {"port": port}


class LinkEnd:
    """A node that is nothing but a transport; each message goes to ``on_message``."""

    def __init__(self, number: int, on_message: Callable[[PeerId, Message], object]) -> None:
        self.node = local_node(number)
        self.up = asyncio.Event()
        self._on_message = on_message
        assert self.node.membership is not None
        self.transport = Transport(
            node=lambda: self.node,
            ledger=InviteLedger(self.node.key.peer_id),
            revocations=Revocations(self.node.membership.founder),
            on_ledger=lambda: None,
            observer=self,
            lineage=lambda peer: None,
            rng=random.Random(number),
        )

    def link_up(self, peer: PeerId, hello: Hello, lineage: Lineage) -> None:
        self.up.set()

    def link_measured(self, peer: PeerId, rtt_ms: float) -> None:
        pass

    def link_down(self, peer: PeerId, reason: str) -> None:
        self.up.clear()

    def received(self, peer: PeerId, message: Message, size: int) -> None:
        self._on_message(peer, message)

    def revocation_shown(self, by: str, record: bytes) -> None:
        raise AssertionError("nobody is revoked")


async def hearth_echo() -> dict[str, Any]:
    end = LinkEnd(0, lambda peer, message: end.transport.send(peer, message))
    (address,) = await end.transport.start([ANY_PORT])
    KEPT.append(end)
    return {"port": address.port}


ECHOES: Final[dict[str, Callable[[], Awaitable[dict[str, Any]]]]] = {
    "tcp": tcp_echo,
    "grpc": grpc_echo,
    "hearth": hearth_echo,
}
#: What must live as long as the process.
KEPT: Final[list[Any]] = []


# --- Pingers ----------------------------------------------------------------------------------


async def tcp_ping(port: int) -> Ping:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = bytes(PAYLOAD_BYTES)

    async def ping() -> object:
        writer.write(payload)
        return await reader.readexactly(PAYLOAD_BYTES)

    return ping


async def grpc_unary_ping(port: int) -> Ping:
    import grpc

    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    call = channel.unary_unary(f"/{GRPC_SERVICE}/One")
    payload = bytes(PAYLOAD_BYTES)
    return lambda: call(payload)


async def grpc_stream_ping(port: int) -> Ping:
    import grpc

    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    stream = channel.stream_stream(f"/{GRPC_SERVICE}/Stream")()
    payload = bytes(PAYLOAD_BYTES)

    async def ping() -> object:
        await stream.write(payload)
        return await stream.read()

    return ping


async def hearth_ping(port: int) -> Ping:
    answers: asyncio.Queue[Message] = asyncio.Queue()
    end = LinkEnd(1, lambda peer, message: answers.put_nowait(message))
    await end.transport.start([ANY_PORT])
    echo = local_node(0).key.peer_id
    end.transport.dial(echo, [Multiaddr("ip4", "127.0.0.1", port)])
    await end.up.wait()

    async def ping() -> object:
        end.transport.send(echo, FRAME)
        return await answers.get()

    return ping


PINGERS: Final[dict[str, Callable[[int], Awaitable[Ping]]]] = {
    "tcp": tcp_ping,
    "grpc-unary": grpc_unary_ping,
    "grpc-stream": grpc_stream_ping,
    "hearth": hearth_ping,
}


async def pinger(kind: str, port: int) -> Answer:
    ping = await PINGERS[kind](port)

    async def answer(order: dict[str, Any]) -> dict[str, Any]:
        """``pings``: how many, one after the other, with pauses of ``pause_s``."""
        times_us = []
        for _ in range(order["pings"]):
            if order["pause_s"]:
                await asyncio.sleep(order["pause_s"])
            begun_s = time.perf_counter()
            await ping()
            times_us.append((time.perf_counter() - begun_s) * 1e6)
        return spread("us", times_us)

    return answer


def spread(unit: str, values: list[float]) -> dict[str, Any]:
    return {
        "count": len(values),
        f"p50_{unit}": percentile(values, 0.5) if values else None,
        f"p99_{unit}": percentile(values, 0.99) if values else None,
    }


# --- Members ----------------------------------------------------------------------------------


def _now_us() -> int:
    return time.monotonic_ns() // 1000


def stamp_of(made_us: int) -> str:
    """A token's text that tells when it was made."""
    return base64.b64encode((made_us % _STAMPS).to_bytes(STAMP_CHARS * 3 // 4, "big")).decode()


def age_us(stamp: str, now_us: int) -> int:
    """How long ago that was; 16 s at most."""
    return (now_us - int.from_bytes(base64.b64decode(stamp), "big")) % _STAMPS


class Metronome:
    """An engine, and the pool that it is in: a token for each open request at every step."""

    def __init__(self) -> None:
        self.sink: Callable[[EngineEvent], None] = lambda event: None
        self.lost: dict[str, str] = {}
        self.info = MODEL
        self.tokens = 0
        self._open: dict[bytes, GenerationRequest] = {}
        self._steps_per_s = 0.0
        self._decoding: asyncio.Task[None] | None = None

    def infos(self) -> list[ModelInfo]:
        return [self.info]

    def get(self, name: str) -> Metronome:
        return self

    def submit(self, request: GenerationRequest) -> None:
        self.sink(Started(request.request_id, 0, 0.0))
        self._open[request.request_id] = request
        self._steps_per_s = request.tokens[0]
        if self._decoding is None:
            self._decoding = asyncio.create_task(self._decode())

    def cancel(self, request_id: bytes) -> None:
        self._open.pop(request_id, None)

    def remember(self, prompt: Tokens, answer: Tokens) -> None:
        pass

    async def tokenize(self, prompt: Prompt, *, guests: bool = False) -> Tokens:
        """The prompt is the pace, in steps per second."""
        return (int(str(prompt)),)

    async def _decode(self) -> None:
        due = time.monotonic()
        while self._open:
            due += 1 / self._steps_per_s
            await asyncio.sleep(due - time.monotonic())
            stamp = stamp_of(_now_us())
            for request_id in list(self._open):
                self.tokens += 1
                self.sink(Chunk(request_id, (4711,), stamp))
        self._decoding = None


class MemberEnd:
    """A `Mesh` that asks, answers, or only stands between."""

    def __init__(self, number: int, *, serves: bool) -> None:
        self.engine = Metronome()
        pool: Any = self.engine if serves else None
        self.mesh = bare_mesh(local_node(number), engines=pool, on_client_event=self._told)
        self.engine.sink = lambda event: self.mesh.engine_event(MODEL.name, event)
        self._counting = False
        self.frames = 0
        self.tokens = 0
        self.latencies_ms: list[float] = []
        self.failures: list[str] = []

    async def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """``meet``: a peer and its port; ``linked``: whom to wait for; ``ask``; ``made``."""
        match order:
            case {"meet": [peer, port]}:
                self.mesh.meet(PeerId.parse(peer), [Multiaddr("ip4", "127.0.0.1", port)])
            case {"linked": peers}:
                await self._linked({PeerId.parse(peer) for peer in peers})
                links = self.mesh.transport.links().values()
                return {"relayed": [link.relay is not None for link in links]}
            case {"ask": streams, "steps_per_s": pace, "seconds": seconds}:
                return await self._ask(streams, pace, seconds)
            case {"made": _}:
                made, self.engine.tokens = self.engine.tokens, 0
                return {"tokens": made, "cpu_s": time.process_time()}
        return {}

    async def _linked(self, peers: set[PeerId]) -> None:
        """There is no event for what gossip has brought."""
        while True:
            here = self.mesh.transport.links().keys() >= peers
            if here and self.mesh.contacts().keys() >= peers:
                return
            await asyncio.sleep(0.05)

    async def _ask(self, streams: int, pace: float, seconds: float) -> dict[str, Any]:
        self.frames = self.tokens = 0
        self.latencies_ms, self.failures = [], []
        ids = [secrets.token_bytes(REQUEST_ID_BYTES) for _ in range(streams)]
        for request_id in ids:
            ask = Ask(MODEL.name, str(round(pace)), Sampling(), request_id=request_id)
            self.mesh.submit(request_id, ask, MODEL.name)
        await asyncio.sleep(min(1.0, seconds / 2))
        self._counting, cpu_s, begun_s = True, time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        self._counting = False
        took_s, cpu_s = time.monotonic() - begun_s, time.process_time() - cpu_s
        for request_id in ids:
            self.mesh.cancel(request_id)
        return {
            "frames_per_s": self.frames / took_s,
            "tokens_per_s": self.tokens / took_s,
            "cpu_share": cpu_s / took_s,
            **spread("ms", self.latencies_ms),
            "failures": self.failures,
        }

    def _told(self, request_id: bytes, event: fwd.ClientEvent) -> None:
        match event:
            case fwd.TextDelta(text=text) if self._counting:
                now_us = _now_us()
                self.frames += 1
                self.tokens += len(text) // STAMP_CHARS
                for at in range(0, len(text), STAMP_CHARS):
                    self.latencies_ms.append(age_us(text[at : at + STAMP_CHARS], now_us) / 1000)
            case fwd.Failure(error=error):
                self.failures.append(str(error))


async def member(number: int, *, hidden: bool, serves: bool) -> tuple[dict[str, Any], Answer]:
    end = MemberEnd(number, serves=serves)
    if hidden:
        # For as long as this process lives.
        patch("overlay.whereabouts.reachable_addresses", _nowhere).start()
    (address,) = await end.mesh.start([ANY_PORT])
    if serves:
        stats = EngineStats(prefill_rate=1e6, decode_rate=1e6, cells_total=MODEL.cells)
        end.mesh.engine_event(MODEL.name, stats)
    return {"peer": str(end.mesh.me), "port": address.port}, end.answer


def _nowhere(bound: Sequence[Multiaddr]) -> tuple[Multiaddr, ...]:
    return (NOWHERE,)


# --- The process ------------------------------------------------------------------------------


async def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.link_ends")
    parser.add_argument("role", choices=("echo", "pinger", "member"))
    parser.add_argument("which")
    parser.add_argument("--port", type=int)
    parser.add_argument("--hidden", action="store_true")
    parser.add_argument("--serves", action="store_true")
    options = parser.parse_args()
    where: dict[str, Any] = {}
    answer: Answer = _nothing
    if options.role == "echo":
        where = await ECHOES[options.which]()
    elif options.role == "pinger":
        answer = await pinger(options.which, options.port)
    else:
        number = int(options.which)
        where, answer = await member(number, hidden=options.hidden, serves=options.serves)
    print("ready", flush=True)
    async for order in _orders():
        told = where if "where" in order else await answer(order)
        print(json.dumps(told), flush=True)


async def _nothing(order: dict[str, Any]) -> dict[str, Any]:
    return {}


async def _orders() -> Any:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


if __name__ == "__main__":
    asyncio.run(main())
