"""A victim in a process of its own, an honest member, and what attackers are made of."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from overlay.admission.handshake import LocalNode
from overlay.home.home import Home
from overlay.identity.certificates import Membership, issue
from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.standing import Standing
from overlay.wire.codec import decode, encode
from overlay.wire.messages import Hello, Message, Ping, Pong
from tests.chaos.cores import ATTACKER_SHARE, FULL, no_attacker, take_turns
from tests.chaos.honest import Honest, Terms
from tests.overlay.transport.nodes import PATIENCE_S, keys
from tests.overlay.transport.raw import RawPeer, hello_of, raw_peer

#: How long an attack lasts at least, in full strength.
ATTACK_S: Final = 5
#: What one attack may cost the victim in memory, and the most that it may ever have, all attacks
#: added up. Its budgets bound what waits of one peer
#: (PARKED_BYTES_MAX: 32 MiB), of all records (REPLICAS_BYTES_MAX: about four times as much, as
#: Python keeps them), and ZeroMQ's buffers for STRANGERS_MAX connections. The short attacks
#: stay far below.
GROWTH_BYTES_MAX: Final = (200 if FULL else 64) << 20
RSS_BYTES_MAX: Final = (400 if FULL else 256) << 20
#: How much slower an honest member's requests may be at the victim than at its twin.
SLOWDOWN_MAX: Final = 1.2
#: How many requests there must be to tell.
_ASKED_MIN: Final = 50
_KEYS: Final = keys()


def strength(short: int, full: int) -> int:
    """How often to do something."""
    return full if FULL else short


@dataclass(frozen=True)
class Figures:
    """What an attack did. Times are means of the middle half of all requests: at the twin that
    nobody attacks, and at the victim. (A core that was asleep takes longer to answer than one that
    was not, so requests are of two kinds, and their median may lie anywhere between them.)"""

    attack: str
    twin_ms: float
    attacked_ms: float
    asked: int
    grown_bytes: int

    @classmethod
    def of(cls, attacked_s: list[float], twin_s: list[float], grown_bytes: int) -> Figures:
        """Of the test that runs."""
        test = os.environ["PYTEST_CURRENT_TEST"]
        attack = test.partition("::test_")[2].partition(" (")[0].replace("_", " ")
        twin, attacked = (1000 * middle(taken_s) for taken_s in (twin_s, attacked_s))
        return cls(attack, twin, attacked, len(attacked_s), grown_bytes)

    @property
    def slower(self) -> float:
        return self.attacked_ms / self.twin_ms

    def __str__(self) -> str:
        return (
            f"{self.twin_ms:6.2f} ms {self.attacked_ms:6.2f} ms {self.slower:5.2f} "
            f"{self.asked:6} {self.grown_bytes / (1 << 20):7.1f} MiB  {self.attack}"
        )


def middle(values: list[float]) -> float:
    """Their interquartile mean."""
    quarter = len(values) // 4
    return statistics.fmean(sorted(values)[quarter : len(values) - quarter])


@dataclass
class Victim:
    """A node that is attacked, and what is known of it from outside."""

    process: subprocess.Popen[str]
    log: Path
    founder: NodeKey
    membership: Membership
    address: Multiaddr
    api: str
    model: str
    token: str
    figures: list[Figures] = field(default_factory=list)
    #: Where its log has what came after the attack began.
    log_begins: int = 0

    @property
    def peer_id(self) -> PeerId:
        return self.founder.peer_id

    @property
    def addresses(self) -> list[Multiaddr]:
        return [self.address]

    def member(self, name: str, key: NodeKey | None = None) -> LocalNode:
        """A new member of its mesh."""
        key = key or next(_KEYS)
        chain = issue(self.founder, self.membership, key.peer_id, time.time())
        membership = Membership(self.membership.founder, self.membership.mesh_secret, chain)
        return LocalNode(key, membership, name, ())

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def rss_bytes_max(self) -> int:
        """The most that it ever had (Linux); elsewhere what it has."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return self.rss_bytes()
        [peak] = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(peak) << 10

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return int(psutil.Process(self.process.pid).num_fds())

    def said(self) -> str:
        return self.log.read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def start_victim(folder: Path, model: Path) -> Victim:
    """The founder of a mesh, with an invite for one that nobody has used yet."""
    home = Home(folder / "home")
    key = home.load_or_create_key()
    standing = Standing(home, key)
    told = standing.invite(3600, 1, "", [Multiaddr("ip4", "127.0.0.1", 7710)], may_invite=False)
    log = folder / "victim.log"
    with no_attacker():
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.chaos.victim_node", "up", "--home", str(home.path)),
                *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--no-lan"),
                *("--model", str(model)),
            ],
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            stdin=subprocess.DEVNULL,
            text=True,
        )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            words = dict(word.split("=", 1) for word in line.split() if "=" in word)
            break
    else:
        raise AssertionError(log.read_text())
    host, _, port = words["listen"].partition(":")
    address = Multiaddr("ip4", host, int(port))
    return Victim(
        process, log, key, standing.membership, address, words["api"], model.stem, told["token"]
    )


