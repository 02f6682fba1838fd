"""Links with peers over ZeroMQ: one ROUTER bound, one DEALER per dialled peer, CURVE on all."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from overlay.admission.handshake import Handshake, LocalNode, Role
from overlay.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from overlay.identity.branches import Lineage
from overlay.identity.invites import NONCE_BYTES, InviteLedger
from overlay.identity.keys import curve_public
from overlay.identity.multiaddr import Multiaddr, readable_addresses
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations
from overlay.limits import PING_INTERVAL_S
from overlay.transport.budgets import Ban, Bans, Breaches
from overlay.transport.circuits import Circuits
from overlay.transport.connection import Line, converse
from overlay.transport.detours import Detours
from overlay.transport.dialback import DialBacks
from overlay.transport.dialling import Dial, DialTurns, Ending
from overlay.transport.incoming import Listener
from overlay.transport.interfaces import reachable_addresses
from overlay.transport.link import Link, LinkStatus
from overlay.transport.links import BetweenTransports, LinkObserver, Links
from overlay.transport.names import Names
from overlay.transport.public import PublicAddresses, seen_at
from overlay.transport.relaying import Allowance
from overlay.transport.sockets import Sockets, bind
from overlay.wire.between_transports import DialBack, DialedBack, Relay, Relayed, Unrelayed
from overlay.wire.codec import encode
from overlay.wire.messages import Message

log = logging.getLogger(__name__)


class Transport:
    """The links of one node; all methods belong to one asyncio loop.

    ``node`` gives what this node says of itself at each handshake; ``on_ledger`` is called when
    an invite was used, and must write the ledger before it returns. ``revocations`` may grow:
    `refuse_revoked` then. ``lineage``: who let a member in; None: it is not known to be one.
    ``relays``: pass on for members that cannot dial each other.
    """

    def __init__(
        self,
        *,
        node: Callable[[], LocalNode],
        ledger: InviteLedger,
        revocations: Revocations,
        on_ledger: Callable[[], None],
        observer: LinkObserver,
        lineage: Callable[[PeerId], Lineage | None],
        rng: random.Random,
        relays: bool = True,
    ) -> None:
        self._node = node
        self._me = node().key.peer_id
        self._ledger = ledger
        self._revocations = revocations
        self._rng = rng
        self._links = Links(
            observer, on_ledger, self._links_changed, self._ban, self._breached, self._requested
        )
        self._detours = Detours(rng)
        #: Who could relay when `detour` was called last, the nearest first.
        self._relays: list[PeerId] = []
        self._circuits = Circuits(
            node().key, self._links, self._circuit_link, self._circuit_ended, lineage, relays=relays
        )
        self._bans = Bans()
        self._breaches = Breaches()
        #: Those whose ban was not over at the latest tick, by CURVE key: at first, no more is known
        #: of whoever dials.
        self._banned: dict[bytes, PeerId] = {}
        self._sockets = Sockets(node().key)
        self._turns = DialTurns()
        self._names = Names()
        self._dial_backs = DialBacks(self._sockets)
        self._public = PublicAddresses()
        #: What this node listens on, each interface's by itself.
        self._own: tuple[Multiaddr, ...] = ()
        self._listener: Listener | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._dials: dict[PeerId, Dial] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self, listen: Sequence[Multiaddr]) -> list[Multiaddr]:
        """Listen on the addresses; returns the real ones (port 0 becomes a free port).

        Raises AddressInUse, ConfigError; nothing is left open then.
        """
        router = self._sockets.listener()
        try:
            bound = [bind(router, address) for address in listen]
            self._own = reachable_addresses(bound)
            ports = {address.port for address in bound}
            self._listener = Listener(
                router, ports, partial(self._link, Role.LISTENER), self._links
            )
        except BaseException:
            self._closed = True
            router.close(linger=0)
            await self._sockets.close()
            raise
        self._ticking = asyncio.create_task(self._tick())
        return bound

    async def close(self, reason: str = "the node stops") -> None:
        """Say goodbye on all links and end them; the observer hears nothing more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._listener is not None:
            self._listener.stop_accepting()
        dials = [self._dials.pop(peer) for peer in list(self._dials)]
        for dial in dials:
            dial.hold()
        await _all_gone(self._links.close(reason))
        for dial in dials:
            await dial.stop()
        if self._stopping:
            await asyncio.wait(self._stopping)
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait({self._ticking})
        if self._listener is not None:
            self._listener.close()
        await self._dial_backs.close()
        await self._sockets.close()

    def dial(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> None:
        """Keep a link to ``peer``, until `hang_up`; calling again updates the addresses.

        While a link that the peer dialled is up, this side does not dial.
        """
        if peer == self._me:
            raise LocalProtocolError("a node does not dial itself")
        if self._closed:
            return
        if peer in self._dials:
            self._dials[peer].update(addresses)
            return
        dial = Dial(addresses, partial(self._attempt, peer), self._rng)
        self._dials[peer] = dial
        self._links_changed(peer)
        dial.start()

    def hang_up(self, peer: PeerId, reason: str) -> None:
        """Say goodbye, end all links to the peer and stop dialling it.

        If there was a link, the observer's ``link_down`` is called before this returns.
        """
        dial = self._dials.pop(peer, None)
        if dial is not None:
            dial.hold()
        left = self._links.hang_up(peer, reason)
        if dial is not None:
            task = asyncio.create_task(_stop(dial, left))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    def detour(self, peers: Iterable[PeerId]) -> None:
        """Look for a way through a relay to those peers to which there is no link.

        ``peers``: all that are up; call it every second or so. Dialling them goes on, and a direct
        link takes over once there is one.
        """
        self._relays, linked = self._links.nearest(), self._links.statuses().keys()
        unlinked = set(peers) - linked - set(self._banned.values())
        relayed = linked - set(self._relays)
        for peer, relay in self._detours.due(unlinked, self._relays, time.monotonic(), relayed):
            self._circuits.dial(peer, relay)

    def refuse_revoked(self) -> list[PeerId]:
        """End the links with members whose chain a revocation voids; each is told why.

        The observer's ``link_down`` is called before this returns. Returns whom it refused.
        """
        return self._links.refuse_revoked(self._revocations)

    def send(self, peer: PeerId, message: Message) -> bool:
        """Queue a message; never blocks. False: there is no link, or its queue is full.

        True is no promise: a link that breaks takes its queue with it, and ``link_down`` tells.
        Raises LimitExceeded for a message that is too long.
        """
        line = self._links.line(peer)
        return line is not None and line.transmit(encode(message))

    def links(self) -> dict[PeerId, LinkStatus]:
        """The links that are up, one per peer."""
        return self._links.statuses()

    def failures(self) -> dict[PeerId, str]:
        """Peers that are dialled without success so far, and why the latest attempt ended."""
        return {
            peer: dial.failure
            for peer, dial in self._dials.items()
            if dial.failure and self._links.line(peer) is None
        }

    def relayed(self) -> Allowance:
        """What this node has passed on for others."""
        return self._circuits.allowance

    @property
    def relays(self) -> bool:
        """Whether it does at all."""
        return self._circuits.relays

    def observed(self) -> dict[PeerId, Multiaddr]:
        """Where the peers that this node dialled see it."""
        return {
            peer: address
            for peer, line in self._links.dialled().items()
            for address in readable_addresses([line.link.observed])
            if address.family in ("ip4", "ip6")
        }

    def public(self) -> tuple[Multiaddr, ...]:
        """Addresses of a router that passes on to this node, as a peer has confirmed."""
        return self._public.confirmed(time.monotonic())

    def moved(self, own: Sequence[Multiaddr]) -> None:
        """The addresses that this node listens on changed to ``own``, each interface's by itself.

        What was known of routers is forgotten, and whoever is waiting to be dialled is dialled.
        """
        self._own = tuple(own)
        self._public = PublicAddresses()
        for dial in self._dials.values():
            dial.hurry()

    def slowed(self) -> set[PeerId]:
        """Peers that send more than they may, so that some of it waits to be read."""
        return self._links.slowed()

    def bans(self) -> dict[PeerId, Ban]:
        """Peers with which nothing is exchanged for a while; ``until`` is monotonic time."""
        return self._bans.all(time.monotonic())

    def blame(self, peer: PeerId, error: RemoteProtocolError) -> None:
        """The peer said what it must not: end all links to it, and say why.

        Unless it was the last time for a while, that is all. If there was a link, the observer's
        ``link_down`` is called before this returns.
        """
        self._breached(peer, str(error))
        self._links.refuse(peer, error)

    def charge(self, peer: PeerId, messages: int) -> None:
        """What the peer said last cost more than it looked like: as many messages."""
        self._links.charge(peer, messages)

    def _breached(self, peer: PeerId, reason: str) -> None:
        if self._breaches.too_many(peer, time.monotonic()):
            self._ban(peer, f"it broke the protocol again and again: {reason}")

    def _ban(self, peer: PeerId, reason: str) -> None:
        now = time.monotonic()
        ban = self._bans.ban(peer, reason, now)
        log.warning("%s is banned for %.0f s: %s", peer, ban.until - now, reason)
        self._banned[curve_public(peer)] = peer
        self._links_changed(peer)
        self._links.refuse(peer, _refusal(ban, now))

    # --- Dialling -----------------------------------------------------------------------------

    async def _attempt(self, peer: PeerId, address: Multiaddr, failures: int) -> Ending:
        ending = Ending(f"the name {address.host} is unknown", was_up=False)
        for endpoint in await self._names.resolve(address, failures):
            link = partial(self._outgoing, peer, endpoint)
            turn = self._turns.turn(failures)
            ending = await converse(self._sockets, turn, peer, endpoint, link, self._links)
            log.debug("dialled %s at %s: %s", peer, endpoint, ending.reason)
            ending = replace(ending, reason=f"{address}: {ending.reason}")
            if ending.was_up:
                break
        return ending

    def _outgoing(self, peer: PeerId, endpoint: str) -> Link | None:
        # Whoever dials tells the peer that it has no other link with it (see `Link.replaces`).
        if self._links.has_incoming(peer):
            return None
        return self._link(Role.DIALER, curve_public(peer), endpoint)

    def _links_changed(self, peer: PeerId) -> None:
        if self._links.direct(peer) is None:
            self._circuits.relay_lost(peer)
        dial = self._dials.get(peer)
        if dial is None:
            return
        if self._bans.of(peer, time.monotonic()) or self._links.has_incoming(peer):
            dial.hold()
        else:
            dial.resume()

    def _circuit_ended(self, peer: PeerId, relay: PeerId, was_ready: bool) -> None:
        self._detours.failed(peer, relay)
        # A peer whose relay is there may have ended the link on purpose: `detour` will know.
        left = was_ready and self._links.direct(relay) is not None
        if left or self._closed or self._links.line(peer) is not None:
            return
        # Not found out anew: a relay that is gone may have taken a thousand links along.
        relays = (each for each in self._relays if self._links.direct(each) is not None)
        following = self._detours.go_on(peer, relays)
        if following is not None:
            self._circuits.dial(peer, following)

    # --- Links --------------------------------------------------------------------------------

    def _requested(self, line: Line, peer: PeerId, message: BetweenTransports) -> None:
        if self._closed:
            return
        match message:
            case DialBack(port=port):
                self._dial_backs.dial(line, peer, port)
            case DialedBack(port=port, reached=reached):
                self._public.answered(peer, port, reached, time.monotonic())
            case Relay() | Relayed() | Unrelayed():
                self._circuits.receive(peer, message)

    def _look_from_outside(self, now: float) -> None:
        lines = self._links.dialled()
        seen = {(*lines[peer].link.lineage, peer): at for peer, at in self.observed().items()}
        for peer, port in self._public.due(seen, self._own, now):
            lines[peer].transmit(encode(DialBack(port)))

    def _circuit_link(self, role: Role, relay: PeerId, peer: PeerId) -> Link:
        endpoint = f"/p2p/{relay}/p2p-circuit/p2p/{peer}"
        return self._link(role, curve_public(peer), endpoint, relay)

    def _link(
        self, role: Role, remote_curve: bytes, endpoint: str, relay: PeerId | None = None
    ) -> Link:
        now = time.monotonic()
        seen = seen_at(endpoint) if role is Role.LISTENER and relay is None else None
        handshake = Handshake(
            role=role,
            me=self._node(),
            remote_curve=remote_curve,
            token=None,
            ledger=self._ledger,
            revocations=self._revocations,
            nonce=secrets.token_bytes(NONCE_BYTES),
            now=now,
            observed="" if seen is None else str(seen),
        )
        unwelcome = partial(self._unwelcome, remote_curve)
        return Link(handshake, endpoint, now, unwelcome, relay)

    def _unwelcome(self, remote_curve: bytes) -> LimitExceeded | None:
        now = time.monotonic()
        banned = self._banned.get(remote_curve)
        ban = None if banned is None else self._bans.of(banned, now)
        return None if ban is None else _refusal(ban, now)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            try:
                self._look_at_all(time.monotonic())
            except Exception:
                # Our bug, or a full disk: without pings no link would last.
                log.exception("the links could not be looked at")

    def _look_at_all(self, now: float) -> None:
        self._links.tick()
        self._circuits.tick(now)
        self._look_from_outside(now)
        for peer in sorted(set(self._banned.values()) - self.bans().keys()):
            del self._banned[curve_public(peer)]
            self._links_changed(peer)


def _refusal(ban: Ban, now: float) -> LimitExceeded:
    return LimitExceeded(f"banned for {math.ceil(ban.until - now)} s: {ban.reason}")


async def _all_gone(lines: Sequence[Line]) -> None:
    if lines:
        await asyncio.wait([line.gone for line in lines])


async def _stop(dial: Dial, left: Sequence[Line]) -> None:
    """Drop a dialled connection once the peer has answered our goodbye."""
    await _all_gone(left)
    await dial.stop()
