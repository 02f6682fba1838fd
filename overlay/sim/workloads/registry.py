"""Workloads by name: ``zipf``, or with parameters ``zipf:skew=1.2,groups=200``."""

from __future__ import annotations

from typing import Final

from overlay.errors import ConfigError
from overlay.sim.workload import Workload
from overlay.sim.workloads.mmlu import Mmlu
from overlay.sim.workloads.parameters import made
from overlay.sim.workloads.zipf import Zipf

KINDS: Final[dict[str, type[Mmlu] | type[Zipf]]] = {"mmlu": Mmlu, "zipf": Zipf}


def workload(written: str) -> Workload:
    """The workload that is ``written`` as NAME or NAME:k=v,k=v.

    Raises ConfigError, which lists what exists.
    """
    name, _, parameters = written.strip().partition(":")
    kind = KINDS.get(name)
    if kind is None:
        raise ConfigError(f"there is no workload {name!r}: take one of {', '.join(KINDS)}")
    return made(kind, parameters)
