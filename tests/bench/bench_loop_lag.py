"""How late the event loop runs while a model decodes flat out.

    python -m tests.bench.bench_loop_lag MODEL.gguf [--streams 4] [--seconds 10] [--json]

Hearth decodes in a child process. The rival decodes in a thread of the same process, with
llama-cpp-python's `Llama`. Lag is how much later than asked a 5 ms sleep ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psutil

from models.engine import (
    Chunk,
    EngineEvent,
    Failed,
    Finished,
    GenerationRequest,
    Sampling,
)
from models.llama.engine import LlamaEngine

PERIOD_S: Final = 0.005
PROMPT: Final = "Write down all you know about the sea, and go on until you are stopped. " * 10
CELLS: Final = 8192


async def measure(seconds: float) -> list[float]:
    """Lags of the running loop, in ms, sorted."""
    lags = []
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        await asyncio.sleep(PERIOD_S)
        lags.append((time.perf_counter() - now - PERIOD_S) * 1e3)
    return sorted(lags)


class Tokens:
    """How many tokens were decoded."""

    def __init__(self) -> None:
        self.count = 0


@asynccontextmanager
async def nothing(path: Path, streams: int, tokens: Tokens) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def child_process(path: Path, streams: int, tokens: Tokens) -> AsyncIterator[None]:
    """LlamaEngine; every answer that ends is followed by another."""
    started = asyncio.Event()

    def sink(event: EngineEvent) -> None:
        match event:
            case Chunk(tokens=new):
                tokens.count += len(new)
                started.set()
            case Finished(request_id=request_id):
                submit(request_id + b"+")
            case Failed(message=message):
                raise RuntimeError(message)

    engine = await LlamaEngine.start(path, name="bench", sink=sink, hash_key=b"", cells=CELLS)
    prompt = await engine.tokenize(PROMPT)

    def submit(request_id: bytes) -> None:
        engine.submit(GenerationRequest(request_id, prompt, Sampling(max_tokens=256)))

    for stream in range(streams):
        submit(b"%d" % stream)
    await started.wait()
    try:
        yield
    finally:
        await engine.close()


@asynccontextmanager
async def thread(path: Path, streams: int, tokens: Tokens) -> AsyncIterator[None]:
    """llama-cpp-python in a thread, one stream after the other, for it cannot run several."""
    import llama_cpp

    cores = psutil.cpu_count(logical=False)
    llama = llama_cpp.Llama(str(path), n_ctx=CELLS, n_threads=cores, verbose=False)
    started, stop = threading.Event(), threading.Event()

    def decode() -> None:
        while not stop.is_set():
            for _ in llama(PROMPT, max_tokens=256, stream=True):
                tokens.count += 1
                started.set()
                if stop.is_set():
                    return

    worker = threading.Thread(target=decode)
    worker.start()
    await asyncio.to_thread(started.wait)
    try:
        yield
    finally:
        stop.set()
        await asyncio.to_thread(worker.join)


SCENARIOS: Final = {
    "nothing decodes": nothing,
    "child process (Hearth)": child_process,
    "thread (llama-cpp-python)": thread,
}


async def run(path: Path, streams: int, seconds: float) -> list[dict[str, float | str]]:
    results: list[dict[str, float | str]] = []
    for name, scenario in SCENARIOS.items():
        tokens = Tokens()
        async with scenario(path, streams, tokens):
            tokens.count = 0
            lags = await measure(seconds)
            count = tokens.count
        results.append(
            {
                "decoding": name,
                "lag_p50_ms": round(lags[len(lags) // 2], 2),
                "lag_p99_ms": round(lags[len(lags) * 99 // 100], 2),
                "lag_max_ms": round(lags[-1], 2),
                "tokens_per_s": round(count / seconds, 1),
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = asyncio.run(run(options.model, options.streams, options.seconds))
    if options.json:
        print(json.dumps(results))
        return
    print("| decoding | lag p50, ms | p99, ms | max, ms | tokens/s |")
    print("| --- | --- | --- | --- | --- |")
    for row in results:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()
