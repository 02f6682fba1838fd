"""A hub of models on this machine: real HTTP, and whatever can go wrong with it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REVISION = "f" * 40


@dataclass
class Hub:
    """Repositories by name: their files by path. Change any field while it serves."""

    port: int = 0
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    #: Digests it states in place of the true ones.
    digests: dict[str, str] = field(default_factory=dict)
    #: What it answers when it is asked for a repository, in place of the truth.
    says: str | None = None
    #: Files are to be had with this token alone.
    token: str | None = None
    #: Where files really are: a prefix of their addresses.
    elsewhere: str = ""
    gives_ranges: bool = True
    #: Says how much comes; else what comes ends with the connection, broken or not.
    gives_length: bool = True
    #: Called with each request for a file, and where it is to begin; returns a status to answer
    #: with, and how many bytes to send before the connection breaks.
    trouble: Callable[[int], tuple[int, int | None]] = lambda begin: (0, None)
    #: Of each request for a file: where it was to begin, and its Authorization.
    asked: list[tuple[int, str | None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(hub))
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/api/models/"):
                self._tell(path.removeprefix("/api/models/"))
            else:
                self._give(path)

        def _tell(self, repo: str) -> None:
            files = hub.repos.get(repo)
            if hub.says is not None:
                self._send(200, hub.says.encode())
                return
            if files is None:
                self._refuse(401, "Invalid username or password.")
                return
            siblings: list[dict[str, object]] = [{"rfilename": "README.md", "size": 10}]
            for name, content in files.items():
                digest = hub.digests.get(name, hashlib.sha256(content).hexdigest())
                large = {"sha256": digest, "size": len(content), "pointerSize": 134}
                siblings.append({"rfilename": name, "size": len(content), "lfs": large})
            self._send(
                200, json.dumps({"id": repo, "sha": REVISION, "siblings": siblings}).encode()
            )

        def _give(self, path: str) -> None:
            moved = path.startswith("/elsewhere/")
            path = path.removeprefix("/elsewhere")
            if hub.elsewhere and not moved:
                self.send_response(302)
                self.send_header("Location", f"{hub.elsewhere}/elsewhere{self.path}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            repo, _, file = path[1:].partition(f"/resolve/{REVISION}/")
            content = hub.repos[repo][file]
            asks = self.headers.get("Range", "bytes=0-")
            begin = int(asks.removeprefix("bytes=").removesuffix("-")) if hub.gives_ranges else 0
            hub.asked.append((begin, self.headers.get("Authorization")))
            status, most = hub.trouble(begin)
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._refuse(403, "Access to this model is restricted.")
            elif status:
                self._refuse(status, "")
            elif begin >= len(content) and begin:
                self._refuse(416, "")
            else:
                size = len(content)
                part = {"Content-Range": f"bytes {begin}-{size - 1}/{size}"}
                ranges = hub.gives_ranges and "Range" in self.headers
                self._send(206 if ranges else 200, content[begin:], part if ranges else {}, most)

        def _refuse(self, status: int, why: str) -> None:
            self._send(status, b"", {"X-Error-Message": why} if why else {})

        def _send(
            self,
            status: int,
            body: bytes,
            headers: dict[str, str] | None = None,
            most: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if hub.gives_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if most is None else body[:most])
            if most is not None or not hub.gives_length:
                self.close_connection = True

    return Handler
