"""Options that commands share, and what they make together: the node's configuration."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from overlay.config import NodeConfig

Command = TypeVar("Command", bound=Callable[..., Any])

#: Small models may never end by themselves; a person has had enough by then.
ANSWER_TOKENS_MAX = 1024

#: Where ``--home`` is kept in a context's ``meta``, which commands share with their groups.
_HOME = "cli.home"


class _Directory(click.Path):
    """An unset variable of a script is no folder, least of all the current one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("'' is no folder", param, ctx)
        return super().convert(value, param, ctx)


DIRECTORY = _Directory(file_okay=False, path_type=Path)


class NumberRange(click.FloatRange):
    """A range has no nan in it, which no bound keeps out, and no end in infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


def _note_home(ctx: click.Context, param: click.Parameter, home: Path | None) -> None:
    if home is not None:
        ctx.meta[_HOME] = home


def home_option(command: Command) -> Command:
    return click.option(
        "--home",
        type=DIRECTORY,
        expose_value=False,
        callback=_note_home,
        metavar="DIR",
        help="Where this node's key, membership and settings live (or HEARTH_HOME).",
    )(command)


def home_flag(ctx: click.Context) -> str:
    """``" --home DIR"``, for a command that is to be typed next; "" if it was not given."""
    home = ctx.meta.get(_HOME)
    return "" if home is None else f" --home {shlex.quote(str(home))}"


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        command
    )


def print_json(value: object) -> None:
    """What ``--json`` asks for, on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def yes_option(command: Command) -> Command:
    return click.option(
        "--yes", is_flag=True, help="Do not ask for confirmation, which takes a terminal."
    )(command)


def confirmed(question: str) -> None:
    """Ask; a no ends the command (exit code 1), and where nobody can answer, it is called wrongly.

    Raises KeyboardInterrupt for Ctrl-C.
    """
    if not _answers():
        raise click.UsageError(f"{question} Without a terminal, agree with --yes")
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        raise KeyboardInterrupt from None
    if not agreed:
        raise click.Abort


def _answers() -> bool:
    return sys.stdin.isatty()


def model_files(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Completions of NAME|FILE: names are short, paths are long."""
    return [CompletionItem(incomplete, type="file")]


def model_option(command: Command) -> Command:
    return click.option(
        "--model",
        metavar="NAME|FILE",
        shell_complete=model_files,
        help="The model to ask: a name, or the path of a GGUF file.",
    )(command)


def route_option(command: Command) -> Command:
    return click.option(
        "--route",
        type=click.Choice(["mesh", "local"]),
        default="mesh",
        show_default=True,
        help="mesh: whoever answers soonest; local: the prompt stays on this machine.",
    )(command)


def system_option(command: Command) -> Command:
    return click.option("--system", metavar="TEXT", help="The system prompt.")(command)


def config_of(ctx: click.Context, **flags: Any) -> NodeConfig:
    """The configuration that ``--home`` and the flags make."""
    from overlay.config import load_config

    return load_config(ctx.meta.get(_HOME), **flags)


class Duration(click.ParamType[int]):
    """``90s``, ``30m``, ``24h``, ``7d``: converted to seconds, at most ``most_s``."""

    name = "duration"
    _UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}  # noqa: RUF012

    def __init__(self, most_s: int) -> None:
        self._most_s = most_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([1-9]\d{0,6})([smhd])", value)
        if not match:
            self.fail(f"{value!r} is no duration: write 90s, 30m, 24h or 7d", param, ctx)
        seconds = int(match[1]) * self._UNITS[match[2]]
        if seconds > self._most_s:
            self.fail(f"{value} is too long: at most {self._most_s // 86_400}d", param, ctx)
        return seconds


class Size(click.ParamType[int]):
    """``2GB``, ``512MB`` or ``0``: converted to bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from overlay.config import parse_size
        from overlay.errors import ConfigError

        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)
