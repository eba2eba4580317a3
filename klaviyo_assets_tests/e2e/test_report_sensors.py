"""Metrics become partitions, and the backfill drains itself within the quota."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.streams import REPORTS
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    add_metrics,
    assert_rows_match,
    days_between,
    report_metrics,
    request_count,
    run_partitions,
    stored_rows,
)
from klaviyo_assets_tests.e2e.report_ticks import (
    RANGE_TAGS,
    book_requests,
    evaluate_daily_schedules,
    evaluate_sensor,
    metric_partitions,
    record_run,
    run_request,
)
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home

METRICS, DRAIN = "klaviyo_conversion_metrics", "klaviyo_reports_drain"
WEEK_BEFORE = "2026-11-03"


def bare_home(open_home: StartHome, **settings: str) -> Home:
    """Return a home before anything was read, with settings of its own."""
    home = open_home(now=NOW, timezone="UTC", days=30)
    home.settings |= {"KLAVIYO_REPORT_START_DATE": WEEK_BEFORE, **settings}
    return home


def test_the_run_of_metrics_adds_them(open_home: StartHome) -> None:
    """After a run of metrics each one is a partition key, and none is removed with its metric."""
    home = bare_home(open_home)
    assert home.sync("metrics").success
    found = metric_partitions(home)
    assert set(found) == set(home.ids("metrics"))
    add_metrics(home, ["Gone99"])
    assert home.sync("metrics").success
    assert metric_partitions(home) == [*found, "Gone99"]


def test_the_sensor_adds_what_is_stored(open_home: StartHome) -> None:
    """A lake that came from elsewhere fills a fresh DAGSTER_HOME; the next look adds nothing."""
    home = bare_home(open_home)
    home.sync("metrics")
    home.reset_dagster_home()
    assert metric_partitions(home) == []
    found = evaluate_sensor(home, METRICS)
    assert set(metric_partitions(home)) == set(home.ids("metrics"))
    assert "have not changed" in evaluate_sensor(home, METRICS, found.cursor).reason


def test_a_setting_restricts_what_is_added(open_home: StartHome) -> None:
    """Only the ids named become partitions, custom ones that no list has included."""
    home = bare_home(open_home, KLAVIYO_CONVERSION_METRIC_IDS="Custom1, Other22")
    home.sync("metrics")
    assert metric_partitions(home) == ["Custom1", "Other22"]


@pytest.mark.parametrize("by", ["run", "sensor"])
def test_auto_is_the_mapped_revenue_metric(open_home: StartHome, by: str) -> None:
    """`auto` requests the account's revenue metric, once a day."""
    home = bare_home(open_home, KLAVIYO_CONVERSION_METRIC_IDS="auto")
    home.sync("metrics")
    if by == "sensor":
        home.reset_dagster_home()
        evaluate_sensor(home, METRICS)
    (mapped,) = metric_partitions(home)
    name = home.query(f"SELECT name FROM klaviyo.metrics WHERE id = '{mapped}'")
    assert name == [("Placed Order",)]
    assert home.account.request_counts()["/api/mapped-metrics"] == 1


def test_without_a_mapping_auto_goes_by_name(open_home: StartHome) -> None:
    """Where Klaviyo does not tell, Placed Order counts."""
    home = bare_home(open_home, KLAVIYO_CONVERSION_METRIC_IDS="auto")
    match = {"path": "/api/mapped-metrics"}
    with home.account.inject_fault("error", match=match, status=404):
        assert home.sync("metrics").success
    (named,) = metric_partitions(home)
    assert home.query(f"SELECT name FROM klaviyo.metrics WHERE id = '{named}'") == [
        ("Placed Order",)
    ]


def drained(home: Home, *, ticks: int = 40) -> int:
    """Let the sensor run dry; return how many runs it took. Everything it asks for ends well."""
    runs = 0
    cursor: str | None = None
    for _ in range(ticks):
        found = evaluate_sensor(home, DRAIN, cursor)
        if not found.runs:
            assert found.reason.count("nothing is missing") == 2
            return runs
        cursor = found.cursor
        for request in found.runs:
            done = run_request(home, request)
            assert done.run.success, done.run.failures
            runs += 1
    raise AssertionError("never dry")


