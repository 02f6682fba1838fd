"""Workloads by name: ``zipf``, with parameters ``zipf:skew=1.2,groups=200``, or a trace's path."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from overlay.errors import ConfigError
from overlay.sim.trace import Trace
from overlay.sim.workload import Workload
from overlay.sim.workloads.agents import Agents
from overlay.sim.workloads.chat import Chat
from overlay.sim.workloads.mmlu import Mmlu
from overlay.sim.workloads.parameters import made
from overlay.sim.workloads.zipf import Zipf

KINDS: Final[dict[str, type[Agents | Chat | Mmlu | Zipf]]] = {
    "mmlu": Mmlu,
    "zipf": Zipf,
    "chat": Chat,
    "agents": Agents,
}


def workload(written: str) -> Workload:
    """The workload that is ``written`` as NAME, NAME:k=v,k=v or the path of a trace.

    Raises ConfigError, which lists what exists, or says what is wrong with the trace.
    """
    name, _, parameters = written.strip().partition(":")
    if name in KINDS:
        return made(KINDS[name], parameters)
    path = Path(written)
    if not path.exists():
        raise ConfigError(
            f"there is no workload and no file {written!r}: take one of {', '.join(KINDS)}, or a "
            "trace in Mooncake's format (.jsonl or .jsonl.gz)"
        )
    return Trace.opened(path)
