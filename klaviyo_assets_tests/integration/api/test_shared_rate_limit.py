"""Threads and processes together stay within one rate limit, counted by the server."""

import multiprocessing
import sqlite3
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from threading import Thread

from klaviyo_assets.api import rate_limit_store
from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.messages import Request, Response
from klaviyo_assets.api.rate_limiter import RATE_LIMIT_STORE_FILE_NAME, RateLimiter
from klaviyo_assets.errors import StoppedError
from klaviyo_assets.model.stream import RateLimitBucket, RateTier
from klaviyo_assets.settings import DEFAULT_REVISION
from klaviyo_assets_tests.integration.api import first_requests
from klaviyo_assets_tests.integration.api.conftest import KEY, FakeClock, MakeClient, events_request
from klaviyo_assets_tests.integration.api.scripted_server import (
    PAGE_BODY,
    run_server,
    send_response,
)

TIER = RateTier(name="any", burst=6, steady=18)


def most_within(moments: Sequence[float], seconds: float) -> int:
    """Return the most moments that any half-open stretch of `seconds` holds."""
    ordered = sorted(moments)
    return max(bisect_left(ordered, at + seconds) - place for place, at in enumerate(ordered))


def fetch_until(stop: Event, url: str, folder: Path, both_ready: Barrier) -> None:
    """Fetch as fast as the rate limit store lets one, as a process of its own."""
    rate_limit_store.BUSY_TIMEOUT_SECONDS = 300
    client = KlaviyoClient(
        base_url=url,
        api_key=KEY,
        revision=DEFAULT_REVISION,
        rate_limiter=RateLimiter(folder, "a", share=1.0),
    )
    request = Request("GET", "/api/any", (RateLimitBucket("GET /api/any", TIER),), "/api/any")
    Thread(target=lambda: stop.wait() and client.cancel(), daemon=True).start()
    both_ready.wait()
    with suppress(StoppedError):
        while True:
            client.fetch(request, lambda answer: answer.status, stream="any")


def test_processes_together_keep_to_one_budget(tmp_path: Path) -> None:
    """Two processes at full speed: no second above the burst, no more than the minute allows.

    Both begin on a rate limit store that is not there yet, so they also make it at the same time.
    """
    spawning = multiprocessing.get_context("spawn")
    stop, both_ready = spawning.Event(), spawning.Barrier(2)
    with run_server(send_response()) as server:
        workers = [
            spawning.Process(target=fetch_until, args=(stop, server.url, tmp_path, both_ready))
            for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        end = time.monotonic() + 300
        while (
            len(server.received) < TIER.steady or server.connections < 2
        ) and time.monotonic() < end:
            time.sleep(0.05)
        # Long enough for another burst, if there were one to be had.
        time.sleep(1.5)
        stop.set()
        for worker in workers:
            worker.join(300)
        assert [worker.exitcode for worker in workers] == [0, 0]
        moments = [seen.at for seen in server.received]
        assert server.connections == 2
    # By then the whole minute's share is spent, by both together and not by each.
    assert len(moments) == TIER.steady
    # A busy machine delays requests, and so brings them closer together: none was sent early.
    with closing(sqlite3.connect(tmp_path / RATE_LIMIT_STORE_FILE_NAME)) as store:
        booked = sorted(at for (at,) in store.execute("SELECT moment FROM booking"))[: TIER.steady]
    assert most_within(booked, 1.0) <= TIER.burst
    assert all(sent >= at for sent, at in zip(sorted(moments), booked, strict=True))


def test_all_processes_can_begin_at_once(tmp_path: Path) -> None:
    """The first run on a new machine: all processes begin without a store, and share one."""
    done = subprocess.run(
        [sys.executable, "-m", first_requests.__name__, str(tmp_path)],
        capture_output=True,
        check=True,
        text=True,
    )
    waits = sorted(float(line) for line in done.stdout.splitlines())
    at_once = [wait for wait in waits if wait == 0]
    assert len(waits) == first_requests.PROCESS_COUNT * first_requests.ROUND_COUNT
    assert len(at_once) == first_requests.ROUND_COUNT
    files = {file.name for folder in tmp_path.iterdir() for file in folder.iterdir()}
    ledgers = {name.removesuffix("-wal").removesuffix("-shm") for name in files - {".locks"}}
    assert ledgers == {RATE_LIMIT_STORE_FILE_NAME}


def test_threads_share_a_client(client_of: MakeClient, fake_clock: FakeClock) -> None:
    """Twenty threads: every response reaches its caller, over no more than twenty connections."""
    with run_server(send_response()) as server:
        client = client_of(server)
        with ThreadPoolExecutor(20) as threads:
            fetches = [
                threads.submit(
                    client.fetch, events_request(), lambda got: got.body, stream="events"
                )
                for _ in range(200)
            ]
            answers = [each.result() for each in fetches]
        assert answers == [PAGE_BODY] * 200
        assert server.connections <= 20
        assert client.stats.requests == 200
    assert fake_clock.sleeps == []


def test_waits_of_many_threads_are_felt_once(patient_client_of: MakeClient) -> None:
    """Eight threads under a limit of three a second: no more seconds held back than have passed."""
    budget = RateLimitBucket("GET /api/lists", RateTier(name="S", burst=3, steady=60))
    with run_server(send_response()) as server:
        client = patient_client_of(server)
        request = replace(events_request(), buckets=(budget,))
        began = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            waits = [
                threads.submit(client.fetch, request, len_of, stream="lists") for _ in range(8)
            ]
            assert {each.result() for each in waits} == {len(PAGE_BODY)}
        took = time.monotonic() - began
    # Three leave at once, three after a second and a quarter, two after another. A thread that
    # starts late waits less; the sum of all waits would be nearly nine seconds.
    assert took >= 2.4
    assert 1 <= client.stats.throttled_seconds <= took


def len_of(answer: Response) -> int:
    """Return how long a body is."""
    return len(answer.body)


def test_a_refusal_meets_every_other_client(client_of: MakeClient, fake_clock: FakeClock) -> None:
    """While one client waits after a 429, the bucket is blocked for all others as long."""
    held: list[float] = []
    with run_server(send_response(429, b"", {"Retry-After": "20"}), send_response()) as server:
        client, other = client_of(server), client_of(server)

        def sleep(seconds: float) -> None:
            held.append(other.rate_limiter.blocked_seconds(events_request().buckets))
            fake_clock.sleep(seconds)

        client.sleep = sleep
        client.fetch(events_request(), lambda answer: answer.body, stream="events")
    assert (held, fake_clock.sleeps) == ([20], [20])


def test_a_refusal_meets_those_who_already_wait(
    client_of: MakeClient, fake_clock: FakeClock
) -> None:
    """A booked moment is void when another client is refused before it comes."""
    budget = (RateLimitBucket("GET /api/any", RateTier(name="any", burst=1, steady=60)),)
    with run_server(send_response()) as server:
        client, other = client_of(server), client_of(server)
        request = Request("GET", "/api/any", budget, "/api/any")

        def sleep(seconds: float) -> None:
            if not fake_clock.sleeps:
                other.rate_limiter.block_for_retry_after(budget, 20)
            fake_clock.sleep(seconds)

        client.sleep = sleep
        began = fake_clock.now
        for _ in range(2):
            client.fetch(request, lambda answer: answer.body, stream="any")
    assert fake_clock.now - began >= 20
