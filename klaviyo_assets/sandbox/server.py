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
from klaviyo_assets.sandbox.faults.script import Fault
from klaviyo_assets.sandbox.faults.wire import Plan, plan
from klaviyo_assets.sandbox.reply import Reply, Request
from klaviyo_assets.sandbox.service import Service

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
        self.closing = threading.Event()
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

    def do_GET(self) -> None:
        """Answer a GET."""
        self.serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def serve(self) -> None:
        """Read the request, let the service or the admin side answer, send it at once."""
        request = self.read()
        if request.path.startswith("/__"):
            with self.sandbox.service.lock:
                reply = self.sandbox.admin.answer(request)
            self.send(reply, None)
            return
        service = self.sandbox.service
        entry = service.open_entry(request)
        fault = service.faults.pick(request)
        entry.fault = None if fault is None else fault.kind
        request = service.faults.rewritten(request, fault)
        time.sleep(service.account.latency_ms / 1000)
        reply = service.answer(request, entry)
        reply = service.faults.applied(fault, request, reply, entry.number)
        entry.status, entry.kind = reply.status, reply.kind
        entry.shown.extend(reply.shown)
        entry.size = self.send(reply, fault)

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

    def send(self, reply: Reply, fault: Fault | None) -> int:
        """Send an answer, in one write unless a fault wants otherwise; the bytes of its body."""
        headers = dict(reply.headers)
        body = self.packed(reply.body, headers)
        travel = plan(fault, body)
        if travel.end != "keep":
            self.close_connection = True
        if travel.before and self.stopped(travel.before):
            return 0
        if not travel.silent:
            date = self.date(fault)
            dated = {"Date": date, **headers} if date else headers
            self.deliver(travel, self.head(reply.status, dated, travel))
        if travel.end == "reset":
            reset(self.connection)
        return len(body)

    def packed(self, body: bytes, headers: dict[str, str]) -> bytes:
        """The body gzipped where the client accepts it and it is worth it."""
        accepted = self.headers.get("Accept-Encoding", "")
        wanted = self.sandbox.service.account.gzip and "gzip" in accepted
        if not wanted or len(body) < GZIP_FROM_BYTES or "content-encoding" in headers:
            return body
        headers["content-encoding"] = "gzip"
        return gzip.compress(body, compresslevel=1, mtime=0)

    def deliver(self, travel: Plan, head: bytes) -> None:
        """Write head and pieces; pauses end early when the sandbox stops."""
        if self.command == "HEAD":
            self.connection.sendall(head)
            return
        if len(travel.pieces) == 1 and not travel.chunked:
            self.connection.sendall(head + travel.pieces[0])
            return
        self.connection.sendall(head)
        for piece in travel.pieces:
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if travel.chunked else piece
            self.connection.sendall(framed)
            if travel.pause and self.stopped(travel.pause):
                return
        if travel.chunked and travel.terminated:
            self.connection.sendall(b"0\r\n\r\n")

    def stopped(self, seconds: float) -> bool:
        """Wait that long; whether the sandbox was closed meanwhile."""
        return self.sandbox.closing.wait(seconds)

    def head(self, status: int, headers: dict[str, str], travel: Plan) -> bytes:
        """Status line and headers."""
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if travel.chunked:
            lines.append("Transfer-Encoding: chunked")
        else:
            lines.append(f"content-length: {travel.declared}")
        if self.close_connection:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def date(self, fault: Fault | None) -> str:
        """The date of an answer: the sandbox's time, unless a fault has it wrong, or empty."""
        clock = self.sandbox.service.clock
        if fault is None or fault.kind != "date":
            return clock.http_date()
        return fault.text("text", clock.http_date(ahead=fault.number("seconds", 0)))

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
        self.faults = service.faults.script
        self.key = service.account.keys[0].value
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self.thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self.server.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(timeout=5)


def reset(connection: socket.socket) -> None:
    """Close so that the client sees a reset, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
