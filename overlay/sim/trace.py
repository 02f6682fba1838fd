"""Traces of real services, in the format that Mooncake's authors published theirs in.

One JSON object a line, in order of time (Qin et al. 2024, arXiv 2407.00079):

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2353]}

``timestamp`` in ms. A hash id stands for 512 tokens of the prompt, the last one for the rest;
equal ids are equal tokens. This is the one module of the simulator that reads files.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from models.engine import Tokens
from overlay.errors import ConfigError
from overlay.sim.text import name_of, text
from overlay.sim.workload import Session, Turn

HASHED_TOKENS: Final = 512
#: A block that more requests than this have in common is no conversation's own.
CONVERSATION_REQUESTS_MAX: Final = 64
#: No answer is longer; more is a mistake in the file.
_OUTPUT_TOKENS_MAX: Final = 1_000_000


class Request(NamedTuple):
    """A line of a trace."""

    timestamp_ms: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """A trace file as a workload: one session for each request, faster or slower as asked.

    A trace does not tell who asked. A conversation's requests go to one origin, drawn by its first
    block that few requests have in common; so a prompt's beginning that everybody shares does not
    make everybody one user. The answers' tokens are not in a trace, and so in no later prompt.
    """

    path: Path
    requests: int
    first_ms: float
    last_ms: float
    shared: frozenset[int]

    @classmethod
    def opened(cls, path: Path) -> Self:
        """Read ``path`` (JSON lines, compressed if it ends in .gz) once, to see that all is well.

        Raises ConfigError with the line that is wrong.
        """
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ConfigError(f"{path} is no file: a trace is read more than once")
        uses: Counter[int] = Counter()
        requests, first_ms, last_ms = 0, 0.0, 0.0
        for request in read(path):
            uses.update(set(request.hash_ids))
            first_ms = request.timestamp_ms if not requests else first_ms
            last_ms = request.timestamp_ms
            requests += 1
        if not requests:
            raise ConfigError(f"{path} has no requests: give a file in Mooncake's trace format")
        shared = frozenset(block for block, n in uses.items() if n > CONVERSATION_REQUESTS_MAX)
        return cls(path, requests, first_ms, last_ms, shared)

    @property
    def name(self) -> str:
        """The file's path, as it was given."""
        return str(self.path)

    def sessions(self, rng: random.Random, *, nodes: int, rate_per_s: float) -> Iterator[Session]:
        # The trace's own rate, over ours, stretches time. Requests of one moment stay together.
        stretch = (self.requests - 1) / rate_per_s / max(1.0, self.last_ms - self.first_ms)
        salt = rng.getrandbits(64)
        for number, request in enumerate(read(self.path)):
            at_s = (request.timestamp_ms - self.first_ms) * stretch
            own = next((b for b in request.hash_ids if b not in self.shared), request.hash_ids[-1])
            answer = text(name_of("trace", number), max(1, request.output_tokens))
            turn = Turn(_prompt(request), answer, 0.0)
            yield Session(at_s, name_of(salt, own) % nodes, (turn,))


def read(path: Path) -> Iterator[Request]:
    """The requests of a trace file. Raises ConfigError for what is no trace, with its line."""
    number, latest_ms = 0, 0.0
    unpacked = gzip.open if path.suffix == ".gz" else open
    try:
        with unpacked(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                number += 1
                if not line.strip():
                    continue
                request = parse(line)
                if request.timestamp_ms < latest_ms:
                    raise ValueError("timestamp is earlier than the line before: sort the file")
                latest_ms = request.timestamp_ms
                yield request
    except (OSError, zlib.error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigError(f"cannot read {path}: {reason}") from None
    except EOFError:
        raise ConfigError(f"cannot read {path}: the file is cut off") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}, after line {number}: this is no text") from None
    except ValueError as error:
        raise ConfigError(f"{path}, line {number}: {error}") from None


def parse(line: str) -> Request:
    """One line. Raises ValueError, which says what is wrong with it."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("no JSON object")
    timestamp = _field(fields, "timestamp")
    if type(timestamp) not in (int, float) or not 0 <= timestamp < 2**63:
        raise ValueError("timestamp must be a number of milliseconds")
    input_tokens = _whole(fields, "input_length", 1, 2**31)
    output_tokens = _whole(fields, "output_length", 0, _OUTPUT_TOKENS_MAX)
    ids = _field(fields, "hash_ids")
    if not isinstance(ids, list) or any(type(i) is not int or not 0 <= i < 2**63 for i in ids):
        raise ValueError("hash_ids must be a list of whole numbers from 0 on")
    blocks = -(-input_tokens // HASHED_TOKENS)
    if len(ids) != blocks:
        raise ValueError(
            f"input_length {input_tokens} makes {blocks} blocks of {HASHED_TOKENS} tokens, "
            f"but there are {len(ids)} hash_ids"
        )
    return Request(timestamp, input_tokens, output_tokens, tuple(ids))


def _field(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"no {name}")
    return fields[name]


def _whole(fields: dict[str, Any], name: str, least: int, most: int) -> int:
    value = _field(fields, name)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}")
    return value


def _prompt(request: Request) -> Tokens:
    tokens: list[int] = []
    for block in request.hash_ids:
        tokens += _block(block)
    del tokens[request.input_tokens :]
    return tuple(tokens)


@lru_cache(maxsize=4096)
def _block(hash_id: int) -> Tokens:
    return text(hash_id, HASHED_TOKENS)
