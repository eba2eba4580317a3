"""The socket: loopback only, connections reused, bodies gzipped for clients that accept it."""

import gzip
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from klaviyo_assets_tests.sandbox.conftest import StartSandbox
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient

EVENTS = "/api/events?page[size]=100"


def test_a_body_is_packed_for_those_who_accept_it(client: SandboxClient) -> None:
    """With `Accept-Encoding: gzip` the body is gzipped, else plain, with the same content."""
    plain = client.request(EVENTS)
    packed = client.request(EVENTS, {"Accept-Encoding": "gzip, deflate"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 3
    assert gzip.decompress(packed.body) == plain.body


def test_packing_can_be_switched_off(start_sandbox: StartSandbox) -> None:
    """An account without gzip sends plain bodies to everyone."""
    client = start_sandbox(gzip=False)
    assert "content-encoding" not in client.request(EVENTS, {"Accept-Encoding": "gzip"}).headers


def test_a_connection_serves_many_requests(client: SandboxClient) -> None:
    """Answers, refusals and bodies of POSTs leave the connection open for the next request."""
    client.request(EVENTS)
    link = client.connection.sock
    for target, method, body in (
        ("/api/nowhere", "GET", None),
        ("/api/lists", "POST", b'{"data":{}}'),
        (EVENTS, "GET", None),
        ("/__journal?summary=1", "GET", None),
    ):
        client.request(target, method=method, body=body)
        assert client.connection.sock is link


def test_many_clients_at_once_see_the_same(client: SandboxClient) -> None:
    """Eight clients in parallel read the same pages, and the journal has each request."""
    before = len(client.call_admin("GET", "/__journal")["requests"])

    def ids(_: int) -> list[str]:
        other_client = SandboxClient(client.sandbox)
        found = other_client.read_ids("/api/events?page[size]=300&sort=datetime")
        other_client.close()
        return found

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ids, range(8)))
    assert all(each == found[0] for each in found)
    entries = client.call_admin("GET", "/__journal")["requests"]
    assert len(entries) - before == 8 * -(-len(found[0]) // 300)
    assert len({entry["n"] for entry in entries}) == len(entries)


def test_only_loopback_is_served(client: SandboxClient) -> None:
    """The server is bound to 127.0.0.1."""
    assert client.sandbox.server.server_address[0] == "127.0.0.1"


def test_latency_is_added_to_every_answer(start_sandbox: StartSandbox) -> None:
    """In an account with latency every response comes that much later."""
    client = start_sandbox(latency_ms=60)
    before = time.monotonic()
    client.request("/api/tags")
    assert time.monotonic() - before >= 0.06


@pytest.mark.parametrize("path", ["/api/tags", "/api/events?page[size]=5"])
def test_answers_are_not_held_back(client: SandboxClient, path: str) -> None:
    """A response does not wait forty milliseconds for the client's acknowledgement."""
    client.request(path)
    seconds: list[float] = []
    for _ in range(30):
        before = time.monotonic()
        client.request(path)
        seconds.append(time.monotonic() - before)
    # The quickest: on a busy machine the others only show the load.
    assert min(seconds) < 0.03
