"""Two cursors, one in asset metadata and one in the lake: every way they can differ, end to end.

The table is the design's: the lower of the two counts, a missing one says nothing, and where the
rows are gone the sync begins at the beginning. What is unexpected is logged.
"""

import shutil
from datetime import UTC, datetime, timedelta

import pytest
from deltalake import DeltaTable

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import NOON

DAY = timedelta(days=1)


def mark_of(run: RunResult) -> datetime:
    """Return the cursor of the events that a run has shown."""
    return datetime.fromisoformat(str(run.cursor("events")))


def dated_from(home: Home, start: datetime, end: datetime | None = None) -> set[str]:
    """Return the events of the account that are dated in `[start, end)`, UTC."""
    ceiling = end or datetime.max.replace(tzinfo=UTC)
    return {
        k for k, at in home.account.true_cursors("events").items() if at and start <= at < ceiling
    }


def test_a_fresh_dagster_home_goes_on_from_the_lake(home: Home) -> None:
    """Without history in Dagster the cursor beside the files carries on, and the log says so."""
    first = home.sync("events", "profiles")
    home.reset_dagster_home()
    home.account.advance_clock(hours=3)
    home.account.clear_journal()
    second = home.sync("events", "profiles")
    assert "no cursor in asset metadata: continuing from the lake's" in second.warnings
    assert "full_refresh_overwrite" in second.warnings
    assert set(home.account.shown_record_counts("/api/events")) == dated_from(home, mark_of(first))
    assert mark_of(second) > mark_of(first)
    assert sorted(home.ids("profiles")) == sorted(home.account.true_ids("profiles"))
    assert home.sync("events", "profiles").warnings == ""


def test_an_emptied_lake_is_filled_from_the_beginning(home: Home) -> None:
    """If the files are missing, the cursor in Dagster is ignored: everything is read."""
    first = home.sync("events", "profiles")
    shutil.rmtree(home.data_dir)
    second = home.sync("events", "profiles")
    assert "but the lake holds no events: reading from the beginning" in second.warnings
    assert "but the lake holds no profiles: reading from the beginning" in second.warnings
    for stream in ("events", "profiles"):
        assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))
        assert second.cursor(stream) == first.cursor(stream)


def test_a_table_that_another_engine_emptied_is_filled_again(home: Home) -> None:
    """A table without rows, left by a DELETE of another engine, is read from the beginning."""
    home.sync("events")
    DeltaTable(str(home.data_dir / "lake" / "events")).delete()
    second = home.sync("events")
    assert "reading from the beginning" in second.warnings
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_the_lower_cursor_counts(home: Home) -> None:
    """A cursor in Dagster that lies before the lake's is where reading starts; both are named."""
    first = home.sync("events")
    lower = mark_of(first) - 3 * DAY
    home.observe_cursor("events", lower)
    home.account.clear_journal()
    second = home.sync("events")
    assert f"cursors differ: asset metadata {lower}, lake {mark_of(first)}" in second.warnings
    assert set(home.account.shown_record_counts("/api/events")) == dated_from(home, lower)
    assert second.cursor("events") == first.cursor("events")
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))
    assert home.sync("events").warnings == ""


def test_a_cursor_ahead_of_the_lake_loses_nothing(home: Home) -> None:
    """A cursor in Dagster that lies after the lake's is not believed: no row is skipped for it."""
    first = home.sync("events")
    home.account.advance_clock(days=1)
    home.observe_cursor("events", home.account.now)
    second = home.sync("events")
    assert "cursors differ" in second.warnings
    assert dated_from(home, mark_of(first)) <= set(home.ids("events"))
    assert mark_of(first) < mark_of(second) < home.account.now


def test_a_wiped_asset_goes_on_from_the_lake(home: Home) -> None:
    """The UI's wipe is no reset: the lake's cursor goes on, logged with the way to reset."""
    first = home.sync("events")
    home.wipe_asset("events")
    home.account.clear_journal()
    second = home.sync("events")
    assert "no cursor in asset metadata: continuing from the lake's" in second.warnings
    assert set(home.account.shown_record_counts("/api/events")) == dated_from(home, mark_of(first))
    assert second.cursor("events") == first.cursor("events")


