"""F50 to F54: what a sync finds of its own past: half of it, an older form, nonsense, another's."""

import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import build_table
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.faults.assertions import (
    assert_complete,
    read_committed_cursor,
    read_metadata_cursor,
    stored_ids,
)

HOUR = timedelta(hours=1)
FULL = {"sync_mode": "full_refresh_overwrite"}
FAR = "2999-01-01T00:00:00+00:00"

State = dict[str, object]


def restate(home: Home, stream: str, change: Callable[[State], State]) -> None:
    """Commit another state to a table, its rows as they are."""
    lake = Lake(home.data_dir, clock=lambda: home.account.now)
    known = lake.read_table_state(stream)
    assert known is not None
    table = build_table(STREAMS[stream], arrow_schema(STREAMS[stream]))
    with lake.open_session(
        table,
        account=known.account,
        mode="merge",
        with_history=False,
        started_at=home.account.now,
    ) as session:
        session.commit(change(dict(known.state)))
    after = lake.read_table_state(stream)
    assert after is not None
    assert after.state != known.state
    assert after.rows == known.rows


def rewrite_without_column(home: Home, stream: str, *, without: str) -> None:
    """Let another program rewrite a table without one of its columns."""
    folder = str(home.data_dir / "lake" / stream)
    table = DeltaTable(folder)
    rows = table.to_pyarrow_table().drop_columns([without])
    by = table.metadata().partition_columns
    write_deltalake(
        folder, rows, mode="overwrite", schema_mode="overwrite", partition_by=by or None
    )
    assert without not in pa.schema(cast("Any", DeltaTable(folder).schema().to_arrow())).names


def columns(home: Home, stream: str) -> list[str]:
    """Return the columns of a relation."""
    return [name for (name,) in home.query(f"SELECT column_name FROM (DESCRIBE klaviyo.{stream})")]


def test_f50_rows_without_metadata_go_on_from_the_lake(home: Home) -> None:
    """Without a cursor in Dagster the lake's carries on: only what is new is requested."""
    home.sync("events", "profiles")
    home.reset_dagster_home()
    assert read_metadata_cursor(home, "events") is None
    home.account.advance_clock(hours=3)
    run = home.sync("events", "profiles")
    assert run.success
    assert "no cursor in asset metadata: continuing from the lake's" in run.warnings
    assert run.metadata_number("events", "records_read") < len(home.account.true_ids("events")) / 4
    assert_complete(home, "events", "profiles")


def test_f50_metadata_without_rows_reads_everything(home: Home) -> None:
    """If the files are missing, Dagster's cursor is ignored and the log says so."""
    home.sync("events", "profiles")
    shutil.rmtree(home.data_dir)
    home.account.advance_clock(hours=3)
    run = home.sync("events", "profiles")
    assert run.success
    for stream in ("events", "profiles"):
        assert f"the lake holds no {stream}: reading from the beginning" in run.warnings
    assert_complete(home, "events", "profiles")


def test_f50_rows_without_any_cursor_are_read_whole_and_not_doubled(home: Home) -> None:
    """A table that another program copied, without our commits, is read from the beginning."""
    home.sync("events", "profiles")
    for stream in ("events", "profiles"):
        folder = home.data_dir / "lake" / stream
        table = DeltaTable(str(folder))
        rows, by = table.to_pyarrow_table(), table.metadata().partition_columns
        shutil.rmtree(folder)
        write_deltalake(str(folder), rows, partition_by=by or None)
    run = home.sync("events", "profiles")
    assert run.success
    assert run.warnings.count("reading from the beginning") == 2
    assert_complete(home, "events", "profiles")


@pytest.mark.parametrize("lower", ["metadata", "lake"])
def test_f50_the_lower_of_two_marks_counts(home: Home, lower: str) -> None:
    """Cursors that differ are logged; reading starts from the lower one, and nothing is skipped."""
    home.sync("events")
    mark = read_committed_cursor(home, "events")
    assert mark is not None
    home.account.advance_clock(hours=6)
    home.observe_cursor("events", mark - 30 * HOUR if lower == "metadata" else home.account.now)
    run = home.sync("events")
    assert run.success
    assert "continuing from the lower one" in run.warnings
    assert mark < datetime.fromisoformat(str(run.cursor("events"))) < home.account.now
    assert_complete(home, "events")


def test_f51_unknown_keys_in_a_cursor_are_ignored(home: Home) -> None:
    """A state with keys of another release goes on from its cursor; nothing is read again."""
    home.sync("events")
    restate(home, "events", lambda state: {**state, "of_a_later_release": {"deep": [1, None]}})
    home.account.advance_clock(hours=3)
    run = home.sync("events")
    assert run.success
    assert run.warnings == ""
    assert run.metadata_number("events", "records_read") < len(home.account.true_ids("events")) / 4
    assert_complete(home, "events")


BAD_STATES: Mapping[str, Callable[[State], State]] = {
    "no moment": lambda state: {**state, "cursor": "yesterday"},
    "no offset": lambda state: {**state, "cursor": "2026-09-30T10:00:00"},
    "a number": lambda state: {**state, "cursor": 1_790_000_000},
    "an older form": lambda state: {"cursor": state["cursor"]},
    "no windows": lambda state: {**state, "slices": {}},
    "other windows": lambda state: {**state, "slices": {"": {"windows": "all"}}},
    "a list": lambda state: {**state, "slices": [1, 2]},
}


