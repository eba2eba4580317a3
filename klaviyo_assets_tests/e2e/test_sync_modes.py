"""The four sync modes: what they read, what they keep, and what a crash between commits costs."""

from datetime import datetime, timedelta

import pytest

from klaviyo_assets.errors import StorageError
from klaviyo_assets_tests.crash_hooks import run_at_crash_point
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import NOON

DAY = timedelta(days=1)
APPEND = {"sync_mode": "incremental_append"}
FULL = {"sync_mode": "full_refresh_overwrite"}
FULL_APPEND = {"sync_mode": "full_refresh_append"}


def versions(home: Home, stream: str, version: str) -> list[tuple[str, datetime]]:
    """Return key and version of every row of a history, sorted."""
    return sorted(home.query(f"SELECT id, {version} FROM klaviyo.{stream}_history"))


def test_append_keeps_every_version_once(home: Home) -> None:
    """A changed record has two versions in the history and one, the newest, in its relation."""
    home.sync("campaigns", config=APPEND)
    changed = min(home.ids("campaigns"))
    for name in ("Second", "Third"):
        home.account.advance_clock(hours=1)
        home.account.mutate(campaign=changed, set={"name": name})
        home.account.advance_clock(hours=1)
        home.sync("campaigns", config=APPEND)
    # Read at the mark once more: a version that is there already stays as it is.
    last = home.sync("campaigns", config=APPEND)
    assert last.materializations["campaigns"]["klaviyo/sync_mode"] == "incremental_append"
    found = versions(home, "campaigns", "updated_at")
    assert len(found) == len(set(found)) == len(home.account.true_ids("campaigns")) + 2
    stored = home.query(
        "SELECT name FROM klaviyo.campaigns_history "
        f"WHERE id = '{changed}' AND name IN ('Second', 'Third') ORDER BY updated_at"
    )
    assert stored == [("Second",), ("Third",)]
    assert home.query(f"SELECT name FROM klaviyo.campaigns WHERE id = '{changed}'") == [("Third",)]
    assert sorted(home.ids("campaigns")) == sorted(home.account.true_ids("campaigns"))


def test_append_of_events_keeps_an_event_once(home: Home) -> None:
    """An event that is read again is there once in the history, and late ones join it."""
    home.sync("events", config=APPEND)
    late = home.account.add_events({"datetime": (NOON - 3 * DAY).isoformat()})
    home.sync("events", config=APPEND | {"start": f"{NOON - 5 * DAY:%Y-%m-%d}"})
    assert late <= set(home.ids("events"))
    assert sorted(home.ids("events_history")) == sorted(home.ids("events"))
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_append_of_a_swept_stream_keeps_every_sync(home: Home) -> None:
    """Without a cursor a version is a sync: each brings what there is, a deletion adds nothing."""
    home.sync("lists", config=APPEND)
    gone = home.account.mutate(list=min(home.ids("lists")), delete=True)
    home.sync("lists", config=APPEND)
    found = versions(home, "lists", "sync_started_at")
    assert len(found) == len(set(found)) == 5 + 4
    assert len({when for _, when in found}) == 2
    assert [each for each, _ in found].count(gone) == 1
    assert sorted(home.live_ids("lists")) == sorted(home.account.true_ids("lists"))
    assert set(home.deletion_times("lists")) == {gone}


def test_append_of_estimates_keeps_what_was_estimated(home: Home) -> None:
    """A stream of one request a record appends each response, by key and sync."""
    home.sync("campaigns")
    home.sync("campaigns_detailed", config=APPEND)
    home.account.advance_clock(hours=1)
    changed = home.account.mutate(campaign=min(home.ids("campaigns")), set={"name": "Again"})
    home.sync("campaigns")
    home.sync("campaigns_detailed", config=APPEND)
    stored = [each for each, _ in versions(home, "campaigns_detailed", "sync_started_at")]
    assert stored.count(changed) == 2
    assert len(stored) == len(home.account.true_ids("campaigns")) + 1


def test_a_full_refresh_replaces_the_table(home: Home) -> None:
    """A full refresh reads everything; rows that Klaviyo no longer has leave, the cursor stays."""
    first = home.sync("global_exclusions", "events")
    lifted = min(home.account.true_ids("global_exclusions"))
    home.account.mutate(profile=lifted, lift_suppression=True)
    home.sync("global_exclusions")
    assert lifted in home.ids("global_exclusions")
    run = home.sync("global_exclusions", "events", config=FULL)
    assert run.success
    for stream in ("global_exclusions", "events"):
        truth = home.account.true_ids(stream)
        assert sorted(home.ids(stream)) == sorted(truth)
        assert run.metadata_number(stream, "records_read") == len(truth)
    assert run.cursor("events") == first.cursor("events")
    assert "global_exclusions_history" not in home.relation_names()


