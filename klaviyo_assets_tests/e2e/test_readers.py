"""Readers in another process while syncs run: whole versions only, and never an error."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from unittest.mock import patch

import duckdb

from klaviyo_assets.defs import io_manager
from klaviyo_assets.sync import sync_run
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.forkserver import FORKSERVER

Row = tuple[int, int, datetime, datetime, int, datetime]

SCAN = """
    SELECT count(*), count(DISTINCT id), min(datetime), max(datetime),
           count(DISTINCT synced_at), min(synced_at)
    FROM klaviyo.events
"""
"""Two rows of one event, a part of a table, or two versions at once: each shows in one of these."""

LEAST = 4
"""Scans that a reader makes, however soon it is told to stop."""


@dataclass(slots=True)
class Reading:
    """What a reader has seen: distinct rows through connections of their own, and through one."""

    fresh: set[Row] = field(default_factory=set[Row])
    held: set[Row] = field(default_factory=set[Row])
    scans: int = 0
    errors: list[str] = field(default_factory=list[str])


def attach_read_only(path: str) -> duckdb.DuckDBPyConnection:
    """Return a connection that has the database attached read-only, as a dashboard does."""
    connection = duckdb.connect(config={"threads": 1})
    connection.execute(f"ATTACH '{path}' AS klaviyo (READ_ONLY)")
    return connection


def read_on(path: str, stop: Event, report: Connection) -> None:
    """Scan in a loop until told to stop: by a new connection each time, and by one kept open."""
    seen = Reading()
    with attach_read_only(path) as open_connection:
        while not stop.is_set() or seen.scans < LEAST:
            try:
                with attach_read_only(path) as once:
                    seen.fresh.update(once.execute(SCAN).fetchall())
                seen.held.update(open_connection.execute(SCAN).fetchall())
            except duckdb.Error as error:
                seen.errors.append(f"{type(error).__name__}: {error}"[:300])
            seen.scans += 1
            if seen.scans == 1:
                report.send(None)
    report.send(seen)


@contextmanager
def reader(home: Home) -> Generator[Reading]:
    """Have a reader in another process for the block; what it saw is there afterwards."""
    stop, (ours, theirs) = FORKSERVER.Event(), FORKSERVER.Pipe()
    path = str(home.data_dir / "klaviyo.duckdb")
    process = FORKSERVER.Process(target=read_on, args=(path, stop, theirs))
    process.start()
    theirs.close()
    reading = Reading()
    try:
        ours.recv()
        yield reading
    finally:
        stop.set()
        seen = ours.recv()
        process.join(300)
    reading.fresh, reading.held = seen.fresh, seen.held
    reading.scans, reading.errors = seen.scans, seen.errors


def write_days(home: Home, *, first: int, last: int) -> None:
    """Write 1,440 events a day, ten each ten minutes, from so many to so many days ago."""
    minutes = range(last * 24 * 60 + 10, first * 24 * 60, 10)
    home.account.add_events(
        *(
            {"datetime": (home.account.now - timedelta(minutes=ago)).isoformat(), "count": 10}
            for ago in minutes
        )
    )


def test_a_reader_sees_whole_versions_only(open_home: StartHome) -> None:
    """Scans beside a re-sync, a full refresh and an incremental sync see tables as committed."""
    home = open_home(events=0, future_events=0)
    write_days(home, first=4, last=1)
    home.sync("events")
    held = home.query(SCAN)
    with (
        patch.object(sync_run, "COMMIT_BYTES", 100_000),
        patch.object(io_manager, "_PUBLISH_INTERVAL", timedelta(0)),
    ):
        home.account.advance_clock(minutes=1)
        with reader(home) as beside_window:
            again = home.sync("events", config={"start": "2026-01-01"})
        resynced = home.query(SCAN)
        home.account.advance_clock(minutes=1)
        with reader(home) as beside_refresh:
            refresh = home.sync("events", config={"sync_mode": "full_refresh_overwrite"})
        refreshed = home.query(SCAN)
    home.account.advance_clock(days=1)
    write_days(home, first=1, last=0)
    with reader(home) as beside_news:
        news = home.sync("events")
    newest = home.query(SCAN)

    for reading in (beside_window, beside_refresh, beside_news):
        assert reading.errors == []
    assert again.metadata_number("events", "commits") > 3
    # Every commit of the re-read is a whole table: all events once, part of them newly read.
    assert {row[:4] for row in beside_window.fresh} == {held[0][:4]} == {resynced[0][:4]}
    # A full refresh is one version or the other, never some rows of each.
    assert refresh.success
    assert beside_refresh.fresh <= {resynced[0], refreshed[0]}
    assert refreshed[0][4] == 1
    assert news.success
    assert beside_news.fresh <= {refreshed[0], newest[0]}
    assert newest[0][0] > refreshed[0][0]
    # Whoever keeps the database open goes on with the version that it opened.
    assert beside_window.held == {held[0]}
    assert beside_refresh.held == {resynced[0]}
    assert beside_news.held == {refreshed[0]}
