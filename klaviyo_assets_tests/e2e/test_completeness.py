"""Events are complete, and it is proven: counted by Klaviyo, healed by a sensor."""

from datetime import UTC, datetime, timedelta
from typing import cast

import dagster as dg
import pytest

from klaviyo_assets_tests.e2e.check_runs import (
    evaluate_repair_sensor,
    hide_events,
    run_completeness_check,
    run_repair_sensor,
    show_events,
)
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.sandbox_account import NOON
from klaviyo_assets_tests.e2e.seeded_homes import sync_or_copy

DAY = timedelta(days=1)
FIRST = datetime(2026, 9, 25, tzinfo=UTC)
"""The first of the days on which something happens in these accounts: seven events at noon."""


@pytest.fixture(name="home")
def create_quiet_home(open_home: StartHome) -> Home:
    """Give a home for an account in which only that happens which tests write, all of it read."""
    home = open_home(events=0, future_events=0)
    add_daily_events(home, *(FIRST + k * DAY for k in range(5)))
    home.account.add_events({"datetime": (NOON - timedelta(hours=1)).isoformat()})
    sync_or_copy(home, "metrics", "events", story="seven events a day")
    return home


def add_daily_events(home: Home, *days: datetime, **more: object) -> set[str]:
    """Let seven events happen at noon of each day; return their ids."""
    return home.account.add_events(
        *({"datetime": (day + DAY / 2).isoformat(), "count": 7, **more} for day in days)
    )


def skip(home: Home, *days: datetime, events: bool = True) -> set[str]:
    """Let time go on past days that Klaviyo does not show while they are read; return their ids."""
    home.account.advance_clock(days=7)
    found = add_daily_events(home, *days) if events else set[str]()
    add_daily_events(home, home.account.now - DAY)
    for day in days:
        hide_events(home, day, day + DAY)
    assert home.sync("events").success
    show_events(home)
    return found


def test_what_is_there_is_counted_and_green(open_home: StartHome) -> None:
    """Right after a sync every metric and day of an account agrees, at one request a metric."""
    home = open_home(future_events=0)
    assert home.sync("metrics", "events").success
    home.account.clear_journal()
    verdict = run_completeness_check(home)
    assert verdict.colour == "green", verdict.description
    assert home.account.request_counts()["/api/metric-aggregates"] == home.row_count("metrics")
    counted = verdict.metadata["klaviyo/events_counted"]
    assert verdict.metadata["klaviyo/events_stored"] == counted
    assert isinstance(counted, int)
    assert counted > 600
    nobodys = home.query("SELECT count(*) FROM klaviyo.events WHERE metric_id IS NULL")[0][0]
    assert verdict.metadata["klaviyo/events_without_metric"] == nobodys > 0


def test_a_hidden_day_is_named_healed_and_green_again(home: Home) -> None:
    """Green, red with the day's name, one run over exactly that day, green; then nothing to do."""
    assert run_completeness_check(home).colour == "green"
    assert "no event was missing" in evaluate_repair_sensor(home).reason
    hidden = skip(home, FIRST + 7 * DAY)
    verdict = run_completeness_check(home)
    assert verdict.colour == "red"
    assert verdict.metadata["klaviyo/short_days"] == {"2026-10-02": 7}
    assert "7 events of 2026-10-02 are missing" in verdict.description
    assert "start 2026-10-02 and end 2026-10-03" in verdict.description
    home.account.clear_journal()
    mark = home.query("SELECT max(datetime) FROM klaviyo.events")
    run = run_repair_sensor(home)
    (requested,) = home.account.queries("/api/events")
    assert "2026-10-02T00%3A00%3A00Z" in requested
    assert "2026-10-03T00%3A00%3A00Z" in requested
    assert hidden <= set(home.ids("events")) == home.account.true_ids("events")
    assert home.query("SELECT max(datetime) FROM klaviyo.events") == mark
    assert run.check_results["events", "complete"].colour == "green"
    assert evaluate_repair_sensor(home).runs == ()


