"""Server-sent events, as OpenAI's API streams them (https://html.spec.whatwg.org/#event-stream)."""

from __future__ import annotations


class SseParser:
    """Bytes in, ``data`` payloads out; other fields and comments are skipped."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[str]:
        """The payloads of the events that ``chunk`` completes. Chunks may split anywhere."""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        payloads = []
        for raw in lines:
            line = raw.removesuffix(b"\r").decode("utf-8", "replace")
            if not line:
                if self._data:
                    payloads.append("\n".join(self._data))
                    self._data = []
                continue
            name, _, value = line.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
        return payloads
