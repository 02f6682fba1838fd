"""What links cost: round trips beside rivals, and answers that stream through a hop and a relay.

Every end is a process of its own (`tests.bench.link_ends`), with the transport, the forwarding and
the gossip of a node. Only the engine is a stand-in: it has a token for each request at every step.

A *token's way* leads from the engine's event to the client's, one way, on one clock. At home both
are in one process. What a hop adds is a way's percentile less the same percentile at home, of the
same round.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import metadata
from typing import Any, Final

from tests.bench.contenders import Child
from tests.bench.link_ends import PAYLOAD_BYTES
from tests.bench.report import markdown, middle
from tests.bench.setting import in_turn

ENDS: Final = "tests.bench.link_ends"
HEARTH: Final = "Hearth's link"
#: Of each contender, what the echo is called and what its pinger.
CONTENDERS: Final = {
    HEARTH: ("hearth", "hearth"),
    "asyncio TCP": ("tcp", "tcp"),
    "grpc.aio, one stream": ("grpc", "grpc-stream"),
    "grpc.aio, a call each": ("grpc", "grpc-unary"),
}
ROUNDS: Final = 7
QUICK_ROUNDS: Final = 3
PINGS: Final = 2000
WARM_UP_PINGS: Final = 200
#: The same with pauses, as tokens come: by then the machine has gone to sleep.
RARE_PINGS: Final = 50
RARE_PAUSE_S: Final = 0.02
#: Answers at once, and tokens per second of each. The last are more than a relay grants, and than
#: frames can be sent: what there is meanwhile leaves together.
LOADS: Final = {
    "4 answers of 50 tokens/s": (4, 50),
    "4 answers of 500 tokens/s": (4, 500),
    "32 answers of 100 tokens/s": (32, 100),
    "32 answers of 3,000 tokens/s": (32, 3000),
}
SECONDS: Final = 2.0
QUICK_SECONDS: Final = 1.0
HOME: Final = "at home"
DIRECT: Final = "one hop"
RELAYED: Final = "through a relay"
WAYS: Final = (HOME, DIRECT, RELAYED)


def rounds(quick: bool) -> int:
    """How often each thing is measured."""
    return QUICK_ROUNDS if quick else ROUNDS


async def measure(quick: bool, on_round: Callable[[], None]) -> dict[str, Any]:
    """All samples. ``on_round`` is called for each of twice `rounds`."""
    contenders = dict(CONTENDERS)
    told: dict[str, Any] = {}
    try:
        told["grpcio"] = metadata.version("grpcio")
    except metadata.PackageNotFoundError:
        contenders = {name: kinds for name, kinds in contenders.items() if kinds[0] != "grpc"}
    told["round_trips"] = await _round_trips(contenders, rounds(quick), on_round)
    told["streams"] = await _streams(quick, on_round)
    return told


async def _round_trips(
    contenders: dict[str, tuple[str, str]], count: int, on_round: Callable[[], None]
) -> dict[str, list[dict[str, float]]]:
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    async with AsyncExitStack() as stack:
        pingers = {}
        for name, (echo_kind, pinger_kind) in contenders.items():
            echo = await _start(stack, "echo", echo_kind)
            port = (await echo.ask(where=0))["port"]
            pingers[name] = await _start(stack, "pinger", pinger_kind, "--port", port)
            await pingers[name].ask(pings=WARM_UP_PINGS, pause_s=0)
        for number in range(count):
            for name in in_turn(list(pingers), number):
                sample = await pingers[name].ask(pings=PINGS, pause_s=0)
                rare = await pingers[name].ask(pings=RARE_PINGS, pause_s=RARE_PAUSE_S)
                samples[name].append({**sample, "rare_p50_us": rare["p50_us"]})
            on_round()
    return samples


async def _streams(
    quick: bool, on_round: Callable[[], None]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {
        way: {load: [] for load in LOADS} for way in WAYS
    }
    seconds = QUICK_SECONDS if quick else SECONDS
    for number in range(rounds(quick)):
        for way in in_turn(WAYS, number):
            # Nobody else is there: whoever gossips beside them wakes the cores up and fills caches.
            async with AsyncExitStack() as stack:
                origin, executor = await _members(stack, way)
                for load in in_turn(list(LOADS), number):
                    streams, pace = LOADS[load]
                    begun = await executor.ask(made=0)
                    sample = await origin.ask(ask=streams, steps_per_s=pace, seconds=seconds)
                    made = await executor.ask(made=0)
                    sample["executor_cpu_s"] = made["cpu_s"] - begun["cpu_s"]
                    samples[way][load].append(sample)
        on_round()
    return samples


async def _members(stack: AsyncExitStack, way: str) -> tuple[Child, Child]:
    """The one that asks and the one that answers: the same, linked, or only through a third."""
    relayed = way == RELAYED
    middle = await _start(stack, "member", 0, *(() if relayed else ("--serves",)))
    if way == HOME:
        return middle, middle
    met = await middle.ask(where=0)
    others = [await _start(stack, "member", 1, *(("--hidden",) if relayed else ()))]
    if relayed:
        others.append(await _start(stack, "member", 2, "--hidden", "--serves"))
    for other in others:
        await other.ask(meet=[met["peer"], met["port"]])
    executor = others[1] if relayed else middle
    origin = others[0]
    peer = (await executor.ask(where=0))["peer"]
    links = await origin.ask(linked=[peer])
    assert any(links["relayed"]) == relayed, "the link is not as it was to be"
    return origin, executor


async def _start(stack: AsyncExitStack, *arguments: object) -> Child:
    child = await Child.start(ENDS, *arguments)
    stack.push_async_callback(child.close)
    return child


def tables(told: dict[str, Any]) -> str:
    """Round trips, and streams, in Markdown."""
    parts = [_round_trip_table(told["round_trips"])]
    if "grpcio" in told:
        parts.append(f"Messages of {PAYLOAD_BYTES} bytes; grpcio {told['grpcio']}.")
    else:
        parts.append("Without grpc.aio: to compare with it, pip install grpcio.")
    parts.append(_stream_table(told["streams"]))
    failures = {
        failure
        for loads in told["streams"].values()
        for samples in loads.values()
        for sample in samples
        for failure in sample["failures"]
    }
    parts += [f"**Answers failed**: {failure}" for failure in sorted(failures)]
    return "\n\n".join(parts)


def _round_trip_table(samples: dict[str, list[dict[str, float]]]) -> str:
    rows = []
    for name, found in samples.items():
        row = [name]
        for key in ("p50_us", "p99_us", "rare_p50_us"):
            pairs = zip(samples[HEARTH], found, strict=True)
            ratios = [own[key] / other[key] for own, other in pairs]
            row.append(f"{statistics.median(sample[key] for sample in found):,.0f}")
            row.append("" if name == HEARTH else middle(ratios))
        rows.append(row)
    return markdown(
        (
            "round trip",
            *("p50, µs", "Hearth's by this"),
            *("p99, µs", "Hearth's by this"),
            *(f"p50 every {RARE_PAUSE_S * 1000:.0f} ms, µs", "Hearth's by this"),
        ),
        rows,
    )


def _stream_table(streams: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    rows = []
    for way, loads in streams.items():
        for load, found in loads.items():
            figures = {
                key: statistics.median(sample[key] or 0.0 for sample in found)
                for key in ("frames_per_s", "tokens_per_s", "p50_ms", "p99_ms", "cpu_share")
            }
            rows.append(
                [
                    f"{way}: {load}",
                    f"{figures['frames_per_s']:,.0f}",
                    f"{figures['tokens_per_s']:,.0f}",
                    f"{figures['p50_ms']:.2f}",
                    f"{figures['p99_ms']:.2f}",
                    *(_added(found, streams[HOME][load], key) for key in ("p50_ms", "p99_ms")),
                    f"{figures['cpu_share']:.0%}",
                ]
            )
    return markdown(
        (
            "answers",
            "frames/s",
            "tokens/s",
            "token's way p50, ms",
            "p99, ms",
            "added p50, ms",
            "added p99, ms",
            "of a core, who asks",
        ),
        rows,
    )


def _added(found: list[dict[str, Any]], home: list[dict[str, Any]], key: str) -> str:
    if found is home:
        return ""
    added = [
        away[key] - here[key]
        for away, here in zip(found, home, strict=True)
        if away["count"] and here["count"]
    ]
    return middle(added) if added else "none came"


def run(quick: bool, on_round: Callable[[], None]) -> dict[str, Any]:
    """`measure`, for callers without a loop."""
    return asyncio.run(measure(quick, on_round))
