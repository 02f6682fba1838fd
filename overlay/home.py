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
damaged file is reported with the way out and left as it is. Whoever writes holds the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from overlay.errors import ConfigError, HearthError, HomeInUse, Malformed, NodeNotRunning
from overlay.identity.certificates import MESH_SECRET_BYTES, Membership, format_mesh_id
from overlay.identity.invites import InviteLedger
from overlay.identity.keys import SEED_BYTES, NodeKey
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_KEY = "identity.key"
_MEMBERSHIP = "membership.json"
_INVITES = "invites.json"
_INCARNATION = "incarnation.json"
_NAME = "name.json"
_REVOCATIONS = "revocations.json"
_PEERS = "peers.json"
_PAUSED = "paused.json"
_LOCK = "lock"
_RUNTIME = "runtime.json"
_KV_CACHE = "kv-cache"

#: What to do about a file that cannot be read.
_REMEDIES = {
    _KEY: "restore it from a backup, or move this home away to become a new node",
    _MEMBERSHIP: "restore it from a backup, or delete it to leave the mesh and be invited again",
    _INVITES: "delete it to cancel all invites handed out so far",
    _REVOCATIONS: "restore it from a backup, or delete it and hear of them again from the others",
    _INCARNATION: "delete it once this machine's clock is right",
    _NAME: "delete it, and give the name again with --name",
    _PEERS: "delete it: the node learns the addresses again from the peer it reaches first",
    _PAUSED: "delete it to lend this machine again, then pause anew if you like",
    _RUNTIME: "end the running node and start it again",
}

#: `Home.runtime` holds the lock for an instant to see whether it is free; `lock` outwaits that.
_LOCK_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class Runtime:
    """A running node: ``api`` is the URL that `Home.write_runtime` was given."""

    pid: int
    api: str
    admin_token: str


@dataclass(frozen=True, slots=True)
class Contact:
    """Another member, as it was last known."""

    name: str
    addresses: tuple[Multiaddr, ...]


