"""What is remembered of more than there is room for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.recent import Recent


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 5), st.integers())))
def test_the_latest_are_kept_in_the_order_in_which_they_were_put(
    most: int, told: list[tuple[int, int]]
) -> None:
    recent: Recent[int, int] = Recent(most)
    for key, value in told:
        recent.put(key, value)
    latest: dict[int, int] = {}
    for key, value in reversed(told):
        latest.setdefault(key, value)
    assert list(recent.items()) == list(reversed(list(latest.items())[:most]))
