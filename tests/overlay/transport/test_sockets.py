"""What sockets are given by the system."""

from __future__ import annotations

import asyncio
import sys

import pytest

from overlay.transport import sockets

resource = pytest.importorskip("resource")
CODE = """
import resource
from overlay.transport.sockets import allow_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
allow_descriptors()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


async def test_a_process_that_listens_may_have_as_many_connections_as_the_system_grants() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CODE), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "(200, 200)"


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((1024, resource.RLIM_INFINITY), (1 << 16, resource.RLIM_INFINITY)),
        ((1024, 1 << 20), (1 << 16, 1 << 20)),
        ((1 << 17, 1 << 20), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_what_is_enough_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: tuple[int, int] | None
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda which, value: told.append(value))
    sockets.allow_descriptors()
    assert told == ([raised] if raised else [])