def honest_terms(victim: Victim) -> Terms:
    """A member that asks the victim."""
    node = victim.member("honest")
    assert node.membership is not None
    key, membership = node.key, node.membership
    return Terms(
        *(key.seed, membership, victim.peer_id, victim.address, victim.model),
        *(victim.process.pid, FULL),
    )


@asynccontextmanager
async def under_attack(victim: Victim, honest: Honest) -> AsyncIterator[None]:
    """Within, the attack. All that while an honest member is served, nothing breaks, and not much
    memory is taken. In full strength, the member is served as fast as another one is at the same
    time by a twin of the victim that nobody has attacked."""
    rss_bytes = victim.rss_bytes()
    twin_s: list[float] = []
    async with AsyncExitStack() as stack:
        taken_s = await stack.enter_async_context(honest.asking())
        if honest.control is not None:
            twin_s = await stack.enter_async_context(honest.control.asking())
            turns = asyncio.create_task(take_turns(honest.processes, honest.control.processes))
            stack.callback(turns.cancel)
        PACE.begin()
        victim.log_begins = victim.log.stat().st_size
        yield
    assert victim.process.poll() is None, victim.said()
    assert "Traceback" not in victim.said()
    grown_bytes = victim.rss_bytes() - rss_bytes
    assert grown_bytes < GROWTH_BYTES_MAX
    assert victim.rss_bytes_max() < RSS_BYTES_MAX
    if twin_s:
        figures = Figures.of(taken_s, twin_s, grown_bytes)
        victim.figures.append(figures)
        assert figures.asked >= _ASKED_MIN, "the attack was too short to tell"
        assert figures.slower <= SLOWDOWN_MAX, figures


async def lasting(short: int = 1) -> AsyncIterator[None]:
    """How often to attack: so many times; in full strength until a change would have shown."""
    until = time.monotonic() + ATTACK_S
    done = 0
    while done < short or (FULL and time.monotonic() < until):
        yield
        done += 1
        await PACE.keep()


class Pace:
    """Keeps what attackers compute below their share, in full strength."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._begun, self._begun_cpu_s = time.monotonic(), time.process_time()

    async def keep(self) -> None:
        """Call it after all that takes time; it lets others have their turn, too."""
        due = self._begun + (time.process_time() - self._begun_cpu_s) / ATTACKER_SHARE
        await asyncio.sleep(max(0.0, due - time.monotonic()) if FULL else 0)


PACE: Final = Pace()


async def named(victim: Victim, *words: object) -> str:
    """Wait for a line with all the words in it, of what the victim's log has of this attack."""
    async with asyncio.timeout(PATIENCE_S):
        with victim.log.open("rb") as log:
            log.seek(victim.log_begins)
            while True:
                begins = log.tell()
                line = log.readline()
                if not line.endswith(b"\n"):
                    # There is no more, or it is not all there yet.
                    log.seek(begins)
                    await asyncio.sleep(0.02)
                elif all(str(word).encode() in line for word in words):
                    return line.decode()


# --- Attackers ----------------------------------------------------------------------------------


@asynccontextmanager
async def let_in_as(victim: Victim, me: LocalNode, source: str) -> AsyncIterator[RawPeer]:
    """A link to the victim that is up; whoever has it must read what comes."""
    async with raw_peer(victim, me.key, source=source) as raw:
        await raw.send(encode(hello_of(me)))
        assert isinstance(await raw.receive(), Hello)
        yield raw


@asynccontextmanager
async def attacker(
    victim: Victim, me: LocalNode | None = None, source: str = ""
) -> AsyncIterator[Attacker]:
    """A link to the victim that is up, to be abused."""
    me = me or victim.member("attacker")
    async with let_in_as(victim, me, source) as raw:
        found = Attacker(me, raw)
        reading = asyncio.create_task(found.read())
        try:
            yield found
        finally:
            reading.cancel()
            await asyncio.wait({reading})


class Attacker:
    """A member in good standing that says whatever it likes. It answers pings, to be kept."""

    def __init__(self, me: LocalNode, raw: RawPeer) -> None:
        self.me = me
        self.raw = raw
        self._heard: asyncio.Queue[Message] = asyncio.Queue()

    @property
    def peer_id(self) -> PeerId:
        return self.me.key.peer_id

    async def read(self) -> None:
        while True:
            [data] = await self.raw.dealer.recv_multipart()
            message = decode(data)
            if isinstance(message, Ping):
                await self.say(Pong(message.nonce))
            self._heard.put_nowait(message)

    async def say(self, *messages: Message) -> None:
        for message in messages:
            await self.raw.send(encode(message))
            await PACE.keep()  # While there is room in its queue, to send suspends nobody.

    async def hear(self, *kinds: type[Message]) -> Message:
        """The next message of one of the kinds."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self._heard.get()
                if isinstance(message, kinds):
                    return message

    async def heard(self) -> None:
        """Wait until the victim has read all that was said so far."""
        nonce = secrets.randbits(60)
        await self.say(Ping(nonce))
        while await self.hear(Pong) != Pong(nonce):
            pass


def stranger_sources(first: int = 1) -> Iterator[str]:
    """Loopback addresses that nobody has used yet: the victim bounds what comes from one.

    ``first``: those of 127.FIRST.0.0 and up.
    """
    for number in itertools.count(1):
        yield f"127.{first + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
