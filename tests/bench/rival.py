"""The rival of the benchmark, in a process of its own: `llama_cpp.Llama`, as people use it.

It answers one JSON line per request on stdin: ``{"messages", "max_tokens", "fresh"}`` becomes
``{"ttft_ms", "prompt_tokens"}``. Its own prefix match makes it hot; ``fresh`` forgets the cache
first. ``{"prompt", "max_tokens"}``, with token ids, becomes ``{"ttft_ms", "total_ms", "tokens"}``;
``--states N`` gives it a `LlamaRAMCache` that holds N prompts. Time is taken in this process, so
that no pipe and no HTTP counts against it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from llama_cpp import Llama
from llama_cpp.llama_cache import LlamaRAMCache

#: Fewer than by default with a RAM cache, which keeps the logits of a whole batch for each state.
CACHED_BATCH = 128


class Rival:
    def __init__(self, path: str, *, threads: int, context: int, states: int) -> None:
        self._llama = Llama(
            model_path=path,
            n_ctx=context,
            n_batch=CACHED_BATCH if states else 512,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=True,
            verbose=False,
        )
        self._states = states

    def answer(self, **request: Any) -> dict[str, Any]:
        return self._chat(**request) if "messages" in request else self._complete(**request)

    def _chat(self, messages: list[Any], *, max_tokens: int, fresh: bool) -> dict[str, Any]:
        """Stream one greedy answer to its end."""
        if fresh:
            self._llama.reset()  # type: ignore[no-untyped-call]
        asked_s = time.perf_counter()
        first_s: float | None = None
        chunks = self._llama.create_chat_completion(
            messages, stream=True, temperature=0, max_tokens=max_tokens
        )
        for chunk in chunks:
            assert isinstance(chunk, dict), "a stream was asked for"
            if first_s is None and chunk["choices"][0]["delta"].get("content"):
                first_s = time.perf_counter()
        if first_s is None:
            return {"error": "no text came"}
        # The last token of an answer is never computed, the others are.
        prompt_tokens = self._llama.n_tokens - max_tokens + 1
        return {"ttft_ms": (first_s - asked_s) * 1000, "prompt_tokens": prompt_tokens}

    def _complete(self, prompt: list[int], *, max_tokens: int) -> dict[str, Any]:
        """Stream one greedy answer to its end; all of it counts as the time of its tokens."""
        if self._states and self._llama.cache is None:
            self._make_cache(prompt)
        asked_s = time.perf_counter()
        first_s: float | None = None
        tokens = 0
        for chunk in self._llama.create_completion(
            prompt, stream=True, temperature=0, max_tokens=max_tokens
        ):
            assert isinstance(chunk, dict), "a stream was asked for"
            if first_s is None:
                first_s = time.perf_counter()
            tokens += bool(chunk["choices"][0]["text"])
        ended_s = time.perf_counter()
        assert first_s is not None, "at least the end of the answer comes"
        return {
            "ttft_ms": (first_s - asked_s) * 1e3,
            "total_ms": (ended_s - asked_s) * 1e3,
            "tokens": tokens,
        }

    def _make_cache(self, prompt: list[int]) -> None:
        """Sized by what a prompt of this length takes."""
        self._llama.eval(prompt)
        size = self._llama.save_state().llama_state_size
        self._llama.reset()  # type: ignore[no-untyped-call]
        self._llama.set_cache(LlamaRAMCache(capacity_bytes=int(size * 1.2) * self._states))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--states", type=int, default=0)
    arguments = parser.parse_args()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever llama.cpp prints must not mix with the answers
        rival = Rival(
            arguments.path,
            threads=arguments.threads,
            context=arguments.context,
            states=arguments.states,
        )
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(rival.answer(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
