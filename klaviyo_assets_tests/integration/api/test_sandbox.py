"""The sandbox, which enforces Klaviyo's rules and limits, refuses none of our requests."""

import json
from collections import Counter
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.messages import Response
from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.api.requests import detail_request, first_page_request, next_page_request
from klaviyo_assets.errors import StoppedError
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Collection, Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.sandbox import AccountConfig, Sandbox, serve
from klaviyo_assets.sandbox.account.config import DEFAULT_KEY
from klaviyo_assets.settings import DEFAULT_REVISION
from klaviyo_assets.streams import COLLECTIONS, STREAMS

SECONDS = 5.0
FREE = 1_000_000.0
"""Scales the rate limits out of the way."""

LISTS = 23
PAGED = [
    stream
    for stream in COLLECTIONS
    if isinstance(stream.source, Collection) and stream.is_offered_at(DEFAULT_REVISION)
]


ACCOUNT = AccountConfig(events=500, profiles=60, lists=LISTS, campaigns=12)


@pytest.fixture
def sandbox() -> Generator[Sandbox]:
    """Give a small account with Klaviyo's true limits."""
    with serve(ACCOUNT) as running:
        yield running


@pytest.fixture
def client(sandbox: Sandbox, tmp_path: Path) -> Generator[KlaviyoClient]:
    """Give a client that takes every limit whole."""
    with client_of(sandbox, tmp_path) as made:
        yield made


@contextmanager
def client_of(sandbox: Sandbox, folder: Path, *, scale: float = 1.0) -> Generator[KlaviyoClient]:
    """Open a client with a budget of its own."""
    with closing(RateLimiter(folder, "a", share=1.0, scale=scale)) as ledger:
        made = KlaviyoClient(
            base_url=sandbox.url,
            api_key=DEFAULT_KEY,
            revision=DEFAULT_REVISION,
            rate_limiter=ledger,
        )
        with closing(made):
            yield made


def next_link(answer: Response) -> str | None:
    """Return where the next page is."""
    return json.loads(answer.body)["links"].get("next")


def walk(client: KlaviyoClient, stream: Stream) -> int:
    """Read a stream to its last page, slice by slice; return the pages."""
    source = stream.source
    pages, seen = 0, set[str]()
    for slice_ in source.slices if isinstance(source, Collection) else ():
        request = first_page_request(stream, slice_, Window())
        while request is not None:
            link = client.fetch(request, next_link, stream=stream.name)
            request = next_page_request(request, link, base_url=client.base_url, seen_targets=seen)
            pages += 1
    return pages


def walk_for_ever(client: KlaviyoClient, stream: Stream) -> None:
    """Read a stream again and again until the client is stopped."""
    with suppress(StoppedError):
        while True:
            walk(client, stream)


def at_full_speed(folder: Path, *, scale: float = 1.0) -> tuple[Counter[str], set[int | None]]:
    """Read everything at once for some seconds; return requests by path, and all statuses."""
    account_config = replace(ACCOUNT, rate_limit_scale=scale)
    with serve(account_config) as sandbox, client_of(sandbox, folder, scale=scale) as client:
        Timer(SECONDS, client.cancel).start()
        with ThreadPoolExecutor(len(PAGED)) as threads:
            list(threads.map(walk_for_ever, [client] * len(PAGED), PAGED))
        entries = sandbox.journal.requests()
        return Counter(entry.path for entry in entries), {entry.status for entry in entries}


LEAST = {"accounts": 4, "flows": 12, "metrics": 30, "profiles": 30, "events": 10}
"""Requests of a walk: one a second and a quarter, three of them, ten are what the bursts allow."""


def too_few(request_counts: Counter[str], least: Mapping[str, int]) -> dict[str, int]:
    """Return the endpoints that were asked less often than they should have been, and how often."""
    paths = {name: f"/api/{name}" for name in least}
    return {
        name: request_counts[path]
        for name, path in paths.items()
        if request_counts[path] < least[name]
    }


def test_at_full_speed_nothing_is_refused(tmp_path: Path) -> None:
    """All endpoints at once, as fast as we allow ourselves: no 429, and no time wasted.

    A machine that stands still for a quarter of a second between a booking and its request, or has
    other work than ours, gets a second and a third chance: a fault of ours would show in each. Nor
    is it requested more than half of what it manages without any limit.
    """
    statuses, slow = set[int | None](), dict[str, int]()
    for attempt in range(3):
        request_counts, statuses = at_full_speed(tmp_path / f"{attempt}")
        slow = too_few(request_counts, LEAST)
        if slow:
            free, _ = at_full_speed(tmp_path / f"{attempt}-free", scale=FREE)
            slow = too_few(
                request_counts, {name: min(LEAST[name], free[f"/api/{name}"] // 2) for name in slow}
            )
        if statuses == {200} and not slow:
            break
    assert statuses == {200}
    assert slow == {}


@pytest.mark.parametrize("stream", PAGED, ids=[stream.name for stream in PAGED])
def test_every_collection_is_asked_as_it_may_be(stream: Stream, client: KlaviyoClient) -> None:
    """Each declared stream is read to its last page, and the sandbox finds no 400 in it."""
    assert walk(client, stream) >= 1


def test_the_last_page_is_the_last(client: KlaviyoClient, sandbox: Sandbox) -> None:
    """Following the links shows every list once."""
    walk(client, STREAMS["lists"])
    _, shown = sandbox.journal.count_shown("/api/lists")
    assert set(shown.values()) == {1}
    assert len(shown) == LISTS


def test_a_detail_brings_what_the_page_lacks(client: KlaviyoClient) -> None:
    """A list requested by its id comes with the count that costs a budget of its own."""
    lists = first_page_request(STREAMS["lists"], WHOLE_COLLECTION, Window())
    first: str = client.fetch(lists, lambda got: json.loads(got.body)["data"][0]["id"], stream="l")
    request = detail_request(STREAMS["lists_detailed"], first)
    found = client.fetch(request, lambda got: json.loads(got.body)["data"], stream="l")
    assert found["id"] == first
    assert isinstance(found["attributes"]["profile_count"], int)
