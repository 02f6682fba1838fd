"""Wall clocks that jump: for as long as they are wrong, memberships are expired or yet to come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.nodes import RunningNode, command, token_of, until, up

#: Longer than a membership lasts.
FAR_S = 366 * 24 * 3600


class Skewed(RunningNode):
    """A node with a clock to set."""

    def set_clock(self, ahead_s: int) -> None:
        fresh = self.clock.with_suffix(".new")
        fresh.write_text(str(ahead_s))
        fresh.replace(self.clock)

    @property
    def clock(self) -> Path:
        return self.home.parent / f"{self.name}.clock"


def skewed(home: Path) -> Skewed:
    node = Skewed(home, home.name, ("--model", "none"))
    node.program = ("-m", "tests.e2e.skewed_node", str(node.clock))
    node.set_clock(0)
    return node


@pytest.fixture
async def friends(tmp_path: Path) -> AsyncIterator[tuple[Skewed, Skewed]]:
    """A founder and one whom it let in, with a link."""
    ann, ben = skewed(tmp_path / "ann"), skewed(tmp_path / "ben")
    async with AsyncExitStack() as stack:
        await ann.start()
        stack.push_async_callback(ann.stop)
        await command(ben, "join", await token_of(ann))
        await ben.start()
        stack.push_async_callback(ben.stop)
        await up(ann, "ben")
        await up(ben, "ann")
        yield ann, ben


async def test_a_clock_that_jumps_costs_links_only_while_it_is_wrong(
    friends: tuple[Skewed, Skewed],
) -> None:
    ann, ben = friends

    async def alone() -> bool:
        peer = await ann.peer("ben")
        return peer is None or peer["state"] == "DOWN"

    ann.set_clock(FAR_S)
    await until(alone, "by ann's clock ben's membership has expired")
    ann.set_clock(0)
    await up(ann, "ben")
    await up(ben, "ann")


@pytest.mark.parametrize("then_s", [FAR_S, -FAR_S])
async def test_who_starts_anew_with_another_clock_is_heard(
    friends: tuple[Skewed, Skewed], then_s: int
) -> None:
    ann, ben = friends
    heard = (await up(ann, "ben"))["incarnation"]
    for ahead_s in (then_s, 0):
        await ben.stop()
        ben.set_clock(ahead_s)
        await ben.start()

        async def above(before: int = heard) -> int | None:
            peer = await ann.peer("ben")
            new = peer and peer["state"] == "UP" and (peer["incarnation"] or 0) > before
            return int(peer["incarnation"]) if peer and new else None

        heard = await until(above, "ann hears ben's new incarnation")