def test_stretches_are_healed_one_by_one(home: Home) -> None:
    """Days in a row are one run, days apart a run each, the newest first, until none is short."""
    days = [FIRST + k * DAY for k in (6, 7, 9)]
    skip(home, *days)
    assert run_completeness_check(home).metadata["klaviyo/short_days"] == {
        "2026-10-01": 7,
        "2026-10-02": 7,
        "2026-10-04": 7,
    }
    first = run_repair_sensor(home).check_results["events", "complete"]
    assert (first.colour, first.metadata["klaviyo/missing"]) == ("red", 14)
    assert run_repair_sensor(home).check_results["events", "complete"].colour == "green"
    assert set(home.ids("events")) == home.account.true_ids("events")


def test_events_deleted_at_klaviyo_are_distinguished_from_missing_ones(home: Home) -> None:
    """Stored events that Klaviyo no longer counts are a warning that names the day, not a gap."""
    home.account.advance_clock(days=1)
    hide_events(home, FIRST, FIRST + DAY, every=2, counted=False)
    gone = set(home.ids("events")) - home.account.true_ids("events")
    verdict = run_completeness_check(home)
    assert verdict.colour == "yellow"
    assert verdict.metadata["klaviyo/vanished"] == len(gone) > 0
    assert verdict.metadata["klaviyo/missing"] == 0
    assert f"{len(gone)} stored events of 2026-09-25" in verdict.description
    assert "no event was missing" in evaluate_repair_sensor(home).reason
    assert gone <= set(home.ids("events"))


def test_deleted_and_missing_events_of_one_day_are_distinguished_by_the_repair(home: Home) -> None:
    """A repair compares ids, so stored events that Klaviyo deleted no longer hide missing ones.

    So one that goes missing later shows, although as many are stored as Klaviyo counts.
    """
    day = FIRST + 2 * DAY
    home.account.advance_clock(days=1)
    add_daily_events(home, day)
    hide_events(home, day, day + DAY, every=4, counted=False)
    gone = set(home.ids("events")) - home.account.true_ids("events")
    assert len(gone) >= 2
    before = run_completeness_check(home)
    assert before.colour == "red"
    after = run_repair_sensor(home).check_results["events", "complete"]
    assert (after.colour, after.metadata["klaviyo/missing"]) == ("yellow", 0)
    assert after.metadata["klaviyo/vanished"] == len(gone)
    assert set(home.ids("events")) - home.account.true_ids("events") == gone
    home.account.add_events({"datetime": day.isoformat(), "count": 1})
    home.account.advance_clock(hours=1)
    again = run_completeness_check(home)
    assert (again.colour, again.metadata["klaviyo/missing"]) == ("red", 1)
    assert (
        run_repair_sensor(home).check_results["events", "complete"].metadata["klaviyo/missing"] == 0
    )


def test_a_day_that_stays_short_is_given_up(home: Home) -> None:
    """After three repair runs without effect the sensor says so and launches no fourth."""
    day = FIRST + 7 * DAY
    skip(home, day)
    hide_events(home, day, day + DAY)
    assert run_completeness_check(home).colour == "red"
    for _ in range(3):
        assert run_repair_sensor(home).check_results["events", "complete"].colour == "red"
    given_up = evaluate_repair_sensor(home)
    assert given_up.runs == ()
    assert "2026-10-02: still incomplete after 3 repair runs" in given_up.reason


