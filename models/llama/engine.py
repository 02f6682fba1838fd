"""`models.engine.Engine` on llama.cpp in a child process.

The process decodes, so a crash of llama.cpp costs the open requests and no more, and the node's
event loop never waits for the interpreter's lock. Events arrive on the loop that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

import models
from models.engine import (
    EngineDied,
    EngineEvent,
    EventSink,
    Failed,
    Finished,
    GenerationRequest,
    ModelInfo,
    Prompt,
    Tokens,
)
from models.llama import protocol
from models.llama.watch import LOOK_S, LOOKS, Watch
from overlay.errors import (
    EngineFailed,
    InvalidRequest,
    LocalProtocolError,
    ModelFileInvalid,
    from_code,
)

log = logging.getLogger(__name__)

_READ_BYTES: Final = 1 << 16
#: A worker that does not end by itself within this time is killed.
_CLOSE_S: Final = 2.0
#: Lines of llama.cpp's errors that are kept for the message of a crash.
_ERROR_LINES: Final = 20


#: OpenMP threads wait for each other several hundred times a token. GNU's spin for milliseconds,
#: which made a busy machine ten times slower. To sleep at once halves an idle machine's speed, and
#: a virtual one's wakes slowly after a pause. Spinning for some microseconds is good on both.
#: And a failed assertion in llama.cpp ends the worker at once, not after a debugger has run.
_WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "1000",
    "GGML_NO_BACKTRACE": "1",
}


#: What a signal that nobody sent on purpose means, for people.
_CAUSES: Final[dict[int, str]] = {
    signal.SIGBUS: ": perhaps its file was cut or its disk is gone",
    signal.SIGKILL: ": perhaps the machine ran out of memory",
    signal.SIGABRT: ": llama.cpp gave up",
    signal.SIGSEGV: ": llama.cpp crashed",
    signal.SIGPROF: ": the grammar of an answer took too long",
}


class LlamaEngine:
    """One model in one child process. All methods and the sink belong to one asyncio loop."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        sink: EventSink,
        progress: Callable[[float], None] | None,
        close_s: float,
    ) -> None:
        """Use `start`."""
        self._process = process
        self._close_s = close_s
        self._sink = sink
        self._progress = progress
        self._info: ModelInfo | None = None
        self._open: set[bytes] = set()
        #: Prompts that are not tokenized yet, with the watch of the thread that owes it.
        self._queries: dict[int, tuple[Watch, asyncio.Future[Tokens]]] = {}
        self._query = 0
        self._closed = False
        self._died: str | None = None
        #: Why it was killed, unless it was to be closed.
        self._verdict: str | None = None
        #: It is to end what was cancelled, and to tokenize short and long prompts.
        self._decoder = Watch(self._hangs)
        self._tokenizers = Watch(self._hangs), Watch(self._hangs)
        self._errors: deque[str] = deque(maxlen=_ERROR_LINES)
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[ModelInfo] = loop.create_future()
        self._reader = loop.create_task(self._read())

    @classmethod
    async def start(
        cls,
        path: Path,
        *,
        name: str,
        sink: EventSink,
        hash_key: bytes,
        aliases: Sequence[str] = (),
        cells: int = 0,
        threads: int = 0,
        ram_bytes: int = 0,
        disk: Path | None = None,
        disk_bytes: int = 0,
        disk_sharers: int = 1,
        progress: Callable[[float], None] | None = None,
    ) -> LlamaEngine:
        """Load the model at ``path``.

        ``cells``: KV cells for all requests together; 0 chooses by the model and free memory.
        ``threads``: 0 takes all physical cores. ``ram_bytes``, and an even share of ``disk_bytes``
        in the folder ``disk``, which so many models use side by side, may keep what leaves the KV
        cache. ``progress``: share loaded, 0 to 1.
        Raises ModelFileInvalid, EngineFailed, and what ``progress`` raises.
        """
        options = [f"--name={name}", f"--cells={cells}", f"--threads={threads or _cores()}"]
        options += [f"--alias={alias}" for alias in aliases]
        options.append(f"--ram-bytes={ram_bytes}")
        if disk is not None:
            options += [f"--disk={disk}", f"--disk-bytes={disk_bytes}"]
            options.append(f"--disk-sharers={disk_sharers}")
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # The folder that this happens to be in may have a models.py of its own.
                "-m",
                "models.llama.worker",
                *options,
                "--",
                str(path),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_WORKER_ENVIRONMENT | os.environ | {"PYTHONPATH": _import_path()},
            )
        except OSError as error:
            reason = error.strerror or error
            raise EngineFailed(f"The engine's process cannot be started: {reason}.") from None
        engine = cls(process, sink, progress, _CLOSE_S + (protocol.SAVE_S if disk else 0))
        try:
            engine._info = await engine._ready
            engine._check_alive()  # It may have died since, and that was not told.
        except asyncio.CancelledError:
            engine._kill()  # While it loads it hears of no end, and there is nothing to save.
            await engine.close()
            raise
        except BaseException:
            await engine.close()
            raise
        engine.set_hash_key(hash_key)
        return engine

    @property
    def info(self) -> ModelInfo:
        assert self._info is not None, "start() returns only loaded engines"
        return self._info

    @property
    def process_id(self) -> int:
        """Of the worker; for tests that kill it and for people who watch it."""
        return self._process.pid

    async def tokenize(self, prompt: Prompt, *, guests: bool = False) -> Tokens:
        """See `Engine.tokenize`."""
        self._check_alive()
        self._query += 1
        packed = protocol.pack_prompt(prompt)
        self._send([protocol.TOKENIZE, self._query, packed, guests])
        watch = self._tokenizers[protocol.takes_long(packed)]
        watch.owes(self._query)
        answer: asyncio.Future[Tokens] = asyncio.get_running_loop().create_future()
        self._queries[self._query] = watch, answer
        return await answer

    def remember(self, prompt: Tokens, answer: Tokens) -> None:
        """See `Engine.remember`."""
        with contextlib.suppress(OverflowError):  # a peer may have answered anything
            packed = [protocol.pack_tokens(tokens) for tokens in (prompt, answer)]
            self._send([protocol.REMEMBER, *packed])

    def submit(self, request: GenerationRequest) -> None:
        """See `Engine.submit`. Raises LocalProtocolError for an id that is open already."""
        if request.request_id in self._open:
            raise LocalProtocolError(f"request {request.request_id.hex()} was submitted twice")
        self._check_alive()
        try:
            packed = protocol.pack_request(request)
        except OverflowError:  # a peer may ask for anything
            refusal = InvalidRequest("The request has numbers that are out of range.")
            failed = Failed(request.request_id, refusal.code, str(refusal))
            asyncio.get_running_loop().call_soon(self._tell, failed)
            return
        self._open.add(request.request_id)
        self._send([protocol.SUBMIT, packed])

    def cancel(self, request_id: bytes) -> None:
        """See `Engine.cancel`."""
        if request_id in self._open:
            self._send([protocol.CANCEL, request_id])
            self._decoder.owes(request_id)

    def set_hash_key(self, key: bytes) -> None:
        """See `Engine.set_hash_key`."""
        self._send([protocol.HASH_KEY, key])

    def copies_changed(self, changed: Mapping[int, int]) -> None:
        """See `Engine.copies_changed`."""
        self._send([protocol.COPIES, protocol.pack_copies(changed)])

    async def close(self) -> None:
        """Stop the process; open requests get no more events. A disk cache is saved first."""
        self._closed = True
        self._end_watches()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(self._close_s):
                await self._process.wait()
        except TimeoutError:
            self._kill()
            await self._process.wait()
        await asyncio.gather(self._reader, return_exceptions=True)

    def _hangs(self) -> None:
        self._verdict = (
            f"The engine of this model hung: it said nothing for {LOOKS * LOOK_S:.0f} s."
        )
        self._kill()

    def _end_watches(self) -> None:
        for watch in (self._decoder, *self._tokenizers):
            watch.end()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _send(self, frame: list[Any]) -> None:
        # The worker's reader always reads, so the pipe's buffer stays small without a drain.
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(protocol.pack(frame))

    def _check_alive(self) -> None:
        if self._closed or self._died is not None:
            raise EngineFailed(self._died or "The engine has been closed.")

    async def _read(self) -> None:
        """Everything that the worker says, until it ends."""
        complaints = asyncio.get_running_loop().create_task(self._read_errors())
        try:
            await self._read_frames()
        except Exception as error:
            # Nobody hears the worker any more. While it loads, `progress` may be at fault.
            self._verdict = f"The engine of this model said what was not understood: {error!r}."
            self._kill()
            if not self._ready.done():
                self._ready.set_exception(error)
            elif not self._closed:
                log.exception("engine %d said what was not understood", self._process.pid)
        code = await self._process.wait()
        await complaints
        self._end(self._verdict or self._how_it_ended(code))

    async def _read_frames(self) -> None:
        assert self._process.stdout is not None
        unpacker = protocol.unpacker()
        while data := await self._process.stdout.read(_READ_BYTES):
            unpacker.feed(data)
            for frame in unpacker:
                self._receive(frame)

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        while data := await self._process.stderr.read(_READ_BYTES):
            *lines, rest = (rest + data)[-_READ_BYTES:].split(b"\n")
            self._errors.extend(line.decode("utf-8", "replace").strip() for line in lines)
        self._errors.append(rest.decode("utf-8", "replace").strip())

    def _receive(self, frame: tuple[Any, ...]) -> None:
        match frame:
            case (protocol.EVENTS, events):
                self._decoder.spoke()
                if self._closed:
                    return
                for data in events:
                    event = protocol.unpack_event(data)
                    if isinstance(event, Finished | Failed):
                        self._open.discard(event.request_id)
                        self._decoder.settled(event.request_id)
                    self._tell(event)
            case (protocol.TOKENS, query, tokens):
                self._answer(query, protocol.unpack_tokens(tokens))
            case (protocol.REJECTED, query, code, message):
                self._answer(query, from_code(code, message))
            case (protocol.PROGRESS, share):
                if self._progress is not None:
                    self._progress(share)
            case (protocol.LOG, level, message):
                log.log(level, "engine %d: %s", self._process.pid, message)
            case (protocol.READY, info):
                if not self._ready.done():
                    self._ready.set_result(protocol.unpack_info(info))
            case (protocol.INVALID, message):
                if not self._ready.done():
                    self._ready.set_exception(ModelFileInvalid(message))

    def _answer(self, query: int, result: Tokens | Exception) -> None:
        watch, waiting = self._queries.pop(query)
        watch.spoke()
        watch.settled(query)
        if waiting.done():  # nobody waits any longer
            return
        if isinstance(result, Exception):
            waiting.set_exception(result)
        else:
            waiting.set_result(result)

    def _end(self, message: str) -> None:
        """The worker is gone: nobody may wait for it any longer."""
        self._died = message
        self._end_watches()
        if not self._ready.done():
            self._ready.set_exception(EngineFailed(message))
        for _, waiting in self._queries.values():
            if not waiting.done():
                waiting.set_exception(EngineFailed(message))
        if self._closed or self._info is None:
            return
        for request_id in sorted(self._open):
            self._tell(Failed(request_id, EngineFailed.code, message))
        self._open.clear()
        self._tell(EngineDied(message))

    def _tell(self, event: EngineEvent) -> None:
        """A sink that fails is a bug, but must not end what all requests depend on."""
        try:
            self._sink(event)
        except Exception:
            log.exception("the sink of %s failed on %r", self.info.name, event)

    def _how_it_ended(self, code: int) -> str:
        """For people, with the last thing that llama.cpp complained about."""
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        message = f"The engine of this model ended {how}{_CAUSES.get(-code, '')}."
        reason = next((line for line in reversed(self._errors) if line), "")
        return f"{message} ({reason})" if reason else message


def _cores() -> int:
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def _import_path() -> str:
    """So that the worker finds this package, however its parent was started."""
    root = str(Path(models.__path__[0]).parent)
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
