"""Virtual time."""

from __future__ import annotations

from overlay.sim.clock import Clock


def test_events_happen_in_order_and_equal_ones_as_asked() -> None:
    clock, seen = Clock(), []
    for when, name in ((2.0, "late"), (1.0, "first"), (1.0, "second")):
        clock.at(when, lambda n=name: seen.append((clock.now, n)))
    while clock.step():
        pass
    assert seen == [(1.0, "first"), (1.0, "second"), (2.0, "late")]


def test_what_is_past_happens_now() -> None:
    clock, seen = Clock(), []
    clock.at(5.0, lambda: clock.at(1.0, lambda: seen.append(clock.now)))
    while clock.step():
        pass
    assert seen == [5.0]
