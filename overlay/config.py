"""Settings of a node: flags over environment over ``config.toml`` over defaults.

A node goes on under the name it was last given, so that ``join --name`` counts for ``chat``.

They become one frozen value here; nothing else in Hearth reads the environment.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from overlay.errors import ConfigError
from overlay.forwarding.terms import Terms
from overlay.home.files import read_file
from overlay.home.home import Home
from overlay.limits import CELLS_MIN, NAME_CHARS_MAX
from overlay.printable import is_printable

DEFAULT_LISTEN = "0.0.0.0:7710"
DEFAULT_API = "127.0.0.1:7711"
DEFAULT_MODEL = "demo"

#: What may stand in ``config.toml``, and the environment variable of the same meaning.
_SETTINGS = {
    "name": "HEARTH_NAME",
    "listen": "HEARTH_LISTEN",
    "announce": "HEARTH_ANNOUNCE",
    "api": "HEARTH_API",
    "api_key": "HEARTH_API_KEY",
    "models": "HEARTH_MODEL",
    "store": "HEARTH_MODELS",
    "lan": "HEARTH_LAN",
    "map_port": "HEARTH_MAP_PORT",
    "relay": "HEARTH_RELAY",
    "cells": "HEARTH_CELLS",
    "ram_cache": "HEARTH_RAM_CACHE",
    "disk_cache": "HEARTH_DISK_CACHE",
    "guest_requests": "HEARTH_GUEST_REQUESTS",
    "guest_tokens_per_minute": "HEARTH_GUEST_TOKENS_PER_MINUTE",
    "private": "HEARTH_PRIVATE",
}
_SWITCHES = ("lan", "map_port", "relay")
_SIZES = ("ram_cache", "disk_cache")
_LISTS = {"announce": "addresses", "models": "names or paths", "private": "names"}

#: Numbers: what each is, and which may not be.
_NUMBERS: dict[str, tuple[str, Callable[[int], bool]]] = {
    "cells": (
        f"a number of KV cells: {CELLS_MIN} or more, or 0 to choose",
        lambda cells: cells != 0 and cells < CELLS_MIN,
    ),
    "guest_requests": ("a number of requests", lambda requests: requests < 0),
    "guest_tokens_per_minute": ("a number of tokens: 1 or more", lambda tokens: tokens < 1),
}

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([kmgt])(i?)b", re.IGNORECASE)

#: What clients can send in a header, and nobody trims.
_SENDABLE = re.compile(r"[!-~](?:[ -~]*[!-~])?")

_YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything a node is told from outside."""

    home: Path
    name: str
    #: ``HOST:PORT``; port 0 picks a free one.
    listen: str
    #: Where others may reach this node besides, as ``HOST:PORT`` or multiaddr.
    announce: tuple[str, ...]
    api: str
    #: Demanded of every API client when the API is not bound to loopback.
    api_key: str | None
    #: Names or paths of the models to serve; empty: none, friends serve.
    models: tuple[str, ...]
    #: Folder of the model files, shared by all homes.
    store: Path
    #: Announce this node to members on the local network, and look for them there.
    lan: bool
    #: Ask the router to pass a port on to this node.
    map_port: bool
    #: Pass on for members that cannot dial each other.
    relay: bool
    #: KV cells of each model; 0: the engine chooses.
    cells: int
    #: Bytes of RAM for what left the KV cache, all models together; None: what can be spared.
    ram_cache: int | None
    #: The same on disk, in the home; 0: nothing.
    disk_cache: int
    #: What guests are granted.
    terms: Terms
    #: Set from outside, so a port in use is an error; a default may fall back to a free one.
    listen_chosen: bool
    api_chosen: bool


def default_home() -> Path:
    """``HEARTH_HOME``, or the platform's data directory."""
    return Path(os.environ.get("HEARTH_HOME") or platformdirs.user_data_path("hearth"))


def model_store_path() -> Path:
    """``HEARTH_MODELS``, or ``models`` in the platform's data directory."""
    default = platformdirs.user_data_path("hearth") / "models"
    return Path(os.environ.get("HEARTH_MODELS") or default)


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no user with that home directory here") from None


