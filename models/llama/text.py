"""From token bytes to text that may be shown: UTF-8 and stop strings across token borders."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Decodes an answer piece by piece.

    Text is held back while it could still turn out to be the beginning of a stop string, and
    while its last character is incomplete. What is shown does not depend on how the bytes were
    cut into pieces. ``skip`` characters have been shown already, before a fail-over.
    """

    def __init__(self, stop: Sequence[str] = (), skip: int = 0) -> None:
        self._stop = tuple(string for string in stop if string)
        self._skip = skip
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        #: A stop string was found: nothing more will be shown.
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Add a token's bytes; returns the text that may be shown now."""
        return self._release(self._decoder.decode(piece))

    def finish(self) -> str:
        """The answer is over; returns the text that was held back."""
        text = self._release(self._decoder.decode(b"", final=True))
        if not self.stopped:
            text += self._show(self._held)
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [
            (start + len(string), start)
            for string in self._stop
            if (start := self._held.find(string)) >= 0
        ]
        if found:
            # The stop string that is complete first, as if characters came one by one.
            self.stopped = True
            shown, self._held = self._held[: min(found)[1]], ""
        else:
            keep = self._partial_stop()
            shown = self._held[: len(self._held) - keep]
            self._held = self._held[len(self._held) - keep :]
        return self._show(shown)

    def _partial_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(string) for string in self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(string.startswith(self._held[-size:]) for string in self._stop):
                return size
        return 0

    def _show(self, text: str) -> str:
        skipped = min(self._skip, len(text))
        self._skip -= skipped
        return text[skipped:]
