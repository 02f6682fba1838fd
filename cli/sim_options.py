"""What ``hearth sim`` is asked: a workload, and policies by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from overlay.sim.workload import Workload


def opened(ctx: click.Context, written: str) -> Workload:
    """The workload NAME, NAME:k=v,…, or the trace at that path.

    What is wrong in a trace is an error of its own, all else is one of usage.
    """
    from overlay.errors import ConfigError
    from overlay.sim.workloads.registry import workload

    try:
        return workload(written)
    except ConfigError as error:
        if Path(written).exists():
            raise
        raise click.BadParameter(str(error), ctx, param_hint="--workload") from None


def workload_names(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Completions: names, else files."""
    from overlay.sim.workloads.registry import KINDS

    names = [CompletionItem(kind) for kind in KINDS if kind.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


class PolicyList(click.ParamType["tuple[str, ...]"]):
    """A,B,…: policies by name, each once; or the one word ``list``."""

    name = "policies"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        named = tuple(dict.fromkeys(filter(None, map(str.strip, value.split(",")))))
        known = summaries()
        for name in named:
            if name not in known and named != ("list",):
                self.fail(f"there is no policy {name!r}: take {', '.join(known)}", param, ctx)
        if not named:
            self.fail("name a policy, or several with commas between", param, ctx)
        return named

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        return [
            CompletionItem(f"{before}{comma}{name}", help=summary)
            for name, summary in summaries().items()
            if name.startswith(last) and name not in taken
        ]


class SpeedList(click.ParamType["tuple[float, ...]"]):
    """Speeds of nodes, as multiples of the measured machine's."""

    name = "speeds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            speeds = tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail("give numbers, with commas between them: 1,1,0.25", param, ctx)
        if not all(0.001 <= speed <= 1000 for speed in speeds):
            self.fail("a speed lies between 0.001 and 1000", param, ctx)
        return speeds


def summaries() -> dict[str, str]:
    """Each policy and what it does, in a line."""
    from overlay.sim.baselines import REGISTRY
    from overlay.sim.run import HEARTH

    own = "the least cost in milliseconds, by gossip: Hearth's own"
    return {HEARTH: own, **{name: rival.summary for name, rival in REGISTRY.items()}}
