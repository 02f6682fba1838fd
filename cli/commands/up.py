"""``hearth up``: run a node in the foreground."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from cli.options import config_of, home_option

if TYPE_CHECKING:
    from overlay.config import NodeConfig
    from overlay.node import Node


@click.command()
@click.option("--name", metavar="NAME", help="What friends see; the machine's name by default.")
@click.option("--listen", metavar="HOST:PORT", help="Where peers connect; port 0 picks a free one.")
@click.option("--api", metavar="HOST:PORT", help="Where the HTTP API is; port 0 picks a free one.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    help="A model to serve (repeatable); none: friends serve.  [default: demo]",
)
@click.option("--no-lan", is_flag=True, help="Do not look for members on the local network.")
@home_option
@click.pass_context
def up(
    ctx: click.Context,
    name: str | None,
    listen: str | None,
    api: str | None,
    models: tuple[str, ...],
) -> None:
    """Run a node until Ctrl-C.

    Prints one line that begins with "ready" once it serves.
    """
    import asyncio

    config = config_of(ctx, name=name, listen=listen, api=api, models=models or None)
    asyncio.run(_serve(config))


async def _serve(config: NodeConfig) -> None:
    import asyncio
    import signal

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.ensure_future(stop.wait())
    starting = asyncio.ensure_future(_start(config))
    # A signal ends a start that takes long (a download, a large model) as well.
    await asyncio.wait({stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
    if starting.cancelled():
        return
    node = await starting
    try:
        _announce(node)
        await node.serve_until(stop)
    finally:
        stopping.cancel()
        await node.close()


async def _start(config: NodeConfig) -> Node:
    from rich.console import Console

    from cli.progress import StepProgress
    from overlay.node import Node

    with StepProgress(Console(stderr=True)) as progress:
        return await Node.start(config, progress)


def _announce(node: Node) -> None:
    click.echo(f"ready {node.addresses}")
    sys.stdout.flush()
    if sys.stdout.isatty():
        hint = "Chat: hearth chat · Invite a friend: hearth invite · Ctrl-C ends this node"
        click.echo(click.style(hint, dim=True), err=True)