def test_f51_a_cursor_that_cannot_be_read_is_refused_with_the_way_out(home: Home) -> None:
    """Each fails before any request, says how to reset it, and the reset brings everything."""
    home.sync("events")
    for form, change in BAD_STATES.items():
        restate(home, "events", change)
        home.account.advance_clock(hours=3)
        request_count = home.account.request_counts()["/api/events"]
        run = home.sync("events")
        assert set(run.failures) == {"events"}, form
        assert "reset it with sync_mode: full_refresh_overwrite" in run.failures["events"], form
        assert run.attempts["events"] == 1, form
        assert home.account.request_counts()["/api/events"] == request_count, form
        assert home.sync("events", config=FULL).success, form
        assert stored_ids(home, "events") == sorted(home.account.true_ids("events")), form
    assert_complete(home, "events")
    assert home.sync("events", "lists").warnings == ""
    assert_complete(home, "lists")


def test_f51_text_in_the_metadata_that_is_no_moment_is_refused(home: Home) -> None:
    """An unreadable cursor in Dagster fails the stream; after a wipe of the asset it syncs."""
    home.sync("events")
    home.observe_cursor("events", "yesterday")
    request_count = home.account.request_counts()["/api/events"]
    run = home.sync("events")
    assert "'yesterday', not an ISO 8601 instant" in run.failures["events"]
    assert "wipe the asset's materializations" in run.failures["events"]
    assert home.account.request_counts()["/api/events"] == request_count
    assert stored_ids(home, "events") == sorted(home.account.true_ids("events"))
    home.wipe_asset("events")
    home.account.advance_clock(hours=1)
    assert home.sync("events").success
    assert_complete(home, "events")


def in_2999(state: State) -> State:
    """Return the state with every moment of it moved to 2999."""
    slices = cast("dict[str, dict[str, object]]", state["slices"])
    moved = {
        name: {**each, "windows": [[None, FAR]], "highest": FAR} for name, each in slices.items()
    }
    return {**state, "cursor": FAR, "slices": moved}


@pytest.mark.parametrize("where", ["lake", "lake and metadata", "metadata"])
def test_f52_a_cursor_in_2999_is_cut_to_now(open_home: StartHome, where: str) -> None:
    """It is warned of, nothing is read for it or lost by it, and what comes later still arrives."""
    # No events but those written here: an account's own come late now and then.
    home = open_home(now=datetime.now(UTC), events=0, future_events=0)
    hours = [{"datetime": (home.account.now - each * HOUR).isoformat()} for each in range(1, 200)]
    home.account.add_events(*hours)
    home.sync("events")
    before = stored_ids(home, "events")
    if "lake" in where:
        restate(home, "events", in_2999)
    if "metadata" in where:
        home.observe_cursor("events", FAR)
    run = home.sync("events")
    assert run.success
    assert ("cursor in the future" if "lake" in where else "cursors differ") in run.warnings
    assert stored_ids(home, "events") == before
    mark = read_committed_cursor(home, "events")
    assert mark is not None
    assert mark <= datetime.now(UTC)
    home.account.advance_clock(days=2)
    home.account.add_events({"datetime": (home.account.now - HOUR).isoformat(), "count": 9})
    assert home.sync("events").success
    assert_complete(home, "events")


def test_f53_the_key_of_another_account_is_refused(home: Home, open_home: StartHome) -> None:
    """It fails with both accounts named and nothing written; the first key goes on as before."""
    home.sync("events", "profiles")
    other = open_home(seed=2)
    before = home.data_files()
    key, url = other.account.key, other.account.url
    run = home.sync("events", "profiles", "lists", api_key=key, base_url=url)
    assert set(run.failures) == {"events", "profiles", "lists"}
    accounts = [*home.account.true_ids("accounts"), *other.account.true_ids("accounts")]
    for text in run.failures.values():
        assert all(each in text for each in accounts)
        assert "Give each account its own KLAVIYO_DATA_DIR" in text
    assert home.data_files() == before
    assert set(other.account.request_counts()) == {"/api/accounts"}
    home.account.advance_clock(hours=3)
    assert home.sync("events", "profiles", "lists").success
    assert_complete(home, "events", "profiles", "lists")


@pytest.mark.parametrize(
    ("stream", "column"),
    [("profiles", "last_name"), ("events", "event_properties"), ("lists", "name")],
)
def test_f54_a_column_that_was_dropped_comes_back(home: Home, stream: str, column: str) -> None:
    """Rows read since have its value, older ones NULL until a full refresh; no row is lost."""
    home.sync(stream)
    there = columns(home, stream)
    filled = home.query(f"SELECT id FROM klaviyo.{stream} WHERE {column} IS NOT NULL")
    rewrite_without_column(home, stream, without=column)
    home.account.advance_clock(hours=6)
    assert home.sync(stream).success
    assert_complete(home, stream)
    assert sorted(columns(home, stream)) == sorted(there)
    assert home.sync(stream, config=FULL).success
    assert_complete(home, stream)
    again = home.query(f"SELECT id FROM klaviyo.{stream} WHERE {column} IS NOT NULL")
    assert {*filled} <= {*again}
    assert filled


@pytest.mark.parametrize(
    ("stream", "column"),
    [
        ("profiles", "id"),
        ("profiles", "updated"),
        ("events", "datetime"),
        ("profiles", "synced_at"),
    ],
)
def test_f54_a_missing_key_or_cursor_column_is_reported(
    home: Home, stream: str, column: str
) -> None:
    """Without its key or cursor the table is not written on: the failure names the way out."""
    home.sync(stream)
    rewrite_without_column(home, stream, without=column)
    before = home.data_files()
    home.account.advance_clock(hours=6)
    run = home.sync(stream)
    assert f"the column {column}" in run.failures[stream]
    assert "full_refresh_overwrite" in run.failures[stream]
    assert home.data_files() == before
    home.account.mutate(profile=min(home.account.true_ids("profiles")), delete=True)
    # Nor can a row that Klaviyo no longer has stay without them.
    assert home.sync(stream, config=FULL).success
    assert_complete(home, stream)
