"""What each engine of a node is told."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from models.engine import EngineDied, EngineEvent, Finished, FinishReason
from models.llama.engine import LlamaEngine
from models.store.gguf_file import GgufInfo
from models.store.store import ModelFile
from overlay import engines
from overlay.engines import _RESTARTS_MAX as RESTARTS_MAX
from overlay.engines import EngineOptions, EnginePool
from overlay.errors import EngineFailed, ModelFileInvalid
from tests.support.tiny_gguf import write_tiny_gguf

MB = 1_000_000
FINISHED = Finished(b"r", FinishReason.STOP, 1, 0, 1, 0.0, 0.0, 0.0)


class Starts:
    """Stands in for engines; remembers what they were told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[dict[str, Any]] = []
        #: Those that were closed, as the first, the second...
        self.closed: list[int] = []
        self.free = 1000 * MB
        #: Of the next starts: what is raised.
        self.failures: list[Exception] = []
        monkeypatch.setattr(LlamaEngine, "start", self.start)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=self.free))
        monkeypatch.setattr(engines, "_RESTART_DELAY_S", 0)

    async def start(self, path: Path, **told: Any) -> Any:
        self.told.append(told)
        if self.failures:
            raise self.failures.pop(0)
        number = len(self.told)

        async def close() -> None:
            self.closed.append(number)

        return SimpleNamespace(close=close)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    return Starts(monkeypatch)


def pool(**options: Any) -> EnginePool:
    return EnginePool(
        hash_key=b"",
        on_event=lambda name, event: None,
        on_models=lambda: None,
        options=EngineOptions(**options),
    )


def model(name: str, size_bytes: int) -> ModelFile:
    info = GgufInfo("llama", 128, "F16", 1, size_bytes, size_bytes)
    return ModelFile(name, (), Path(name), info)


async def test_a_quarter_of_what_the_weights_leave_is_shared(starts: Starts) -> None:
    engines = pool(models=2)
    await engines.load(model("one", 200 * MB))
    await engines.load(model("two", 400 * MB))
    # The second file's weights are needed beside the first one's, though both count as free.
    assert [told["ram_bytes"] for told in starts.told] == [100 * MB, 50 * MB]


async def test_weights_larger_than_the_free_memory_leave_none(starts: Starts) -> None:
    await pool().load(model("large", 2000 * MB))
    assert starts.told[0]["ram_bytes"] == 0


async def test_budgets_are_those_of_all_models_together(starts: Starts, tmp_path: Path) -> None:
    engines = pool(cells=512, ram_bytes=10, disk=tmp_path, disk_bytes=20, models=2)
    await engines.load(model("one", 1))
    told = starts.told[0]
    assert (told["cells"], told["ram_bytes"]) == (512, 5)
    assert (told["disk_bytes"], told["disk_sharers"]) == (20, 2)
    assert told["disk"] == tmp_path


async def test_a_restart_gets_what_the_first_start_got(starts: Starts) -> None:
    engines = pool()
    await engines.load(model("one", 0))
    starts.free = 0
    starts.told[0]["sink"](EngineDied("broken"))
    (restart,) = engines._restarts
    await restart
    assert [told["ram_bytes"] for told in starts.told] == [250 * MB] * 2


@pytest.mark.parametrize(
    ("failures", "starts_again", "served"),
    [
        ([EngineFailed("no memory")] * (RESTARTS_MAX - 1), RESTARTS_MAX, True),
        ([EngineFailed("no memory")] * 10, RESTARTS_MAX, False),
        ([ModelFileInvalid("no memory")] * (RESTARTS_MAX - 1), RESTARTS_MAX, True),
        ([ModelFileInvalid("it is gone")] * 10, RESTARTS_MAX, False),
        ([ValueError("a bug")], 1, False),
    ],
)
async def test_a_start_that_fails_is_tried_again_unless_that_is_no_use(
    starts: Starts, failures: list[Exception], starts_again: int, served: bool
) -> None:
    engines = pool()
    await engines.load(model("one", 0))
    starts.failures = list(failures)
    starts.told[0]["sink"](EngineDied("broken"))
    (restart,) = engines._restarts
    await restart
    assert len(starts.told) == 1 + starts_again
    assert (engines.get("one") is not None) == served
    assert ("one" in engines.lost) == (not served)
    if not served:
        assert str(failures[0]) in engines.lost["one"]
        assert "being started" not in engines.lost["one"]