def test_a_cursor_that_is_no_time_is_an_error_with_the_way_out(home: Home) -> None:
    """Text that is no instant, put there by hand, fails the stream before any request."""
    home.sync("events")
    home.observe_cursor("events", "yesterday")
    home.account.clear_journal()
    second = home.sync("events")
    assert "'yesterday', not an ISO 8601 instant" in second.failures["events"]
    assert "wipe" in second.failures["events"]
    assert home.account.request_counts().total() == 0


def test_a_cursor_in_the_future_is_lowered_and_reported(open_home: StartHome) -> None:
    """A cursor far past this machine's clock is cut to now; nothing is lost or doubled."""
    home = open_home(now=datetime.now(UTC) + 30 * DAY)
    home.sync("events")
    second = home.sync("events")
    assert second.success
    assert "cursor in the future" in second.warnings
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_an_earlier_start_date_fills_the_gap(home: Home) -> None:
    """A start date moved earlier reads exactly what lies between, and what is new."""
    late, early = NOON - 3 * DAY, NOON - 6 * DAY
    first = home.sync("events", start_date=f"{late:%Y-%m-%d}")
    late, early = late.replace(hour=0), early.replace(hour=0)
    assert sorted(home.ids("events")) == sorted(dated_from(home, late))
    home.account.clear_journal()
    second = home.sync("events", start_date=f"{early:%Y-%m-%d}")
    gap = dated_from(home, early, late)
    assert gap
    assert set(home.account.shown_record_counts("/api/events")) == gap | dated_from(
        home, mark_of(first)
    )
    assert sorted(home.ids("events")) == sorted(dated_from(home, early))
    assert second.cursor("events") == first.cursor("events")
    home.account.clear_journal()
    home.sync("events")
    assert set(home.account.shown_record_counts("/api/events")) >= dated_from(
        home, NOON - 9 * DAY, early
    )
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_a_later_start_date_takes_nothing_away(home: Home) -> None:
    """After a later start date the stored rows and the cursor stay."""
    first = home.sync("events")
    second = home.sync("events", start_date=f"{NOON - 2 * DAY:%Y-%m-%d}")
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))
    assert second.cursor("events") == first.cursor("events")


def test_the_start_date_cuts_no_table_that_others_are_joined_to(home: Home) -> None:
    """Metrics, lists, segments, exclusions and accounts are whole whatever the start date."""
    whole = ("accounts", "global_exclusions", "lists", "metrics", "segments")
    assert home.sync(*whole, "profiles", start_date=f"{NOON:%Y-%m-%d}").success
    for stream in whole:
        assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))
    assert home.row_count("profiles") < len(home.account.true_ids("profiles"))


def busiest_metrics(home: Home) -> list[str]:
    """Return the metrics of the stored events, the one with the most events first."""
    rows = home.query(
        "SELECT metric_id FROM klaviyo.events WHERE metric_id IS NOT NULL "
        "GROUP BY ALL ORDER BY count(*) DESC, metric_id"
    )
    return [metric for (metric,) in rows]


def events_by_metric(home: Home) -> dict[str, int]:
    """Return the number of stored events by metric."""
    return dict(home.query("SELECT metric_id, count(*) FROM klaviyo.events GROUP BY ALL"))