def test_left_alone_it_fills_everything_and_keeps_it_current(open_home: StartHome) -> None:
    """The sensor fetches every metric and day of both reports, later only days that may change."""
    home = report_home(open_home, NOW)
    home.settings |= {"KLAVIYO_REPORT_START_DATE": "2026-09-06"}
    metrics = report_metrics(home)[:2]
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = ",".join(metrics)
    drained(home)
    days = days_between(date(2026, 9, 6), date(2026, 11, 9))
    for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
        for metric in metrics:
            assert assert_rows_match(home, stream, metric, days)
    assert request_count(home, FLOW_REPORT) == 2 * len(metrics)
    home.account.clear_journal()
    assert drained(home) == 0
    assert request_count(home, FLOW_REPORT) + request_count(home, CAMPAIGN_REPORT) == 0
    home.account.advance_clock(days=1)
    drained(home)
    assert request_count(home, FLOW_REPORT) == len(metrics)
    days = days_between(date(2026, 10, 12), date(2026, 11, 10))
    for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
        for metric in metrics:
            assert assert_rows_match(home, stream, metric, days)


def test_it_never_asks_for_more_than_is_left(open_home: StartHome) -> None:
    """The runs of a tick may make no more requests than the ledger has; the newest come first."""
    home = report_home(open_home, NOW)
    home.settings |= {"KLAVIYO_REPORT_START_DATE": "2026-01-01", "KLAVIYO_RATE_LIMIT_SCALE": "1"}
    book_requests(home, {FLOW_REPORT: 220, CAMPAIGN_REPORT: 225})
    requested_runs = evaluate_sensor(home, DRAIN).runs
    assert {request.tags["klaviyo/drain"] for request in requested_runs} == {FLOW_REPORT}
    assert 0 < sum(int(each.tags["klaviyo/requests_at_most"]) for each in requested_runs) <= 5
    revenue = report_metrics(home)[0]
    (flows,) = requested_runs
    first, last = (flows.tags[name] for name in RANGE_TAGS)
    assert first.endswith(f"|{revenue}")
    assert last.startswith("2026-11-09|")


def test_a_run_of_the_sensor_stays_green_when_its_requests_are_made(open_home: StartHome) -> None:
    """It stores what it could, says what is left, and does not fail."""
    home = report_home(open_home, NOW)
    metric = report_metrics(home)[0]
    done = run_partitions(
        home,
        FLOW_REPORT,
        (metric, date(2026, 6, 1), metric, date(2026, 11, 9)),
        tags={"klaviyo/requests_at_most": "1", "klaviyo/alone": "true"},
    )
    assert done.run.success
    assert len(done.partitions) == 60
    assert "102 partitions of 1 metric left" in done.run.warnings
    assert "The sensor launches the rest by itself" in done.run.warnings
    assert request_count(home, FLOW_REPORT) == 1


def test_what_is_under_way_is_not_launched_again(open_home: StartHome) -> None:
    """Partitions of a run in flight are left out, whatever launched it."""
    home = report_home(open_home, NOW)
    metrics = report_metrics(home)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = ",".join(metrics[:2])
    tags = {
        "dagster/asset_partition_range_start": f"2026-11-01|{metrics[0]}",
        "dagster/asset_partition_range_end": f"2026-11-09|{metrics[0]}",
    }
    record_run(home, FLOW_REPORT, dg.DagsterRunStatus.STARTED, tags)
    found = evaluate_sensor(home, DRAIN)
    assert found.runs
    for request in found.runs:
        if request.tags["klaviyo/drain"] == FLOW_REPORT:
            start_day, _, metric = request.tags["dagster/asset_partition_range_start"].partition(
                "|"
            )
            end_day = request.tags["dagster/asset_partition_range_end"][:10]
            is_clear = end_day < "2026-11-01" or start_day > "2026-11-09"
            assert metric == metrics[1] or is_clear


