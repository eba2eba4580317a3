"""A cancelled run ends at once, wherever it is waiting."""

import signal
from collections.abc import Callable
from threading import Thread, Timer
from time import monotonic
from types import FrameType
from typing import NoReturn

import pytest

from klaviyo_assets.api.client import Client
from klaviyo_assets.errors import KlaviyoAssetsError, StoppedError
from klaviyo_assets.model.tiers import Budget, Tier
from klaviyo_assets_tests.attempts import quickest
from klaviyo_assets_tests.integration.api.conftest import MakeClient, events
from klaviyo_assets_tests.integration.api.wire import Act, Server, hang, reply, serving, trickle

LONG_WAIT = reply(429, b"", {"Retry-After": "250"})


def ends_of(client: Client, server: Server, *, threads: int) -> list[object]:
    """Return what requests in several threads end with when all is stopped after a moment."""
    ends: list[object] = []

    def read() -> None:
        try:
            ends.append(client.read(events(server), lambda answer: answer.body, stream="events"))
        except KlaviyoAssetsError as error:
            ends.append(type(error))

    reading = [Thread(target=read) for _ in range(threads)]
    Timer(0.3, client.stop).start()
    for each in reading:
        each.start()
    for each in reading:
        each.join(10)
    return ends


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(LONG_WAIT, id="in Retry-After"),
        pytest.param(reply(503, b"", {"Retry-After": "250"}), id="in back-off"),
        pytest.param(hang(), id="before the first byte"),
        pytest.param(trickle(b"HTTP/1.1 200 OK\r\n" * 999, every_seconds=0.05), id="in headers"),
    ],
)
def test_a_stop_ends_every_thread(act: Act, patient_client_of: MakeClient) -> None:
    """Sleepers and readers of several threads all end within two seconds, as cancelled."""

    def attempt() -> float:
        with serving(act) as server:
            client = patient_client_of(server, timeout_seconds=30)
            began = monotonic()
            assert ends_of(client, server, threads=4) == [StoppedError] * 4
            took = monotonic() - began
            asked = len(server.seen)
            with pytest.raises(StoppedError):
                client.read(events(server), lambda answer: answer.body, stream="events")
            assert len(server.seen) == asked
        return took

    assert quickest(attempt, within=2) < 2


def test_a_stop_is_not_taken_for_a_failure(client_of: MakeClient) -> None:
    """Cancelled in the last try there is, a request was still cancelled, and did not fail."""
    with serving(*[reply(503, b"")] * 5, hang()) as server:
        client = client_of(server, timeout_seconds=30)
        assert ends_of(client, server, threads=1) == [StoppedError]
        assert len(server.seen) == 6


def test_a_stop_ends_the_wait_for_the_budget(patient_client_of: MakeClient) -> None:
    """Whoever queues for our own limit is not kept until the minute is over."""
    slow = (Budget("GET /api/events", Tier(name="any", burst=1, steady=1)),)

    def attempt() -> float:
        with serving(reply()) as server:
            client = patient_client_of(server)
            client.ledger.reserve(slow)
            client.ledger.note_retry_after(events(server).budgets, 250)
            began = monotonic()
            assert ends_of(client, server, threads=2) == [StoppedError] * 2
            assert server.seen == []
            return monotonic() - began

    assert quickest(attempt, within=2) < 2


class CancelledError(Exception):
    """What a signal's handler raises in the main thread, as Dagster's does."""


@pytest.mark.parametrize("act", [LONG_WAIT, hang()], ids=["asleep", "reading"])
def test_a_signal_ends_the_main_threads_wait(act: Act, patient_client_of: MakeClient) -> None:
    """The exception of a SIGTERM handler comes through at once, not after the wait."""

    def cancel(_: int, __: FrameType | None) -> NoReturn:
        raise CancelledError

    def attempt() -> float:
        with serving(act) as server:
            client = patient_client_of(server, timeout_seconds=30)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            began = monotonic()
            with pytest.raises(CancelledError):
                client.read(events(server), lambda answer: answer.body, stream="events")
            return monotonic() - began

    before: Callable[[int, FrameType | None], object] | int | None
    before = signal.signal(signal.SIGALRM, cancel)
    try:
        assert quickest(attempt, within=2) < 2
    finally:
        signal.signal(signal.SIGALRM, before)
