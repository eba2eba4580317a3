"""Windows read side by side bring every record once, whatever is split, delayed or lost."""

import random
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import cast
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_assets.api.messages import Request
from klaviyo_assets.decode.decoder import DecodedPage
from klaviyo_assets.decode.jsonapi import QuarantinedRecord
from klaviyo_assets.errors import CursorLostError, RepeatedPageError, ServerError
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Slice
from klaviyo_assets.model.window import SyncProgress, Window
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync import window_reader
from klaviyo_assets.sync.window_reader import (
    CURSOR_SAFETY_MARGIN,
    PageResult,
    RequestContext,
    WindowReader,
)
from klaviyo_assets.sync.workers import WorkerPool

EVENTS = STREAMS["events"]
BASE = "http://127.0.0.1:9"
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
NOW = FIRST + timedelta(seconds=5000)
SCHEMA = pa.schema([("id", pa.string()), ("datetime", pa.timestamp("us", tz="UTC"))])


@dataclass
class Shelf:
    """Events as (second, id), served page by page as Klaviyo serves them: by keyset."""

    seconds: list[int]
    page_size: int
    lose_cursor_at: int | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    request_count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, request: Request, _slice: Slice) -> tuple[DecodedPage, datetime]:
        """Answer one request."""
        with self.lock:
            self.request_count += 1
            number = self.request_count
            pause = self.chance.random() * 0.001
        time.sleep(pause)
        query = parse_qs(urlsplit(request.target).query)
        after = int(query["after"][0]) if "after" in query else -1
        if after >= 0 and number == self.lose_cursor_at:
            raise CursorLostError("Invalid cursor provided.")
        start, end = bounds(query.get("filter", [""])[0])
        places = [
            place
            for place, second in enumerate(self.seconds)
            if place > after and start <= FIRST + timedelta(seconds=second) < end
        ]
        shown, rest = places[: self.page_size], places[self.page_size :]
        link = f"{request.target.split('&after')[0]}&after={shown[-1]}" if rest else None
        return page_of([(self.seconds[each], f"e{each}") for each in shown], link), NOW


def bounds(text: str) -> tuple[datetime, datetime]:
    """Return the window that a filter asks for."""
    start = datetime.min.replace(tzinfo=UTC)
    end = datetime.max.replace(tzinfo=UTC)
    for clause in text.split("),"):
        name, _, value = clause.rstrip(")").partition("(datetime,")
        if name == "greater-or-equal":
            start = datetime.fromisoformat(value)
        if name == "less-than":
            end = datetime.fromisoformat(value)
    return start, end


def page_of(rows: list[tuple[int, str]], link: str | None) -> DecodedPage:
    """Return a decoded page."""
    moments = [FIRST + timedelta(seconds=second) for second, _ in rows]
    ids = [each for _, each in rows]
    batch = pa.RecordBatch.from_pydict({"id": ids, "datetime": moments}, schema=SCHEMA)
    return DecodedPage(
        batch=batch,
        next_link=link,
        record_count=len(rows),
        lowest_cursor=min(moments, default=None),
        highest_cursor=max(moments, default=None),
        is_ascending=all(one <= other for one, other in pairwise(moments)),
        quarantined=(),
        notices=(),
        is_fast=True,
    )


def request_context(shelf: Shelf) -> RequestContext:
    """Return what walks over the shelf ask with."""
    return RequestContext(
        stream=EVENTS, base_url=BASE, excluded_fields=frozenset(), fetch_page=shelf.read
    )


def read_all(
    shelf: Shelf, *, workers: int, is_sorted: bool = True
) -> tuple[list[str], SyncProgress]:
    """Return the ids in the order they came, and the progress they make.

    Of a shelf that is not sorted, what is claimed is true at the end.
    """
    pool = WorkerPool(
        [WindowReader(request_context(shelf), WHOLE_COLLECTION, Window())], workers=workers
    )
    progress = SyncProgress(None, {}, (WHOLE_COLLECTION.name,))
    ids: list[str] = []
    for item in pool.results():
        if isinstance(item, PageResult):
            ids += cast("list[str]", item.batch["id"].to_pylist())
            read, unread = item.coverage_change()
            progress.record_window(item.slice.name, read, item.max_cursor, unread)
            if is_sorted:
                check_claim(shelf, progress, set(ids))
        else:
            progress.finish_slice(item.name)
    check_claim(shelf, progress, set(ids))
    return ids, progress


