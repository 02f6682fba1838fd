"""Install llama-cpp-python with visible progress: it compiles llama.cpp, which takes minutes, once.

Run by the interpreter of the environment to install into: ``install_llama.py LOCK_FILE``. pip does
the work, with the user's own settings; this only reads its output. Standard library only.
"""

# ruff: noqa: T201 (what it prints is its purpose)

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

STEP = re.compile(r"\[(\d+)/(\d+)\]")
DOWNLOAD = re.compile(r"Downloading (llama_cpp_python\S*)")
#: Between two lines where no terminal can redraw one.
SPARSE_S = 30.0
ERROR_LINES = 40


class Progress:
    """One line that redraws itself on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        self.stage = "asking pip for llama-cpp-python"
        self.log: deque[str] = deque(maxlen=ERROR_LINES)
        self.built = False
        self._start = time.monotonic()
        self._shown = 0.0
        self._tty = sys.stdout.isatty()
        self._over = threading.Event()

    def read(self, line: str) -> None:
        """Learn the stage from a line that pip printed."""
        self.log.append(line)
        if step := STEP.search(line):
            self.built = True
            done, total = step.groups()
            self.stage = f"compiling llama.cpp, once: step {done} of {total}"
        elif DOWNLOAD.search(line):
            self.stage = "downloading the source of llama-cpp-python (77 MB)"
        elif "Installing build dependencies" in line:
            self.stage = "installing build tools for llama.cpp"
        elif "Building wheel" in line:
            self.stage = "configuring llama.cpp"
        elif line.startswith("Installing collected packages"):
            self.stage = "installing llama-cpp-python"

    def tick_until_over(self) -> None:
        while not self._over.wait(0.5 if self._tty else 1.0):
            elapsed = time.monotonic() - self._start
            if self._tty:
                width = shutil.get_terminal_size().columns - 1
                print(f"\r\x1b[K{self._line(elapsed)[:width]}", end="", flush=True)
            elif elapsed - self._shown >= SPARSE_S:
                self._shown = elapsed
                print(self._line(elapsed), flush=True)

    def close(self) -> None:
        self._over.set()

    def _line(self, elapsed: float) -> str:
        return f"  {self.stage} ({clock(elapsed)})"

    def elapsed(self) -> str:
        return clock(time.monotonic() - self._start)


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def requirement(lock: Path) -> str:
    for line in lock.read_text().splitlines():
        if line.startswith("llama-cpp-python=="):
            return line.strip()
    sys.exit(f"{lock} does not pin llama-cpp-python")


def main(lock: Path) -> int:
    log_path = Path(sys.prefix) / "install-llama.log"
    command = [sys.executable, "-m", "pip", "install", "--verbose", "--no-input"]
    command += ["-c", str(lock), requirement(lock)]
    print("Installing llama.cpp (it compiles once, 2 to 5 minutes on a laptop)", flush=True)
    progress = Progress()
    ticker = threading.Thread(target=progress.tick_until_over)
    ticker.start()
    try:
        with (
            log_path.open("w", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            ) as pip,
        ):
            assert pip.stdout is not None
            for line in pip.stdout:
                log.write(line)
                progress.read(line.rstrip())
        status = pip.returncode
    finally:
        progress.close()
        ticker.join()
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)
    if status == 0:
        how = "compiled and installed" if progress.built else "installed"
        print(f"llama.cpp is {how} ({progress.elapsed()})")
        return 0
    print("\n".join(progress.log))
    print(f"\nllama-cpp-python could not be installed; the whole log is {log_path}")
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        print("It needs a C++ compiler. On Debian and Ubuntu: sudo apt install build-essential")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(130)