def test_a_verdict_is_healed_once(home: Home) -> None:
    """During a repair run, and after its success, the same check result launches no other one."""
    skip(home, FIRST + 7 * DAY)
    run_completeness_check(home)
    (request,) = evaluate_repair_sensor(home).runs
    with open_instance(home.dagster_home) as instance:
        run = instance.add_run(
            dg.DagsterRun(
                job_name="__ASSET_JOB", status=dg.DagsterRunStatus.STARTED, tags=dict(request.tags)
            )
        )
        assert "under way" in evaluate_repair_sensor(home).reason
        instance.report_run_failed(run, "a test")
        (second,) = evaluate_repair_sensor(home).runs
        assert second.run_key != request.run_key
        instance.add_run(
            dg.DagsterRun(
                job_name="__ASSET_JOB", status=dg.DagsterRunStatus.SUCCESS, tags=dict(second.tags)
            )
        )
    assert "read again" in evaluate_repair_sensor(home).reason


def test_the_newest_hours_are_left_alone(home: Home) -> None:
    """What Klaviyo counts in the last hours before the mark may still be on its way."""
    at = NOON - timedelta(hours=3)
    home.account.add_events({"datetime": at.isoformat()})
    assert run_completeness_check(home).colour == "green"
    strict = run_completeness_check(home, config={"tolerance_hours": 0})
    assert strict.colour == "red"
    assert strict.metadata["klaviyo/short_days"] == {f"{at:%Y-%m-%d}": 1}


def test_everything_is_compared_on_demand(home: Home) -> None:
    """The check covers the last weeks; a comparison of everything is bounded and logs its cost."""
    home.account.advance_clock(days=60)
    add_daily_events(home, home.account.now - 2 * DAY)
    assert home.sync("events").success
    home.account.add_events({"datetime": FIRST.isoformat()})
    assert run_completeness_check(home).colour == "green"
    everything = run_completeness_check(home, config={"days": 0})
    assert everything.metadata["klaviyo/short_days"] == {"2026-09-25": 1}
    assert run_repair_sensor(home).check_results["events", "complete"].colour == "green"
    assert evaluate_repair_sensor(home).runs == ()


def test_a_metric_that_klaviyo_does_not_count_stops_nothing(home: Home) -> None:
    """A metric that Klaviyo refuses to count is reported and left out; all others are compared."""
    match = {"path": "/api/metric-aggregates", "method": "POST", "nth": 4}
    with home.account.inject_fault("error", match=match, status=400):
        verdict = run_completeness_check(home)
    assert verdict.colour == "green"
    reasons = cast("dict[str, str]", verdict.metadata["klaviyo/metrics_not_counted"])
    assert list(reasons) == [sorted(home.ids("metrics"))[3]]


def test_before_the_first_sync_nothing_is_judged(open_home: StartHome) -> None:
    """Before the first sync the check asks for one and the sensor skips; nothing is a gap."""
    home = open_home(events=0)
    assert "never compared" in evaluate_repair_sensor(home).reason
    verdict = run_completeness_check(home)
    assert verdict.colour == "yellow"
    assert "materialize klaviyo/events first" in verdict.description


def test_lateness_is_measured_when_events_are_first_seen(home: Home) -> None:
    """An event five days late is reported once, with the lookback that would have found it."""
    late = home.account.now - timedelta(days=5)
    metric = home.ids("metrics")[0]
    home.account.advance_clock(minutes=30)
    home.account.add_events({"datetime": late.isoformat(), "metric": metric, "count": 3})
    window = {"start": f"{late - DAY:%Y-%m-%d}"}
    run = home.sync("events", config=window)
    reasons = cast(
        "dict[str, dict[str, object]]", run.materializations["events"]["klaviyo/first_seen"]
    )
    seconds = timedelta(days=5, minutes=30).total_seconds()
    assert list(reasons) == [metric]
    assert list(cast("dict[str, int]", reasons[metric]["behind"]).values()) == [3]
    assert reasons[metric]["longest"] == seconds
    again = home.sync("events", config=window)
    assert "klaviyo/first_seen" not in again.materializations["events"]
    verdict = run_completeness_check(home)
    assert verdict.metadata["klaviyo/suggested_lookback_days"] == 6
    assert "'max': '5.0 d'" in str(verdict.metadata["klaviyo/lateness"])
