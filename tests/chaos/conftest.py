from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.scene import Honest, Victim, honest_member, start_victim


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Victim]:
    """One victim takes all attacks, so that their traces add up."""
    victim = start_victim(tmp_path_factory.mktemp("victim"), tiny_model)
    yield victim
    assert victim.stop() == 0, victim.said()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def honest(victim: Victim) -> AsyncIterator[Honest]:
    async with honest_member(victim) as honest:
        yield honest
