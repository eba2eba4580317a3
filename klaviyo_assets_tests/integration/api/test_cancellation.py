"""A cancelled run ends at once, wherever it is waiting."""

import signal
from collections.abc import Callable
from threading import Thread, Timer
from time import monotonic, sleep
from types import FrameType
from typing import NoReturn

import pytest

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.errors import KlaviyoAssetsError, StoppedError
from klaviyo_assets.model.stream import RateLimitBucket, RateTier
from klaviyo_assets_tests.integration.api.conftest import MakeClient, events_request
from klaviyo_assets_tests.integration.api.scripted_server import (
    ServerAction,
    run_server,
    send_and_hang,
    send_response,
    send_slowly,
)
from klaviyo_assets_tests.timing import takes_less_than

LONG_WAIT = send_response(429, b"", {"Retry-After": "250"})


def ends_of(
    client: KlaviyoClient, *, threads: int, when: Callable[[], bool] = lambda: True
) -> list[object]:
    """Return what requests in several threads end with when all is stopped soon after `when`."""
    ends: list[object] = []

    def read() -> None:
        try:
            ends.append(client.fetch(events_request(), lambda answer: answer.body, stream="events"))
        except KlaviyoAssetsError as error:
            ends.append(type(error))

    reading = [Thread(target=read) for _ in range(threads)]
    for each in reading:
        each.start()
    while not when():
        sleep(0.01)
    Timer(0.3, client.cancel).start()
    for each in reading:
        each.join(300)
    return ends


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(LONG_WAIT, id="in Retry-After"),
        pytest.param(send_response(503, b"", {"Retry-After": "250"}), id="in back-off"),
        pytest.param(send_and_hang(), id="before the first byte"),
        pytest.param(
            send_slowly(b"HTTP/1.1 200 OK\r\n" * 999, every_seconds=0.05), id="in headers"
        ),
    ],
)
def test_a_stop_ends_every_thread(act: ServerAction, patient_client_of: MakeClient) -> None:
    """Sleepers and readers of several threads all end within two seconds, as cancelled."""

    def attempt() -> float:
        with run_server(act) as server:
            client = patient_client_of(server, timeout_seconds=30)
            began = monotonic()
            assert ends_of(client, threads=4) == [StoppedError] * 4
            took = monotonic() - began
            with pytest.raises(StoppedError):
                client.fetch(events_request("last"), lambda answer: answer.body, stream="events")
            assert not any("last" in each.line for each in server.received)
        return took

    assert takes_less_than(2, attempt)


def test_a_stop_is_not_taken_for_a_failure(client_of: MakeClient) -> None:
    """Cancelled in the last try there is, a request was still cancelled, and did not fail."""
    with run_server(*[send_response(503, b"")] * 5, send_and_hang()) as server:
        client = client_of(server, timeout_seconds=30)
        ends = ends_of(client, threads=1, when=lambda: len(server.received) == 6)
        assert ends == [StoppedError]


def test_a_stop_ends_the_wait_for_the_budget(patient_client_of: MakeClient) -> None:
    """A cancel ends a wait for our own rate limit at once, not when its minute is over."""
    slow = (RateLimitBucket("GET /api/events", RateTier(name="any", burst=1, steady=1)),)

    def attempt() -> float:
        with run_server(send_response()) as server:
            client = patient_client_of(server)
            client.rate_limiter.reserve(slow)
            client.rate_limiter.block_for_retry_after(events_request().buckets, 250)
            began = monotonic()
            assert ends_of(client, threads=2) == [StoppedError] * 2
            assert server.received == []
            return monotonic() - began

    assert takes_less_than(2, attempt)


class CancelledError(Exception):
    """What a signal's handler raises in the main thread, as Dagster's does."""


@pytest.mark.parametrize("act", [LONG_WAIT, send_and_hang()], ids=["asleep", "reading"])
def test_a_signal_ends_the_main_threads_wait(
    act: ServerAction, patient_client_of: MakeClient
) -> None:
    """The exception of a SIGTERM handler comes through at once, not after the wait."""

    def cancel(_: int, __: FrameType | None) -> NoReturn:
        raise CancelledError

    def attempt() -> float:
        with run_server(act) as server:
            client = patient_client_of(server, timeout_seconds=30)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            began = monotonic()
            with pytest.raises(CancelledError):
                client.fetch(events_request(), lambda answer: answer.body, stream="events")
            return monotonic() - began

    before: Callable[[int, FrameType | None], object] | int | None
    before = signal.signal(signal.SIGALRM, cancel)
    try:
        assert takes_less_than(2, attempt)
    finally:
        signal.signal(signal.SIGALRM, before)
