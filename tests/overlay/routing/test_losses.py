"""How much of what is needed again was thrown away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.routing.losses import BLOCKS_MAX, PRIOR, Losses


def test_what_went_and_is_computed_again_was_lost() -> None:
    losses = Losses()
    losses.came([1, 2, 3])
    losses.went([1, 2], elsewhere=())
    assert losses.share == 0, "nobody has needed them yet"
    losses.came([1])
    assert losses.share == 1 / (1 + PRIOR)
    losses.came([1])
    assert losses.share == 1 / (1 + PRIOR), "it is lost once"


def test_what_others_hold_is_not_lost() -> None:
    losses = Losses()
    losses.went([1, 2], elsewhere={2})
    losses.came([2])
    assert losses.share == 0


def test_what_is_reused_was_kept_and_old_losses_fade() -> None:
    losses = Losses()
    losses.went(range(1000), elsewhere=())
    losses.came(range(1000))
    short_of_room = losses.share
    assert short_of_room > 0.8
    for _ in range(100):
        losses.reused(20)
    assert losses.share < short_of_room / 4


def test_the_oldest_are_forgotten() -> None:
    losses = Losses()
    losses.went(range(BLOCKS_MAX + 1), elsewhere=())
    losses.came([0])
    assert losses.share == 0
    losses.came([1])
    assert losses.share > 0


events = st.lists(
    st.tuples(st.sampled_from(["went", "came", "reused"]), st.lists(st.integers(0, 9))),
    max_size=40,
)


@given(events)
def test_the_share_is_one(happened: list[tuple[str, list[int]]]) -> None:
    losses = Losses()
    for what, blocks in happened:
        if what == "went":
            losses.went(blocks, elsewhere=())
        elif what == "came":
            losses.came(blocks)
        else:
            losses.reused(len(blocks))
        assert 0 <= losses.share < 1
