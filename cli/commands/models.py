"""``hearth models``: model files on this machine, and what the mesh offers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.failures import HearthGroup
from cli.options import config_of, home_flag, home_option, json_option, print_json
from cli.text import printable, size
from models.store.names import stem_of

if TYPE_CHECKING:
    from overlay.config import NodeConfig


@click.group(cls=HearthGroup)
@home_option
def models() -> None:
    """List and fetch models."""


@models.command("list")
@json_option
@home_option
@click.pass_context
def list_models(ctx: click.Context, as_json: bool) -> None:
    """List the model files of this machine, and what a running node can be asked for."""
    from models.store.store import ModelStore

    config = config_of(ctx)
    store = ModelStore(config.store)
    files = [
        {
            "name": model.name,
            "aliases": list(model.aliases),
            "path": str(model.path),
            "size_bytes": model.info.size_bytes,
            "parameters": model.info.parameters,
            "quantisation": model.info.quantisation,
            "context_length": model.info.context_length,
        }
        for model in store.list()
    ]
    served = _served(config)
    if as_json:
        fields = {"store": str(store.root), "files": files, "served": served}
        print_json(fields)
    else:
        _print_tables(str(store.root), files, served)


def _served(config: NodeConfig) -> list[dict[str, Any]]:
    """What the running node can be asked for; nothing if none runs, or still starts."""
    from cli.session import running_client
    from overlay.errors import HomeInUse, NodeNotRunning

    try:
        client = running_client(config)
    except (NodeNotRunning, HomeInUse):
        return []
    with client:
        return client.models()


def _print_tables(root: str, files: list[dict[str, Any]], served: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.text import Text

    from cli.fitting import FittingTable

    console = Console()
    if files:
        table = FittingTable(spare=("context", "also", "quantisation"))
        for column in ("file", "also", "quantisation", "size", "context"):
            table.add_column(column, justify="right" if column in ("size", "context") else "left")
        names = Counter(file["name"] for file in files)
        for file in files:
            # The file's own name tells two quantisations of one model apart.
            stem = [stem_of(Path(file["path"]))] if names[file["name"]] > 1 else []
            table.add_row(
                Text(printable(file["name"]), style="bold"),
                Text(printable(", ".join(file["aliases"][:1] or stem))),
                Text(printable(file["quantisation"])),
                size(file["size_bytes"]),
                f"{file['context_length']:,}",
            )
        console.print(table)
    else:
        console.print(Text(f"No model files in {root}. Fetch one with: hearth models pull demo"))
    if served:
        console.print()
        for model in served:
            where = "here" if (model.get("hearth") or {}).get("local") else "by a friend"
            name = printable(str(model.get("id")))
            console.print(Text.assemble((name, "bold"), f" served {where}"))


@models.command()
@click.argument("name")
@json_option
@home_option
@click.pass_context
def pull(ctx: click.Context, name: str, as_json: bool) -> None:
    """Fetch the model NAME into the store and verify it.

    NAME is `demo`, or OWNER/REPO[:QUANTISATION] of huggingface.co, such as
    Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q8_0; Q4_K_M is taken if none is given. A download that
    breaks off goes on where it stopped, with the same command.
    """
    import shlex

    from rich.console import Console

    from cli.interrupts import unwinding
    from cli.progress import DownloadProgress
    from models.store.store import ModelStore

    with unwinding(), DownloadProgress(Console(stderr=True), name) as progress:
        model = ModelStore(config_of(ctx).store).pull(name, progress)
    if as_json:
        pulled = {"name": model.name, "path": str(model.path)}
        print_json(pulled)
    else:
        click.echo(f"{model.name} is in {model.path}")
        called = model.aliases[0] if model.aliases else stem_of(model.path)
        click.echo(f"To talk to it: hearth chat --model {shlex.quote(called)}{home_flag(ctx)}")