def load_config(home: Path | None = None, **flags: Any) -> NodeConfig:
    """Merge flags, named as in ``config.toml``, environment, file and defaults.

    Flags that are None or empty were not given. Raises ConfigError.
    """
    assert flags.keys() <= _SETTINGS.keys(), f"no such settings: {flags.keys() - _SETTINGS.keys()}"
    home = _expanded(home or default_home())
    settings = {**_read_file(home / "config.toml"), **_read_environment()}
    settings |= {key: value for key, value in flags.items() if value not in (None, ())}
    chosen_models = settings.get("models", (DEFAULT_MODEL,))
    machine = socket.gethostname()[:NAME_CHARS_MAX]
    node_name = settings.get("name")
    if node_name is None:
        node_name = Home(home).name() or machine or "node"
    if not node_name.strip() or len(node_name) > NAME_CHARS_MAX or not is_printable(node_name):
        raise ConfigError(
            f"a node's name has 1 to {NAME_CHARS_MAX} printable characters, not blanks alone: give "
            "another one (--name, or name in config.toml), or none"
        )
    api_key = settings.get("api_key") or None
    if api_key is not None and not _SENDABLE.fullmatch(api_key):
        raise ConfigError("api_key must be ASCII, without spaces around it: no client can send it")
    return NodeConfig(
        home=home,
        name=node_name,
        listen=str(settings.get("listen", DEFAULT_LISTEN)),
        announce=settings.get("announce", ()),
        api=str(settings.get("api", DEFAULT_API)),
        api_key=api_key,
        models=tuple(m for m in chosen_models if m != "none"),
        store=_expanded(Path(settings.get("store") or model_store_path())),
        lan=settings.get("lan", True),
        map_port=settings.get("map_port", False),
        relay=settings.get("relay", True),
        cells=settings.get("cells", 0),
        ram_cache=settings.get("ram_cache"),
        disk_cache=settings.get("disk_cache", 0),
        terms=Terms(
            guest_requests=settings.get("guest_requests"),
            guest_tokens_per_minute=settings.get("guest_tokens_per_minute"),
            private=settings.get("private", ()),
        ),
        listen_chosen="listen" in settings,
        api_chosen="api" in settings,
    )


def parse_size(text: str) -> int:
    """Bytes of ``2GB``, ``1.5 TB``, ``512MiB``, or ``0``. Raises ConfigError."""
    match = _SIZE.fullmatch(text)
    if match:
        number, unit, binary = match.groups()
        return round(float(number) * (_BINARY_UNITS if binary else _UNITS)[unit.lower()])
    if text != "0":
        raise ConfigError(f"{text!r} is no size: write 2GB, 512MB, or 0 for none")
    return 0


def _read_environment() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, variable in _SETTINGS.items():
        value = os.environ.get(variable)
        if value:
            found[key] = _from_environment(key, variable, value)
    return found


def _from_environment(key: str, variable: str, value: str) -> Any:
    if key in _LISTS:
        return tuple(part.strip() for part in value.split(","))
    if key in _SWITCHES:
        if value.lower() not in _YES_OR_NO:
            raise ConfigError(f"{variable} must be 1 or 0, not {value!r}")
        return _YES_OR_NO[value.lower()]
    if key in _NUMBERS:
        return _number(key, variable, int(value) if value.isascii() and value.isdigit() else None)
    if key in _SIZES:
        return _size(variable, value)
    return value


def _number(key: str, what: str, value: Any) -> int:
    meaning, is_wrong = _NUMBERS[key]
    if type(value) is not int or is_wrong(value):
        raise ConfigError(f"{what} must be {meaning}")
    return value


def _size(what: str, value: str) -> int:
    try:
        return parse_size(value)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        raw: Mapping[str, Any] = tomllib.loads(read_file(path).decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    settings: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in _SETTINGS:
            known = ", ".join(sorted(_SETTINGS))
            raise ConfigError(f"{path}: there is no setting {key!r}; there is: {known}")
        if key in _LISTS:
            if not isinstance(value, list) or not all(isinstance(m, str) for m in value):
                raise ConfigError(f"{path}: {key} must be a list of {_LISTS[key]}")
        elif key in _SWITCHES:
            if not isinstance(value, bool):
                raise ConfigError(f"{path}: {key} must be true or false")
        elif key in _NUMBERS:
            _number(key, f"{path}: {key}", value)
        elif not isinstance(value, str):
            raise ConfigError(f"{path}: {key} must be a string, in quotes")
        elif key in _SIZES:
            value = _size(f"{path}: {key}", value)
        settings[key] = tuple(value) if key in _LISTS else value
    return settings
