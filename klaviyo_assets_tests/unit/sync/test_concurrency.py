"""How much is read at once follows what pages cost and how large they are."""

import random
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_assets.api.request_guard import Request
from klaviyo_assets.decode.decoder import DecodedPage
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Slice
from klaviyo_assets.model.window import Window
from klaviyo_assets.sync import workers
from klaviyo_assets.sync.concurrency import Backpressure, ConcurrencyEstimator, PageTimer, TimedLock
from klaviyo_assets.sync.window_reader import PageResult, WindowReader
from klaviyo_assets.sync.workers import WorkerPool
from klaviyo_assets_tests.unit.sync.test_window_reader import FIRST, Shelf, ask, shelf_of


class Eager(ConcurrencyEstimator):
    """Finds any number of windows worth reading."""

    @property
    def useful_windows(self) -> int:
        """Return more than there ever are."""
        return 99

    @property
    def useful_readers(self) -> int:
        """Return the same."""
        return self.useful_windows


class Patient(ConcurrencyEstimator):
    """Finds one window enough."""

    @property
    def useful_windows(self) -> int:
        """Return one."""
        return 1

    @property
    def useful_readers(self) -> int:
        """Return the same."""
        return self.useful_windows


def ids_of(shelf: Shelf, *, workers: int, pace: ConcurrencyEstimator) -> list[str]:
    """Return the ids of a shelf as a pool brings them."""
    reading = WorkerPool(
        [WindowReader(ask(shelf), WHOLE_COLLECTION, Window())], workers=workers, estimator=pace
    )
    pieces = [item for item in reading.results() if isinstance(item, PageResult)]
    return [each for piece in pieces for each in cast("list[str]", piece.batch["id"].to_pylist())]


def test_latency_calls_for_windows() -> None:
    """As many windows are worth reading as hide the wait behind each other's work."""
    pace = ConcurrencyEstimator()
    assert pace.useful_windows == 0
    for _ in range(10):
        pace.add_page(0.005, 0.15)
    assert pace.useful_windows == 31
    for _ in range(10):
        pace.add_page(0.005, 0.001)
    assert pace.useful_windows == 1


@pytest.mark.parametrize(("a_second", "windows"), [(8.0, 2), (60.0, 10), (280.0, 31)])
def test_no_more_windows_than_the_limit_lets_read(a_second: float, windows: int) -> None:
    """Eight requests a second, as predictive analytics have them, keep two readers busy."""
    pace = ConcurrencyEstimator(requests_per_second=a_second)
    for _ in range(8):
        pace.add_page(0.005, 0.15)
    assert pace.useful_windows == windows


def test_the_first_page_is_not_the_usual_one() -> None:
    """A first page that loads half the libraries does not keep the second windows waiting."""
    pace = ConcurrencyEstimator()
    pace.add_page(0.2, 0.15)
    pace.add_page(0.005, 0.15)
    assert pace.useful_windows == 31


def test_a_crowded_interpreter_is_no_latency() -> None:
    """Where some pages come at once, others' waits were not for Klaviyo: no more windows."""
    pace = ConcurrencyEstimator()
    for waited in (0.03, 0.02, 0.0, 0.05):
        pace.add_page(0.005, waited)
    assert pace.useful_windows == 1


@pytest.mark.parametrize(("waited", "readers"), [(0.006, 1), (0.0099, 1), (0.0101, 3), (0.05, 11)])
def test_readers_that_wait_for_each_other_are_no_latency(waited: float, readers: int) -> None:
    """Two readers wait for each other as long as they work: that is no reason for two."""
    pace = ConcurrencyEstimator()
    for _ in range(8):
        pace.add_page(0.005, waited)
    assert (pace.useful_windows, pace.useful_readers) == (readers, readers)


def test_the_limit_calls_for_no_windows() -> None:
    """While requests wait for the rate limit, another window is not worth its request."""
    seconds = iter([0.0, 0.0, 1.5, 1.5])
    pace = ConcurrencyEstimator(lambda: next(seconds))
    pace.add_page(0.005, 0.15)
    assert pace.useful_windows == 31
    pace.add_page(0.005, 1.65)
    assert pace.useful_windows == 0
    pace.add_page(0.005, 0.15)
    assert pace.useful_windows == 31


@settings(max_examples=60)
@given(
    seconds=st.lists(st.integers(min_value=0, max_value=6000), max_size=300),
    page_size=st.integers(min_value=1, max_value=40),
    workers=st.integers(min_value=2, max_value=8),
)
def test_every_split_is_exact(seconds: list[int], page_size: int, workers: int) -> None:
    """However eagerly windows are split, also before their first page, each id comes once."""
    shelf = shelf_of(seconds, page_size, seed=len(seconds))
    ids = ids_of(shelf, workers=workers, pace=Eager())
    assert sorted(ids) == sorted(f"e{place}" for place in range(len(seconds)))


def test_no_split_costs_no_request() -> None:
    """Where nothing is gained by reading side by side, a window costs its pages and no more."""
    shelf = Shelf(list(range(2000)), 100)
    assert len(ids_of(shelf, workers=8, pace=Patient())) == 2000
    assert shelf.asked == 20


@pytest.mark.parametrize("seed", range(3))
def test_splits_cost_few_requests(seed: int) -> None:
    """A window read by eight costs a few requests more than its pages, wherever its records lie."""
    chance = random.Random(seed)
    crowded = [chance.randrange(4000, 4100) for _ in range(1500)]
    shelf = shelf_of([chance.randrange(4700) for _ in range(1500)] + crowded, 20, seed)
    ids_of(shelf, workers=8, pace=Eager())
    assert shelf.asked <= 150 + 50


