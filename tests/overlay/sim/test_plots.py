from __future__ import annotations

import sys
from pathlib import Path

import pytest

from overlay.errors import ConfigError
from overlay.sim.outcome import Counters, Outcome, Report
from overlay.sim.plots import Axis, compare, grid, require_matplotlib

PNG = b"\x89PNG\r\n\x1a\n"

RTT = Axis("RTT (ms)", [0.2, 20, 2000])
SKEW = Axis("skew", [0, 1.6])
ANSWERED = [Outcome(n, 0, 0, 0, 0.0, 10.0 * n + 5, 900.0, 640, 320, 0, False) for n in range(40)]


def report(policy: str, outcomes: list[Outcome]) -> Report:
    return Report.of(policy, outcomes, Counters([1.0], 0, 0))


@pytest.fixture
def matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, an extra of Hearth, is not installed")


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    # What an import of a missing module does, whether it is there or not.
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def drawn(path: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    data = path.read_bytes()
    assert data.startswith(PNG)
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize("policies", [1, 3, 15])
def test_policies_side_by_side(tmp_path: Path, policies: int) -> None:
    reports = [report(f"policy {n}", ANSWERED) for n in range(policies)]
    compare(reports, "a title", tmp_path / "plot.png")
    width, height = drawn(tmp_path / "plot.png")
    assert width > 1000
    assert height > 300 + 20 * policies


@pytest.mark.usefixtures("matplotlib")
def test_a_policy_that_answered_nothing_is_drawn_without_times(tmp_path: Path) -> None:
    compare([report("none", []), report("all", ANSWERED)], "a title", tmp_path / "plot.png")
    assert drawn(tmp_path / "plot.png")


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize("even", [None, 1.0])
def test_a_grid_with_a_hole(tmp_path: Path, even: float | None) -> None:
    values = [[0.5, 1.0], [float("nan"), 1.02], [1.2, 30.0]]
    path = tmp_path / "grid.png"
    grid(values, SKEW, RTT, title="TTFT", label="of the best", path=path, even=even)
    assert drawn(path)


@pytest.mark.usefixtures("matplotlib")
def test_a_grid_has_as_many_cells_as_its_axes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cells for 3 x 2"):
        grid([[1.0] * 3] * 2, SKEW, RTT, title="", label="", path=tmp_path / "grid.png")


@pytest.mark.usefixtures("matplotlib")
def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*plot\.png"):
        compare([report("all", ANSWERED)], "a title", tmp_path / "missing" / "plot.png")


@pytest.mark.usefixtures("no_matplotlib")
def test_without_matplotlib_one_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        require_matplotlib()
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        compare([report("all", ANSWERED)], "a title", tmp_path / "plot.png")