async def test_who_asks_for_a_model_by_any_name_hears_why_it_is_not_served(starts: Starts) -> None:
    lost: list[dict[str, str]] = []
    served = EnginePool(
        hash_key=b"",
        on_event=lambda name, event: None,
        on_models=lambda: lost.append(dict(served.lost)),
    )
    one = replace(model("one", 0), aliases=("small",))
    served.expect(one)
    await served.load(one)
    starts.failures = [EngineFailed("no memory")]
    starts.told[0]["sink"](EngineDied("out of memory"))
    await asyncio.gather(*served._restarts)
    reasons = [
        "it is being loaded",
        None,
        "it is being started again. out of memory",
        "it is being started again. no memory",
        None,
    ]
    expected = [dict.fromkeys(("one", "small"), why) if why else {} for why in reasons]
    assert lost == expected, "each change is told"
    assert starts.closed == [1], "of what died, nothing is left"
    await served.close()
    assert starts.closed == [1, 3]
    assert served.get("one") is None


async def test_an_engine_that_answers_between_its_deaths_is_not_given_up(starts: Starts) -> None:
    engines = pool()
    await engines.load(model("one", 0))
    for _ in range(5):
        starts.told[-1]["sink"](FINISHED)
        for _ in range(RESTARTS_MAX):
            starts.told[-1]["sink"](EngineDied("broken"))
            await asyncio.gather(*engines._restarts)
            assert engines.get("one") is not None
    starts.told[-1]["sink"](EngineDied("broken"))
    assert not engines._restarts
    assert engines.get("one") is None
    assert f"given up after {RESTARTS_MAX} restarts. broken" in engines.lost["one"]


