"""What ``/mesh/status`` says, as the banner, the toolbar and the footer need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cli.text import count, printable


@dataclass(frozen=True, slots=True)
class MeshState:
    """A frozen view of one status reply; all texts are safe to print."""

    name: str = ""
    peer_id: str = ""
    mesh_id: str = ""
    #: Names of the peers that are UP.
    up: tuple[str, ...] = ()
    #: Those of the others, and of those met before this node started.
    down: tuple[str, ...] = ()
    #: PeerId -> name, this node's own included.
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> MeshState:
        peers = status.get("peers") or []
        up = [peer for peer in peers if is_up(peer)]
        return cls(
            name=printable(str(status.get("name") or "")),
            peer_id=printable(str(status.get("peer_id") or "")),
            mesh_id=printable(str(status.get("mesh_id") or "")),
            up=tuple(peer_name(peer) for peer in up),
            down=tuple(
                peer_name(peer)
                for peer in (*peers, *(status.get("absent") or []))
                if not is_up(peer)
            ),
            names={
                str(node.get("peer_id")): printable(str(node.get("name") or ""))
                for node in (status, *peers)
            },
        )

    @property
    def peers_line(self) -> str:
        """``2 peers up (bea, carl), 1 down``."""
        if not self.up and not self.down:
            return "no peers yet"
        text = f"{count(len(self.up), 'peer')} up"
        if self.up:
            shown = ", ".join(self.up[:4]) + (", …" if len(self.up) > 4 else "")
            text += f" ({shown})"
        return text + (f", {len(self.down)} down" if self.down else "")


def is_up(peer: Mapping[str, Any]) -> bool:
    return str(peer.get("state", "")).upper() == "UP"


def peer_name(peer: Mapping[str, Any]) -> str:
    return printable(str(peer.get("name") or "")) or str(peer.get("peer_id") or "?")[-8:]


def model_names(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the models that this node, or a peer, serves."""
    return tuple(printable(str(name)) for name in node.get("models") or [])
