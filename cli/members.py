"""Which member is meant: by name, by PeerId, or by the end of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cli.text import printable, short_peer
from overlay.errors import IdentityError, Malformed
from overlay.identity.peer_id import PeerId

#: Shorter ends of a PeerId are rather a mistyped name.
_END_CHARS_MIN = 4


def named(peer_id: str, name: str) -> str:
    """``bea (12D3…UERE)``, or the PeerId alone."""
    name = printable(name)
    return f"{name} ({short_peer(peer_id)})" if name else short_peer(peer_id)


def known_names(status: Mapping[str, Any], invites: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """PeerId -> name ("": not known) of all whom a node has met, or whom its invites let in."""
    let_in = [guest for invite in invites for guest in invite.get("joined") or []]
    met = [*(status.get("absent") or []), *(status.get("peers") or [])]
    return {str(each["peer_id"]): str(each.get("name") or "") for each in (*let_in, *met)}


def find_member(text: str, names: Mapping[str, str]) -> str:
    """The PeerId of the member that ``text`` means; ``names``: PeerId -> name, of those known.

    A whole PeerId need not be known. Raises IdentityError.
    """
    try:
        return str(PeerId.parse(text))
    except Malformed:
        pass
    # Who has no known name goes by none: an unset variable of a script must throw nobody out.
    found = [peer for peer, name in names.items() if name and name == text]
    # As tables show it, a PeerId is abbreviated: 12D3…UERE.
    end = text.rpartition("…")[2]
    if not found and len(end) >= _END_CHARS_MIN:
        found = [peer for peer in names if peer.endswith(end)]
    if len(found) == 1:
        return found[0]
    if found:
        which = ", ".join(sorted(found))
        raise IdentityError(f"{printable(text)} may be any of these, so give the PeerId: {which}")
    raise IdentityError(
        f"no member is known as {printable(text)}: hearth status lists them, and a whole PeerId "
        "always does"
    )


def doubt(peer_id: str, names: Mapping[str, str]) -> str:
    """What to say of one that is not among ``names``: a PeerId has no checksum."""
    return "" if peer_id in names else f" No such member is known here: is {peer_id} right?"


def invited_through(peer_id: str, peers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the peers in a status, those that joined through this one, directly or not."""
    through = {peer_id}
    found: list[dict[str, Any]] = []
    while True:
        new = [
            peer
            for peer in peers
            if peer.get("invited_by") in through and peer.get("peer_id") not in through
        ]
        if not new:
            return found
        found += new
        through |= {str(peer.get("peer_id")) for peer in new}
