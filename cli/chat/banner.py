"""What a chat begins with: where one is, and what to expect."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from cli.fitting import facts
from cli.mesh_state import MeshState
from cli.text import printable, short_peer
from models.store.catalogue import DEMO


def banner(state: MeshState, model: str, own_node: bool, home: str) -> RenderableType:
    """``model`` answers ("": nobody serves any); ``own_node``: it was started for this chat.

    ``home``: the flag that commands need which are to be typed, if they need one.
    """
    grid = facts()
    node = Text.assemble((state.name or "?", "bold"), f" ({short_peer(state.peer_id)})")
    if own_node:
        node.append(", running for this chat", style="dim")
    grid.add_row("node", node)
    grid.add_row("mesh", Text(f"{state.mesh_id[:12]} · {state.peers_line}"))
    grid.add_row("model", Text(printable(model)) if model else Text("none yet", style="yellow"))
    panel = Panel(grid, title="hearth", title_align="left", border_style="yellow", padding=(0, 1))
    return Group(panel, Text(f"{_welcome(model, own_node, home)}\n"), Text(_KEYS, style="dim"))


_KEYS = "/help shows the commands · Alt-Enter makes a new line · Ctrl-D leaves\n"


def _welcome(model: str, own_node: bool, home: str) -> str:
    # A node that runs already keeps the models that it was started with.
    start = f"hearth chat{home}" if own_node else f"hearth up{home}"
    if not model:
        load = "Load one here with" if own_node else "Start the node with"
        return (
            f"Nobody serves a model yet. {load}: {start} --model demo, "
            f"or let a friend's node serve one: hearth join TOKEN{home}"
        )
    if model.casefold() in (DEMO.name.casefold(), *DEMO.aliases):
        return (
            "This is the demo model: a real one, but of 135 M parameters only. It is quick, "
            "and often wrong. For a larger one (1.1 GB):\n"
            f"  hearth models pull Qwen/Qwen2.5-1.5B-Instruct-GGUF{home}\n"
            f"  {start} --model qwen2.5-1.5b-instruct"
        )
    return "Ask away."
