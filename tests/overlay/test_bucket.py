"""A rate and its burst, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.bucket import Bucket


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 40.0), st.none() | st.floats(1, 9))))
def test_a_bucket_fills_up_as_time_goes_by(
    steps: list[tuple[float, float, float | None]],
) -> None:
    """As one does that is filled up before each look at it."""
    per_s, burst, now = 5.0, 20.0, 1e6
    bucket, left = Bucket(per_s, burst, now), burst
    for pause_s, amount, changed in steps:
        now, left = now + pause_s, min(burst, left + per_s * pause_s)
        if changed is not None:
            per_s, burst, left = changed, 4 * changed, min(left, 4 * changed)
            bucket.change(per_s, burst, now)
        bucket.take(amount, now)
        left -= amount
        assert bucket.wait_s(now) == pytest.approx(max(0.0, -left / per_s), abs=1e-6)
        assert bucket.left(now) == pytest.approx(max(0.0, left / burst), abs=1e-6)
        assert bucket.full(now + (burst - left) / per_s + 1e-6)
        assert not bucket.full(now) or left == pytest.approx(burst, abs=1e-6)