def test_one_page_is_reason_enough_for_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first page promises is read side by side at once, not a worker a page."""
    monkeypatch.setattr(workers, "STOP_POLL_SECONDS", 60.0)
    shelf, begun, free = Shelf(list(range(2000)), 100), threading.Semaphore(0), threading.Event()

    def read(request: Request, slice_: Slice) -> tuple[DecodedPage, datetime]:
        if shelf.asked:
            begun.release()
            assert free.wait(60)
        return shelf.read(request, slice_)

    asking = replace(ask(shelf), fetch_page=read)
    reading = WorkerPool(
        [WindowReader(asking, WHOLE_COLLECTION, Window())], workers=6, estimator=Eager()
    )
    assert all(begun.acquire(timeout=30) for _ in range(6))
    free.set()
    assert (
        sum(piece.batch.num_rows for piece in reading.results() if isinstance(piece, PageResult))
        == 2000
    )


def test_large_pages_leave_room_for_few() -> None:
    """Pages under way are counted by their bytes: large ones are read one after the other."""
    room, stop = Backpressure(max_pages=9, max_bytes=1000, estimator=Eager()), threading.Event()
    room.record_page_size(400)
    assert [room.acquire(stop), room.acquire(stop)] == [True, True]
    before = time.monotonic()
    threading.Timer(0.3, room.release).start()
    assert room.acquire(stop)
    assert time.monotonic() - before > 0.2


@pytest.mark.parametrize(
    ("pace", "pages"), [(Patient(), 1 + 2), (Eager(), 9), (ConcurrencyEstimator(), 9)]
)
def test_what_hides_no_latency_waits_outside(pace: ConcurrencyEstimator, pages: int) -> None:
    """Beyond the windows that hide the latency, as many pages as the backlog holds are enough.

    Where the rate limit is what is waited for, nobody is kept out.
    """
    room, stop = (
        Backpressure(max_pages=9, max_backlog_bytes=1000, estimator=pace),
        threading.Event(),
    )
    room.record_page_size(400)
    threading.Timer(0.3, stop.set).start()
    entered = 0
    while room.acquire(stop):
        entered += 1
        room.finish_reading()
    assert entered == pages


@pytest.mark.parametrize(
    ("pace", "pages"), [(ConcurrencyEstimator(), 9), (Patient(), 1), (Eager(), 9)]
)
def test_as_many_pages_are_read_at_a_time_as_hide_the_latency(
    pace: ConcurrencyEstimator, pages: int
) -> None:
    """More readers would wait for each other; as soon as one has read, the next one reads."""
    room, stop = Backpressure(max_pages=9, estimator=pace), threading.Event()
    threading.Timer(0.3, stop.set).start()
    entered = 0
    while room.acquire(stop):
        entered += 1
    assert entered == pages
    stop.clear()
    room.finish_reading()
    room.release()
    assert room.acquire(stop)


def test_one_page_that_came_at_once_stops_no_reader() -> None:
    """An empty window is answered sooner than full ones: the usual wait tells how many read."""
    pace = ConcurrencyEstimator()
    for waited in (0.15, 0.15, 0.002, 0.15):
        pace.add_page(0.005, waited)
    assert (pace.useful_windows, pace.useful_readers) == (1, 31)
    for _ in range(8):
        pace.add_page(0.005, 0.001)
    assert pace.useful_readers == 1


def test_the_wait_for_a_turn_is_no_latency() -> None:
    """A page that waits for others to be decoded did not wait for Klaviyo, nor does it work."""
    turn, costs = TimedLock(), list[tuple[float, float]]()

    def page() -> None:
        watch = PageTimer(turn)
        time.sleep(0.05)
        with turn:
            time.sleep(0.2)
        costs.append(watch.elapsed())

    workers = [threading.Thread(target=page) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(costs) == 4
    # 0.25 s a page; with the others' turns it were 2.2 s in all.
    assert 4 * 0.24 < sum(waited for _, waited in costs) < 1.6
    assert all(cpu < 0.05 for cpu, _ in costs)


def test_a_pool_learns_what_klaviyo_took() -> None:
    """Windows that are read side by side wait for each other, not for Klaviyo."""
    costs = list[float]()

    class Noting(Patient):
        def add_page(self, cpu_seconds: float, waited_seconds: float) -> None:
            """Keep what a page waited."""
            del cpu_seconds
            costs.append(waited_seconds)

    shelf, turn = Shelf(list(range(40)), 5), TimedLock()
    # The first page that the shelf makes brings pandas along.
    ids_of(shelf, workers=1, pace=Patient())

    def read(request: Request, slice_: Slice) -> tuple[DecodedPage, datetime]:
        with turn:
            time.sleep(0.05)
        return shelf.read(request, slice_)

    asking = replace(ask(shelf), fetch_page=read, decode_lock=turn)
    windows = [
        Window(FIRST + timedelta(seconds=at), FIRST + timedelta(seconds=at + 5))
        for at in range(0, 40, 5)
    ]
    reading = WorkerPool(
        [WindowReader(asking, WHOLE_COLLECTION, each) for each in windows],
        workers=8,
        estimator=Noting(),
    )
    assert len([item for item in reading.results() if isinstance(item, PageResult)]) == 8
    # 0.05 s a page; with the others' turns it were 1.8 s in all.
    assert 8 * 0.05 < sum(costs) < 1.2


def test_a_page_larger_than_all_room_is_read() -> None:
    """There is room for one page, whatever its size; who is told to stop gets none."""
    room, stop = (
        Backpressure(
            max_pages=9, max_bytes=1000, max_backlog_bytes=0, estimator=ConcurrencyEstimator()
        ),
        threading.Event(),
    )
    room.record_page_size(5000)
    assert room.acquire(stop)
    stop.set()
    assert not room.acquire(stop)
