"""As many windows are read in parallel as the rate limit can use, and no more bytes than fit."""

import random
import threading
import time
from dataclasses import replace
from datetime import datetime
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_assets.api.limits import tier_limits
from klaviyo_assets.api.messages import Request
from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.decode.decoder import DecodedPage
from klaviyo_assets.errors import BadKeyError
from klaviyo_assets.model.stream import WHOLE_COLLECTION, RateLimitBucket, Slice
from klaviyo_assets.model.window import Window
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync import workers
from klaviyo_assets.sync.window_reader import PageResult, WindowReader
from klaviyo_assets.sync.workers import MIN_PAGE_BYTES, PageSemaphore, WorkerPool, count_workers
from klaviyo_assets_tests.unit.sync.test_window_reader import Shelf, request_context, shelf_of

MIB = 1024 * 1024


def pool_of(shelf: Shelf, *, workers: int) -> WorkerPool:
    """Return a pool that reads a shelf whole."""
    return WorkerPool(
        [WindowReader(request_context(shelf), WHOLE_COLLECTION, Window())], workers=workers
    )


def ids_of(pool: WorkerPool) -> list[str]:
    """Return the ids as a pool brings them."""
    pieces = [item for item in pool.results() if isinstance(item, PageResult)]
    return [each for piece in pieces for each in cast("list[str]", piece.batch["id"].to_pylist())]


class ScaledLimiter(RateLimiter):
    """Tells limits, and books nothing."""

    def __init__(self, scale: float) -> None:
        """Multiply the published limits."""
        self.scale = scale

    def bucket_limits(self, bucket: RateLimitBucket):  # noqa: ANN201
        """Return the limits at this scale."""
        return tier_limits(bucket.tier, share=0.9, scale=self.scale)


@pytest.mark.parametrize(
    ("stream", "scale", "count"),
    [("events", 1.0, 20), ("profiles", 1.0, 5), ("profiles", 0.1, 1), ("profiles", 100.0, 20)],
)
def test_no_more_workers_than_the_limit_can_use(stream: str, scale: float, count: int) -> None:
    """Ten requests a second, as predictive analytics have them, keep five readers busy at most."""
    context = replace(request_context(Shelf([], 1)), stream=STREAMS[stream])
    assert count_workers(context, ScaledLimiter(scale)) == count


@settings(max_examples=60)
@given(
    seconds=st.lists(st.integers(min_value=0, max_value=6000), max_size=300),
    page_size=st.integers(min_value=1, max_value=40),
    workers=st.integers(min_value=2, max_value=8),
)
def test_every_split_is_exact(seconds: list[int], page_size: int, workers: int) -> None:
    """However eagerly windows are split, each id comes once."""
    shelf = shelf_of(seconds, page_size, seed=len(seconds))
    ids = ids_of(pool_of(shelf, workers=workers))
    assert sorted(ids) == sorted(f"e{place}" for place in range(len(seconds)))


def test_one_worker_makes_no_request_more_than_pages() -> None:
    """Where nothing is read in parallel, a window costs its pages and no more."""
    shelf = Shelf(list(range(2000)), 100)
    assert len(ids_of(pool_of(shelf, workers=1))) == 2000
    assert shelf.request_count == 20


