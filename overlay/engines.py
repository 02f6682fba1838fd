"""The engines of this node: loading models, restarting what died, and whom their events go to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from models.engine import Engine, EngineDied, EngineEvent, Finished, ModelInfo
from models.llama.engine import LlamaEngine
from models.store.store import ModelFile
from overlay.errors import HearthError

log = logging.getLogger(__name__)

#: A model whose engine dies this often in a row is given up.
_RESTARTS_MAX = 3
#: One that had run for so long has none behind it: a guest's grammar may end an engine in ten
#: seconds of its three threads, and nobody may take a model from its owner for good.
_RAN_S = 3.0
_RESTART_DELAY_S = 1.0
#: Of the memory that is free once the models are loaded, this share may cache prompts.
_RAM_SHARE = 0.25

#: What is under way, and how far: 0 to 1.
Progress = Callable[[str, float], None]
EventHandler = Callable[[str, EngineEvent], None]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What all engines of a node are told, and what they share."""

    #: KV cells of each model; 0: the engine chooses.
    cells: int = 0
    #: Bytes for what left the KV caches, all models together; None: what can be spared.
    ram_bytes: int | None = None
    #: The same on disk, in this folder; 0: nothing.
    disk: Path | None = None
    disk_bytes: int = 0
    #: How many models share these.
    models: int = 1


@dataclass(slots=True)
class _Served:
    model: ModelFile
    engine: Engine
    #: When it was loaded, by the loop's clock.
    since: float
    deaths: int = 0


class EnginePool:
    """Engines by model name; ``on_event`` gets all events, ``on_models`` each change of the set."""

    def __init__(
        self,
        *,
        hash_key: bytes,
        on_event: EventHandler,
        on_models: Callable[[], None],
        options: EngineOptions = EngineOptions(),
    ) -> None:
        self._hash_key = hash_key
        self._options = options
        #: Bytes for each model's evicted prompts, found out once: a restart gets the same.
        self._ram_bytes: dict[str, int] = {}
        self._on_event = on_event
        self._on_models = on_models
        self._served: dict[str, _Served] = {}
        #: Models' names as they were first loaded, which an engine's death does not change.
        self._order: list[str] = []
        #: Why a model of this node's is not served now, by its name and by each other one.
        self.lost: dict[str, str] = {}
        self._restarts: set[asyncio.Task[None]] = set()

    def expect(self, model: ModelFile) -> None:
        """It is to be loaded, and who asks for it before is told so."""
        self._lose(model, "it is being loaded")

    async def load(self, model: ModelFile, progress: Progress | None = None) -> None:
        """Start an engine for the model. Raises ModelFileInvalid, EngineFailed."""
        key = self._hash_key
        engine = await self._start(model, progress)
        if key != self._hash_key:
            engine.set_hash_key(self._hash_key)  # The mesh changed meanwhile.
        now = asyncio.get_running_loop().time()
        self._served[model.name] = _Served(model, engine, now)
        if model.name not in self._order:
            self._order.append(model.name)
        for name in (model.name, *model.aliases):
            self.lost.pop(name, None)
        self._on_models()

    def get(self, name: str) -> Engine | None:
        served = self._served.get(name)
        return None if served is None else served.engine

    def infos(self) -> list[ModelInfo]:
        """The models that are served now; the one that was loaded first is the default."""
        return [self._served[name].engine.info for name in self._order if name in self._served]

    def set_hash_key(self, key: bytes) -> None:
        """The mesh changed: block hashes are computed anew."""
        self._hash_key = key
        for served in self._served.values():
            served.engine.set_hash_key(key)

    async def close(self) -> None:
        restarts = list(self._restarts)
        for task in restarts:
            task.cancel()
        closing = [served.engine.close() for served in self._served.values()]
        # One that is being started has a process, too.
        await asyncio.gather(*restarts, *closing, return_exceptions=True)
        self._served.clear()

    async def _start(self, model: ModelFile, progress: Progress | None) -> Engine:
        def report(share: float) -> None:
            if progress is not None:
                progress(f"loading {model.name}", share)

        options = self._options
        return await LlamaEngine.start(
            model.path,
            name=model.name,
            aliases=model.aliases,
            cells=options.cells,
            ram_bytes=self._ram_share(model),
            disk=options.disk,
            disk_bytes=options.disk_bytes,
            disk_sharers=options.models,
            hash_key=self._hash_key,
            sink=lambda event: self._receive(model.name, event),
            progress=report,
        )

    def _ram_share(self, model: ModelFile) -> int:
        """Bytes of RAM for what leaves this model's KV cache."""
        share = self._ram_bytes.get(model.name)
        if share is None:
            total = self._options.ram_bytes
            if total is None:
                # The weights are mapped from their files: they count as free, but are needed.
                files = [served.model for served in self._served.values()] + [model]
                weights = sum(each.info.size_bytes for each in files)
                total = int(max(0, psutil.virtual_memory().available - weights) * _RAM_SHARE)
            share = self._ram_bytes[model.name] = total // self._options.models
        return share

    def _receive(self, name: str, event: EngineEvent) -> None:
        served = self._served.get(name)
        if served is not None:
            match event:
                case Finished():
                    served.deaths = 0
                case EngineDied(message=message):
                    log.error("the engine of %s died: %s", name, message)
                    self._restart_later(served, message)
        self._on_event(name, event)

    def _restart_later(self, served: _Served, message: str) -> None:
        name = served.model.name
        del self._served[name]
        if asyncio.get_running_loop().time() >= served.since + _RAN_S:
            served.deaths = 0
        if served.deaths >= _RESTARTS_MAX:
            log.error("%s died %d times: given up", name, served.deaths)
            self._lose(served.model, f"given up after {served.deaths} restarts. {message}")
            return
        self._lose(served.model, f"it is being started again. {message}")
        task = asyncio.get_running_loop().create_task(self._restart(served))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _restart(self, served: _Served) -> None:
        await served.engine.close()
        model, again = served.model, True
        while again:
            served.deaths += 1
            # A crash loop must not spin; this is a pause, not a wait for an event.
            await asyncio.sleep(_RESTART_DELAY_S * served.deaths)
            try:
                await self.load(model)
            except Exception as error:
                # What ended the engine may end the next one, too, while it loads. Of a lack
                # of memory, llama.cpp says that the model cannot be loaded.
                bug = None if isinstance(error, HearthError) else error
                again = bug is None and served.deaths < _RESTARTS_MAX
                what = "it is being started again" if again else "it cannot be started again"
                reason = str(error) if bug is None else repr(bug)
                log.error("%s could not be started: %s", model.name, reason, exc_info=bug)
                self._lose(model, f"{what}. {reason}")
            else:
                self._served[model.name].deaths = served.deaths
                return

    def _lose(self, model: ModelFile, reason: str) -> None:
        self.lost |= dict.fromkeys((model.name, *model.aliases), reason)
        self._on_models()
