"""What a warm prefix is worth at best: llama.cpp decodes the suffix, and nothing stands around it.

A process of its own, asked by JSON lines on stdin. ``{"prompt", "cached"}``: token ids, and how
many of them are in the KV cache before the clock starts; becomes ``{"ttft_ms", "prefill_ms"}``:
decode of the rest and choice of the likeliest token; and what the cached part took, if computed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

import llama_cpp


class Bare:
    """One context with one sequence."""

    def __init__(self, path: str, *, threads: int, context: int) -> None:
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._context: Any = llama_cpp.llama_init_from_model(model, params)
        assert self._context, "llama.cpp makes no context"
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._greedy = llama_cpp.llama_sampler_init_greedy()
        self._tokens: list[int] = []

    def answer(self, prompt: list[int], cached: int) -> dict[str, float]:
        """The time to the first token after ``prompt[:cached]``."""
        begun_s = time.perf_counter()
        if self._tokens[:cached] != prompt[:cached]:
            llama_cpp.llama_memory_clear(self._memory, True)
            self._decode(prompt[:cached])
        prefilled_s = time.perf_counter()
        llama_cpp.llama_memory_seq_rm(self._memory, 0, cached, -1)
        asked_s = time.perf_counter()
        self._decode(prompt[cached:])
        llama_cpp.llama_sampler_sample(self._greedy, self._context, -1)
        ended_s = time.perf_counter()
        self._tokens = prompt
        return {
            "ttft_ms": (ended_s - asked_s) * 1e3,
            "prefill_ms": (prefilled_s - begun_s) * 1e3,
        }

    def _decode(self, tokens: list[int]) -> None:
        limit = llama_cpp.llama_n_batch(self._context)
        for start in range(0, len(tokens), limit):
            part = tokens[start : start + limit]
            array = (llama_cpp.llama_token * len(part))(*part)
            code = llama_cpp.llama_decode(
                self._context, llama_cpp.llama_batch_get_one(array, len(part))
            )
            assert code == 0, f"llama_decode: {code}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    arguments = parser.parse_args()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever llama.cpp prints must not mix with the answers
        bare = Bare(arguments.path, threads=arguments.threads, context=arguments.context)
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(bare.answer(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
