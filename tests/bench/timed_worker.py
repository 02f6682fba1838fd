"""The engine's worker, with a clock at every call into llama.cpp.

At its end it writes to the file that ``HEARTH_STEP_TIMES`` names, a row for each step:
``[tokens, whole step, llama_decode, rest of llama.cpp]``, in seconds. A step lasts from one
`llama_decode` to the next.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import llama_cpp

from models.llama import worker

VARIABLE: Final = "HEARTH_STEP_TIMES"


class Clock:
    """Sums what is spent in llama.cpp, step by step."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, float]] = []
        self._begun_s: float | None = None
        self._tokens = 0
        self._decode_s = 0.0
        self._other_s = 0.0

    def decode(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def timed(context: Any, batch: Any) -> Any:
            now = time.perf_counter()
            if self._begun_s is not None:
                self.rows.append((self._tokens, now - self._begun_s, self._decode_s, self._other_s))
            self._begun_s, self._tokens, self._other_s = now, batch.n_tokens, 0.0
            code = inner(context, batch)
            self._decode_s = time.perf_counter() - now
            return code

        return timed

    def other(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def timed(*arguments: Any) -> Any:
            now = time.perf_counter()
            found = inner(*arguments)
            self._other_s += time.perf_counter() - now
            return found

        return timed


def main() -> None:
    clock = Clock()
    for name in dir(llama_cpp):
        found = getattr(llama_cpp, name)
        if name.startswith("llama_") and callable(found) and not isinstance(found, type):
            timed = clock.decode if name == "llama_decode" else clock.other
            setattr(llama_cpp, name, timed(found))

    def report_and_exit(code: int, leave: Callable[[int], Any] = os._exit) -> None:
        Path(os.environ[VARIABLE]).write_text(json.dumps(clock.rows))
        leave(code)

    os._exit = report_and_exit  # type: ignore[assignment]
    worker.main()


if __name__ == "__main__":
    main()
