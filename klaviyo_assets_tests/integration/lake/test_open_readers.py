"""Connections that stay open: their files stay as long as they do, and no longer."""

import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import OPEN_READERS_FOLDER
from klaviyo_assets_tests.duckdb_releases import LIBRARY_RELEASES
from klaviyo_assets_tests.held_connections import HeldConnection, hold_connection
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    EVENTS,
    TAGS,
    list_data_files,
    merge_rows,
    numbered_batch,
    replace_rows,
    utc_now,
)

RELEASES = (*LIBRARY_RELEASES, duckdb.__version__)

WRITE = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('CREATE TABLE mine (n INT)')"

QUERY = "SELECT min(note), max(note), count(*), count(DISTINCT id) FROM events"


class Clock:
    """The real time, moved forward at will."""

    def __init__(self) -> None:
        """Start at the present."""
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        """Return the time in UTC."""
        return utc_now() + self.ahead


@pytest.fixture
def clock() -> Clock:
    """Return a clock that the test moves."""
    return Clock()


@pytest.fixture
def lake(root: Path, clock: Clock) -> Lake:
    """Return a lake on that clock, with the grace that every lake has."""
    return Lake(root, clock=clock)


def write_generation(lake: Lake, number: int) -> None:
    """Give every row of events another note, and publish: no file is as before."""
    write = replace_rows if number % 4 == 3 else merge_rows
    rows = [numbered_batch(0, 40, note=str(number), synced=number, days=0.1)]
    write(lake, EVENTS, rows, {"n": number})
    lake.publish([])


def pass_the_grace(lake: Lake, clock: Clock) -> None:
    """Let two hours go by, and have upkeep look."""
    clock.ahead += timedelta(hours=2)
    lake.vacuum("events")


def read_note(held: HeldConnection) -> str:
    """Return the only note that a connection sees, in forty rows with keys of their own."""
    answer = held.query(QUERY)
    assert isinstance(answer, list), answer
    ((first, last, rows, keys),) = answer
    assert (first, rows, keys) == (last, 40, 40)
    return str(first)


def seen_anew(root: Path, release: str = duckdb.__version__) -> str:
    """Return the only note that a new connection sees."""
    with hold_connection(root / "klaviyo.duckdb", release) as held:
        return read_note(held)


@pytest.mark.parametrize("release", RELEASES)
def test_a_connection_outlives_ten_versions_and_the_grace(
    lake: Lake, root: Path, clock: Clock, release: str
) -> None:
    """It reads the version that it opened, whole, though each was replaced two hours ago.

    The versions between cost nothing: no more than the first and the last two are on disk. When it
    is closed, its own go with the next upkeep.
    """
    write_generation(lake, 0)
    one = len(list_data_files(root, "events"))
    with hold_connection(root / "klaviyo.duckdb", release) as held:
        for number in range(1, 11):
            write_generation(lake, number)
            assert read_note(held) == "0"
            pass_the_grace(lake, clock)
            assert read_note(held) == "0"
            assert len(list_data_files(root, "events")) == 2 * one
            assert seen_anew(root, release) == str(number)
    pass_the_grace(lake, clock)
    assert len(list_data_files(root, "events")) == one
    assert len(list((root / "lake" / OPEN_READERS_FOLDER).iterdir())) == 2


@pytest.mark.parametrize("release", RELEASES)
def test_a_connection_that_attaches_anew_sees_new_rows(
    lake: Lake, root: Path, release: str
) -> None:
    """The lines of `docs/readers.md` work in every release, in a session that began in memory."""
    write_generation(lake, 0)
    path = str(root / "klaviyo.duckdb").replace("'", "''")
    attach = f"ATTACH '{path}' AS klaviyo (READ_ONLY)"
    with hold_connection(":memory:", release) as held:
        for sql in (attach, "USE klaviyo"):
            assert held.query(sql) == []
        write_generation(lake, 1)
        assert read_note(held) == "0"
        for sql in ("USE memory", "DETACH klaviyo", attach, "USE klaviyo"):
            assert held.query(sql) == []
        assert read_note(held) == "1"