def test_metric_ids_restrict_the_events_and_can_change(open_home: StartHome) -> None:
    """An added metric is read from its beginning; the rows of a removed one stay."""
    home = open_home(future_events=0)
    home.sync("events")
    whole = events_by_metric(home)
    one, two, three = busiest_metrics(home)[:3]
    shutil.rmtree(home.data_dir)
    home.reset_dagster_home()

    home.sync("events", event_metric_ids=f"{one}, {two}")
    assert events_by_metric(home) == {one: whole[one], two: whole[two]}
    home.account.clear_journal()
    changed = home.sync("events", event_metric_ids=f"{two},{three}")
    assert events_by_metric(home) == {each: whole[each] for each in (one, two, three)}
    # What was there of the second is not read again, but for what shares its mark.
    assert changed.metadata_number("events", "records_read") <= whole[three] + whole[two] / 4
    assert home.sync("events").success
    assert events_by_metric(home) == whole
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_a_metric_chosen_after_all_were_read_is_not_read_again(home: Home) -> None:
    """What was read of all metrics counts for each single one that the setting names later."""
    first = home.sync("events")
    one = busiest_metrics(home)[0]
    second = home.sync("events", event_metric_ids=one)
    assert (
        second.metadata_number("events", "records_read")
        < first.metadata_number("events", "records_read") / 10
    )
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_a_metric_id_that_klaviyo_refuses_is_a_clear_error(home: Home) -> None:
    """A 400 to the metric filter fails the stream at once, naming the setting; others go on."""
    refusal = {"status": 400, "detail": "Invalid metric_id"}
    with home.account.inject_fault("error", match={"path": "/api/events"}, **refusal):
        run = home.sync("events", "lists", event_metric_ids="CustomMetric1")
    assert "lists" in run.materializations
    assert "KLAVIYO_EVENT_METRIC_IDS" in run.failures["events"]
    assert "Invalid metric_id" in run.failures["events"]
    assert home.account.request_counts()["/api/events"] == 1
    assert run.attempts["events"] == 1


def test_a_metric_id_without_a_single_event_is_pointed_at(home: Home) -> None:
    """An id that Klaviyo takes and has nothing for, as for a slip of the pen, is warned of."""
    one = min(home.account.attributes("metric"))
    home.account.add_events({"metric": one, "datetime": (NOON - DAY).isoformat()})
    run = home.sync("events", event_metric_ids=f"{one},XxXxXx")
    assert run.success
    assert "no event of 'XxXxXx' was ever seen" in run.warnings
    assert repr(one) not in run.warnings


def test_a_run_that_finds_nothing_hands_the_cursor_on(home: Home) -> None:
    """A run for a metric without any event leaves the cursor as it was."""
    one = min(home.account.attributes("metric"))
    home.account.add_events({"metric": one, "datetime": (NOON - DAY).isoformat()})
    first = home.sync("events", event_metric_ids=one)
    second = home.sync("events", event_metric_ids="XxXxXx")
    assert second.success
    assert second.cursor("events") == first.cursor("events") is not None


@pytest.mark.parametrize("edge", ["date", "instant"])
def test_a_window_read_again_leaves_the_cursor(home: Home, edge: str) -> None:
    """`start` and `end` read exactly `[start, end)` again and move neither mark nor other rows."""
    first = home.sync("events")
    start = (NOON - 5 * DAY).replace(hour=0)
    end = start + 2 * DAY
    late = home.account.add_events({"datetime": (start + DAY).isoformat()})
    home.account.advance_clock(days=1)
    home.account.clear_journal()
    texts = {
        "date": {"start": f"{start:%Y-%m-%d}", "end": f"{end:%Y-%m-%d}"},
        "instant": {"start": start.isoformat(), "end": f"{end:%Y-%m-%dT%H:%M:%SZ}"},
    }[edge]
    again = home.sync("events", config=texts)
    assert again.success
    assert set(home.account.shown_record_counts("/api/events")) == dated_from(home, start, end)
    assert late <= set(home.ids("events"))
    assert again.cursor("events") == first.cursor("events")
    home.sync("events")
    assert len(home.ids("events")) == len(set(home.ids("events")))
    assert dated_from(home, mark_of(first)) <= set(home.ids("events"))


@pytest.mark.usefixtures("fast_retries")
def test_a_window_read_again_finishes_nothing(home: Home) -> None:
    """After a first sync that failed half-way, a re-read leaves no mark that claims the rest."""
    archived = "equals%28archived%2Ctrue%29"
    with home.account.inject_fault(
        "error", match={"path": "/api/campaigns", "query": archived}, status=500
    ):
        broken = home.sync("campaigns")
    assert not broken.success
    assert home.lake_ids("campaigns")
    window = {"start": f"{NOON - 2 * DAY:%Y-%m-%d}", "end": f"{NOON - DAY:%Y-%m-%d}"}
    again = home.sync("campaigns", config=window)
    assert again.success
    assert again.cursor("campaigns") is None
    assert home.sync("campaigns").success
    assert sorted(home.ids("campaigns")) == sorted(home.account.true_ids("campaigns"))
