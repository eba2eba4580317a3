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

from klaviyo_assets.sandbox.admin import AdminEndpoints
from klaviyo_assets.sandbox.faults.rules import Fault
from klaviyo_assets.sandbox.faults.transport import TransmissionPlan, plan_transmission
from klaviyo_assets.sandbox.http_messages import HttpRequest, HttpResponse
from klaviyo_assets.sandbox.service import SandboxService

LOOPBACK = "127.0.0.1"
GZIP_MIN_BYTES = 1400


class SandboxServer(ThreadingHTTPServer):
    """A server bound to loopback; threads end with the process."""

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, service: SandboxService, port: int) -> None:
        """Bind; port 0 takes a free one."""
        self.service = service
        self.closing = threading.Event()
        super().__init__((LOOPBACK, port), SandboxRequestHandler)
        self.url = f"http://{LOOPBACK}:{self.server_port}"
        self.admin = AdminEndpoints(service)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when a client goes away in the middle of an answer."""


class SandboxRequestHandler(BaseHTTPRequestHandler):
    """One client connection, kept alive between requests."""

    protocol_version = "HTTP/1.1"
    server_version = "cloudflare"
    sys_version = ""
    disable_nagle_algorithm = True
    rbufsize = 65_536
    timeout = 120

    @property
    def sandbox_server(self) -> SandboxServer:
        """The server, by its own type."""
        return cast("SandboxServer", self.server)

    def do_GET(self) -> None:
        """Answer a GET."""
        self.serve_request()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def serve_request(self) -> None:
        """Read the request, let the service or the admin side answer, send it at once."""
        request = self.read_request()
        if request.path.startswith("/__"):
            with self.sandbox_server.service.lock:
                response = self.sandbox_server.admin.respond(request)
            self.transmit(response, None)
            return
        service = self.sandbox_server.service
        entry = service.open_journal_entry(request)
        fault = service.faults.pick_fault(request)
        entry.fault = None if fault is None else fault.kind
        request = service.faults.rewrite_request(request, fault)
        time.sleep(service.config.latency_ms / 1000)
        response = service.respond(request, entry)
        response = service.faults.apply_fault(fault, request, response, entry.number)
        entry.status, entry.kind = response.status, response.kind
        entry.shown_ordinals.extend(response.shown_ordinals)
        entry.body_size = self.transmit(response, fault)

    def read_request(self) -> HttpRequest:
        """The request's values; header names in lower case."""
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(headers.get("content-length") or 0)
        host = headers.get("host")
        return HttpRequest(
            method=self.command,
            path=path,
            query=query,
            headers=headers,
            body=self.rfile.read(length) if length else b"",
            origin=f"http://{host}" if host else self.sandbox_server.url,
        )

    def transmit(self, response: HttpResponse, fault: Fault | None) -> int:
        """Send an answer, in one write unless a fault wants otherwise; the bytes of its body."""
        headers = dict(response.headers)
        body = self.compress_body(response.body, headers)
        travel = plan_transmission(fault, body)
        if travel.connection_end != "keep":
            self.close_connection = True
        if travel.initial_pause_seconds and self.is_closed_after(travel.initial_pause_seconds):
            return 0
        if not travel.is_silent:
            date = self.date_header(fault)
            dated = {"Date": date, **headers} if date else headers
            self.write_pieces(travel, self.render_head(response.status, dated, travel))
        if travel.connection_end == "reset":
            reset_connection(self.connection)
        return len(body)

    def compress_body(self, body: bytes, headers: dict[str, str]) -> bytes:
        """The body gzipped where the client accepts it and it is worth it."""
        accepted = self.headers.get("Accept-Encoding", "")
        wanted = self.sandbox_server.service.config.gzip and "gzip" in accepted
        if not wanted or len(body) < GZIP_MIN_BYTES or "content-encoding" in headers:
            return body
        headers["content-encoding"] = "gzip"
        return gzip.compress(body, compresslevel=1, mtime=0)

    def write_pieces(self, plan: TransmissionPlan, head: bytes) -> None:
        """Write head and pieces; pauses end early when the sandbox stops."""
        if self.command == "HEAD":
            self.connection.sendall(head)
            return
        if len(plan.pieces) == 1 and not plan.is_chunked:
            self.connection.sendall(head + plan.pieces[0])
            return
        self.connection.sendall(head)
        for piece in plan.pieces:
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if plan.is_chunked else piece
            self.connection.sendall(framed)
            if plan.pause_seconds and self.is_closed_after(plan.pause_seconds):
                return
        if plan.is_chunked and plan.has_final_chunk:
            self.connection.sendall(b"0\r\n\r\n")

    def is_closed_after(self, seconds: float) -> bool:
        """Wait that long; whether the sandbox was closed meanwhile."""
        return self.sandbox_server.closing.wait(seconds)

    def render_head(self, status: int, headers: dict[str, str], plan: TransmissionPlan) -> bytes:
        """Status line and headers."""
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if plan.is_chunked:
            lines.append("Transfer-Encoding: chunked")
        else:
            lines.append(f"content-length: {plan.content_length}")
        if self.close_connection:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def date_header(self, fault: Fault | None) -> str:
        """The date of an answer: the sandbox's time, unless a fault has it wrong, or empty."""
        clock = self.sandbox_server.service.clock
        if fault is None or fault.kind != "date":
            return clock.http_date()
        return fault.text("text", clock.http_date(ahead=fault.number("seconds", 0)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base's name)
        """Keep standard error quiet; the journal is the log."""


class Sandbox:
    """A running sandbox; `url`, `journal`, `clock`, `store` are for tests in the same process."""

    def __init__(self, service: SandboxService, port: int) -> None:
        """Bind and start serving in a thread."""
        self.service = service
        self.server = SandboxServer(service, port)
        self.url = self.server.url
        self.journal = service.journal
        self.clock = service.clock
        self.store = service.store
        self.faults = service.faults.script
        self.key = service.config.keys[0].value
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


def reset_connection(connection: socket.socket) -> None:
    """Close so that the client sees a reset, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
