"""Writes the reference of the commands from the commands: ``python -m cli.reference > PAGE``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from cli.main import hearth

_HEAD = """# Commands

Every command ends with exit code 0 when it is done, 1 when it failed, 2 when it was called wrongly,
and 130 when Ctrl-C ended it; but that is how a ready `hearth up` and `hearth status --watch` are
done. What went wrong is one sentence on stderr; with `--json` it is
`{"error": {"code": …, "message": …}}` on stdout, unless the command was called wrongly.
`--home DIR` may also stand before the command.

What `--json` prints is what the [HTTP API](http.md) replies to the same wish, but for these:

- `ask`: `answer`, `model`, and [what comes with an answer](http.md#what-hearth-adds-to-the-answer),
  `usage` and `hearth`
- `invite --list`, `explain --list`: the array in the API's reply
- `status --watch`: one line for each second
- `models list`: the `store`'s folder, the `files` in it, and what can be asked for (`served`), as
  [the API lists it](http.md#get-v1models)
- `models pull`: `name` and `path` of the model
- `sim`: the scenario, and what came of its `policies`; of `sim --list`, what there is

This page is made from the commands themselves: `python -m cli.reference > docs/reference/cli.md`.
"""


def reference() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, *_sections(hearth, ())])


def _sections(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
    name = " ".join(("hearth", *path))
    context = click.Context(command, info_name=name, max_content_width=96, terminal_width=96)
    context.help_option_names = ["-h", "--help"]
    yield f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _sections(found, (*path, child))


if __name__ == "__main__":
    click.echo(reference(), nl=False)
