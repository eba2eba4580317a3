"""Connections: F16 and F17. No server, or another server: reported, and never trusted."""

import socket
from collections.abc import Callable
from typing import NoReturn

import pytest

from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.faults.assertions import assert_complete, has_table
from klaviyo_assets_tests.integration.api.scripted_server import (
    CERTIFICATE_PATH,
    run_server,
    send_response,
)

KLAVIYO = "https://a.klaviyo.com"


def free_port() -> int:
    """Return a port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def unknown(*_: object, **__: object) -> NoReturn:
    """Resolve as a resolver does that knows no such name."""
    raise socket.gaierror(-2, "Name or service not known")


def resolve_to_blocked_address(*_: object, **__: object) -> list[tuple[object, ...]]:
    """Resolve as a filter does that blocks names; nobody listens there."""
    port = free_port()
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", port))]  # noqa: S104


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize(
    ("resolver", "message"),
    [
        (unknown, "no response from a.klaviyo.com: gaierror"),
        (resolve_to_blocked_address, "resolves to 0.0.0.0: a DNS filter on this network blocks it"),
    ],
    ids=["unknown", "blocked"],
)
def test_f16_a_host_name_that_cannot_be_resolved_is_reported(
    home: Home, resolver: Callable[..., object], message: str
) -> None:
    """Name and hint come after bounded tries; the next run, with the name there again, reads."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", resolver)
        run = home.sync("lists", base_url=KLAVIYO)
    assert message in run.failures["lists"]
    assert "a.klaviyo.com" in run.failures["lists"]
    assert "Given up after 6 tries" in run.failures["lists"]
    assert run.attempts["lists"] == 2
    assert not has_table(home, "lists")
    assert home.sync("lists").success
    assert_complete(home, "lists")


@pytest.mark.usefixtures("fast_retries")
def test_f16_a_refused_connection_is_reported(home: Home) -> None:
    """A refused connection fails the stream after bounded tries, with the host and a hint."""
    run = home.sync("lists", base_url=f"http://127.0.0.1:{free_port()}")
    assert "no response from 127.0.0.1: ConnectionRefusedError" in run.failures["lists"]
    assert (
        "Check the network, any proxy, and that 127.0.0.1 can be reached" in run.failures["lists"]
    )
    assert "Given up after 6 tries" in run.failures["lists"]
    assert run.attempts["lists"] == 2
    assert home.sync("lists").success
    assert_complete(home, "lists")


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize("trusted", [False, True], ids=["unknown authority", "another name"])
def test_f17_a_certificate_that_cannot_be_verified_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch, *, trusted: bool
) -> None:
    """Nothing is sent over such a connection, not even at a second try; the text says why."""
    with run_server(send_response(), is_tls=True) as stranger:
        url = stranger.url
        if trusted:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE_PATH))
            url = url.replace("localhost", "127.0.0.1")
        run = home.sync("lists", base_url=url)
        assert stranger.received == []
        assert stranger.connections == 1
    assert "CERTIFICATE_VERIFY_FAILED" in run.failures["lists"]
    assert "the key was not sent" in run.failures["lists"]
    assert run.attempts["lists"] == 1
    assert not has_table(home, "lists")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    assert home.sync("lists").success
    assert_complete(home, "lists")
