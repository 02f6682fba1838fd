"""The engine process: ``python -m models.llama.worker``, with frames on stdin and stdout.

Three threads. The reader tokenizes short prompts and notes cancellations at once, even while the
main thread decodes (which releases the interpreter's lock). It ends the process when its parent
goes. Long prompts, which may take seconds, have a thread of their own: nothing waits behind them.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO, Final

from models.engine import EngineEvent, ModelInfo
from models.llama import protocol
from models.llama.cache import Cache
from models.llama.disk import DiskStore
from models.llama.fingerprint import fingerprint
from models.llama.kv_cache import KvCache
from models.llama.loaded_model import LoadedModel
from models.llama.native import NativeBackend
from models.llama.private_cache import PrivateCache
from models.llama.rate import Rates
from models.llama.scheduler import Scheduler
from models.llama.spill import Spill
from models.llama.vocabulary import Vocabulary
from overlay.errors import EngineFailed, HearthError, ModelFileInvalid
from overlay.prefix.radix import RadixTree

log = logging.getLogger(__name__)

#: Decoding leaves the processor to everything else first, above all to the mesh.
NICENESS: Final = 5
_READ_BYTES: Final = 1 << 16
#: A command of the reader's own.
_STOP: Final = "stop"


class _Writer:
    """Whole frames onto the pipe, from any thread."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def write(self, frame: list[Any]) -> None:
        with self._lock:
            self._pipe.write(protocol.pack(frame))
            self._pipe.flush()


class _LogFrames(logging.Handler):
    """What is logged here belongs into the node's log."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # the parent was killed
            self._writer.write([protocol.LOG, record.levelno, record.getMessage()])


class Worker:
    """A loaded model with its scheduler, driven by frames."""

    def __init__(self, options: argparse.Namespace, writer: _Writer) -> None:
        """Raises ModelFileInvalid."""
        self._writer = writer
        path = Path(options.path)
        model = LoadedModel(path, lambda share: writer.write([protocol.PROGRESS, share]))
        self._vocabulary = Vocabulary(model)
        model.check_cells(options.cells)
        cells = options.cells or model.choose_cells()
        self._backend = NativeBackend(model, cells=cells, threads=options.threads)
        context_length = min(model.trained_context, self._backend.cells)
        key = self._vocabulary.model_key(options.name)
        self._events: list[EngineEvent] = []
        rates = Rates()
        cache: Cache
        #: Whether there is a disk to bring the cache to.
        self.saves = False
        if model.needs.divisible:
            tree = RadixTree(b"", key, self._backend.cells)
            disk = _open_disk(options, model, self._backend)
            self.saves = disk is not None
            spill = Spill(options.ram_bytes, disk, rates)
            cache = KvCache(self._backend, tree, spill, rates, time.monotonic)
        else:
            cache = PrivateCache(self._backend, b"", key)
        self._scheduler = Scheduler(
            self._backend,
            cache,
            rates,
            context_length=context_length,
            clock=time.monotonic,
            emit=self._events.append,
            tell=self._tell,
        )
        self._scheduler.warm_up()
        self._commands: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._long_prompts: queue.SimpleQueue[tuple[int, Any, bool]] = queue.SimpleQueue()
        self._stopped = False
        self.info = ModelInfo(
            name=options.name,
            key=key,
            aliases=tuple(options.alias),
            description=model.description(),
            context_length=context_length,
            cells=self._backend.cells,
            size_bytes=path.stat().st_size,
            probe=self._vocabulary.probe(),
        )

    def receive(self, frame: tuple[Any, ...]) -> None:
        """Called by the reader's thread."""
        match frame:
            case (protocol.TOKENIZE, query, prompt, guests) if protocol.takes_long(prompt):
                self._long_prompts.put((query, prompt, guests))
            case (protocol.TOKENIZE, query, prompt, guests):
                self._tokenize(query, prompt, guests)
            case (protocol.REMEMBER, prompt, answer):
                self._vocabulary.remember(
                    protocol.unpack_tokens(prompt), protocol.unpack_tokens(answer)
                )
            case (protocol.CANCEL, request_id):
                self._commands.put(frame)
                if request_id in self._scheduler.prefilling:
                    self._backend.abort()
            case (protocol.SUBMIT, request):
                self._commands.put(frame)
                # The chunk is computed again; who goes first would feel its rest as a delay.
                yielding = self._scheduler.yielding
                if yielding is not None and protocol.priority_of(request) < yielding:
                    self._backend.abort()
            case _:
                self._commands.put(frame)

    def stop(self) -> None:
        """Let `run` end; called by the reader's thread."""
        self._commands.put((_STOP,))
        self._backend.abort()

    def tokenize_long_prompts(self) -> None:
        """In turn and without end, on a thread of its own."""
        while True:
            self._tokenize(*self._long_prompts.get())

    def run(self) -> None:
        """Decode as long as there is work, and wait for commands when there is none."""
        busy = False
        while True:
            if not busy:
                self._obey(self._commands.get())
            while not self._commands.empty():
                self._obey(self._commands.get())
            if self._stopped:
                return
            busy = self._scheduler.step()
            self._tell()

    def save(self) -> None:
        """Bring the cache to disk, if there is one; call when `run` has ended."""
        if self.saves:
            self._scheduler.close()

    def _tell(self) -> None:
        for frame in protocol.event_frames(self._events):
            self._writer.write(frame)
        self._events.clear()

    def _obey(self, command: tuple[Any, ...]) -> None:
        match command:
            case (protocol.SUBMIT, request):
                self._scheduler.submit(protocol.unpack_request(request))
            case (protocol.CANCEL, request_id):
                self._scheduler.cancel(request_id)
            case (protocol.HASH_KEY, key):
                self._scheduler.rekey(key)
            case (protocol.COPIES, changed):
                self._scheduler.copies_changed(protocol.unpack_copies(changed))
            case (kind,) if kind == _STOP:
                self._stopped = True

    def _tokenize(self, query: int, prompt: Any, guests: bool) -> None:
        try:
            tokens = self._vocabulary.tokenize(protocol.unpack_prompt(prompt), guests=guests)
            answer = [protocol.TOKENS, query, protocol.pack_tokens(tokens)]
        except HearthError as error:
            answer = [protocol.REJECTED, query, error.code, str(error)]
        except Exception as error:
            # Our bug: it must not end what all other requests depend on.
            log.error("a prompt could not be tokenized:\n%s", traceback.format_exc())
            reason = f"The prompt could not be tokenized: {error!r}"
            answer = [protocol.REJECTED, query, EngineFailed.code, reason]
        self._writer.write(answer)


