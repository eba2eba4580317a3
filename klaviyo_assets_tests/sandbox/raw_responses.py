"""What the tests of faults share: a target, the raw bytes of a response, the ids shown."""

import socket
import time

from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient

EVENTS_TARGET = "/api/events?page[size]=5&sort=datetime"


def read_raw_response(
    client: SandboxClient, target: str, seconds: float = 30.0
) -> tuple[bytes, str]:
    """The bytes that come within some seconds, and how the connection ended."""
    with socket.create_connection(("127.0.0.1", client.connection.port), timeout=seconds) as link:
        head = f"GET {target} HTTP/1.1\r\nHost: sandbox\r\nrevision: 2026-07-15\r\n"
        head += f"Authorization: Klaviyo-API-Key {client.sandbox.key}\r\n\r\n"
        link.sendall(head.replace("[", "%5B").replace("]", "%5D").encode())
        found = b""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                piece = link.recv(65_536)
                if not piece:
                    return found, "closed"
                found += piece
        except TimeoutError:
            return found, "open"
        except ConnectionResetError:
            return found, "reset"
    return found, "open"


def shown_ids(client: SandboxClient) -> list[str]:
    """The ids that the journal counts as shown intact."""
    return client.call_admin("GET", "/__journal/ids?path=/api/events")["ids"]