def check_claim(shelf: Shelf, progress: SyncProgress, ids: set[str]) -> None:
    """Fail if a window is said to be read while a record of it is not there."""
    for window in progress.slices[WHOLE_COLLECTION.name].coverage.windows:
        for place, second in enumerate(shelf.seconds):
            if window.floor <= FIRST + timedelta(seconds=second) < window.ceiling:
                assert f"e{place}" in ids


def shelf_of(seconds: list[int], page_size: int, seed: int) -> Shelf:
    """Return a shelf of events at these seconds, answering after pauses by `seed`."""
    return Shelf(sorted(seconds), page_size, chance=random.Random(seed))


shelves = st.builds(
    shelf_of,
    st.lists(st.integers(min_value=0, max_value=6000), max_size=300),
    st.integers(min_value=1, max_value=40),
    st.integers(),
)


@settings(max_examples=60)
@given(shelf=shelves, workers=st.integers(min_value=1, max_value=6))
def test_every_record_comes_once(shelf: Shelf, workers: int) -> None:
    """However windows are split among workers, each id comes once, and no claim is ahead of it."""
    ids, progress = read_all(shelf, workers=workers)
    assert sorted(ids) == sorted(f"e{place}" for place in range(len(shelf.seconds)))
    old = [
        second
        for second in shelf.seconds
        if FIRST + timedelta(seconds=second) <= NOW - CURSOR_SAFETY_MARGIN
    ]
    wanted = FIRST + timedelta(seconds=max(old)) if old else None
    assert progress.high_water_mark == wanted


@settings(max_examples=40)
@given(shelf=shelves, workers=st.integers(min_value=1, max_value=4), lost=st.integers(2, 9))
def test_a_lost_cursor_costs_no_record(shelf: Shelf, workers: int, lost: int) -> None:
    """A paging cursor that Klaviyo forgot starts its window again, and nothing lacks."""
    shelf.lose_cursor_at = lost
    ids, _ = read_all(shelf, workers=workers)
    assert set(ids) == {f"e{place}" for place in range(len(shelf.seconds))}


@settings(max_examples=60)
@given(
    seconds=st.lists(st.integers(min_value=0, max_value=4000), min_size=1, max_size=200),
    page_size=st.integers(min_value=2, max_value=20),
    lost=st.integers(min_value=2, max_value=12),
)
def test_pages_in_no_order_lose_no_record(seconds: list[int], page_size: int, lost: int) -> None:
    """Once the first page has shown it, records may lie as they like, and a cursor be lost."""
    shelf = Shelf([4000, 0, *seconds], page_size, lose_cursor_at=lost)
    ids, progress = read_all(shelf, workers=1, is_sorted=False)
    assert set(ids) == {f"e{place}" for place in range(len(shelf.seconds))}
    assert progress.slices[WHOLE_COLLECTION.name].coverage.contiguous_end(None) is not None


@settings(max_examples=30)
@given(
    seconds=st.lists(st.integers(min_value=0, max_value=4000), min_size=100, max_size=300),
    page_size=st.integers(min_value=1, max_value=20),
    workers=st.integers(min_value=2, max_value=6),
)
def test_pages_from_last_to_first_lose_no_record(
    seconds: list[int], page_size: int, workers: int
) -> None:
    """Several readers give up their parts, and one reads the window again in one piece."""
    shelf = Shelf(sorted(seconds, reverse=True), page_size)
    ids, _ = read_all(shelf, workers=workers, is_sorted=False)
    assert set(ids) == {f"e{place}" for place in range(len(seconds))}


