"""`Summary` against a model that ranks all held blocks anew each time."""

from __future__ import annotations

import random
from math import log2
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.limits import SUMMARY_BLOCKS_MAX, SUMMARY_SWAPS_PER_S
from overlay.prefix.chain import block_hashes
from overlay.prefix.index import leading
from overlay.prefix.summary import (
    AWAITED_MAX,
    END_RANK,
    SWAP_GAIN_MIN,
    SWAPS_AT_ONCE,
    Summary,
)
from overlay.sim.workloads.mmlu import Mmlu

#: So few that summaries overflow.
BLOCKS_MAX = 4

# Their ranks differ: zero bits in front. The last bits tell two models' blocks apart.
HASHES = [(1 << shift) + low for shift in (63, 62, 61, 60, 57, 40) for low in range(4)]
block_sets = st.sets(st.sampled_from(HASHES), max_size=6)
paths = st.lists(st.sampled_from(HASHES), min_size=1, max_size=5, unique=True)


def rank(block: int) -> int:
    return min(5, f"{block:064b}".index("1"))


class SummaryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bound = patch("overlay.prefix.summary.SUMMARY_BLOCKS_MAX", BLOCKS_MAX)
        self.bound.start()
        self.summary = Summary()
        self.held: set[int] = set()
        self.published: set[int] = set()
        self.told: set[int] = set()
        #: Of the held blocks, those that are remembered.
        self.values: dict[int, float] = {}
        self.hits: dict[int, int] = {}
        self.awaited: set[int] = set()
        self.clock = 0.0
        self.now = 0.0

    def teardown(self) -> None:
        self.bound.stop()

    def use(self, block: int) -> None:
        known = block in self.hits
        worth = END_RANK + log2(1 + self.hits[block]) if known else rank(block)
        self.values[block] = self.clock + worth

    @rule(added=block_sets, removed=block_sets)
    def change(self, added: set[int], removed: set[int]) -> None:
        self.summary.changed(sorted(added), removed)
        self.held = (self.held - removed) | added
        for block in removed:
            self.values.pop(block, None)
            self.hits.pop(block, None)
        self.told -= removed
        self.clock += len(added) / BLOCKS_MAX
        for block in added:
            if block in self.awaited:
                self.awaited.remove(block)
                self.hits[block] = 0
            self.use(block)
        waiting = sorted((-v, block) for block, v in self.values.items() if block not in self.told)
        if len(waiting) > 2 * BLOCKS_MAX:
            for _, block in waiting[BLOCKS_MAX:]:
                del self.values[block]

    @precondition(lambda self: self.held)
    @rule(low=st.integers(0, 3))
    def lose_a_cache(self, low: int) -> None:
        gone = {block for block in self.held if block & 3 == low}
        self.summary.void(gone)
        self.held -= gone
        self.told -= gone
        for block in gone:
            self.values.pop(block, None)
            self.hits.pop(block, None)

    @rule(path=paths)
    def ask(self, path: list[int]) -> None:
        held = leading(path, self.held)
        self.summary.asked(path, held)
        if held:
            end = path[held - 1]
            self.hits[end] = self.hits.get(end, 0) + 1
            self.use(end)
        if held < len(path):
            self.awaited.add(path[-1])

    @precondition(lambda self: self.held)
    @rule(seconds=st.sampled_from([0.0, 0.03, 1.0, 100.0]))
    def take(self, seconds: float) -> None:
        self.now += seconds
        before = set(self.published)
        changes = self.summary.take(self.now)
        if changes is not None:
            added, removed = set(changes.added), set(changes.removed)
            assert not changes.reset
            assert added | removed, "nothing is no news"
            assert not added & before
            assert removed <= before
            self.published = (before - removed) | added
        self.told = set(self.published)
        assert self.told <= self.held, "told of what is not held"
        assert len(self.told) == min(BLOCKS_MAX, len(self.values))
        if seconds >= 1:
            self.nothing_much_better_waits()

    def nothing_much_better_waits(self) -> None:
        waiting = [value for block, value in self.values.items() if block not in self.told]
        told = [self.values[block] for block in self.told]
        assert max(waiting, default=0.0) < min(told, default=0.0) + SWAP_GAIN_MIN or not waiting

    @invariant()
    def the_bound_holds(self) -> None:
        assert len(self.summary) <= BLOCKS_MAX


