"""The mesh's state, kept fresh in the background for the toolbar and the footers."""

from __future__ import annotations

import threading
from typing import Any, Self

from cli.client import NodeClient, answers_to
from cli.mesh_state import MeshState
from overlay.errors import HearthError

_REFRESH_S = 2.0
_CLOSE_S = 5.0


class MeshWatch:
    """A context manager. ``state`` is the last one known; ``error`` what went wrong since."""

    def __init__(self, client: NodeClient) -> None:
        self._client = client
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mesh-watch", daemon=True)
        self.state = MeshState()
        #: Names that can be asked for, the node's default first.
        self.models: tuple[str, ...] = ()
        self._listed: list[dict[str, Any]] = []
        self.error = ""

    def __enter__(self) -> Self:
        self.refresh()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(_CLOSE_S)

    def refresh(self) -> None:
        """Ask the node now."""
        try:
            self.state = MeshState.from_status(self._client.status())
            self._listed = self._client.models()
            self.models = tuple(str(model.get("id")) for model in self._listed)
            self.error = ""
        except HearthError as error:
            self.error = str(error)

    def model_named(self, name: str) -> str | None:
        """The listed model that answers to ``name``."""
        found = (str(model["id"]) for model in self._listed if answers_to(model, name))
        return next(found, None)

    def _run(self) -> None:
        while not self._closed.wait(_REFRESH_S):
            self.refresh()
