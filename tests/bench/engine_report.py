"""What the engine benchmarks found, as Markdown: figures against the goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench import bench_chat, bench_hit, bench_prefixes, bench_restore, bench_step
from tests.bench import bench_streams as streams
from tests.bench.report import markdown, percentile
from tests.bench.setting import Setting

HEARTH: Final = "Hearth"
SERVER: Final = "llama-server"
BINDING: Final = "llama-cpp-python"


@dataclass(slots=True)
class Figures:
    """All samples of one model."""

    prefixes: list[bench_prefixes.Figures] = field(default_factory=list)
    streams: list[streams.Sample] = field(default_factory=list)
    hits: list[bench_hit.Sample] = field(default_factory=list)
    steps: list[bench_step.Step] = field(default_factory=list)
    chat: list[bench_chat.Turn] = field(default_factory=list)
    restores: list[bench_restore.Figures] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """One goal; ``met`` is None where there is nothing to compare with."""

    goal: str
    measured: str
    rival: str
    ratio: str
    met: bool | None


def table(figures: Figures) -> str:
    rows = [
        *_prefixes(figures.prefixes),
        *_streams(figures.streams),
        *_hits(figures.hits),
        *_steps(figures.steps),
        *_chat(figures.chat),
        *_restores(figures.restores),
    ]
    said = {True: "yes", False: "**no**", None: ""}
    return markdown(
        ("goal", "measured", "rival", "ratio", "met"),
        [(row.goal, row.measured, row.rival, row.ratio, said[row.met]) for row in rows],
    )


def remarks(figures: Figures, setting: Setting) -> list[str]:
    """What the table does not tell, a sentence each."""
    full = bench_prefixes.QUICK if setting.quick else bench_prefixes.FULL
    said = [f"{setting.threads} threads; prompts are token ids, the same for all."]
    if figures.prefixes:
        said.append(
            f"{full[0]} prefixes of {bench_prefixes.PREFIX_TOKENS} tokens, {full[1]} questions "
            "under each, in shuffled order."
        )
    if figures.streams:
        said.append(
            f"{len({s.streams for s in figures.streams})} numbers of streams, answers of "
            f"{(streams.QUICK if setting.quick else streams.FULL)[1]} tokens."
        )
    return said


def _prefixes(found: Iterable[bench_prefixes.Figures]) -> Iterable[Row]:
    by_room: dict[str, dict[str, bench_prefixes.Figures]] = {}
    for figures in found:
        by_room.setdefault(figures.room, {})[figures.engine] = figures
    for room, engines in by_room.items():
        if HEARTH not in engines:
            continue
        own, rival = engines[HEARTH], engines.get(SERVER)
        yield Row(
            f"{room}: over 99% of what can be hit",
            f"{own.hit_rate:.2%}",
            f"{rival.hit_rate:.2%}" if rival else "",
            "",
            own.hit_rate > 0.99,
        )
        for share in (0.5, 0.99):
            limit = 0.8 if room == bench_prefixes.ALL else 1.0
            yield _compared(
                f"{room}: TTFT of hits, p{share * 100:.0f}, at most {limit}x llama-server's",
                percentile([a.ttft_ms for a in own.warm], share),
                percentile([a.ttft_ms for a in rival.warm], share) if rival else None,
                "ms",
                most=limit,
            )
        yield _compared(
            f"{room}: TTFT of the first ask under each prefix, median",
            statistics.median(a.ttft_ms for a in own.cold),
            statistics.median(a.ttft_ms for a in rival.cold) if rival else None,
            "ms",
        )
    if binding := next((f for f in found if f.engine == BINDING), None):
        warm = [a.ttft_ms for a in binding.warm]
        middle, worst = statistics.median(warm), percentile(warm, 0.99)
        told = f"{middle:,.0f} ms, p99 {worst:,.0f} ms"
        goal = f"{BINDING} with LlamaRAMCache, {bench_prefixes.RAM_CACHE[0]} prefixes: TTFT"
        yield Row(goal, "", told, "", None)


def _streams(samples: Sequence[streams.Sample]) -> Iterable[Row]:
    for count in streams.STREAMS:
        by_engine = {
            engine: [s.tokens_per_s for s in samples if (s.engine, s.streams) == (engine, count)]
            for engine in (HEARTH, SERVER, BINDING)
        }
        own, rival = by_engine[HEARTH], by_engine[SERVER]
        if not own:
            continue
        yield Row(
            f"tokens/s of {count} at once, at least 0.97x llama-server's",
            f"{statistics.median(own):.1f}",
            f"{statistics.median(rival):.1f}" if rival else "",
            f"{_paired(own, rival):.2f}" if rival else "",
            _paired(own, rival) >= 0.97 if rival else None,
        )
        if binding := by_engine[BINDING]:
            ratio = _paired(own, binding)
            goal = f"the same against {BINDING}"
            yield Row(goal, "", f"{statistics.median(binding):.1f}", f"{ratio:.2f}", None)


def _hits(samples: Sequence[bench_hit.Sample]) -> Iterable[Row]:
    taken = {who: [s.ttft_ms for s in samples if s.who == who] for who in {s.who for s in samples}}
    bare = taken.pop(bench_hit.BARE, None)
    if bare is None:
        return
    for who, goal in (
        (HEARTH, "TTFT of a hit, at most 1.15x the bare decode of its suffix"),
        ("Hearth node", "the same through a whole node, over HTTP"),
        (SERVER, "the same of llama-server, over HTTP"),
        (bench_hit.WITHOUT_FLASH, "the same of llama-server without flash attention"),
    ):
        if own := taken.get(who):
            ratio = _paired(own, bare)
            yield Row(
                goal,
                f"{statistics.median(own):.0f} ms",
                f"{statistics.median(bare):.0f} ms",
                f"{ratio:.2f}",
                ratio <= 1.15 if who == HEARTH else None,
            )


def _steps(steps: Sequence[bench_step.Step]) -> Iterable[Row]:
    if not steps:
        return
    whole = sum(step.whole_ms for step in steps)
    python = sum(step.python_ms for step in steps) / whole
    other = sum(step.other_ms for step in steps) / whole
    yield Row(
        f"Python's own time in a step at {bench_step.STREAMS} streams, under 3%",
        f"{python:.1%} of {whole / len(steps):.1f} ms",
        f"(samplers, in C: {other:.1%})",
        "",
        python < 0.03,
    )


def _chat(turns: Sequence[bench_chat.Turn]) -> Iterable[Row]:
    if not turns:
        return
    later = {
        engine: [t for t in turns if t.engine == engine and t.turn > 1]
        for engine in (HEARTH, SERVER)
    }
    own, rival = later[HEARTH], later[SERVER]
    share = {
        engine: sum(t.cached >= t.hittable for t in found) / len(found)
        for engine, found in later.items()
        if found
    }
    yield Row(
        "chat: every turn hits all but its new tokens",
        f"{share[HEARTH]:.1%} of turns",
        f"{share[SERVER]:.1%}" if rival else "",
        "",
        share[HEARTH] == 1,
    )
    yield _compared(
        "chat: TTFT of the turns after the first, median",
        statistics.median(t.ttft_ms for t in own),
        statistics.median(t.ttft_ms for t in rival) if rival else None,
        "ms",
    )


def _restores(found: Iterable[bench_restore.Figures]) -> Iterable[Row]:
    for figures in found:
        ratio = figures.restore_rate / figures.prefill_rate
        yield Row(
            f"restore from {figures.tier}, at least 5x faster than prefill",
            f"{figures.restore_rate:,.0f} tokens/s",
            f"{figures.prefill_rate:,.0f} tokens/s",
            f"{ratio:,.0f}",
            ratio >= 5,
        )
        restored, resident, cold = (
            statistics.median(taken)
            for taken in (figures.restored_ms, figures.resident_ms, figures.cold_ms)
        )
        yield Row(
            f"TTFT with a prefix from {figures.tier} (from the KV cache: {resident:,.0f} ms)",
            f"{restored:,.0f} ms",
            f"cold: {cold:,.0f} ms",
            f"{restored / cold:.3f}",
            None,
        )
        size = f"{figures.bytes_per_token / 1e3:.1f} MB"
        yield Row(f"{figures.tier} for 1,000 spilled tokens", size, "", "", None)


def _compared(
    goal: str, own: float, rival: float | None, unit: str, *, most: float | None = None
) -> Row:
    if rival is None:
        return Row(goal, f"{own:,.0f} {unit}", "", "", None)
    ratio = own / rival
    met = None if most is None else ratio <= most
    return Row(goal, f"{own:,.0f} {unit}", f"{rival:,.0f} {unit}", f"{ratio:.2f}", met)


def _paired(own: Sequence[float], rival: Sequence[float]) -> float:
    """The median of each round's ratio: a slow moment of the machine slows both."""
    return statistics.median(a / b for a, b in zip(own, rival, strict=True))
