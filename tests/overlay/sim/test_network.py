"""When messages arrive: in order, later when some are lost, not through a partition."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.sim.network import Links, Network, scattered, uniform

SENT = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 2), st.integers(0, 10_000)), max_size=30)


@given(
    sent=SENT,
    jitter=st.sampled_from([0.0, 0.5]),
    loss=st.sampled_from([0.0, 0.5]),
    bandwidth=st.sampled_from([0.0, 1e6]),
)
def test_nothing_overtakes_between_two_nodes(
    sent: list[tuple[int, float, int]], jitter: float, loss: float, bandwidth: float
) -> None:
    network = Network(uniform(3, 0.1), Links(jitter, loss, bandwidth), random.Random(1))
    now, arrived = 0.0, dict[int, list[float]]()
    for receiver, pause_s, size in sent:
        now += pause_s
        at = network.arrival(2, receiver, size, now)
        assert at is not None
        assert at > now
        arrived.setdefault(receiver, []).append(at)
    for times in arrived.values():
        assert all(a <= b for a, b in pairwise(times))


@given(loss=st.floats(0, 0.8), seed=st.integers())
def test_loss_only_delays(loss: float, seed: int) -> None:
    network = Network(uniform(2, 0.1), Links(loss=loss), random.Random(seed))
    for n in range(50):
        at = network.arrival(0, 1, 100, 1000.0 * n)
        assert at is not None
        again = (at - 1000.0 * n - 0.05) / 0.2
        assert again == pytest.approx(round(again), abs=1e-6), "each time after 200 ms"


def test_a_partition_keeps_messages_from_arriving_until_it_heals() -> None:
    network = Network(uniform(3, 0.1), Links(), random.Random(1))
    network.partition([0, 0, 1])
    assert network.arrival(0, 1, 100, 0.0) == pytest.approx(0.05)
    assert network.arrival(0, 2, 100, 0.0) is None
    assert network.arrival(2, 1, 100, 0.0) is None
    network.partition([0, 0, 0])
    assert network.arrival(0, 2, 100, 1.0) == pytest.approx(1.05)


def test_an_uplink_sends_one_message_after_the_other() -> None:
    network = Network(uniform(3, 0.1), Links(bandwidth=8e6), random.Random(1))
    assert network.arrival(0, 1, 1_000_000, 0.0) == pytest.approx(1.05)
    assert network.arrival(0, 2, 1_000_000, 0.5) == pytest.approx(2.05), "whoever it is for"
    assert network.arrival(1, 0, 1_000_000, 0.5) == pytest.approx(1.55), "another uplink"


def test_scattered_nodes_are_as_far_apart_as_asked_on_average() -> None:
    rtt_s = scattered(100, 0.08, random.Random(1))
    pairs = [rtt_s[a][b] for a in range(100) for b in range(a)]
    assert sum(pairs) / len(pairs) == pytest.approx(0.08, rel=0.1)
    assert all(rtt_s[a][b] == rtt_s[b][a] for a in range(100) for b in range(100))