class Home:
    """The files under ``path``, which is created (mode 0700) when the first is written.

    All methods raise ConfigError for a file that is damaged or cannot be accessed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd: int | None = None
        self._damaged: set[str] = set()

    @property
    def kv_cache(self) -> Path:
        """Where engines may keep what they computed; anybody may delete it at any time."""
        return self.path / _KV_CACHE

    # --- Who I am -----------------------------------------------------------------------------

    def load_or_create_key(self) -> NodeKey:
        """The node's key; a new home gets a new one."""
        key = self._load(_KEY, _read_key)
        if key is not None:
            self._make_private(_KEY)
            return key
        if (self.path / _MEMBERSHIP).exists():
            raise ConfigError(
                f"{self.path / _KEY} is gone, and the membership in this home belongs to it: "
                f"{_REMEDIES[_KEY]}"
            )
        key = NodeKey.from_seed(os.urandom(SEED_BYTES))
        self._write(_KEY, f"{key.peer_id} {key.seed.hex()}\n")
        return key

    def membership(self) -> Membership | None:
        """The mesh that this node belongs to, if any."""
        return self._load(_MEMBERSHIP, _json(_read_membership))

    def save_membership(self, membership: Membership) -> None:
        self._save(
            _MEMBERSHIP,
            {
                "mesh_id": format_mesh_id(membership.mesh_id),
                "founder": str(membership.founder),
                "mesh_secret": membership.mesh_secret.hex(),
                "certificates": [packed.hex() for packed in membership.certificates],
            },
        )

    def forget_mesh(self, me: PeerId) -> None:
        """Forget the membership and all that belongs to it; ``me`` is this node."""
        self.save_ledger(InviteLedger(me))
        # The membership goes last, so that a crash leaves a mesh that can be left again.
        for name in (_PEERS, _MEMBERSHIP):
            with self._accessing(name):
                (self.path / name).unlink(missing_ok=True)

    def ledger(self, inviter: PeerId) -> InviteLedger:
        """The invites that ``inviter``, this node, has handed out."""

        def read(data: Any) -> InviteLedger:
            ledger = InviteLedger.from_plain(data)
            if ledger.inviter != inviter:
                raise Malformed(f"it belongs to {ledger.inviter}")
            return ledger

        ledger = self._load(_INVITES, _json(read))
        return InviteLedger(inviter) if ledger is None else ledger

    def save_ledger(self, ledger: InviteLedger) -> None:
        self._save(_INVITES, ledger.to_plain())

    def revocations(self, founder: PeerId) -> Revocations:
        """The revocations that this node has heard of in the mesh of ``founder``."""
        found = self._load(_REVOCATIONS, _json(_read_revocations)) or {}
        return found.get(founder, Revocations(founder))

    def save_revocations(self, me: PeerId, revocations: Revocations) -> None:
        """Keep these; and of other meshes those that ``me``, this node, founded.

        It may found that mesh again, and those whom it revoked must not come back then.
        """
        found = self._load(_REVOCATIONS, _json(_read_revocations)) or {}
        kept = {me: found.get(me, Revocations(me)), revocations.founder: revocations}
        told = {str(each): [r.hex() for r in kept[each].records()] for each in sorted(kept)}
        self._save(_REVOCATIONS, told)

    def next_incarnation(self, now_ms: int) -> int:
        """A number above all that this home had before, even when the clock went back."""
        last = self._load(_INCARNATION, _json(lambda data: int(data["incarnation"])))
        incarnation = now_ms if last is None else max(now_ms, last + 1)
        self._save(_INCARNATION, {"incarnation": incarnation})
        return incarnation

    def name(self) -> str | None:
        """The name that this node was last given, if any."""
        return self._load(_NAME, _json(lambda data: str(data["name"])))

    def save_name(self, name: str) -> None:
        self._save(_NAME, {"name": name})

    def paused_since(self) -> float | None:
        """When the owner paused this node (Unix time, s); None: it is not paused."""
        return self._load(_PAUSED, _json(lambda data: float(data["since"])))

    def save_paused(self, since: float | None) -> None:
        """Replace what `paused_since` gives."""
        if since is not None:
            self._save(_PAUSED, {"since": since})
            return
        with self._accessing(_PAUSED):
            (self.path / _PAUSED).unlink(missing_ok=True)

    # --- Whom I know --------------------------------------------------------------------------

    def peers(self) -> dict[PeerId, Contact]:
        """The other members: their names, and where they were last reached."""
        return self._load(_PEERS, _json(_read_peers)) or {}

    def save_peers(self, peers: Mapping[PeerId, Contact]) -> None:
        """Replace what `peers` gives; a file that it found damaged is left to the operator."""
        if _PEERS not in self._damaged:
            self._save(
                _PEERS,
                {
                    str(peer): {
                        "name": peers[peer].name,
                        "addresses": [str(address) for address in peers[peer].addresses],
                    }
                    for peer in sorted(peers)
                },
            )

    # --- The running node ---------------------------------------------------------------------

    def lock(self) -> None:
        """Claim the home until `unlock` or the process's end. Raises HomeInUse, naming the pid."""
        if self._lock_fd is not None:
            raise HomeInUse(f"{self.path} is in use by this process already")
        with self._accessing(_LOCK):
            self._create_folder()
            fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up = time.monotonic() + _LOCK_WAIT_S
        while not _try_lock(fd, fcntl.LOCK_EX):
            if time.monotonic() > give_up:
                pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
                os.close(fd)
                raise HomeInUse(
                    f"{self.path} is in use by a running node (pid {pid or 'unknown'}): end that "
                    "one first, or give another --home"
                )
            time.sleep(0.01)
        self._lock_fd = fd
        with self._accessing(_LOCK):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        # A node that was killed leaves its own behind.
        self.clear_runtime()

    def unlock(self) -> None:
        """Release the home; harmless when it is not locked."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def write_runtime(self, *, api: str, admin_token: str) -> None:
        """Say how this process's node is reached: ``api`` is its URL."""
        self._save(_RUNTIME, asdict(Runtime(os.getpid(), api, admin_token)))

    def runtime(self) -> Runtime:
        """How the node that runs in this home is reached. Raises NodeNotRunning."""
        if not self._is_locked():
            raise NodeNotRunning(f"no node runs in {self.path}: start one with `hearth up`")
        runtime = self._load(_RUNTIME, _json(_read_runtime))
        if runtime is None:
            raise NodeNotRunning(f"the node in {self.path} is still starting: try again shortly")
        return runtime

    def clear_runtime(self) -> None:
        """Take back `write_runtime`; call while the lock is held."""
        with self._accessing(_RUNTIME):
            (self.path / _RUNTIME).unlink(missing_ok=True)

    def _is_locked(self) -> bool:
        with self._accessing(_LOCK):
            try:
                fd = os.open(self.path / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                return not _try_lock(fd, fcntl.LOCK_SH)
            finally:
                os.close(fd)

    # --- Files --------------------------------------------------------------------------------

    def _load(self, name: str, read: Callable[[str], _T]) -> _T | None:
        """What ``read`` makes of a file; None if there is no such file."""
        with self._accessing(name):
            try:
                data = (self.path / name).read_bytes()
            except FileNotFoundError:
                return None
        try:
            return read(data.decode())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, HearthError):
            self._damaged.add(name)
            raise ConfigError(f"{self.path / name} is damaged: {_REMEDIES[name]}") from None

    def _save(self, name: str, data: Any) -> None:
        self._write(name, json.dumps(data, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        target, temporary = self.path / name, self.path / f".{name}.new"
        with self._accessing(name):
            self._create_folder()
            temporary.unlink(missing_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "wb") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(fd)
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            # The rename itself is on disk only once the folder is.
            folder = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _create_folder(self) -> None:
        if not self.path.is_dir():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)

    def _make_private(self, name: str) -> None:
        with self._accessing(name):
            if (self.path / name).stat().st_mode & 0o077:
                (self.path / name).chmod(0o600)
                log.warning(
                    "%s could be read by other users of this machine; it no longer can. "
                    "If somebody may have copied it, move this home away and join again.",
                    self.path / name,
                )

    @contextlib.contextmanager
    def _accessing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"cannot use {self.path / name}: {error.strerror}") from error


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _json(read: Callable[[Any], _T]) -> Callable[[str], _T]:
    return lambda text: read(json.loads(text))


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


def _read_peers(data: Any) -> dict[PeerId, Contact]:
    return {
        PeerId.parse(peer): Contact(
            str(entry["name"]), tuple(Multiaddr.parse(address) for address in entry["addresses"])
        )
        for peer, entry in data.items()
    }


def _read_revocations(data: Any) -> dict[PeerId, Revocations]:
    return {
        PeerId.parse(founder): Revocations(PeerId.parse(founder), map(bytes.fromhex, records))
        for founder, records in data.items()
    }


def _read_runtime(data: Any) -> Runtime:
    return Runtime(int(data["pid"]), str(data["api"]), str(data["admin_token"]))
