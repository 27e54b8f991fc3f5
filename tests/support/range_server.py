# SPDX-License-Identifier: GPL-2.0-or-later
"""A web server on loopback: ranges as RFC 9110, 14 has them, and the ways in which servers fail."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, and how.

    Attributes:
        files: Bytes by path.
        ranges: Give ranges; else the whole file every time.
        sizes: Say how long files are.
        tags: What ETags begin with, None for no ETags.
        more: Bytes that an answer to a range has beyond it.
        password: Asked for, as user:password in base64.
        fail: Given the number of a request for bytes, the status to answer with, 0 to serve it, -1 to hang up halfway.
        raw: Given the method and the Range that is asked for, what goes over the wire instead, head and all; None: the
            usual answer. The connection ends behind it.
        tls: Certificate and key (PEM) to serve https with.
        asked: (path with query, Range) of each request for bytes.
        sent: Bytes of bodies.
        authorized: Whether each request brought a password.
    """

    files: dict[str, bytes]
    ranges: bool = True
    sizes: bool = True
    tags: str | None = ""
    more: int = 0
    password: str | None = None
    fail: Callable[[int], int] = lambda number: 0
    after: Callable[[int], None] = lambda number: None
    raw: Callable[[str, str], Iterable[bytes] | None] = lambda method, asked: None
    tls: str | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    authorized: list[bool] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(**more: object) -> Iterator[Site]:  # noqa: C901 - a handler is a class
    """Serve while the context lasts."""
    site = Site(**more)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def _head(self, code: int, size: int, **more: str) -> None:
            self.send_response(code)
            for name, value in more.items():
                self.send_header(name.replace("_", "-"), value)
            if site.sizes:
                self.send_header("Content-Length", str(size))
            else:
                self.send_header("Connection", "close")
            self.end_headers()

        def do_HEAD(self) -> None:
            self._answer(head=True)

        def do_GET(self) -> None:
            self._answer(head=False)

        def _raw(self) -> bool:
            parts = site.raw(self.command, self.headers.get("Range", ""))
            if parts is None:
                return False
            self.close_connection = True
            if self.command == "GET":
                site.asked.append((self.path, self.headers.get("Range", "")))
            with suppress(ConnectionError):
                for part in parts:
                    self.wfile.write(part)
                    site.sent += len(part)
            return True

        def _answer(self, *, head: bool) -> None:
            if self._raw():
                return
            site.authorized.append("Authorization" in self.headers)
            data = site.files.get(self.path.partition("?")[0])
            if site.password is not None and self.headers.get("Authorization") != f"Basic {site.password}":
                self._head(401, 0)
                return
            if data is None:
                self._head(404, 0)
                return
            tag = {"ETag": f'"{site.tags}{hashlib.sha256(data).hexdigest()[:16]}"'} if site.tags is not None else {}
            if head:
                self._head(200, len(data), **tag)
                return
            number = len(site.asked)
            site.asked.append((self.path, self.headers.get("Range", "")))
            status = site.fail(number)
            if status > 0:
                self._head(status, 0)
                return
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            code, part = 200, data
            if found is not None and site.ranges:
                low, high = int(found[1]), int(found[2]) + 1
                code, part = 206, data[low:high] + bytes(site.more)
                tag["Content_Range"] = f"bytes {low}-{min(high, len(data)) - 1}/{len(data)}"
            self._head(code, len(part), **tag)
            if status < 0:
                self.wfile.write(part[: len(part) // 2])
                self.close_connection = True
                return
            try:
                self.wfile.write(part)
                site.sent += len(part)
            except ConnectionError:  # nobody wants the rest
                self.close_connection = True
            if not site.sizes:
                self.close_connection = True
            site.after(number)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *words: object) -> None:  # a client that was killed
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if site.tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(site.tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    site.url = f"http{'s' if site.tls else ''}://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
