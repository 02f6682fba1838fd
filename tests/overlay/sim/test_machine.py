"""The machine's arithmetic against what was measured (docs/explanation/benchmarks.md)."""

from __future__ import annotations

import pytest

from overlay.sim.machine import Machine


def test_a_cold_prompt_of_600_tokens_and_a_question_after_it() -> None:
    machine = Machine()
    assert machine.cold_seconds(600) == pytest.approx(2.95, rel=0.05)
    assert machine.step_seconds(0, 20) == pytest.approx(0.145, abs=0.005)


@pytest.mark.parametrize(("answers", "measured_ms"), [(1, 23.0), (4, 54.0), (8, 80.0)])
def test_steps_take_what_they_took(answers: int, measured_ms: float) -> None:
    assert 1e3 * Machine().step_seconds(answers, 0) == pytest.approx(measured_ms, rel=0.1)


def test_twice_as_fast_takes_half() -> None:
    slow, fast = Machine(), Machine().scaled(2.0)
    assert fast.step_seconds(3, 50) == pytest.approx(slow.step_seconds(3, 50) / 2)
    assert fast.decode_rate == pytest.approx(2 * slow.decode_rate)
    # Larger chunks, and so fewer steps.
    assert fast.cold_seconds(600) <= slow.cold_seconds(600) / 2


def test_long_prompts_are_computed_in_steps_of_a_second() -> None:
    machine = Machine()
    most = machine.chunk(streaming=False)
    assert machine.step_seconds(0, most) == pytest.approx(1.0, rel=0.1)
    assert machine.chunk(streaming=True) == pytest.approx(most / 4, abs=32)
    assert machine.cold_seconds(2 * most) == pytest.approx(2 * machine.cold_seconds(most))
