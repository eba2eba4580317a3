"""Readers: never blocked, never shown a mixture, never left without their files."""

from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb
import pytest

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.views import PlainRelation
from klaviyo_assets_tests.forkserver import FORKSERVER
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    merge_rows,
    numbered_batch,
    open_lake,
    replace_rows,
    utc_now,
)

ROWS = 400
QUERY = "SELECT count(*), count(DISTINCT id), count(DISTINCT note) FROM klaviyo.events"


def read_on(root: Path, stop: Event, started: Event) -> None:
    """Open the database anew, over and over; fail on any error or mixture of two generations."""
    while not stop.is_set():
        with duckdb.connect(root / "klaviyo.duckdb", read_only=True) as connection:
            for _ in range(2):
                assert connection.execute(QUERY).fetchall() == [(ROWS, ROWS, 1)]
        started.set()


def hold_on(root: Path, stop: Event, started: Event) -> None:
    """Keep one connection open and read it over and over: always the same generation."""
    with duckdb.connect(root / "klaviyo.duckdb", read_only=True) as connection:
        first = connection.execute("SELECT any_value(note) FROM klaviyo.events").fetchall()
        while not stop.is_set():
            assert connection.execute(QUERY).fetchall() == [(ROWS, ROWS, 1)]
            again = "SELECT any_value(note) FROM klaviyo.events"
            assert connection.execute(again).fetchall() == first
            started.set()


@pytest.mark.parametrize("reader", [read_on, hold_on])
def test_a_reader_in_a_loop_sees_whole_versions(
    root: Path, reader: Callable[[Path, Event, Event], None]
) -> None:
    """While the table is read again and replaced, each query of another process sees one version.

    Every generation has the same keys and a note of its own.
    """
    lake = open_lake(root)
    merge_rows(lake, EVENTS, [numbered_batch(0, ROWS, note="0", days=0.05)])
    lake.publish([PlainRelation(name="events")])
    stop, started = FORKSERVER.Event(), FORKSERVER.Event()
    child = FORKSERVER.Process(target=reader, args=(root, stop, started))
    child.start()
    assert started.wait(300)
    for number in range(1, 9):
        write = replace_rows if number % 3 == 0 else merge_rows
        rows = numbered_batch(0, ROWS, note=str(number), synced=number, days=0.05)
        write(lake, EVENTS, [rows], {"n": number})
        lake.publish([PlainRelation(name="events")])
        lake.vacuum("events")
    stop.set()
    child.join(300)
    assert child.exitcode == 0


def test_a_long_replacement_is_not_seen_before_its_end(lake: Lake) -> None:
    """While rows are staged, readers have the table as it was, whole."""
    merge_rows(lake, EVENTS, [numbered_batch(0, ROWS, note="old", days=0.05)])
    with lake.open_session(
        EVENTS, account=ACCOUNT_ID, mode="replace", with_history=False, started_at=utc_now()
    ) as session:
        for start in range(0, ROWS, 100):
            session.add(numbered_batch(start, 100, note="new", days=0.05))
            session.stage_batches()
            lake.publish([])
            found = (
                lake.query_relation("events").aggregate("count(*), min(note), max(note)").fetchall()
            )
            assert found == [(ROWS, "old", "old")]
        session.commit({})
    found = lake.query_relation("events").aggregate("count(*), min(note), max(note)").fetchall()
    assert found == [(ROWS, "new", "new")]


def test_a_stream_of_batches_is_one_version(lake: Lake) -> None:
    """A reader that was opened before a commit goes on with the version it was opened at."""
    merge_rows(lake, EVENTS, [numbered_batch(0, ROWS, note="old", days=0.05)])
    reader = lake.query_relation("events").select("id", "note").to_arrow_reader()
    merge_rows(lake, EVENTS, [numbered_batch(0, ROWS, note="new", synced=9, days=0.05)])
    rows = reader.read_all()
    assert rows.schema.names == ["id", "note"]
    assert rows.num_rows == ROWS
    assert set(rows["note"].to_pylist()) == {"old"}
