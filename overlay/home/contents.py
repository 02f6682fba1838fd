"""What the files of a home hold, and what to do about one that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from overlay.errors import Malformed
from overlay.home.files import Kind, T
from overlay.identity.certificates import MESH_SECRET_BYTES, Membership, format_mesh_id
from overlay.identity.invites import InviteLedger
from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr, readable_addresses
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations

#: Unix seconds, of the year 2106: all that is kept was written before.
_TIME_END_S: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Contact:
    """Another member, as it was last known; ``name`` is empty where it is not."""

    name: str
    addresses: tuple[Multiaddr, ...]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A running node: ``api`` is the URL that `Home.write_runtime` was given."""

    api: str
    admin_token: str


def membership_told(membership: Membership) -> dict[str, Any]:
    """For `MEMBERSHIP`."""
    return {
        "mesh_id": format_mesh_id(membership.mesh_id),
        "founder": str(membership.founder),
        "mesh_secret": membership.mesh_secret.hex(),
        "certificates": [packed.hex() for packed in membership.certificates],
    }


def contacts_told(peers: Mapping[PeerId, Contact]) -> dict[str, Any]:
    """For `PEERS`."""
    return {
        str(peer): {
            "name": peers[peer].name,
            "addresses": [str(address) for address in peers[peer].addresses],
        }
        for peer in sorted(peers)
    }


def _read_key(text: str) -> NodeKey:
    peer_id, seed = text.split()
    key = NodeKey.from_seed(bytes.fromhex(seed))
    if str(key.peer_id) != peer_id:
        raise Malformed("the seed is not that of the PeerId beside it")
    return key


def _read_membership(data: Any) -> Membership:
    membership = Membership(
        PeerId.parse(data["founder"]),
        bytes.fromhex(data["mesh_secret"]),
        tuple(bytes.fromhex(packed) for packed in data["certificates"]),
    )
    if len(membership.mesh_secret) != MESH_SECRET_BYTES:
        raise Malformed("the mesh secret has a wrong length")
    return membership


def _read_contacts(data: Any) -> dict[PeerId, Contact]:
    return {PeerId.parse(peer): _read_contact(entry) for peer, entry in data.items()}


def _read_contact(entry: Any) -> Contact:
    # Until names were kept there were addresses only.
    if isinstance(entry, list):
        entry = {"name": "", "addresses": entry}
    return Contact(str(entry["name"]), readable_addresses(entry["addresses"]))


def _read_revocations(data: Any) -> dict[PeerId, Revocations]:
    return {
        PeerId.parse(founder): Revocations(PeerId.parse(founder), map(bytes.fromhex, records))
        for founder, records in data.items()
    }


def _read_incarnation(data: Any) -> int:
    incarnation = int(data["incarnation"])
    if not 0 <= incarnation < 1000 * _TIME_END_S:
        raise Malformed("this is no time in milliseconds")
    return incarnation


def _read_name(data: Any) -> str:
    name = data["name"]
    if not isinstance(name, str):
        raise Malformed("a name is a string")
    return name


def _read_paused(data: Any) -> float:
    since = float(data["since"])
    if not 0 <= since < _TIME_END_S:
        raise Malformed("this is no time in seconds")
    return since


def _read_runtime(data: Any) -> Runtime:
    return Runtime(str(data["api"]), str(data["admin_token"]))


def _json(read: Callable[[Any], T]) -> Callable[[str], T]:
    return lambda text: read(json.loads(text))


KEY = Kind(
    "identity.key",
    _read_key,
    "restore it from a backup, or move this home away to become a new node",
)
MEMBERSHIP = Kind(
    "membership.json",
    _json(_read_membership),
    "restore it from a backup, or delete it to leave the mesh and be invited again",
)
INVITES = Kind(
    "invites.json",
    _json(InviteLedger.from_plain),
    "delete it to cancel all invites handed out so far",
)
REVOCATIONS = Kind(
    "revocations.json",
    _json(_read_revocations),
    "restore it from a backup, or delete it and hear of them again from the others",
)
INCARNATION = Kind(
    "incarnation.json",
    _json(_read_incarnation),
    "delete it once this machine's clock is right",
)
NAME = Kind(
    "name.json",
    _json(_read_name),
    "delete it, and give the name again with --name",
)
PEERS = Kind(
    "peers.json",
    _json(_read_contacts),
    "the others are known again once one of them dials this node, or is found on the LAN",
)
PAUSED = Kind(
    "paused.json",
    _json(_read_paused),
    "delete it to lend this machine again, then pause anew if you like",
)
RUNTIME = Kind(
    "runtime.json",
    _json(_read_runtime),
    "end the running node and start it again",
)
