"""``hearth explain``: why a request went where it went, and what came of it."""

from __future__ import annotations

import click

from cli.failures import HearthCommand
from cli.options import config_of, home_option, json_option, print_json


@click.command(cls=HearthCommand)
@click.argument("request", required=False)
@click.option("--list", "as_list", is_flag=True, help="List the requests that can be explained.")
@json_option
@home_option
@click.pass_context
def explain(ctx: click.Context, request: str | None, as_list: bool, as_json: bool) -> None:
    """Say why REQUEST went where it went, and what came of it.

    REQUEST is the id of an answer, or its beginning; without it, the latest request is explained.
    """
    if as_list and request:
        raise click.UsageError("--list lists all: give no REQUEST with it", ctx)

    from rich.console import Console

    from cli.explain_view import explanation_view, list_view
    from cli.session import running_client

    with running_client(config_of(ctx)) as client:
        if as_list:
            listed = client.explanations()
            view = list_view(listed)
            reply: object = listed
        else:
            explained = client.explanation(request)
            view = explanation_view(explained)
            reply = explained
    if as_json:
        print_json(reply)
    else:
        Console().print(view)
