"""Soft deletes: rows of deleted records stay with `deleted_at`; no other row is marked."""

from datetime import timedelta

import pytest

from klaviyo_assets.streams import DEFAULT_COLLECTIONS, STREAMS
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import COLLECTION_BY_STREAM, NOON

DAY = timedelta(days=1)
FULL = {"sync_mode": "full_refresh_overwrite"}

KINDS = {
    stream.name: COLLECTION_BY_STREAM[stream.name].removesuffix("s")
    for stream in DEFAULT_COLLECTIONS
    if stream.has_soft_deletes
}
"""Streams that mark what is deleted, with the sandbox's word for a record."""

EVERY_SYNC = {name for name in KINDS if STREAMS[name].is_snapshot}
"""Those that every sync reads whole; the others need a full refresh."""


def whole(stream: str) -> dict[str, str]:
    """Return the config of a sync that reads all of a stream."""
    return {} if stream in EVERY_SYNC else FULL


def delete_first(home: Home, stream: str) -> str:
    """Delete the first record of a stream, a message with its campaign; return its id."""
    first = min(home.ids(stream))
    if stream != "campaign_messages":
        return home.account.mutate(**{KINDS[stream]: first, "delete": True})
    ((campaign,),) = home.query(f"SELECT campaign_id FROM campaign_messages WHERE id = '{first}'")
    home.account.mutate(campaign=campaign, delete=True)
    return first


@pytest.mark.parametrize("stream", KINDS)
def test_what_klaviyo_no_longer_has_is_marked(home: Home, stream: str) -> None:
    """A complete read sets `deleted_at` of a missing record, counts it, and keeps its row."""
    home.sync(stream)
    before = home.query(f"SELECT * EXCLUDE (synced_at) FROM klaviyo.{stream} ORDER BY id")
    assert home.deletion_times(stream) == {}
    gone = delete_first(home, stream)
    home.account.advance_clock(minutes=1)
    noticed = home.account.now
    run = home.sync(stream, config=whole(stream))
    assert run.success
    assert home.deletion_times(stream) == {gone: noticed}
    assert sorted(home.live_ids(stream)) == sorted(home.account.true_ids(stream))
    assert run.metadata_number(stream, "deleted") == 1
    assert run.materializations[stream]["dagster/row_count"] == len(before)
    # The row is as it was last read, but for the mark.
    after = home.query(
        f"SELECT * EXCLUDE (synced_at) REPLACE (NULL AS deleted_at) FROM klaviyo.{stream} "
        "ORDER BY id"
    )
    assert after == before


@pytest.mark.parametrize("stream", ["lists", "flows"])
def test_a_mark_stays_until_the_record_comes_back(home: Home, stream: str) -> None:
    """Later reads leave `deleted_at` as it is; a record that is there again has none."""
    home.sync(stream)
    gone = home.account.mutate(**{KINDS[stream]: min(home.ids(stream)), "delete": True})
    noticed = home.account.now
    for newly in (1, 0):
        run = home.sync(stream, config=whole(stream))
        assert run.metadata_number(stream, "deleted") == newly
        assert home.deletion_times(stream) == {gone: noticed}
        home.account.advance_clock(days=1)
    home.account.restore(KINDS[stream], gone)
    assert home.sync(stream, config=whole(stream)).success
    assert home.deletion_times(stream) == {}
    assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))


def test_an_incremental_sync_marks_nothing_and_lifts_marks(home: Home) -> None:
    """A profile that changes again after it was taken for deleted is a living one."""
    home.sync("profiles")
    gone = home.account.mutate(profile=min(home.ids("profiles")), delete=True)
    home.account.advance_clock(hours=1)
    home.sync("profiles")
    assert home.deletion_times("profiles") == {}
    home.sync("profiles", config=FULL)
    assert set(home.deletion_times("profiles")) == {gone}
    home.account.restore("profile", gone)
    home.account.advance_clock(hours=1)
    home.account.mutate(profile=gone, set={"last_name": "Back"})
    home.account.advance_clock(hours=1)
    home.sync("profiles")
    assert home.deletion_times("profiles") == {}
    rows = home.query(f"SELECT last_name FROM klaviyo.profiles WHERE id = '{gone}'")
    assert rows == [("Back",)]


def test_before_the_start_date_nothing_is_called_deleted(home: Home) -> None:
    """A full refresh from a start date on marks what it looked for, and drops what it did not."""
    home.sync("profiles")
    start = (NOON - 3 * DAY).replace(hour=0)
    moments = home.account.true_cursors("profiles")
    late = sorted(each for each, at in moments.items() if at and at >= start)
    early = sorted(each for each, at in moments.items() if at and at < start)
    home.account.mutate(profile=late[0], delete=True)
    home.account.mutate(profile=early[0], delete=True)
    home.sync("profiles", config=FULL, start_date=f"{start:%Y-%m-%d}")
    assert set(home.deletion_times("profiles")) == {late[0]}
    assert sorted(home.ids("profiles")) == late


