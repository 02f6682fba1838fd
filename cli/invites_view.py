"""A node's invites as a table, from the list of ``/mesh/invites``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from cli.fitting import FittingTable
from cli.members import named
from cli.text import local_time, printable


def invites_view(invites: Iterable[Mapping[str, Any]]) -> Table:
    """One row for each; who joined with it is named."""
    table = FittingTable(spare=("expires", "used", "label"))
    table.add_column("id", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("label")
    table.add_column("expires", no_wrap=True)
    table.add_column("used", no_wrap=True)
    table.add_column("joined")
    for invite in invites:
        state = printable(str(invite.get("state") or ""))
        joined = list(invite.get("joined") or [])
        label = printable(str(invite.get("label") or ""))
        notes = [label] if label else []
        if not invite.get("may_invite", True):
            notes.append("may not invite")
        table.add_row(
            printable(str(invite.get("id") or ""))[:8],
            Text(state, style="green" if state == "open" else "dim"),
            Text(" · ".join(notes)),
            local_time(str(invite.get("expires"))),
            f"{len(joined)} of {invite.get('uses')}",
            Text(", ".join(named(str(e.get("peer_id")), str(e.get("name") or "")) for e in joined)),
        )
    return table
