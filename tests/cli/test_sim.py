from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

import cli.simulations
import overlay.sim.run
from cli.main import hearth
from cli.simulations import Answered, Finished, Job
from overlay.sim.baselines import REGISTRY
from overlay.sim.workloads.registry import KINDS
from tests.cli.conftest import Run
from tests.cli.fake_run import fake_report, fake_run


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay.sim.run, "run", fake_run)


def test_a_real_simulation(run: Run) -> None:
    arguments = ("--nodes", "3", "--requests", "60", "--policy", "hearth,random", "--json")
    result = run("sim", *arguments, "--jitter", "0.2", "--loss", "0.01")
    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (told["workload"], told["nodes"], told["requests"]) == ("zipf", 3, 60)
    assert [policy["policy"] for policy in told["policies"]] == ["hearth", "random"]
    for policy in told["policies"]:
        assert policy["requests"] == 60
        assert policy["failed"] == 0
        assert 0 < policy["ttft_ms"]["p50"] <= policy["ttft_ms"]["p95"]


@pytest.mark.usefixtures("faked")
def test_a_table_and_a_plot(run: Run) -> None:
    result = run("sim", "--policy", "hearth,local-only", "--rtt", "5", "--workload", "zipf:skew=2")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("zipf:skew=2.0 · 8 nodes · RTT 5 ms · load 60% · 1,000 requests")
    assert "\x1b" not in result.stdout
    table = [line for line in lines if re.match(r"(hearth|local-only) .*\d", line)]
    assert [line.split()[0] for line in table] == ["hearth", "local-only"]
    assert table[0].split()[1] == "78.1%"
    assert sum("◆" in line for line in lines) == 3


def test_a_mesh_where_much_goes_wrong(run: Run) -> None:
    arguments = ("sim", "--nodes", "3", "--requests", "60", "--policy", "hearth", "--json")
    wrong = ("--bandwidth", "10", "--speeds", "1,0.5", "--churn", "1", "--split", "1.5")
    calm, told = (json.loads(run(*arguments, *more).stdout) for more in ((), wrong))
    assert (calm["bandwidth_mbit_s"], calm["churn_minutes"], calm["speeds"]) == (None, None, [1])
    assert (told["bandwidth_mbit_s"], told["churn_minutes"]) == (10, 1)
    assert (told["speeds"], told["split_minutes"]) == ([1, 0.5], 1.5)
    assert told["policies"][0]["hit_rate"] < calm["policies"][0]["hit_rate"]


@pytest.mark.usefixtures("faked")
def test_what_goes_wrong_is_told(run: Run) -> None:
    wrong = ("--bandwidth", "10", "--speeds", "1,0.5", "--churn", "30", "--split", "90")
    text = " ".join(run("sim", *wrong, "--policy", "hearth").stdout.split())
    for part in ("uplinks of 10 Mbit/s", "speeds 1, 0.5", "nodes up for 30 min", "split after 90"):
        assert part in text


@pytest.mark.usefixtures("faked")
def test_several_seeds_are_taken_together(run: Run) -> None:
    result = run("sim", "--policy", "hearth", "--requests", "20", "--seeds", "3", "--json")
    told = json.loads(result.stdout)
    (policy,) = told["policies"]
    assert told["seeds"] == [1, 2, 3]
    assert policy["requests"] == 60
    means = [report["ttft_ms"]["mean"] for report in policy["by_seed"].values()]
    assert policy["ttft_ms"]["mean"] == pytest.approx(sum(means) / 3)
    text = run("sim", "--policy", "hearth", "--seeds", "3").stdout
    assert "seeds 1 to 3" in " ".join(text.split())


