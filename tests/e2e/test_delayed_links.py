"""Nodes as the benchmarks run them: behind delay proxies, and under a rival's policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.forwarding.effects import CopiesChanged
from tests.bench.node_with_policy import under
from tests.bench.proxied_mesh import Setup, proxied_mesh
from tests.e2e.nodes import RunningNode, until
from tests.overlay.members import VirtualMesh
from tests.support.tiny_gguf import write_tiny_gguf

DELAY_MS = 25.0


@pytest.mark.parametrize("policy", ["longest-match", "local-only"])
async def test_a_rivals_policy_decides_on_a_real_node(policy: str, tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", context=1024)
    setup = Setup(model, 2, 2, DELAY_MS, 5.0, 1024, 1, seed=1)
    async with proxied_mesh(setup, policy, tmp_path) as mesh:
        warm, cold = mesh.nodes
        assert min(await mesh.round_trips_ms()) >= 2 * DELAY_MS
        assert any(proxy.connections for proxy in mesh.proxies)
        first = await warm.chat("What do you know?" * 10, hearth={"route": "local"})
        await knows_the_summary_of(warm, cold)
        second = await cold.chat("What do you know?" * 10)
    assert first["hearth"]["served_by"] == mesh.peer_ids[0]
    served_by = {"longest-match": mesh.peer_ids[0], "local-only": mesh.peer_ids[1]}
    assert second["hearth"]["served_by"] == served_by[policy]


def test_a_rivals_engine_evicts_as_if_alone() -> None:
    mesh = VirtualMesh(2, serving=[0, 1])
    with under("longest-match"):
        for node in (0, 1):
            mesh.compute(node, tuple(range(320)))
        mesh.run(6.0)
    told = [effect for node in mesh.nodes for effect in node.told]
    assert not any(isinstance(effect, CopiesChanged) for effect in told)


async def knows_the_summary_of(warm: RunningNode, cold: RunningNode) -> None:
    blocks = (await warm.status())["cache"]["summary_blocks"]
    assert blocks > 0

    async def known() -> bool:
        peer = await cold.peer(warm.name)
        return peer is not None and peer["summary_blocks"] == blocks

    await until(known, f"{cold.name} knows what {warm.name} has cached")
