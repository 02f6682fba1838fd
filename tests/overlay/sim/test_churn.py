"""What goes wrong by chance: in order, as often as said, the same by seed."""

from __future__ import annotations

import random
from itertools import islice, pairwise

import pytest

from overlay.sim.churn import Churn, Gone, Split


def test_nothing_goes_wrong_unless_asked() -> None:
    assert list(Churn().faults(random.Random(1), 8)) == []


def test_faults_come_in_order_and_as_often_as_said() -> None:
    churn = Churn(up_s=100.0, away_s=20.0, goodbyes=0.25, whole_s=50.0, split_s=10.0)
    faults = list(islice(churn.faults(random.Random(1), 10), 4000))
    assert faults == list(islice(churn.faults(random.Random(1), 10), 4000))
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    span_s = faults[-1].at_s
    gone = [fault for fault in faults if isinstance(fault, Gone)]
    assert len(gone) == pytest.approx(10 * span_s / 120, rel=0.1)
    assert sum(fault.goodbye for fault in gone) == pytest.approx(len(gone) / 4, rel=0.15)
    for node in range(10):
        own = [fault for fault in gone if fault.node == node]
        assert all(a.back_s < b.at_s for a, b in pairwise(own))
    splits = [fault for fault in faults if isinstance(fault, Split)]
    assert len(splits) == pytest.approx(span_s / 60, rel=0.2)
    assert all(sum(split.part) == 5 for split in splits)