def test_a_stream_of_one_page_starts_one_thread() -> None:
    """Threads are started for windows, and a window of one page is not split."""
    shelf = Shelf(list(range(90)), 100)
    pool = pool_of(shelf, workers=20)
    assert len(ids_of(pool)) == 90
    assert (len(pool.threads), shelf.request_count) == (1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_splits_cost_few_requests(seed: int) -> None:
    """A window read by eight costs a few requests more than its pages, wherever its records lie."""
    chance = random.Random(seed)
    crowded = [chance.randrange(4000, 4100) for _ in range(1500)]
    shelf = shelf_of([chance.randrange(4700) for _ in range(1500)] + crowded, 20, seed)
    ids_of(pool_of(shelf, workers=8))
    assert shelf.request_count <= 150 + 25


def test_pages_that_are_there_at_once_are_read_by_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where Klaviyo is faster than we are, a second reader only holds a page more in memory."""
    # However busy this machine is, no page here takes that long.
    monkeypatch.setattr(workers, "MIN_WAIT_SECONDS", 60.0)
    shelf = Shelf(list(range(2000)), 100)
    pool = pool_of(shelf, workers=20)
    assert len(ids_of(pool)) == 2000
    assert (len(pool.threads), shelf.request_count) == (1, 20)


def test_two_slow_pages_are_reason_enough_for_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What slow pages promise is read side by side at once, not a worker a page."""
    monkeypatch.setattr(workers, "STOP_POLL_SECONDS", 60.0)
    shelf, started, free = Shelf(list(range(2000)), 100), threading.Semaphore(0), threading.Event()

    def read(request: Request, slice_: Slice) -> tuple[DecodedPage, datetime]:
        if shelf.request_count < workers.MIN_SLOW_PAGES:
            time.sleep(0.1)
        else:
            started.release()
            assert free.wait(300)
        return shelf.read(request, slice_)

    context = replace(request_context(shelf), fetch_page=read)
    pool = WorkerPool([WindowReader(context, WHOLE_COLLECTION, Window())], workers=6)
    assert all(started.acquire(timeout=300) for _ in range(6))
    free.set()
    assert len(ids_of(pool)) == 2000


class StopWhereOthersWait(threading.Event):
    """Is set from the second look on: a page that fits is allowed at the first."""

    looks = 0

    def is_set(self) -> bool:
        """Return whether the semaphore looks again, because the page does not fit."""
        self.looks += 1
        return self.looks > 1


def acquire_all(semaphore: PageSemaphore) -> list[int]:
    """Return the sizes of the pages that are allowed before one has to wait."""
    sizes: list[int] = []
    while size := semaphore.acquire(StopWhereOthersWait()):
        sizes.append(size)
    return sizes


def test_large_pages_leave_room_for_few() -> None:
    """Pages under way are counted by their bytes, and are expected to be as large as the last."""
    semaphore = PageSemaphore(max_bytes=10 * MIB)
    assert acquire_all(semaphore) == [MIN_PAGE_BYTES] * 10
    for _ in range(10):
        semaphore.correct(MIN_PAGE_BYTES, 4 * MIB)
        semaphore.release(4 * MIB)
    assert acquire_all(semaphore) == [4 * MIB] * 2
    semaphore.correct(4 * MIB, 6 * MIB)
    assert acquire_all(semaphore) == []
    semaphore.release(6 * MIB)
    assert acquire_all(semaphore) == [6 * MIB]


def test_who_waits_for_room_gets_it_when_a_page_leaves() -> None:
    """A waiting reader continues as soon as the writer takes a page."""
    semaphore, stop = PageSemaphore(max_bytes=MIN_PAGE_BYTES), threading.Event()
    assert semaphore.acquire(stop)
    before = time.monotonic()
    threading.Timer(0.3, semaphore.release, [MIN_PAGE_BYTES]).start()
    assert semaphore.acquire(stop)
    assert time.monotonic() - before > 0.2


def test_a_page_larger_than_all_room_is_read() -> None:
    """One page is always allowed, whatever its size; a stopped reader gets none."""
    semaphore, stop = PageSemaphore(max_bytes=1000), threading.Event()
    semaphore.correct(0, 5000)
    semaphore.release(5000)
    assert semaphore.acquire(stop)
    stop.set()
    assert not semaphore.acquire(stop)


def test_pages_wait_for_the_writer_within_the_bytes_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While nobody takes a page, no more are read than fit; then all come."""
    monkeypatch.setattr(workers.PageSemaphore.__init__, "__defaults__", (5 * MIN_PAGE_BYTES,))
    shelf = Shelf(list(range(0, 4000, 2)), 20)
    pool = pool_of(shelf, workers=8)
    time.sleep(0.5)
    assert shelf.request_count <= 5
    assert len(ids_of(pool)) == 2000


def test_what_is_in_flight_when_a_key_is_refused_is_delivered() -> None:
    """Responses that arrive after the error of another window are paid for: they count as read."""
    shelf, refused = Shelf(list(range(50)), 100), threading.Event()

    def read(request: Request, slice_: Slice) -> tuple[DecodedPage, datetime]:
        if slice_.name == "refused":
            refused.set()
            raise BadKeyError("401")
        assert refused.wait(60)
        time.sleep(0.2)
        return shelf.read(request, slice_)

    context = replace(request_context(shelf), fetch_page=read)
    slices = [Slice(name=name, filter="") for name in ("in flight", "refused")]
    pool = WorkerPool([WindowReader(context, each, Window()) for each in slices], workers=2)
    delivered: list[PageResult | Slice] = []
    with pytest.raises(BadKeyError):
        delivered.extend(pool.results())
    page, finished = delivered
    assert isinstance(page, PageResult)
    assert page.batch.num_rows == 50
    assert finished == slices[0]