def test_a_full_refresh_starts_at_the_start_date(home: Home) -> None:
    """A full refresh drops what lies before the start date; later runs go on from its cursor."""
    home.sync("events")
    start = (NOON - 4 * DAY).replace(hour=0)
    home.sync("events", config=FULL, start_date=f"{start:%Y-%m-%d}")
    since = {k for k, at in home.account.true_cursors("events").items() if at and at >= start}
    assert sorted(home.ids("events")) == sorted(since)
    home.account.clear_journal()
    home.sync("events", start_date=f"{start:%Y-%m-%d}")
    assert home.account.shown_record_counts("/api/events").total() < len(since) / 10


def test_a_full_refresh_with_history_keeps_deleted_records(home: Home) -> None:
    """`full_refresh_append` marks deleted records and keeps all their versions."""
    home.sync("email_templates", config=FULL_APPEND)
    gone = home.account.mutate(template=min(home.ids("email_templates")), delete=True)
    home.account.advance_clock(hours=1)
    renamed = home.account.mutate(template=max(home.ids("email_templates")), set={"name": "New"})
    home.sync("email_templates", config=FULL_APPEND)
    found = versions(home, "email_templates", "updated")
    assert len(found) == len(set(found)) == 6 + 1
    stored = [each for each, _ in found]
    assert (stored.count(gone), stored.count(renamed)) == (1, 2)
    assert sorted(home.live_ids("email_templates")) == sorted(
        home.account.true_ids("email_templates")
    )
    assert set(home.deletion_times("email_templates")) == {gone}


@pytest.mark.parametrize("config", [APPEND, FULL_APPEND], ids=["incremental", "full"])
def test_a_crash_between_history_and_table_loses_and_doubles_nothing(
    home: Home, config: dict[str, str]
) -> None:
    """What dies after the history's commit and before the table's is redone by the next run."""

    def crash() -> None:
        raise StorageError("the machine went dark")

    with run_at_crash_point("before a table commit", crash, count=2):
        broken = home.sync("profiles", config=config)
    assert "the machine went dark" in broken.failures["profiles"]
    # Nothing is shown of it before the next run has come through.
    assert not (home.data_dir / "klaviyo.duckdb").exists()
    changed = min(home.account.true_ids("profiles"))
    home.account.advance_clock(hours=1)
    home.account.mutate(profile=changed, set={"last_name": "Meanwhile"})
    assert home.sync("profiles", config=config).success
    truth = home.account.true_ids("profiles")
    found = versions(home, "profiles", "updated")
    assert len(found) == len(set(found)) == len(truth) + 1
    assert sorted(home.ids("profiles")) == sorted(truth)
    rows = home.query(f"SELECT last_name FROM klaviyo.profiles WHERE id = '{changed}'")
    assert rows == [("Meanwhile",)]


def test_the_modes_can_follow_one_another(home: Home) -> None:
    """Whatever mode the last sync had, the next one finds its cursor and its table."""
    home.sync("profiles")
    for config in (APPEND, FULL, {}, FULL_APPEND, APPEND):
        home.account.advance_clock(days=1)
        assert home.sync("profiles", config=config).success
        assert sorted(home.ids("profiles")) == sorted(home.account.true_ids("profiles"))
    found = versions(home, "profiles", "updated")
    assert len(found) == len(set(found))


NONSENSE = {
    "a window and a full refresh": ("events", {**FULL, "start": "2026-09-01"}, "give one of the"),
    "a window of lists": ("lists", {"start": "2026-09-01"}, "cannot filter this stream by time"),
    "a window of estimates": (
        "campaigns_detailed",
        {"end": "2026-09-01"},
        "cannot filter this stream by time",
    ),
    "a window of a view": (
        "events_detailed",
        {"start": "2026-09-01"},
        "cannot filter this stream by time",
    ),
    "a history of a view": ("events_detailed", APPEND, "stores nothing of its own"),
    "a reversed window": (
        "events",
        {"start": "2026-09-02", "end": "2026-09-01"},
        "start must lie before end",
    ),
    "no time at all": ("events", {"start": "last week"}, "start='last week' cannot be used"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_refused_before_the_first_request(home: Home, case: str) -> None:
    """A run config that a stream cannot carry out fails before the first request."""
    stream, config, sentence = NONSENSE[case]
    run = home.sync(stream, config=config)
    assert sentence in run.failures[stream]
    assert stream in run.failures[stream]
    assert home.account.request_counts().total() == 0
    assert run.attempts[stream] == 1
    assert not home.data_dir.exists()
