"""The socket: HTTP/1.1 on loopback, one thread per connection, one write per answer.

Knows bytes and connections; what the answers are is decided in `service` and `admin`.
"""

import gzip
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from klaviyo_assets.sandbox.admin import Admin
from klaviyo_assets.sandbox.service import Reply, Request, Service

LOOPBACK = "127.0.0.1"
GZIP_FROM_BYTES = 1400


class SandboxServer(ThreadingHTTPServer):
    """A server bound to loopback; threads end with the process."""

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, service: Service, port: int) -> None:
        """Bind; port 0 takes a free one."""
        self.service = service
        super().__init__((LOOPBACK, port), SandboxConnection)
        self.url = f"http://{LOOPBACK}:{self.server_port}"
        self.admin = Admin(service)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when a client goes away in the middle of an answer."""


class SandboxConnection(BaseHTTPRequestHandler):
    """One client connection, kept alive between requests."""

    protocol_version = "HTTP/1.1"
    server_version = "cloudflare"
    sys_version = ""
    disable_nagle_algorithm = True
    rbufsize = 65_536
    timeout = 120

    @property
    def sandbox(self) -> SandboxServer:
        """The server, by its own type."""
        return cast("SandboxServer", self.server)

    def do_GET(self) -> None:  # noqa: N802  (the standard library's name)
        """Answer a GET."""
        self.serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def serve(self) -> None:
        """Read the request, let the service or the admin side answer, send it at once."""
        request = self.read()
        if request.path.startswith("/__"):
            self.send(self.sandbox.admin.answer(request))
            return
        service = self.sandbox.service
        entry = service.open_entry(request)
        if service.account.latency_ms:
            time.sleep(service.account.latency_ms / 1000)
        reply = service.answer(request, entry)
        entry.status = reply.status
        entry.kind = reply.kind
        entry.shown.extend(reply.shown)
        entry.size = self.send(reply)

    def read(self) -> Request:
        """The request's values; header names in lower case."""
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(headers.get("content-length") or 0)
        host = headers.get("host")
        return Request(
            method=self.command,
            path=path,
            query=query,
            headers=headers,
            body=self.rfile.read(length) if length else b"",
            origin=f"http://{host}" if host else self.sandbox.url,
        )

    def send(self, reply: Reply) -> int:
        """Send an answer in one write; the bytes of its body as sent."""
        body = reply.body
        headers = dict(reply.headers)
        accepted = self.headers.get("Accept-Encoding", "")
        wanted = self.sandbox.service.account.gzip and "gzip" in accepted
        if wanted and len(body) >= GZIP_FROM_BYTES and "content-encoding" not in headers:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(body))
        head = self.head(reply.status, headers)
        self.connection.sendall(head if self.command == "HEAD" else head + body)
        return len(body)

    def head(self, status: int, headers: dict[str, str]) -> bytes:
        """Status line and headers; the date is the sandbox's."""
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}", f"Date: {self.sandbox.service.clock.http_date()}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self.close_connection:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base's name)
        """Keep standard error quiet; the journal is the log."""


class Sandbox:
    """A running sandbox; `url`, `journal`, `clock`, `shop` are for tests in the same process."""

    def __init__(self, service: Service, port: int) -> None:
        """Bind and start serving in a thread."""
        self.service = service
        self.server = SandboxServer(service, port)
        self.url = self.server.url
        self.journal = service.journal
        self.clock = service.clock
        self.shop = service.shop
        self.key = service.account.keys[0].value
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self.thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(timeout=5)


def reset(connection: socket.socket) -> None:
    """Close so that the client sees a reset, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
