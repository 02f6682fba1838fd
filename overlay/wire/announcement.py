"""What a node announces on its LAN: sealed, so that only members of its mesh can read it.

An announcement is ``nonce (24 bytes) || box``: NaCl's secretbox (XSalsa20-Poly1305) of
``PeerId (32 bytes) || packed multiaddrs``, under a key derived from the mesh secret. It is sealed
as a whole because a hash of a PeerId tells nothing to a member that does not know the peer yet,
and because addresses in clear could be changed by anyone on the LAN. To others it is noise: they
learn neither which node this is, nor which mesh, nor whether two nodes share one.

Whoever records an announcement can repeat it later, with the addresses of that time. That proves
nothing of the peer, and need not: a link is made only with the holder of the PeerId's key.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from overlay.errors import Malformed
from overlay.identity.keys import curve_public
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.limits import ADDRESSES_MAX, ANNOUNCEMENT_BYTES_MAX

ANNOUNCEMENT_NONCE_BYTES: Final = SecretBox.NONCE_SIZE

_OVERHEAD_BYTES = SecretBox.NONCE_SIZE + SecretBox.MACBYTES
_PEER_ID_BYTES = 32
_DOMAIN = b"hearth lan 1"


class Announcement(NamedTuple):
    """``peer`` says that it can be reached at ``addresses``, at least one."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...]


def seal(mesh_secret: bytes, announcement: Announcement, nonce: bytes) -> bytes:
    """The sealed form, of at most ANNOUNCEMENT_BYTES_MAX, with as many addresses as it can hold.

    ``nonce``: ANNOUNCEMENT_NONCE_BYTES fresh random bytes.
    """
    plain = bytes(announcement.peer)
    for address in announcement.addresses[:ADDRESSES_MAX]:
        packed = address.pack()
        if _OVERHEAD_BYTES + len(plain) + len(packed) > ANNOUNCEMENT_BYTES_MAX:
            break
        plain += packed
    return bytes(_box(mesh_secret).encrypt(plain, nonce))


def unseal(mesh_secret: bytes, sealed: bytes) -> Announcement | None:
    """What a member announced; None when it was sealed under another mesh's secret, or is noise.

    Raises Malformed when a member sealed something else than an announcement.
    """
    if len(sealed) > ANNOUNCEMENT_BYTES_MAX:
        return None
    try:
        plain = _box(mesh_secret).decrypt(sealed)
    except CryptoError:
        return None
    peer = PeerId(plain[:_PEER_ID_BYTES])
    curve_public(peer)  # A peer without one cannot be dialled.
    return Announcement(peer, _addresses(plain[_PEER_ID_BYTES:]))


def _addresses(packed: bytes) -> tuple[Multiaddr, ...]:
    addresses: list[Multiaddr] = []
    offset = 0
    while offset < len(packed):
        address, offset = Multiaddr.unpack_from(packed, offset)
        addresses.append(address)
    if not 1 <= len(addresses) <= ADDRESSES_MAX:
        raise Malformed(f"an announcement has 1 to {ADDRESSES_MAX} addresses, not {len(addresses)}")
    return tuple(addresses)


def _box(mesh_secret: bytes) -> SecretBox:
    key = blake2b(key=mesh_secret, digest_size=SecretBox.KEY_SIZE, person=_DOMAIN).digest()
    return SecretBox(key)
