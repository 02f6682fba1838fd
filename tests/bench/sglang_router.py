"""SGLang's router in front of nodes' APIs, for comparison: its cache-aware policy, as it comes.

``HEARTH_SGLANG_ROUTER`` names the ``sglang-router`` command of an installation; else one is made,
once, from the package index into a virtual environment in the user's cache folder.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import platformdirs

from tests.bench.llama_server import free_port

#: The command to use instead of an installation of our own.
VARIABLE: Final = "HEARTH_SGLANG_ROUTER"
VERSION: Final = "0.3.2"
_START_S: Final = 60.0
_LOG_LINES: Final = 15


class NoSglangRouter(Exception):
    """There is no router here; the message says why, and what helps."""


def find(progress: Callable[[str], None]) -> Path:
    """Its command; installs it if need be. Raises NoSglangRouter."""
    if named := os.environ.get(VARIABLE):
        if not Path(named).exists():
            raise NoSglangRouter(f"{VARIABLE} names {named}, which does not exist.")
        return Path(named)
    folder = platformdirs.user_cache_path("hearth") / "bench" / f"sglang-router-{VERSION}"
    command = folder / "bin" / "sglang-router"
    if not command.exists():
        progress(f"sglang-router: installing {VERSION}, once")
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
        _run([*pip, f"sglang-router=={VERSION}"])
    return command


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-_LOG_LINES:]
        help = f"Name the command of an installation in {VARIABLE}."
        raise NoSglangRouter("\n".join(["it could not be installed:", *said, help]))


@asynccontextmanager
async def sglang_router(command: Path, workers: Sequence[str], log: Path) -> AsyncIterator[int]:
    """The port of a router before ``workers``, URLs of OpenAI-compatible servers.

    Raises NoSglangRouter.
    """
    port = free_port()
    metrics = ("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()))
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(str(command), "launch", "--host", "127.0.0.1", "--port", str(port)),
            *("--policy", "cache_aware", "--worker-urls", *workers, *metrics),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await _ready(port, process, log)
        yield port
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _ready(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    until_s = time.monotonic() + _START_S
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        while time.monotonic() < until_s and process.returncode is None:
            try:
                if (await http.get("/readiness")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)  # it tells nobody when it is ready
    said = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    raise NoSglangRouter("\n".join(["sglang-router is not ready:", *said]))
