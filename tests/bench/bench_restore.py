"""What it takes to bring back a prefix that had to leave the KV cache, against computing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.bench_prefixes import PREFIX_TOKENS
from tests.bench.setting import Setting

#: Prefixes, each of which is restored so often.
PREFIXES: Final = 4
ROUNDS: Final = 5
QUICK_PREFIXES: Final = 3
QUICK_ROUNDS: Final = 2
ANSWER_TOKENS: Final = 1
#: Room for one prefix with its question: each that is asked drives another out.
CELLS: Final = 768
DISK_BYTES: Final = 4 << 30
#: Prefixes begin alike by less than this.
FEW: Final = 8


@dataclass(frozen=True, slots=True)
class Figures:
    """Times to first token of one tier, in ms, and the engine's own rates, in tokens per second."""

    tier: str
    #: Nothing cached; the prefix in the tier; the prefix in the KV cache.
    cold_ms: list[float]
    restored_ms: list[float]
    resident_ms: list[float]
    restored_tokens: int
    restore_rate: float
    prefill_rate: float
    bytes_per_token: float


async def measure(setting: Setting, done: Callable[[], None]) -> list[Figures]:
    """``done`` is called for each of `prompts`."""
    disk = {"ram_bytes": 0, "disk": setting.folder / "spilled", "disk_bytes": DISK_BYTES}
    return [
        await _of("RAM", {}, setting, done),
        await _of("disk", disk, setting, done),
    ]


def prompts(*, quick: bool) -> int:
    return 2 * (QUICK_PREFIXES * (1 + QUICK_ROUNDS) if quick else PREFIXES * (1 + ROUNDS))


async def _of(
    tier: str, options: dict[str, Any], setting: Setting, done: Callable[[], None]
) -> Figures:
    vocabulary = setting.vocabulary
    heads = vocabulary.prefixes(QUICK_PREFIXES if setting.quick else PREFIXES, PREFIX_TOKENS)
    questions = iter(vocabulary.questions(1 + 2 * (QUICK_ROUNDS if setting.quick else ROUNDS)))
    hearth = await setting.hearth(cells=CELLS, **options)

    async def ask(head: str, question: str, cached: int) -> float:
        prompt = vocabulary.prompt(head + question).tokens
        answer = await hearth.ask(prompt, ANSWER_TOKENS)
        assert cached <= answer.cached_tokens < cached + FEW, f"{tier}: {answer}"
        return answer.ttft_ms

    try:
        question = next(questions)
        cold_ms, restored_ms, resident_ms = [], [], []
        for head in heads:
            cold_ms.append(await ask(head, question, 0))
            done()
        while (question := next(questions, "")) and (again := next(questions, "")):
            for head in heads:
                restored_ms.append(await ask(head, question, PREFIX_TOKENS))
                resident_ms.append(await ask(head, again, PREFIX_TOKENS))
                done()
        stats = await hearth.idle()
    finally:
        await hearth.close()
    kept = stats.spilled_tokens + stats.disk_tokens
    return Figures(
        tier,
        cold_ms,
        restored_ms,
        resident_ms,
        stats.restored_tokens,
        stats.restore_rate,
        stats.prefill_rate,
        (stats.spilled_bytes + stats.disk_bytes) / kept,
    )
