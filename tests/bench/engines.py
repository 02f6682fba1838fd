"""One model's engine benchmarks, one after the other: ``python -m tests.bench engine``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from rich.progress import Progress

from tests.bench import (
    bench_chat,
    bench_hit,
    bench_prefixes,
    bench_restore,
    bench_step,
    bench_streams,
)
from tests.bench.engine_report import Figures
from tests.bench.setting import Setting

#: What may be asked for by name.
SCENARIOS: Final = ("hit", "step", "streams", "restore", "chat", "prefixes")


def measure(setting: Setting, chosen: tuple[str, ...], title: str, progress: Progress) -> Figures:
    """The chosen scenarios; shows how far they are."""
    figures = Figures()
    quick = setting.quick

    def shown(name: str, steps: int) -> Callable[[], None]:
        task = progress.add_task(f"{title}: {name}", total=steps)
        return lambda: progress.advance(task)

    async def run() -> None:
        for name in chosen:
            match name:
                case "hit":
                    done = shown("a hit's first token", bench_hit.rounds(quick=quick))
                    figures.hits = await bench_hit.measure(setting, done)
                case "step":
                    done = shown("whose time a step is", 1)
                    figures.steps = await bench_step.measure(setting)
                    done()
                case "streams":
                    done = shown("answers side by side", bench_streams.rounds(quick=quick))
                    figures.streams = await bench_streams.measure(setting, done)
                case "restore":
                    done = shown("restoring", bench_restore.prompts(quick=quick))
                    figures.restores = await bench_restore.measure(setting, done)
                case "chat":
                    done = shown("chats", bench_chat.prompts(quick=quick))
                    figures.chat = await bench_chat.measure(setting, done)
                case "prefixes":
                    done = shown("shared prefixes", bench_prefixes.prompts(quick=quick))
                    figures.prefixes = await bench_prefixes.measure(setting, done)

    asyncio.run(run())
    return figures
