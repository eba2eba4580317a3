"""A server that follows a script, byte by byte: one act for each request, the last one repeated."""

import gzip
import json
import socket
import ssl
import struct
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import time

CERTIFICATE_PATH = Path(__file__).with_name("loopback.pem")

PAGE_BODY = json.dumps({"data": [{"id": "x" * 40} for _ in range(200)], "links": {}}).encode()


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as it arrived: when (epoch seconds), first line, headers in lower case, body."""

    at: float
    line: str
    headers: Mapping[str, str]
    body: bytes


ServerAction = Callable[[socket.socket, "ScriptedServer"], None]
"""Answers one request on its socket; whoever raises ConnectionError closes the connection."""


@dataclass(slots=True)
class ScriptedServer:
    """A running server: its address, what it has seen, and a door that closing opens."""

    url: str
    received: list[ReceivedRequest] = field(default_factory=list[ReceivedRequest])
    connections: int = 0
    closing: Event = field(default_factory=Event)


def http_response(
    status: int = 200, body: bytes = PAGE_BODY, headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a whole answer, with the length that it has."""
    sent_headers = {"Content-Type": "application/vnd.api+json", "Content-Length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in (sent_headers | dict(headers or {})).items()]
    return "\r\n".join([f"HTTP/1.1 {status} Some reason", *lines, "", ""]).encode() + body


def send_response(
    status: int = 200, body: bytes = PAGE_BODY, headers: Mapping[str, str] | None = None
) -> ServerAction:
    """Answer as one should."""
    return send_bytes(http_response(status, body, headers))


def send_gzip_response(body: bytes = PAGE_BODY) -> ServerAction:
    """Answer with the body in gzip."""
    return send_response(200, gzip.compress(body), {"Content-Encoding": "gzip"})


def send_bytes(answer: bytes) -> ServerAction:
    """Send these bytes, and wait for the next request."""

    def act(line: socket.socket, _: ScriptedServer) -> None:
        line.sendall(answer)

    return act


def send_and_close(answer: bytes) -> ServerAction:
    """Send these bytes, and close the connection."""

    def act(line: socket.socket, _: ScriptedServer) -> None:
        line.sendall(answer)
        raise ConnectionError

    return act


def send_and_reset(answer: bytes) -> ServerAction:
    """Send these bytes, and break the connection with a RST."""

    def act(line: socket.socket, _: ScriptedServer) -> None:
        line.sendall(answer)
        # Closing without lingering throws away what is unsent and says so.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionError

    return act


def send_and_hang(answer: bytes = b"") -> ServerAction:
    """Send these bytes, and nothing more until the server is closed."""

    def act(line: socket.socket, server: ScriptedServer) -> None:
        line.sendall(answer)
        server.closing.wait(30)
        raise ConnectionError

    return act


def send_slowly(
    answer: bytes, *, every_seconds: float, size: int = 1, head: bytes = b""
) -> ServerAction:
    """Send the head at once, then these bytes a few at a time."""

    def act(line: socket.socket, server: ScriptedServer) -> None:
        line.sendall(head)
        for start in range(0, len(answer), size):
            line.sendall(answer[start : start + size])
            if server.closing.wait(every_seconds):
                raise ConnectionError

    return act


@contextmanager
def run_server(*actions: ServerAction, is_tls: bool = False) -> Generator[ScriptedServer]:
    """Give a server on a free port of 127.0.0.1 for the length of the block."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    port = listener.getsockname()[1]
    server = ScriptedServer(f"https://localhost:{port}" if is_tls else f"http://127.0.0.1:{port}")
    script = iter(actions)
    last = actions[-1]
    trust = server_tls_context() if is_tls else None

    def answer(plain: socket.socket) -> None:
        with suppress(OSError), plain:
            line = trust.wrap_socket(plain, server_side=True) if trust else plain
            with line:
                while (seen := read_request(line)) is not None:
                    server.received.append(seen)
                    next(script, last)(line, server)

    def accept() -> None:
        with suppress(OSError):
            while True:
                line, _ = listener.accept()
                server.connections += 1
                Thread(target=answer, args=(line,), daemon=True).start()

    accepting = Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield server
    finally:
        server.closing.set()
        # Closing alone does not wake a thread that waits in accept.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(10)


def server_tls_context() -> ssl.SSLContext:
    """Return a server's side of TLS with the certificate for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE_PATH)
    return context


def read_request(connection: socket.socket) -> ReceivedRequest | None:
    """Return the next request on a connection; None when the other side has gone."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return None
        head += byte
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = (text.partition(":") for text in rest if text)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = b""
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    return ReceivedRequest(time(), first, headers, body)