def _read(worker: Worker) -> None:
    """Hand frames to the worker; end the process with the pipe."""
    unpacker, code = protocol.unpacker(), 0
    try:
        while data := os.read(0, _READ_BYTES):
            unpacker.feed(data)
            for frame in unpacker:
                worker.receive(frame)
    except Exception:
        traceback.print_exc()
        code = 1
    finally:
        # Without its parent the worker has no purpose.
        if worker.saves:
            worker.stop()
            time.sleep(protocol.SAVE_S)  # the main thread ends the process before
        os._exit(code)


def _open_disk(
    options: argparse.Namespace, model: LoadedModel, backend: NativeBackend
) -> DiskStore | None:
    """The store that the options ask for, if it can be had."""
    if not options.disk:
        return None
    try:
        digest = model.digest(options.disk)
    except OSError as error:
        log.warning("no disk cache, as %s cannot be read: %s", options.path, error.strerror)
        return None
    if digest is None:
        log.warning("no disk cache, as %s was changed while it was loaded", options.path)
        return None
    owner = fingerprint(digest, backend.state_settings)
    store = DiskStore(options.disk, owner, options.disk_bytes, options.disk_sharers)
    return store if store.in_use else None


def _own_stdout() -> BinaryIO:
    """Keep the pipe for frames alone: what llama.cpp prints goes to stderr."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--name", required=True)
    parser.add_argument("--alias", action="append", default=[])
    parser.add_argument("--cells", type=int, default=0)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--ram-bytes", type=int, default=0)
    parser.add_argument("--disk", type=Path)
    parser.add_argument("--disk-bytes", type=int, default=0)
    parser.add_argument("--disk-sharers", type=int, default=1)
    options = parser.parse_args()
    # A terminal sends Ctrl-C to the worker too, and a service's end is told to all its processes.
    # The parent decides when to stop, and lets the disk cache be saved.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    writer = _Writer(_own_stdout())
    logging.getLogger().addHandler(_LogFrames(writer))
    try:
        worker = Worker(options, writer)
    except ModelFileInvalid as error:
        writer.write([protocol.INVALID, str(error)])
        sys.exit(1)
    writer.write([protocol.READY, protocol.pack_info(worker.info)])
    threading.Thread(target=worker.tokenize_long_prompts, daemon=True).start()
    threading.Thread(target=_read, args=(worker,), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # the parent was killed
        worker.run()
    worker.save()
    os._exit(0)


if __name__ == "__main__":
    main()
