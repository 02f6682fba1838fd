"""A node to talk to: the one that runs in the home, or one started for this command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

from cli.client import NodeClient, answers_to
from cli.interrupts import unwinding
from cli.progress import StepProgress
from overlay.errors import ConfigError, ModelFileInvalid, ModelNotFound, NodeNotRunning
from overlay.home.home import Home

if TYPE_CHECKING:
    from overlay.config import NodeConfig
    from overlay.standing import Standing

#: A node that was just started knows its friends' models after a round of gossip or two.
_FRIENDS_S = 5.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Session:
    """``model`` is the name to ask for, None for the node's default."""

    client: NodeClient
    model: str | None
    #: Whether the node lives as long as this session only.
    own_node: bool


def running_client(config: NodeConfig) -> NodeClient:
    """A client of the node that runs in the home, wherever it is.

    Raises NodeNotRunning; HomeInUse while the node starts: then no other one may take its place.
    """

    def find() -> tuple[str, str]:
        runtime = Home(config.home).runtime()
        return runtime.api, runtime.admin_token

    return NodeClient(*find(), find)


@contextmanager
def without_node(config: NodeConfig) -> Iterator[Standing]:
    """What the home belongs to, for a command that changes it while no node runs.

    Raises IdentityError for a home that belongs to no mesh, and leaves it as it is; HomeInUse.
    """
    from overlay.standing import Standing

    home = Home(config.home)
    Standing.existing(home)
    home.lock()
    try:
        yield Standing.existing(home)
    finally:
        home.unlock()


@contextmanager
def open_session(config: NodeConfig, model: str | None, console: Console) -> Iterator[Session]:
    """Use the running node, or start one in this process for as long as the session is open.

    ``model`` is a name, or the path of a GGUF file for a node that is started here; ``none``
    starts it without a model, so that friends answer. ``console`` shows what takes a while.
    """
    from models.store.store import is_path

    try:
        client = running_client(config)
    except NodeNotRunning:
        pass
    else:
        if model is not None and is_path(model):
            client.close()
            raise ConfigError(
                f"a node runs in {config.home} already, so this command cannot load {model}: "
                "end that node first, or give another --home"
            )
        with client:
            yield Session(client, model, own_node=False)
        return

    from cli.log import no_zeroconf
    from overlay.thread import run_in_thread

    no_zeroconf()
    if model == "none":
        config, model = replace(config, models=()), None
    here = None if model is None else _name_here(config, model)
    if model is not None and here is not None:
        config = replace(config, models=(model,))
    name = here or model
    with (
        unwinding(),
        StepProgress(console) as progress,
        run_in_thread(config, progress) as node,
        NodeClient(node.api_url, node.admin_token) as client,
    ):
        progress.close()
        if not (here or (name is None and config.models)):
            _await_model(client, name)
        yield Session(client, name, own_node=True)


def _name_here(config: NodeConfig, model: str) -> str | None:
    """The name of a model that this machine has, or can fetch; None: a friend may serve it."""
    from pathlib import Path

    from models.store.names import model_name
    from models.store.store import ModelStore, is_path

    try:
        return ModelStore(config.store).resolve(model).name
    except ModelNotFound:
        return None
    except ModelFileInvalid:  # Fetched, or complained about, when the node starts.
        return model_name(Path(model)) if is_path(model) else model


def _await_model(client: NodeClient, name: str | None) -> None:
    """Give friends the time to be heard of; whether the model exists is for the answer to say."""
    until = time.monotonic() + _FRIENDS_S
    while time.monotonic() < until:
        listed = client.models()
        if listed if name is None else any(answers_to(model, name) for model in listed):
            return
        known = client.status()
        if not known.get("peers") and not known.get("absent"):
            return
        time.sleep(_POLL_S)
