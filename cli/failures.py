"""How commands fail: one sentence for people, an object for programs, never a traceback.

Exit codes: 0 done, 1 failed, 2 usage (click's own), 130 ended by Ctrl-C.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import click

from cli.text import printable, wrap_words
from overlay.errors import HearthError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class HearthCommand(click.Command):
    """A command whose errors end it cleanly, whatever they are."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except HearthError as error:
            report(ctx, error.code, str(error))
        except BrokenPipeError:
            _drop_output()  # Whoever read it has seen enough.
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if _is_of_output(error):
                raise
            report(ctx, "internal", f"{_brief(error)}; details are in {_write_log(ctx)}")
        raise click.exceptions.Exit(EXIT_FAILED)


class HearthGroup(click.Group):
    """A group of such commands, listed in the order in which they were added."""

    command_class = HearthCommand
    group_class = type

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if not _is_of_output(error):
                raise
            _drop_output()
            _complain(f"the output cannot be written: {error.strerror}")
            sys.exit(EXIT_FAILED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # of a command, or while its options are read
            ctx.exit(EXIT_INTERRUPTED)
        except click.exceptions.NoArgsIsHelpError:
            raise  # Its message is a page of help.
        except click.UsageError as error:
            text = _fitting(f"Error: {error.format_message()}")
            raise click.UsageError(text.removeprefix("Error: "), error.ctx) from None


def report(ctx: click.Context, code: str, message: str) -> None:
    """Say what went wrong: as JSON on stdout where JSON was asked for, else on stderr."""
    message = printable(message or code)
    if ctx.params.get("as_json"):
        click.echo(json.dumps({"error": {"code": code, "message": message}}, ensure_ascii=False))
    else:
        _complain(message)


def _complain(message: str) -> None:
    text = _fitting(f"error: {message}")
    # As rich and prompt_toolkit do for all else.
    colour = None if os.environ.get("NO_COLOR") else "red"
    click.echo(click.style("error:", fg=colour, bold=True) + text[len("error:") :], err=True)


def _is_of_output(error: Exception) -> bool:
    """Whether stdout or stderr leads to a full disk."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename


def _drop_output() -> None:
    """What is not written yet goes nowhere; else the interpreter complains of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fitting(text: str) -> str:
    """As wide as the terminal, if stderr is one."""
    if not sys.stderr.isatty():
        return text
    return wrap_words(text, shutil.get_terminal_size().columns)


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"this is a bug in Hearth ({type(error).__name__}{f': {text}' if text else ''})"


def _write_log(ctx: click.Context) -> Path:
    """Append the traceback to a log in the home, or in a temporary file if that cannot be."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    entry = f"--- {stamp} {ctx.command_path}\n{traceback.format_exc()}\n"
    try:
        from cli.options import config_of
        from overlay.home.files import open_at_once

        path = config_of(ctx).home / "errors.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        # It may name folders and addresses: for the owner's eyes.
        with open(path, "a", opener=open_at_once) as log:
            log.write(entry)
    except (OSError, HearthError, ImportError):
        handle, name = tempfile.mkstemp(prefix="hearth-", suffix=".log", text=True)
        with os.fdopen(handle, "w") as log:
            log.write(entry)
        return Path(name)
    return path