async def test_an_engine_that_dies_after_a_while_is_not_given_up(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lets it compute what ends it could do so whenever it has been started again."""
    monkeypatch.setattr(engines, "_RAN_S", 0.0)
    served = pool()
    await served.load(model("one", 0))
    for _ in range(2 * RESTARTS_MAX):
        starts.told[-1]["sink"](EngineDied("broken"))
        await asyncio.gather(*served._restarts)
        assert served.get("one") is not None


async def test_each_restart_in_a_row_comes_later_than_the_one_before(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    engines = pool()
    await engines.load(model("one", 0))
    monkeypatch.setattr("overlay.engines._RESTART_DELAY_S", 1.0)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    starts.failures = [EngineFailed("no memory")]
    starts.told[-1]["sink"](EngineDied("broken"))
    await asyncio.gather(*engines._restarts)
    starts.told[-1]["sink"](EngineDied("broken"))
    await asyncio.gather(*engines._restarts)
    assert pauses == [1.0, 2.0, 3.0]


async def test_what_an_engine_says_is_passed_on_with_its_models_name(starts: Starts) -> None:
    seen: list[tuple[str, EngineEvent]] = []
    progress: list[tuple[str, float]] = []
    engines = EnginePool(
        hash_key=b"", on_event=lambda *event: seen.append(event), on_models=lambda: None
    )
    await engines.load(model("one", 0), lambda *told: progress.append(told))
    starts.told[0]["progress"](0.5)
    starts.told[0]["sink"](FINISHED)
    # It was under way when the engine before it died.
    died = EngineDied("broken")
    starts.told[0]["sink"](died)
    starts.told[0]["sink"](FINISHED)
    assert seen == [("one", FINISHED), ("one", died), ("one", FINISHED)]
    assert progress == [("loading one", 0.5)]
    await engines.close()


class Real:
    """A pool with a real engine on a model file of its own."""

    def __init__(self, path: Path) -> None:
        self.changed = asyncio.Event()
        self.model = ModelFile("tiny", ("small",), path, model("tiny", path.stat().st_size).info)
        self.pool = EnginePool(
            hash_key=b"", on_event=lambda name, event: None, on_models=self.changed.set
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a change of what is served after which this holds."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def kill(self) -> None:
        engine = self.pool.get("tiny")
        assert isinstance(engine, LlamaEngine)
        os.kill(engine.process_id, signal.SIGKILL)


@pytest.fixture
async def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Real]:
    monkeypatch.setattr(engines, "_RESTART_DELAY_S", 0)
    real = Real(write_tiny_gguf(tmp_path / "tiny.gguf"))
    await real.pool.load(real.model)
    yield real
    await real.pool.close()


async def test_an_engine_that_died_is_started_again(real: Real) -> None:
    before = real.pool.get("tiny")
    real.kill()
    await real.until(lambda: "tiny" in real.pool.lost)
    assert "signal 9" in real.pool.lost["tiny"] == real.pool.lost["small"]
    await real.until(lambda: real.pool.get("tiny") is not None)
    assert real.pool.get("tiny") is not before
    assert not real.pool.lost


async def test_an_engine_that_died_keeps_its_place(real: Real) -> None:
    second = replace(real.model, name="second", aliases=())
    await real.pool.load(second)
    real.kill()
    await real.until(lambda: "tiny" in real.pool.lost)
    assert [info.name for info in real.pool.infos()] == ["second"]
    await real.until(lambda: real.pool.get("tiny") is not None)
    assert [info.name for info in real.pool.infos()] == ["tiny", "second"]


async def test_a_model_that_vanished_is_lost_with_a_reason(real: Real) -> None:
    real.model.path.unlink()
    real.kill()
    await real.until(lambda: "no model file" in real.pool.lost.get("tiny", ""))
    assert real.pool.get("tiny") is None
    assert str(real.model.path) in real.pool.lost["tiny"]


async def test_an_engine_that_dies_again_and_again_is_given_up(real: Real) -> None:
    for _ in range(RESTARTS_MAX + 1):
        await real.until(lambda: real.pool.get("tiny") is not None)
        real.kill()
        await real.until(lambda: real.pool.get("tiny") is None)
    assert "given up" in real.pool.lost["tiny"]


async def test_a_process_that_cannot_be_made_is_tried_again(
    real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever killed the engine, such as a lack of memory, may last a moment longer."""
    make, failures = asyncio.create_subprocess_exec, [OSError(errno.ENOMEM, "no memory")]

    async def fail_once(*args: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return await make(*args, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail_once)
    real.kill()
    await real.until(lambda: "no memory" in real.pool.lost.get("tiny", ""))
    await real.until(lambda: real.pool.get("tiny") is not None)


async def test_an_engine_that_was_loaded_while_the_mesh_changed_hashes_for_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engines, keys = pool(), []

    async def start(path: Path, *, hash_key: bytes, **told: Any) -> Any:
        keys.append(hash_key)
        engines.set_hash_key(b"of another mesh")
        return SimpleNamespace(set_hash_key=keys.append)

    monkeypatch.setattr(LlamaEngine, "start", start)
    await engines.load(model("one", 0))
    assert keys == [b"", b"of another mesh"]
    engines.set_hash_key(b"of a third one")
    assert keys[2:] == [b"of a third one"]


async def test_closing_waits_for_what_is_being_started(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = pool()
    await engines.load(model("one", 0))
    begun, ended = asyncio.Event(), asyncio.Event()

    async def start(path: Path, **told: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # it takes its process down with it
            ended.set()

    monkeypatch.setattr(LlamaEngine, "start", start)
    starts.told[0]["sink"](EngineDied("broken"))
    await begun.wait()
    await engines.close()
    assert ended.is_set()
