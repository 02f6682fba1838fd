"""``hearth up``: run a node in the foreground."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from cli.failures import HearthCommand
from cli.interrupts import ending_signals, leave_closed_terminal
from cli.options import Size, config_of, home_flag, home_option, model_files
from overlay.limits import CELLS_MIN

if TYPE_CHECKING:
    from overlay.config import NodeConfig
    from overlay.identity.multiaddr import Multiaddr
    from overlay.node import Node


@click.command(cls=HearthCommand)
@click.option("--name", metavar="NAME", help="What friends see; the machine's name by default.")
@click.option("--listen", metavar="HOST:PORT", help="Where peers connect; port 0 picks a free one.")
@click.option(
    "--announce",
    multiple=True,
    metavar="HOST:PORT",
    help="Where peers reach this node besides: a DNS name, a forwarded port (repeatable).",
)
@click.option("--api", metavar="HOST:PORT", help="Where the HTTP API is; port 0 picks a free one.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    shell_complete=model_files,
    help="A model to serve (repeatable); none: friends serve.  [default: demo]",
)
@click.option("--no-lan", is_flag=True, help="Do not look for members on the local network.")
@click.option("--map-port", is_flag=True, help="Ask the router (UPnP) to pass a port on.")
@click.option("--no-relay", is_flag=True, help="Pass nothing on for members that lack a link.")
@click.option(
    "--cells",
    type=click.IntRange(min=CELLS_MIN),
    metavar="N",
    help="KV cells of each model: tokens that all its requests share; by free memory by default.",
)
@click.option(
    "--ram-cache",
    type=Size(),
    metavar="SIZE",
    help="RAM for what left the KV cache, such as 2GB or 0; a quarter of the free by default.",
)
@click.option(
    "--disk-cache",
    type=Size(),
    metavar="SIZE",
    help="Disk, in the home, for what left RAM; it survives restarts.  [default: 0]",
)
@click.option(
    "--guest-requests",
    type=click.IntRange(min=0),
    metavar="N",
    help="Friends' requests taken at one time, all together; no bound by default.",
)
@click.option(
    "--guest-tokens-per-minute",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens computed for one friend in a minute; no bound by default.",
)
@click.option(
    "--private",
    multiple=True,
    metavar="NAME",
    help="A served model that friends are not told of (repeatable).",
)
@home_option
@click.pass_context
def up(
    ctx: click.Context, /, no_lan: bool, map_port: bool, no_relay: bool, **settings: Any
) -> None:
    """Run a node until Ctrl-C.

    Prints one line that begins with "ready" once it serves.
    """
    import asyncio

    from cli.log import log_to_terminal

    # What is not set here may be in the home's settings.
    config = config_of(
        ctx,
        lan=False if no_lan else None,
        map_port=map_port or None,
        relay=False if no_relay else None,
        **settings,
    )
    log_to_terminal()
    asyncio.run(_serve(config, home_flag(ctx)))


async def _serve(config: NodeConfig, home: str) -> None:
    import asyncio
    import signal

    from rich.console import Console

    from cli.progress import StepProgress
    from overlay.node import serve

    stop = asyncio.Event()
    serving: asyncio.Task[None]
    with StepProgress(Console(stderr=True)) as progress:
        is_ready = False
        ended_by = 0

        def ready(node: Node) -> None:
            nonlocal is_ready
            is_ready = True
            progress.close()
            _announce(node, home)

        def end(number: int) -> None:
            nonlocal ended_by
            leave_closed_terminal(number)
            stop.set()
            ended_by = number
            if not is_ready:  # A start may take long: a download, a large model.
                progress.abort()
                serving.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, *ending_signals()):
            loop.add_signal_handler(number, end, number)
        serving = asyncio.ensure_future(serve(config, stop, progress=progress, ready=ready))
        await asyncio.wait({serving})
    if serving.cancelled():  # It never served: who waits for that is not told that all went well.
        sys.exit(128 + ended_by)
    serving.result()


def _host_port(address: Multiaddr) -> str:
    return address.endpoint.removeprefix("tcp://")


def _announce(node: Node, home: str) -> None:
    models = ",".join(listing.name for listing in node.models() if listing.local) or "none"
    click.echo(
        f"ready name={node.config.name} peer={node.key.peer_id} "
        f"listen={','.join(map(_host_port, node.listen))} api={node.api_url} models={models}"
        f"{' lending=paused' if node.paused else ''}"
    )
    sys.stdout.flush()
    if node.paused:
        click.echo(f"Paused: no friend's requests are taken, until: hearth resume{home}", err=True)
    if sys.stdout.isatty():
        hint = (
            f"Chat: hearth chat{home} · Invite a friend: hearth invite{home} · "
            "Ctrl-C ends this node"
        )
        click.echo(click.style(hint, dim=True), err=True)