def test_a_part_found_out_of_order_takes_back_what_others_claimed() -> None:
    """Until the window was read in one piece nothing of it counts, whatever was said before."""
    early, late = [(1, "a"), (10, "b")], [(20, "c"), (5, "d")]
    answers = [page_of(early, f"{BASE}/api/events?after=1"), page_of(late, None)]

    def read(_request: Request, _slice: Slice) -> tuple[DecodedPage, datetime]:
        return answers.pop(0), NOW

    one = RequestContext(stream=EVENTS, base_url=BASE, excluded_fields=frozenset(), fetch_page=read)
    walk = WindowReader(one, WHOLE_COLLECTION, Window())
    pieces = walk.read_pages()
    first = next(pieces)
    assert first.coverage_change() == (first.completed_window, None) != (None, None)
    part = walk.split(FIRST + timedelta(seconds=15))
    second = next(pieces)
    assert (second.coverage_change(), first.coverage_change()) == (
        (None, Window()),
        (None, Window()),
    )
    assert [next(pieces, None), walk.can_split] == [None, False]
    assert part is not None
    assert walk.reread_if_out_of_order() is not None
    assert part.split(FIRST + timedelta(seconds=50)) is None


def test_an_empty_decade_costs_a_handful_of_requests() -> None:
    """Ten thousand records on the last day of ten years are not looked for day by day."""
    start = 10 * 365 * 86_400
    shelf = Shelf([start + number for number in range(2000)], 100)
    shelf.seconds.insert(0, 0)
    ids, _ = read_all(shelf, workers=4)
    assert len(ids) == len(set(ids)) == 2001
    assert shelf.request_count < 21 + 25


def test_a_failure_comes_after_what_was_read() -> None:
    """What a worker met is raised once the pages before it have been handed over."""
    shelf = Shelf(list(range(0, 2000, 2)), 50)

    def read(request: Request, slice_: Slice) -> tuple[DecodedPage, datetime]:
        if shelf.request_count >= 5:
            raise ServerError("500 for ever")
        return shelf.read(request, slice_)

    failing = RequestContext(
        stream=EVENTS, base_url=BASE, excluded_fields=frozenset(), fetch_page=read
    )
    pool = WorkerPool([WindowReader(failing, WHOLE_COLLECTION, Window())], workers=1)
    items = pool.results()
    before = [next(items) for _ in range(5)]
    assert all(isinstance(item, PageResult) for item in before)
    with pytest.raises(ServerError):
        next(items)


@pytest.mark.parametrize("broken", [{9}, {10}, set(range(10, 20)), {29}, {7, 18}, set(range(30))])
def test_windows_of_broken_records_are_requested_again(broken: set[int]) -> None:
    """Three pages of ten, a record a second: wherever broken ones lie, windows named hold them."""
    numbers = iter(range(3))

    def read(_request: Request, _slice: Slice) -> tuple[DecodedPage, datetime]:
        number = next(numbers)
        rows = [(each, f"e{each}") for each in range(number * 10, number * 10 + 10)]
        sound = [row for row in rows if row[0] not in broken]
        link = f"{BASE}/api/events?after={number}" if number < 2 else None
        put_aside = (QuarantinedRecord("no id", b"{}"),) * (len(rows) - len(sound))
        return replace(page_of(sound, link), quarantined=put_aside), NOW

    walk = WindowReader(
        RequestContext(stream=EVENTS, base_url=BASE, excluded_fields=frozenset(), fetch_page=read),
        WHOLE_COLLECTION,
        Window(),
    )
    named = [
        each.quarantine_window for each in walk.read_pages() if each.quarantine_window is not None
    ]
    for second in broken:
        at = FIRST + timedelta(seconds=second)
        assert any(one.floor <= at < one.ceiling for one in named)


def test_new_records_before_the_position_are_no_standstill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream that is sorted by another moment may show its latest record first."""
    monkeypatch.setattr(window_reader, "MAX_PAGES_AT_ONE_CURSOR", 5)
    watching = window_reader.PagingLoopDetector(EVENTS)
    watching.check_page(page_of([(4000, "latest")], BASE))
    for number in range(20):
        watching.check_page(page_of([(number, f"e{number}")], BASE))
    *few, one_more = [page_of([(4000, f"new{number}")], BASE) for number in range(5)]
    for page in few:
        watching.check_page(page)
    with pytest.raises(RepeatedPageError):
        watching.check_page(one_more)


def test_a_closed_pool_ends_its_workers() -> None:
    """Closing stops every worker, also one that waits for room in the queue."""
    shelf = Shelf(list(range(4000)), 5)
    pool = WorkerPool([WindowReader(request_context(shelf), WHOLE_COLLECTION, Window())], workers=3)
    next(pool.results())
    pool.close()
    for thread in pool.threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in pool.threads)