def test_policies_and_workloads_are_listed(run: Run) -> None:
    policies = run("sim", "--policy", "list").stdout
    everything = run("sim", "--list").stdout
    for name in ("hearth", *REGISTRY):
        assert re.search(rf"^{name} +\w", policies, re.MULTILINE)
    for name in KINDS:
        assert re.search(rf"^{name} +\w+=", everything, re.MULTILINE)
        assert not re.search(rf"^{name} ", policies, re.MULTILINE)
    assert list(json.loads(run("sim", "--list", "--json").stdout)["workloads"]) == list(KINDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "hearth,bets"), "no policy 'bets': take hearth, local-only"),
        (("--policy", " , "), "name a policy"),
        (("--workload", "zip"), "no workload and no file 'zip': take one of"),
        (("--workload", "zipf:skew=high"), "skew=high: give a number"),
        (("--nodes", "0"), "0 is not in the range"),
        (("--load", "0"), "0.0 is not in the range"),
        (("--rtt", "fast"), "is not a valid float"),
        (("--rtt", "nan"), "nan is no finite number"),
        (("--bandwidth", "inf"), "inf is no finite number"),
        (("--speeds", "1,fast"), "give numbers, with commas between them"),
        (("--speeds", "1,0"), "a speed lies between 0.001 and 1000"),
    ],
)
def test_what_is_asked_wrongly(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run("sim", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_trace_with_a_bad_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0}\n')
    result = run("sim", "--workload", str(path))
    assert result.exit_code == 1
    assert result.stderr == f"error: {path}, line 1: no input_length\n"


@pytest.mark.usefixtures("faked")
def test_a_trace(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [7]}\n')
    result = run("sim", "--workload", str(path), "--policy", "hearth", "--json")
    assert json.loads(result.stdout)["workload"] == str(path)


@pytest.mark.usefixtures("faked")
def test_a_picture(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, an extra of Hearth, is not installed")
    path = tmp_path / "plot.png"
    result = run("sim", "--policy", "hearth", "--plot", str(path))
    assert (result.exit_code, result.stderr) == (0, f"drawn in {path}\n")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_refused_first(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overlay.sim.plots.require_matplotlib", lambda: None)
    result = run("sim", "--plot", str(tmp_path / "missing" / "plot.png"))
    assert result.exit_code == 2
    assert f"there is no folder {tmp_path / 'missing'}" in result.stderr
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may write anywhere
    result = run("sim", "--plot", str(tmp_path / "plot.png"))
    assert (result.exit_code, "plot.png cannot be written" in result.stderr) == (2, True)
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = run("sim", "--plot", str(tmp_path / "plot.png"))
    assert result.exit_code == 1
    assert "pip install matplotlib" in result.stderr


def test_ctrl_c_shows_what_is_finished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(scenario: object, jobs: list[Job], run: object) -> Iterator[Answered | Finished]:
        yield Answered(jobs[0], 10)
        yield Finished(jobs[0], fake_report(jobs[0].policy))
        os.kill(os.getpid(), signal.SIGINT)
        yield Answered(jobs[1], 10)

    monkeypatch.setattr(cli.simulations, "simulate", stopped)
    result = run("sim", "--policy", "hearth,random", "--json")
    assert result.exit_code == 130
    assert [policy["policy"] for policy in json.loads(result.stdout)["policies"]] == ["hearth"]
    assert result.stderr == "stopped: 1 of 2 runs were finished\n"
    result = run("sim", "--policy", "hearth,random", "--requests", "20")
    assert result.exit_code == 130
    assert "hearth" in result.stdout
    assert not re.search("random|came", result.stdout)


def test_after_ctrl_c_policies_are_compared_on_the_same_seeds(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(scenario: object, jobs: list[Job], run: object) -> Iterator[Answered | Finished]:
        for job in jobs[:3]:
            yield Finished(job, fake_report(job.policy))
        os.kill(os.getpid(), signal.SIGINT)
        yield Answered(jobs[3], 10)

    monkeypatch.setattr(cli.simulations, "simulate", stopped)
    result = run("sim", "--policy", "hearth,random", "--seeds", "2", "--json")
    told = json.loads(result.stdout)
    assert told["seeds"] == [1]
    requests = [policy["requests"] for policy in told["policies"]]
    assert requests == [len(fake_report("hearth").ttfts_ms)] * 2
    assert result.stderr == "stopped: 3 of 4 runs were finished\n"


def completions(*arguments: str) -> list[str]:
    shell = ShellComplete(hearth, {}, "hearth", "_HEARTH_COMPLETE")
    return [found.value for found in shell.get_completions(list(arguments[:-1]), arguments[-1])]


def test_names_are_completed() -> None:
    assert completions("sim", "--workload", "z") == ["zipf"]
    assert completions("sim", "--workload", "./tr") == ["./tr"]
    assert completions("sim", "--policy", "loc") == ["local-only"]
    assert completions("sim", "--policy", "random,hearth,r") == ["random,hearth,round-robin"]
