"""llama-server of the llama.cpp revision that the installed llama-cpp-python was built from.

``HEARTH_LLAMA_SERVER`` names one; else it is built, once, from llama-cpp-python's source archive
into the user's cache folder. On Linux it then runs with the very libraries of the installed
binding, so that both engines compute with the same machine code.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final

import httpx
import llama_cpp
import platformdirs

#: The binary to use instead of building one.
VARIABLE: Final = "HEARTH_LLAMA_SERVER"
#: Loading a model takes seconds, from a slow disk a minute.
LOAD_S: Final = 180.0
_CLOSE_S: Final = 10.0
_LOG_LINES: Final = 15
#: Between two lines about a build.
_TELL_S: Final = 15.0

#: Only the server, without what it needs the network or other packages for. The GGML_ options are
#: llama.cpp's defaults, as in the binding's build; ``CMAKE_ARGS`` counts here as it does there.
CMAKE_OPTIONS: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
)
_STEP = re.compile(r"^\[\s*(\d+)(%|/\d+)\]")

#: Tells how a build gets on: a line for people.
Progress = Callable[[str], None]


class NoLlamaServer(Exception):
    """There is no llama-server here; the message says why, and what helps."""


def find(progress: Progress) -> Path:
    """The binary; builds it if need be (about five minutes). Raises NoLlamaServer."""
    if named := os.environ.get(VARIABLE):
        if not Path(named).exists():
            raise NoLlamaServer(f"{VARIABLE} names {named}, which does not exist.")
        return Path(named)
    version = metadata.version("llama-cpp-python")
    folder = platformdirs.user_cache_path("hearth") / "bench" / f"llama-server-{version}"
    binary = folder / "bin" / "llama-server"
    if not binary.exists():
        try:
            _build(version, folder, progress)
        except (OSError, subprocess.SubprocessError, tarfile.TarError) as error:
            raise NoLlamaServer(
                f"llama-server of llama-cpp-python {version} could not be built: {error} "
                f"Build it yourself and name it in {VARIABLE}."
            ) from error
    return binary


def _build(version: str, folder: Path, progress: Progress) -> None:
    cmake = shutil.which("cmake")
    if cmake is None or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise OSError("it needs cmake (pip install cmake) and a C++ compiler.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="llama-server-") as work_name:
        work = Path(work_name)
        progress(f"llama-server: fetching the source of llama-cpp-python {version} (77 MB)")
        _run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--no-binary", ":all:", "--dest", str(work), f"llama-cpp-python=={version}"),
            ]
        )
        [archive] = work.glob("llama_cpp_python-*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(work, filter="data")
        source = work / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
        build = work / "build"
        progress("llama-server: configuring")
        extra = shlex.split(os.environ.get("CMAKE_ARGS", ""))
        _run([cmake, "-S", str(source), "-B", str(build), *CMAKE_OPTIONS, *extra])
        _compile([cmake, "--build", str(build), "--target", "llama-server", "-j"], progress)
        # Its libraries stand beside it, and are found there wherever the folder is.
        built = shutil.copytree(build / "bin", work / "out" / "bin", symlinks=True)
        shutil.rmtree(folder, ignore_errors=True)
        built.parent.rename(folder)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise OSError("\n".join([f"{Path(command[0]).name} failed:", *lines[-_LOG_LINES:]]))


def _compile(command: list[str], progress: Progress) -> None:
    """Run it, and show how far it is."""
    begun_s = time.monotonic()
    lines: list[str] = []
    with subprocess.Popen(
        [*command, str(os.cpu_count() or 1)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        told_s = begun_s - _TELL_S
        for line in process.stdout:
            lines.append(line.rstrip())
            now = time.monotonic()
            if (step := _STEP.match(line)) and now - told_s >= _TELL_S:
                told_s, seconds = now, now - begun_s
                progress(f"llama-server: compiling, once: {step[0]} ({seconds:.0f} s)")
    if process.returncode:
        raise OSError("\n".join(["cmake failed:", *lines[-_LOG_LINES:]]))


class LlamaServer:
    """llama-server as a child on a free loopback port."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        """Use `start`."""
        self._process = process
        self._log = log
        self.port = port

    @classmethod
    async def start(cls, binary: Path, model: Path, log: Path, *options: object) -> LlamaServer:
        """Run it on ``model``, and wait until it serves. Raises NoLlamaServer."""
        port = free_port()
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(str(binary), "--model", str(model), "--host", "127.0.0.1", "--port", str(port)),
                *map(str, options),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(binary),
            )
        self = cls(process, port, log)
        try:
            await self._healthy()
        except BaseException:
            await self.close()
            raise
        return self

    async def _healthy(self) -> None:
        until_s = time.monotonic() + LOAD_S
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as http:
            while time.monotonic() < until_s:
                if self._process.returncode is not None:
                    said = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                    raise NoLlamaServer("\n".join(["llama-server ended at once:", *said]))
                try:
                    if (await http.get("/health")).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)  # it tells nobody when it is ready
        raise NoLlamaServer(f"llama-server was not ready within {LOAD_S:.0f} s.")

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), _CLOSE_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


def _environment(binary: Path) -> dict[str, str]:
    """The binding's own libraries come first, where the loader lets us choose."""
    libraries = Path(llama_cpp.__file__).parent / "lib"
    beside = [str(libraries), str(binary.parent)]
    if named := os.environ.get("LD_LIBRARY_PATH"):
        beside.append(named)
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(beside)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