TestSummary = SummaryMachine.TestCase
TestSummary.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def told_by(summary: Summary, now: float = 0.0) -> list[int]:
    changes = summary.take(now)
    return [] if changes is None else list(changes.added)


def test_with_room_for_all_each_block_is_told_after_its_parent() -> None:
    summary = Summary()
    dice = random.Random(1)
    blocks = [dice.getrandbits(64) for _ in range(SUMMARY_BLOCKS_MAX)]
    summary.changed(blocks, ())
    assert told_by(summary) == blocks


def test_swaps_are_rationed() -> None:
    summary = Summary()
    old = range(1 << 63, (1 << 63) + SUMMARY_BLOCKS_MAX)
    new = range(1 << 40, (1 << 40) + SUMMARY_BLOCKS_MAX)
    summary.changed(old, ())
    summary.take(0.0)
    summary.changed(new, ())
    swapped = [len(told_by(summary, now)) for now in (1000.0, 1000.0, 1000.5)]
    assert swapped == [SWAPS_AT_ONCE, 0, SUMMARY_SWAPS_PER_S // 2]


def test_what_is_told_gives_way_only_to_what_is_worth_clearly_more() -> None:
    with patch("overlay.prefix.summary.SUMMARY_BLOCKS_MAX", 8):
        summary = Summary()
        *old, little, enough = range(1 << 63, (1 << 63) + 10)
        summary.changed(old, ())
        summary.take(0.0)
        summary.changed([little], ())
        assert summary.take(1000.0) is None
        summary.changed([enough], ())
        assert told_by(summary, 2000.0) == [enough]


def test_an_end_that_was_lost_and_comes_back_is_a_block_like_others() -> None:
    with patch("overlay.prefix.summary.SUMMARY_BLOCKS_MAX", 1):
        summary = Summary()
        end, better = 1 << 63, 1 << 62
        summary.changed([end], ())
        summary.asked([end], 1)
        summary.changed((), [end])
        summary.changed([end, better], ())
        assert told_by(summary) == [better]


def test_room_is_used_at_once() -> None:
    summary = Summary()
    summary.changed(range(SUMMARY_BLOCKS_MAX + 300), ())
    first = told_by(summary)
    summary.changed((), first[:300])
    assert len(told_by(summary)) == 300
    assert len(summary) == SUMMARY_BLOCKS_MAX


def test_the_end_of_a_prompt_is_told_rather_than_its_path() -> None:
    """As many conversations as a summary has blocks: the deepest block of each does."""
    summary = Summary()
    told: set[int] = set()
    dice = random.Random(2)
    chats = [[dice.getrandbits(64) for _ in range(8)] for _ in range(SUMMARY_BLOCKS_MAX // 2)]
    for second, chat in enumerate(chats):
        summary.asked(chat, 0)
        summary.changed(chat, ())
        if (changes := summary.take(float(second))) is not None:
            told = (told - set(changes.removed)) | set(changes.added)
    assert sum(chat[-1] in told for chat in chats) > 0.99 * len(chats)


def test_prompts_that_never_run_are_forgotten() -> None:
    summary = Summary()
    for block in range(2 * AWAITED_MAX):
        summary.asked([block], 0)
    assert len(summary._awaited) == AWAITED_MAX


def test_peers_see_nearly_all_of_the_matches_though_a_tenth_of_the_cache_is_told() -> None:
    """Questions on 57 subjects, each with its own preamble, against first come, first told."""
    actual = seen = first_come = 0
    held: set[int] = set()
    first: set[int] = set()
    told: set[int] = set()
    with patch("overlay.prefix.summary.SUMMARY_BLOCKS_MAX", 256):
        summary = Summary()
        sessions = Mmlu().sessions(random.Random(3), nodes=1, rate_per_s=1.0)
        for session, _ in zip(sessions, range(600), strict=False):
            hashes = block_hashes(b"secret", b"model", session.turns[0].prompt)
            actual += (match := leading(hashes, held))
            seen += leading(hashes, told)
            first_come += leading(hashes, first)
            summary.asked(hashes, match)
            summary.changed(hashes[match:], ())
            held.update(hashes)
            first.update(hashes[match : match + max(0, 256 - len(first))])
            if (changes := summary.take(session.at_s)) is not None:
                told = (told - set(changes.removed)) | set(changes.added)
    assert len(held) > 10 * 256
    assert seen > 0.9 * actual
    assert first_come < 0.5 * actual