def test_each_open_version_is_kept(lake: Lake, root: Path, clock: Clock) -> None:
    """Two connections of different ages see what each has opened, and go one by one."""
    write_generation(lake, 0)
    one = len(list_data_files(root, "events"))
    with hold_connection(root / "klaviyo.duckdb", duckdb.__version__) as elder:
        write_generation(lake, 1)
        with hold_connection(root / "klaviyo.duckdb", duckdb.__version__) as younger:
            for number in range(2, 5):
                write_generation(lake, number)
                pass_the_grace(lake, clock)
                assert (read_note(elder), read_note(younger)) == ("0", "1")
            assert len(list_data_files(root, "events")) == 3 * one
        pass_the_grace(lake, clock)
        assert len(list_data_files(root, "events")) == 2 * one
        assert read_note(elder) == "0"


def test_whoever_opens_just_before_a_swap_is_held_too(lake: Lake, root: Path, clock: Clock) -> None:
    """A database is not forgotten within the grace, open or not: it can be opened until its end."""
    write_generation(lake, 0)
    file = root / "opened by somebody slow.duckdb"
    file.hardlink_to(root / "klaviyo.duckdb")
    write_generation(lake, 1)
    lake.vacuum("events")
    with hold_connection(file, duckdb.__version__) as held:
        pass_the_grace(lake, clock)
        assert read_note(held) == "0"


def test_an_erasure_does_not_wait_for_readers(lake: Lake, root: Path) -> None:
    """With a grace of zero the files are removed at once; open readers fail with that reason."""
    write_generation(lake, 0)
    with hold_connection(root / "klaviyo.duckdb", duckdb.__version__) as held:
        replace_rows(lake, EVENTS, [])
        lake.publish([])
        lake.vacuum("events", grace=timedelta())
        assert list_data_files(root, "events") == []
        answer = held.query(QUERY)
        assert isinstance(answer, str)
        assert answer.startswith("IOException")


def test_our_own_connection_keeps_its_files_and_its_lock(
    lake: Lake, root: Path, clock: Clock
) -> None:
    """What this process has open counts, and neither looking nor publishing lifts DuckDB's lock.

    The tags stay as they are: what shows them could be copied from the database that is open.
    """
    merge_rows(lake, TAGS, [numbered_batch(0, 5)])
    write_generation(lake, 0)
    old = root / "old.duckdb"
    old.hardlink_to(root / "klaviyo.duckdb")
    with duckdb.connect(root / "klaviyo.duckdb", read_only=True) as connection:
        write_generation(lake, 1)
        pass_the_grace(lake, clock)
        assert connection.execute(QUERY).fetchall() == [("0", "0", 40, 40)]
        tried = subprocess.run([sys.executable, "-c", WRITE, str(old)], check=False)
        assert tried.returncode == 1, "another process could lock what this one reads"


def test_without_second_names_the_grace_is_what_there_is(
    lake: Lake, root: Path, clock: Clock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Where a file cannot have two names, all is published and tidied as ever."""
    elsewhere = Path("/dev/shm")  # noqa: S108 - another file system is the point
    if (
        not elsewhere.is_dir()
        or elsewhere.stat().st_dev == tmp_path_factory.getbasetemp().stat().st_dev
    ):
        pytest.skip("no second file system here")
    other = elsewhere / f"readers-{os.getpid()}"
    other.mkdir()
    try:
        (root / "lake").mkdir(parents=True)
        (root / "lake" / OPEN_READERS_FOLDER).symlink_to(other)
        for number in range(3):
            write_generation(lake, number)
            pass_the_grace(lake, clock)
        assert list(other.iterdir()) == []
        assert seen_anew(root) == "2"
    finally:
        other.rmdir()
