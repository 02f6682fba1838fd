"""A node's home: the files that outlive the process.

========================  ==========================================================
``identity.key``          PeerId and seed, in hex; mode 0600
``membership.json``       founder, mesh secret, certificates
``invites.json``          the invites handed out
``incarnation.json``      the last incarnation, so that each start has a higher one
``name.json``             the name that this node was last given
``revocations.json``      the revocations heard of, by founder
``peers.json``            the other members' names, and where they were last reached
``paused.json``           since when this node is paused; there only while it is
``lock``                  locked (``flock``) while a node runs; holds its pid
``runtime.json``          how to reach the running node's API
``kv-cache``              a folder of the engines: `models.llama.disk`
========================  ==========================================================

Every file has mode 0600 and is replaced as a whole: after a crash it is the old or the new one. A
damaged file is reported with the way out and left as it is; but ``peers.json``, without which a
node can start, is renamed ``peers.json.damaged``. Whoever writes holds the lock.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from overlay.errors import ConfigError, HomeInUse, NodeNotRunning
from overlay.home.contents import (
    INCARNATION,
    INVITES,
    KEY,
    MEMBERSHIP,
    NAME,
    PAUSED,
    PEERS,
    REVOCATIONS,
    RUNTIME,
    Contact,
    Runtime,
    contacts_told,
    membership_told,
)
from overlay.home.files import Files
from overlay.home.lock import HomeLock
from overlay.identity.certificates import Membership
from overlay.identity.invites import InviteLedger
from overlay.identity.keys import SEED_BYTES, NodeKey
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations


class Home:
    """The files under ``path``, which is created (mode 0700) when the first is written.

    All methods raise ConfigError for a file that is damaged or cannot be accessed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = Files(path)
        self._lock = HomeLock(self._files)

    @property
    def kv_cache(self) -> Path:
        """Where engines may keep what they computed; anybody may delete it at any time."""
        return self.path / "kv-cache"

    # --- Who I am -----------------------------------------------------------------------------

    def load_or_create_key(self) -> NodeKey:
        """The node's key; a new home gets a new one."""
        key = self._files.load(KEY)
        if key is not None:
            self._files.make_private(KEY)
            return key
        if self._files.exists(MEMBERSHIP):
            raise ConfigError(
                f"{self.path / KEY.name} is gone, and the membership in this home belongs to it: "
                f"{KEY.remedy}"
            )
        key = NodeKey.from_seed(os.urandom(SEED_BYTES))
        self._files.write(KEY, f"{key.peer_id} {key.seed.hex()}\n")
        return key

    def membership(self) -> Membership | None:
        """The mesh that this node belongs to, if any."""
        return self._files.load(MEMBERSHIP)

    def save_membership(self, membership: Membership) -> None:
        self._files.save(MEMBERSHIP, membership_told(membership))

    def forget_mesh(self) -> None:
        """Forget the membership and all that belongs to it.

        The membership goes first, and what a crash leaves of the rest when a mesh is founded or
        joined: the home is left as it was, or in no mesh.
        """
        self._files.remove(MEMBERSHIP)
        self.forget_others()

    def forget_others(self) -> None:
        """Forget whom this node let into a mesh, or may let in still, and whom it met there."""
        self._files.remove(INVITES)
        self._files.remove(PEERS)

    def ledger(self, inviter: PeerId) -> InviteLedger:
        """The invites that ``inviter``, this node, has handed out."""
        ledger = self._files.load(INVITES)
        if ledger is not None and ledger.inviter != inviter:
            raise self._files.damaged(INVITES)
        return InviteLedger(inviter) if ledger is None else ledger

    def save_ledger(self, ledger: InviteLedger) -> None:
        self._files.save(INVITES, ledger.to_plain())

    def revocations(self, founder: PeerId) -> Revocations:
        """The revocations that this node has heard of in the mesh of ``founder``."""
        found = self._files.load(REVOCATIONS) or {}
        return found.get(founder, Revocations(founder))

    def save_revocations(self, me: PeerId, revocations: Revocations) -> None:
        """Keep these; and of other meshes those that ``me``, this node, founded.

        It may found that mesh again, and those whom it revoked must not come back then.
        """
        found = self._files.load(REVOCATIONS) or {}
        kept = {me: found.get(me, Revocations(me)), revocations.founder: revocations}
        told = {str(each): [r.hex() for r in kept[each].records()] for each in sorted(kept)}
        self._files.save(REVOCATIONS, told)

    def next_incarnation(self, now_ms: int) -> int:
        """A number above all that this home had before, even when the clock went back."""
        last = self._files.load(INCARNATION)
        incarnation = now_ms if last is None else max(now_ms, last + 1)
        self._files.save(INCARNATION, {"incarnation": incarnation})
        return incarnation

    def name(self) -> str | None:
        """The name that this node was last given, if any."""
        return self._files.load(NAME)

    def save_name(self, name: str) -> None:
        self._files.save(NAME, {"name": name})

    def paused_since(self) -> float | None:
        """When the owner paused this node (Unix time, s); None: it is not paused."""
        return self._files.load(PAUSED)

    def save_paused(self, since: float | None) -> None:
        """Replace what `paused_since` gives."""
        if since is None:
            self._files.remove(PAUSED)
        else:
            self._files.save(PAUSED, {"since": since})

    # --- Whom I know --------------------------------------------------------------------------

    def peers(self) -> dict[PeerId, Contact]:
        """The other members: their names, and where they were last reached."""
        return self._files.load_or_set_aside(PEERS) or {}

    def save_peers(self, peers: Mapping[PeerId, Contact]) -> None:
        """Replace what `peers` gives."""
        self._files.save(PEERS, contacts_told(peers))

    # --- The running node ---------------------------------------------------------------------

    def lock(self) -> None:
        """Claim the home until `unlock` or the process's end. Raises HomeInUse, naming the pid."""
        self._lock.take()
        # A node that was killed leaves its own behind.
        self.clear_runtime()

    def unlock(self) -> None:
        """Release the home; harmless when it is not locked."""
        self._lock.release()

    def write_runtime(self, *, api: str, admin_token: str) -> None:
        """Say how this process's node is reached: ``api`` is its URL."""
        self._files.save(RUNTIME, asdict(Runtime(api, admin_token)))

    def runtime(self) -> Runtime:
        """How the node that runs in this home is reached.

        Raises NodeNotRunning, or HomeInUse while it is not reached yet.
        """
        if not self._lock.is_held():
            raise NodeNotRunning(
                f"no node runs in {self.path}: start one with `hearth up`, or give the home of one "
                "that runs: --home DIR"
            )
        runtime = self._files.load(RUNTIME)
        if runtime is None:
            raise HomeInUse(f"the node in {self.path} is still starting: try again shortly")
        return runtime

    def clear_runtime(self) -> None:
        """Take back `write_runtime`; call while the lock is held."""
        self._files.remove(RUNTIME)