@pytest.mark.usefixtures("fast_retries")
def test_a_refresh_that_fails_marks_nothing(home: Home) -> None:
    """Where one slice cannot be read the table stays as it is, marks included."""
    home.sync("campaigns")
    before = sorted(home.ids("campaigns"))
    home.account.mutate(campaign=before[0], delete=True)
    match = {"path": "/api/campaigns", "query": "true"}
    with home.account.inject_fault("error", match=match, status=500):
        run = home.sync("campaigns", config=FULL)
    assert "campaigns" in run.failures
    assert home.deletion_times("campaigns") == {}
    assert sorted(home.ids("campaigns")) == before


def test_a_record_that_cannot_be_read_is_not_called_deleted(home: Home) -> None:
    """A read that put a record aside marks nothing: the record may be any of those it missed."""
    home.sync("lists")
    before = sorted(home.ids("lists"))
    with home.account.inject_fault("null_id", match={"path": "/api/lists"}):
        assert home.sync("lists").success
    assert home.deletion_times("lists") == {}
    assert sorted(home.ids("lists")) == before


@pytest.mark.parametrize("stream", ["lists", "profiles"])
def test_a_damaged_file_does_not_stop_a_complete_read(home: Home, stream: str) -> None:
    """What is read whole rebuilds a table that cannot be read, and says what may be lost."""
    home.sync(stream)
    for file in (home.data_dir / "lake" / stream).glob("*.parquet"):
        file.write_bytes(b"")
    run = home.sync(stream, config=whole(stream))
    assert run.success
    assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))
    assert f"{len(home.ids(stream))} rows were in damaged files" in run.warnings
    assert home.sync(stream, config=whole(stream)).warnings == ""


def test_a_record_that_moves_while_it_is_looked_for_is_found(open_home: StartHome) -> None:
    """A flow archived after the archived ones were read is brought by the same full refresh."""
    home = open_home(flows=160, events=0)
    home.sync("flows")
    flows = home.query("SELECT id FROM klaviyo.flows WHERE NOT archived ORDER BY updated DESC")
    assert len(flows) > 100
    moved = flows[0][0]
    change = {"flow": moved, "set": {"archived": True}}
    match = {"path": "/api/flows", "query": "archived%2Cfalse", "nth": 2}
    home.account.advance_clock(hours=1)
    with home.account.inject_fault("mutate", match=match, mutations=[change]):
        run = home.sync("flows", config=FULL)
    assert run.success
    assert home.deletion_times("flows") == {}
    assert home.query(f"SELECT archived FROM klaviyo.flows WHERE id = '{moved}'") == [(True,)]
    assert sorted(home.ids("flows")) == sorted(home.account.true_ids("flows"))


def test_details_of_deleted_parents_are_not_requested(home: Home) -> None:
    """A deleted campaign keeps its estimate, which is no longer requested."""
    home.sync("campaigns", "campaigns_detailed")
    estimated = sorted(
        each
        for (each,) in home.query(
            "SELECT id FROM klaviyo.campaigns_detailed WHERE estimated_recipient_count IS NOT NULL"
        )
    )
    gone = home.account.mutate(campaign=estimated[0], delete=True)
    home.sync("campaigns", config=FULL)
    home.account.clear_journal()
    home.sync("campaigns_detailed")
    assert home.account.request_counts().total() == 0
    assert set(home.deletion_times("campaigns_detailed")) == {gone}
    rows = home.query(
        f"SELECT estimated_recipient_count FROM klaviyo.campaigns_detailed WHERE id = '{gone}'"
    )
    assert rows != [(None,)]
    home.sync("campaigns_detailed", config=FULL)
    paths = [path for path in home.account.request_counts() if "estimation" in path]
    assert len(paths) == len(home.account.true_ids("campaigns"))
    assert not any(gone in path for path in paths)


def test_global_exclusions_leave_as_before(home: Home) -> None:
    """A lifted suppression is no deletion: the table has no mark, and the row leaves."""
    home.sync("global_exclusions")
    lifted = home.account.mutate(
        profile=min(home.account.true_ids("global_exclusions")), lift_suppression=True
    )
    run = home.sync("global_exclusions", config=FULL)
    assert lifted not in home.ids("global_exclusions")
    assert "klaviyo/deleted" not in run.materializations["global_exclusions"]
    columns = "SELECT column_name FROM (DESCRIBE klaviyo.global_exclusions)"
    assert ("deleted_at",) not in home.query(columns)
