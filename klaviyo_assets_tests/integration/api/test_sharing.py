"""Threads and processes that ask at once stay within one budget, counted by the server."""

import multiprocessing
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread

from klaviyo_assets.api.client import Client
from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.api.ledger import FILE_NAME, Ledger
from klaviyo_assets.api.protocol import REVISION
from klaviyo_assets.errors import StoppedError
from klaviyo_assets.model.tiers import Budget, Tier
from klaviyo_assets_tests.integration.api import beginners
from klaviyo_assets_tests.integration.api.conftest import KEY, MakeClient, MovedTime, events
from klaviyo_assets_tests.integration.api.wire import PAGE, reply, serving

TIER = Tier(name="any", burst=6, steady=18)


def most_within(moments: Sequence[float], seconds: float) -> int:
    """Return the most moments that any half-open stretch of `seconds` holds."""
    ordered = sorted(moments)
    return max(bisect_left(ordered, at + seconds) - place for place, at in enumerate(ordered))


def ask_until(stop: Event, url: str, folder: Path) -> None:
    """Ask as fast as the ledger lets one, as a process of its own."""
    client = Client(base_url=url, key=KEY, revision=REVISION, ledger=Ledger(folder, "a", share=1.0))
    request = Request("GET", f"{url}/api/any", (Budget("GET /api/any", TIER),), "/api/any")
    Thread(target=lambda: stop.wait() and client.stop(), daemon=True).start()
    with suppress(StoppedError):
        while True:
            client.read(request, lambda answer: answer.status, stream="any")


def test_processes_together_keep_to_one_budget(tmp_path: Path) -> None:
    """Two processes at full speed: no second above the burst, no more than the minute allows.

    Both begin on a ledger that is not there yet, so they also make it at the same time.
    """
    spawning = multiprocessing.get_context("spawn")
    stop = spawning.Event()
    with serving(reply()) as server:
        workers = [
            spawning.Process(target=ask_until, args=(stop, server.url, tmp_path)) for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        end = time.monotonic() + 60
        while (len(server.seen) < TIER.steady or server.connections < 2) and time.monotonic() < end:
            time.sleep(0.05)
        # Long enough for another burst, if there were one to be had.
        time.sleep(1.5)
        stop.set()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        moments = [seen.at for seen in server.seen]
        assert server.connections == 2
    assert most_within(moments, 1.0) <= TIER.burst
    # By then the whole minute's share is spent, by both together and not by each.
    assert len(moments) == TIER.steady


def test_all_processes_can_begin_at_once(tmp_path: Path) -> None:
    """The first run on a new machine: all begin on a ledger that none has made, and share it."""
    done = subprocess.run(
        [sys.executable, "-m", beginners.__name__, str(tmp_path)],
        capture_output=True,
        check=True,
        text=True,
    )
    waits = sorted(float(said) for said in done.stdout.splitlines())
    at_once = [wait for wait in waits if wait == 0]
    assert len(waits) == beginners.PROCESSES * beginners.ROUNDS
    assert len(at_once) == beginners.ROUNDS
    files = {file.name for folder in tmp_path.iterdir() for file in folder.iterdir()}
    ledgers = {name.removesuffix("-wal").removesuffix("-shm") for name in files - {".locks"}}
    assert ledgers == {FILE_NAME}


def test_threads_share_a_client(client_of: MakeClient, moved: MovedTime) -> None:
    """Twenty threads: every answer reaches its asker, over no more than twenty connections."""
    with serving(reply()) as server:
        client = client_of(server)
        with ThreadPoolExecutor(20) as threads:
            asked = [
                threads.submit(client.read, events(server), lambda got: got.body, stream="events")
                for _ in range(200)
            ]
            answers = [each.result() for each in asked]
        assert answers == [PAGE] * 200
        assert server.connections <= 20
        assert client.counters.requests == 200
    assert moved.sleeps == []


def test_waits_of_many_threads_are_felt_once(patient_client_of: MakeClient) -> None:
    """Eight threads under a limit of three a second: no more seconds held back than have passed."""
    budget = Budget("GET /api/lists", Tier(name="S", burst=3, steady=60))
    with serving(reply()) as server:
        client = patient_client_of(server)
        asked = replace(events(server), budgets=(budget,))
        began = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            waits = [threads.submit(client.read, asked, len_of, stream="lists") for _ in range(8)]
            assert {each.result() for each in waits} == {len(PAGE)}
        took = time.monotonic() - began
    # Three leave at once, three after a second and a quarter, two after another.
    assert 2.4 <= client.counters.throttled_seconds <= took


def len_of(answer: Answer) -> int:
    """Return how long a body is."""
    return len(answer.body)


def test_a_refusal_meets_every_other_client(client_of: MakeClient, moved: MovedTime) -> None:
    """While one client waits after a 429, the others are kept out of that budget as long."""
    held: list[float] = []
    with serving(reply(429, b"", {"Retry-After": "20"}), reply()) as server:
        client, other = client_of(server), client_of(server)

        def sleep(seconds: float) -> None:
            held.append(other.ledger.held(events(server).budgets))
            moved.sleep(seconds)

        client.sleep = sleep
        client.read(events(server), lambda answer: answer.body, stream="events")
    assert (held, moved.sleeps) == ([20], [20])


def test_a_refusal_meets_those_who_already_wait(client_of: MakeClient, moved: MovedTime) -> None:
    """A booked moment is void when another client is refused before it comes."""
    budget = (Budget("GET /api/any", Tier(name="any", burst=1, steady=60)),)
    with serving(reply()) as server:
        client, other = client_of(server), client_of(server)
        request = Request("GET", f"{server.url}/api/any", budget, "/api/any")

        def sleep(seconds: float) -> None:
            if not moved.sleeps:
                other.ledger.note_retry_after(budget, 20)
            moved.sleep(seconds)

        client.sleep = sleep
        began = moved.now
        for _ in range(2):
            client.read(request, lambda answer: answer.body, stream="any")
    assert moved.now - began >= 20
