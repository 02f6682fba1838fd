"""The rival of the benchmark, in a process of its own: `llama_cpp.Llama`, as people use it.

It answers one JSON line per request on stdin: ``{"messages", "max_tokens", "fresh"}`` becomes
``{"ttft_ms", "prompt_tokens"}``. Its own prefix match makes it hot; ``fresh`` forgets the cache
first. Time is taken in this process, so that no pipe and no HTTP counts against it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from llama_cpp import Llama


class Rival:
    def __init__(self, path: str, *, threads: int, context: int) -> None:
        self._llama = Llama(
            model_path=path,
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=True,
            verbose=False,
        )

    def answer(self, messages: list[Any], *, max_tokens: int, fresh: bool) -> dict[str, Any]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    arguments = parser.parse_args()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever llama.cpp prints must not mix with the answers
        rival = Rival(arguments.path, threads=arguments.threads, context=arguments.context)
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(rival.answer(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