def test_many_reports_leave_a_place_in_the_queue(open_home: StartHome) -> None:
    """With all reports on three run at once, of four places; each report gets its turn."""
    home = report_home(open_home, NOW)
    home.settings |= {
        "KLAVIYO_STREAMS": ",".join(["default", *(each.name for each in REPORTS)]),
        "KLAVIYO_CONVERSION_METRIC_IDS": report_metrics(home)[0],
        "KLAVIYO_REPORT_START_DATE": "2026-08-01",
    }
    evaluate_sensor(home, METRICS)
    found = evaluate_sensor(home, DRAIN)
    turns = set[str]()
    for _ in REPORTS:
        assert len(found.runs) == 3
        turns |= {request.tags["klaviyo/drain"] for request in found.runs}
        found = evaluate_sensor(home, DRAIN, found.cursor)
    # Its metrics are partitions of their own, and nobody has added one.
    assert turns == {each.name for each in REPORTS} - {"metric_aggregates"}
    for request in found.runs:
        record_run(
            home, request.tags["klaviyo/drain"], dg.DagsterRunStatus.STARTED, dict(request.tags)
        )
    home.account.clear_journal()
    waiting = evaluate_sensor(home, DRAIN, found.cursor)
    assert not waiting.runs
    assert "3 runs of the sensor are under way" in waiting.reason
    assert home.account.request_counts().total() == 0


def test_a_day_without_anything_is_done(open_home: StartHome) -> None:
    """A response without results is a partition without rows, and is not launched again."""
    home = report_home(open_home, NOW)
    metric, day = report_metrics(home)[0], date(2026, 3, 1)
    home.settings |= {
        "KLAVIYO_REPORT_START_DATE": str(day),
        "KLAVIYO_CONVERSION_METRIC_IDS": metric,
    }
    for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
        done = run_partitions(home, stream, (metric, day))
        assert done.run.success, done.run.failures
        ((_, _, metadata),) = done.materializations
        assert metadata["klaviyo/rows_written"] == 0
        assert metadata["klaviyo/is_final"] is True
        assert stored_rows(home, stream, metric, [day]) == {}
    starts = [
        each.tags["dagster/asset_partition_range_start"][:10]
        for each in evaluate_sensor(home, DRAIN).runs
    ]
    assert starts.count("2026-03-02") == 2
    assert min(starts) == "2026-03-02"


def test_failing_runs_stop_it(open_home: StartHome) -> None:
    """After three failures within an hour it says so, and launches nothing of that report."""
    home = report_home(open_home, NOW)
    for stream in (FLOW_REPORT, CAMPAIGN_REPORT) * 3:
        record_run(home, stream, dg.DagsterRunStatus.FAILURE, {"klaviyo/drain": stream})
    found = evaluate_sensor(home, DRAIN)
    assert not found.runs
    assert found.reason.count("3 runs failed") == 2


def test_a_wrong_zone_is_told_at_the_tick(open_home: StartHome) -> None:
    """No run is launched that would only fail."""
    home = report_home(open_home, NOW)
    found = evaluate_sensor(home, DRAIN, timezone="Asia/Tokyo")
    assert not found.runs
    assert "KLAVIYO_TIMEZONE=UTC" in found.reason


def test_the_daily_schedule_asks_for_what_moves(open_home: StartHome) -> None:
    """A run a report and metric: yesterday and the thirty days before, one request for flows."""
    home = report_home(open_home, NOW)
    metrics = report_metrics(home)[:2]
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = ",".join(metrics)
    requested_runs = evaluate_daily_schedules(home, datetime(2026, 11, 10, 4, 15, tzinfo=UTC))
    ranges = {
        (
            each.asset_selection[0].path[-1] if each.asset_selection else "",
            *sorted(each.tags.items()),
        )
        for each in requested_runs
    }
    assert len(requested_runs) == len(ranges) == 4
    for request in requested_runs:
        done = run_request(home, request)
        assert done.run.success, done.run.failures
        assert {day for _, day in done.partitions} == set(
            days_between(date(2026, 10, 10), date(2026, 11, 9))
        )
        final = {day for _, day, metadata in done.materializations if metadata["klaviyo/is_final"]}
        assert final == {date(2026, 10, 10)}
    assert request_count(home, FLOW_REPORT) == 2
    assert stored_rows(home, FLOW_REPORT, metrics[0], [date(2026, 11, 9)])
    # Of campaigns one answer over all days, others about spread messages alone. Then it is known
    # which days tell messages apart, and totals over these are all that the second metric asks.
    answers = Lake(home.data_dir, clock=lambda: NOW).response_cache(CAMPAIGN_REPORT)
    first, second = (
        list(answers.complete_responses(metric, fresh_since=NOW - timedelta(hours=1)))
        for metric in metrics
    )
    assert [not each.message_ids for each in first].count(True) == 1
    assert not any(each.message_ids for each in second)
    assert sum(len(each.date_range) for each in second) == 31
    assert len(second) < len(first)
