from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.cores import FULL
from tests.chaos.honest import Honest, honest_member
from tests.chaos.scene import Figures, Victim, honest_terms, start_victim

_FIGURES = pytest.StashKey[list[Figures]]()


@pytest.fixture(scope="package")
def victim(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, pytestconfig: pytest.Config
) -> Iterator[Victim]:
    """One victim takes all attacks, so that their traces add up."""
    # Fuzzing leaves millions of objects, and comes first by its files' names. To sweep them up in
    # the middle of an attack, an attacker would fall silent for seconds, and lose its link.
    gc.collect()
    victim = start_victim(tmp_path_factory.mktemp("victim"), tiny_model)
    pytestconfig.stash[_FIGURES] = victim.figures
    yield victim
    assert victim.stop() == 0, victim.said()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def control(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> AsyncIterator[Honest | None]:
    """In full strength, a member of another mesh: its founder is such a node, left in peace."""
    if not FULL:
        yield None
        return
    twin = start_victim(tmp_path_factory.mktemp("twin"), tiny_model)
    async with honest_member(honest_terms(twin)) as control:
        yield control
    assert twin.stop() == 0, twin.said()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def honest(victim: Victim, control: Honest | None) -> AsyncIterator[Honest]:
    async with honest_member(honest_terms(victim), control) as honest:
        yield honest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    figures = terminalreporter.config.stash.get(_FIGURES, [])
    if figures:
        terminalreporter.section("an honest member's requests: at the twin, at the victim")
        for each in figures:
            terminalreporter.line(str(each))
