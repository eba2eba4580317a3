"""Reports from a launch to the table: every day has its true rows, each request is sent once."""

import re
from datetime import UTC, date, datetime, timedelta

import pytest

from klaviyo_assets.api.retry import CancelToken
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.reports.send_schedule import SEND_DAYS_KEY
from klaviyo_assets.sandbox.account.config import PrivateApiKey
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    add_metrics,
    assert_rows_match,
    days_between,
    report_metrics,
    request_count,
    run_partitions,
    set_metrics,
    stored_rows,
)
from klaviyo_assets_tests.e2e.seeded_homes import sync_or_copy

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
"""After the last of the year's changes of clocks."""

CHANGES = [
    ("America/Los_Angeles", date(2026, 3, 8)),
    ("America/Los_Angeles", date(2026, 11, 1)),
    ("Europe/Copenhagen", date(2026, 3, 29)),
    ("Europe/Copenhagen", date(2026, 10, 25)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
]
"""Days on which the clocks of a zone change."""


def report_home(open_home: StartHome, now: datetime, zone: str = "UTC", **numbers: object) -> Home:
    """Return a home whose account is at `now` in a zone, with campaigns read and metrics known."""
    sizes = {"days": 60, "campaigns": 40, "flows": 10, "report_page": 5000, **numbers}
    home = open_home(now=now, timezone=zone, **sizes)
    home.settings |= {"KLAVIYO_TIMEZONE": zone, "KLAVIYO_REPORT_START_DATE": "2026-01-01"}
    sync_or_copy(home, "metrics", "campaigns")
    set_metrics(home, report_metrics(home))
    return home


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_every_day_has_its_truth_over_the_change_of_clocks(
    open_home: StartHome, zone: str, change: date
) -> None:
    """Values equal the account's own for every day around a change of clocks."""
    # As many flows as give each of these weeks a send.
    home = report_home(open_home, NOW, zone, days=(NOW.date() - change).days + 12, flows=24)
    metric = report_metrics(home)[0]
    days = days_between(change - timedelta(days=4), change + timedelta(days=4))
    for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
        done = run_partitions(home, stream, (metric, days[0], metric, days[-1]))
        assert done.run.success, done.run.failures
        assert done.partitions == dict.fromkeys([(metric, day) for day in days], 1)
        assert assert_rows_match(home, stream, metric, days)
        assert "add up" not in done.run.warnings


def test_restated_values_replace_what_was_stored(open_home: StartHome) -> None:
    """Nine days later the same days are fetched again, and equal the truth of then."""
    home = report_home(open_home, NOW)
    metric = report_metrics(home)[0]
    days = days_between(date(2026, 10, 15), date(2026, 10, 24))
    for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
        run_partitions(home, stream, (metric, days[0], metric, days[-1]))
        rows = assert_rows_match(home, stream, metric, days)
        before = stored_rows(home, stream, metric, days)
        home.account.advance_clock(days=9)
        done = run_partitions(home, stream, (metric, days[0], metric, days[-1]))
        assert done.run.success, done.run.failures
        assert assert_rows_match(home, stream, metric, days) == rows
        after = stored_rows(home, stream, metric, days)
        assert any(row["opens"] != before[key]["opens"] for key, row in after.items())
        assert {row["is_final"] for row in after.values()} == {True, False}
        home.account.advance_clock(days=-9)


def test_the_unfinished_day_is_not_stored_west_of_utc(open_home: StartHome) -> None:
    """At 02:00 UTC the day before goes on in Los Angeles: it is refused, and not stored."""
    now = datetime(2026, 10, 10, 2, tzinfo=UTC)
    home = report_home(open_home, now, "America/Los_Angeles")
    metric = report_metrics(home)[0]
    done = run_partitions(home, FLOW_REPORT, (metric, date(2026, 10, 6), metric, date(2026, 10, 9)))
    assert not done.run.success
    assert "2026-10-09" in done.run.failures[FLOW_REPORT]
    assert "not over" in done.run.failures[FLOW_REPORT]
    days = days_between(date(2026, 10, 6), date(2026, 10, 8))
    assert sorted(day for _, day in done.partitions) == days
    assert assert_rows_match(home, FLOW_REPORT, metric, days)
    assert not stored_rows(home, FLOW_REPORT, metric, [date(2026, 10, 9)])


def test_another_zone_than_the_accounts_is_refused_before_any_request(open_home: StartHome) -> None:
    """A wrong KLAVIYO_TIMEZONE names the right one and costs no report request."""
    home = report_home(open_home, datetime(2026, 10, 10, tzinfo=UTC), "Europe/Copenhagen")
    metric = report_metrics(home)[0]
    day = date(2026, 10, 1)
    done = run_partitions(home, FLOW_REPORT, (metric, day), timezone="America/New_York")
    assert not done.run.success
    assert "KLAVIYO_TIMEZONE=Europe/Copenhagen" in done.run.failures[FLOW_REPORT]
    assert request_count(home, FLOW_REPORT) == 0
    alias = run_partitions(home, FLOW_REPORT, (metric, day), timezone="Arctic/Longyearbyen")
    assert alias.run.success, alias.run.failures


def test_three_runs_of_a_day_cost_what_one_run_costs(open_home: StartHome) -> None:
    """Sibling runs of several metrics, cut day by day, share one response a metric."""
    home = report_home(open_home, NOW)
    metrics = report_metrics(home)[:5]
    days = days_between(date(2026, 10, 1), date(2026, 10, 3))
    for day in days:
        done = run_partitions(home, FLOW_REPORT, (metrics[0], day, metrics[-1], day))
        assert done.run.success, done.run.failures
        assert len(done.partitions) == len(metrics)
    assert request_count(home, FLOW_REPORT) == len(metrics)
    for metric in metrics:
        assert_rows_match(home, FLOW_REPORT, metric, days)


PLOTTED = {
    "klaviyo/recipients": "recipients",
    "klaviyo/opens": "opens",
    "klaviyo/clicks": "clicks",
    "klaviyo/conversions": "conversions",
    "klaviyo/revenue": "conversion_value",
}
"""The numbers that the UI plots of each day, and the columns that they are sums of."""

ALWAYS_PLOTTED = {
    FLOW_REPORT: {"klaviyo/recipients", "klaviyo/opens", "klaviyo/clicks"},
    CAMPAIGN_REPORT: set(PLOTTED),
}
"""Those that are not zero on all days of this account."""


def plotted_sums(home: Home, stream: str, metric: str, day: date) -> dict[str, float]:
    """Return what SQL says of the numbers that the UI plots of a day."""
    sums = ", ".join(f"round(coalesce(sum({column}), 0), 2)" for column in PLOTTED.values())
    (found,) = home.query(
        f"SELECT {sums} FROM klaviyo.{stream} "
        f"WHERE conversion_metric_id = '{metric}' AND date = DATE '{day}'"
    )
    return dict(zip(PLOTTED, found, strict=True))


def test_metadata_of_each_partition(open_home: StartHome) -> None:
    """Metadata: the metric's name, rows, shared requests, whether it is final, the zone."""
    home = report_home(open_home, NOW)
    name = "Placed Order"
    ((metric,),) = home.query(f"SELECT min(id) FROM klaviyo.metrics WHERE name = '{name}'")
    first = date(2026, 10, 6)
    done = run_partitions(home, FLOW_REPORT, (metric, first, metric, date(2026, 10, 15)))
    assert done.run.success
    shown = {day: metadata for _, day, metadata in done.materializations}
    assert len(shown) == 10
    for day, metadata in shown.items():
        assert next(iter(metadata)) == "klaviyo/metric_name"
        assert metadata["klaviyo/metric_name"] == name
        assert metadata["klaviyo/requests"] == 1
        assert metadata["klaviyo/requests_shared_by"] == 10
        assert metadata["klaviyo/is_final"] is (day <= date(2026, 10, 10))
        assert metadata["klaviyo/account_timezone"] == "UTC"
        assert metadata["klaviyo/sync_mode"] == "incremental_deduped"
        assert metadata["dagster/table_name"] == "klaviyo.flow_series_reports"
        rows = stored_rows(home, FLOW_REPORT, metric, [day])
        assert metadata["klaviyo/rows_written"] == len(rows)
        assert metadata["klaviyo/quota_left"] == shown[first]["klaviyo/quota_left"]
        assert {row["is_final"] for row in rows.values()} <= {day <= date(2026, 10, 10)}
    with open_instance(home.dagster_home) as instance:
        run = instance.get_run_by_id(done.run.id)
    assert run is not None
    assert run.tags["klaviyo/metric_name"] == name
    # The rows of a series have days, so its table holds no send days of messages.
    state = Lake(home.data_dir, clock=datetime.now).read_table_state(FLOW_REPORT)
    assert state is not None
    assert SEND_DAYS_KEY not in state.state


@pytest.mark.parametrize("stream", [CAMPAIGN_REPORT, FLOW_REPORT])
def test_what_the_ui_plots_of_a_day_is_what_sql_says(open_home: StartHome, stream: str) -> None:
    """Recipients, opens, clicks, conversions and revenue; what never happened has no curve."""
    home = report_home(open_home, NOW)
    ((metric,),) = home.query("SELECT min(id) FROM klaviyo.metrics WHERE name = 'Placed Order'")
    done = run_partitions(home, stream, (metric, date(2026, 10, 26), metric, date(2026, 11, 9)))
    assert done.run.success, done.run.failures
    curves: dict[str, list[object]] = {name: [] for name in PLOTTED}
    for _, day, metadata in done.materializations:
        shown = {name: metadata.get(name, 0) for name in PLOTTED}
        assert shown == plotted_sums(home, stream, metric, day)
        for name in metadata.keys() & PLOTTED.keys():
            curves[name].append(metadata[name])
    assert all(any(values) for values in curves.values() if values)
    assert {name for name, values in curves.items() if values} >= ALWAYS_PLOTTED[stream]


def go_on(token: CancelToken, seconds: float) -> None:
    """Wait for nothing, in the place of `CancelToken.wait`."""


def test_a_run_that_waits_says_so(open_home: StartHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a wait: which request of how many, in how long, and what the day still allows."""
    home = report_home(open_home, NOW)
    metrics = report_metrics(home)[:5]
    monkeypatch.setattr(CancelToken, "wait", go_on)
    set_metrics(home, metrics)
    day = date(2026, 10, 1)
    done = run_partitions(
        home, FLOW_REPORT, (metrics[0], day, metrics[-1], day), rate_limit_scale="1"
    )
    assert done.run.success, done.run.failures
    lines = [text for _, text in done.run.log if ", next in " in text]
    # Two a minute: the first of each further minute waits for it, the second only a second.
    assert [re.sub(r"next in .+,", "next in ...,", line) for line in lines] == [
        "flow_series_reports: request 3 of about 5, next in ..., 222 left today",
        "flow_series_reports: request 5 of about 5, next in ..., 220 left today",
    ]


def test_a_metric_of_no_table_has_no_name(open_home: StartHome) -> None:
    """Reports come before the metrics were ever read; only the name is missing."""
    home = open_home(now=NOW, timezone="UTC", days=30)
    home.settings["KLAVIYO_REPORT_START_DATE"] = "2026-10-01"
    metric = report_metrics(home)[0]
    add_metrics(home, [metric])
    done = run_partitions(home, FLOW_REPORT, (metric, date(2026, 11, 1)))
    assert done.run.success, done.run.failures
    ((_, _, metadata),) = done.materializations
    assert "klaviyo/metric_name" not in metadata
    assert metadata["klaviyo/is_final"] is False


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sync_mode": "full_refresh_overwrite"}, "partitions are replaced"),
        ({"sync_mode": "incremental_append"}, "partitions are replaced"),
        ({"start": "2026-10-01"}, "choose partitions"),
    ],
)
def test_what_makes_no_sense_for_a_report_is_refused(
    open_home: StartHome, config: dict[str, object], words: str
) -> None:
    """Other sync modes and windows are refused before the first request."""
    home = report_home(open_home, NOW)
    done = run_partitions(
        home, FLOW_REPORT, (report_metrics(home)[0], date(2026, 10, 1)), config=config
    )
    assert words in done.run.failures[FLOW_REPORT]
    assert home.account.request_counts().total() == 0


def test_launches_that_dagster_would_cut_down_are_refused(open_home: StartHome) -> None:
    """A job's backfill and a reversed range end in a sentence and fetch nothing."""
    home = report_home(open_home, NOW)
    first, second = report_metrics(home)[:2]
    day = date(2026, 10, 1)
    of_a_job = {"dagster/partition/date": "2026-10-01", "dagster/partition/metric": first}
    done = run_partitions(
        home, FLOW_REPORT, (first, day, first, day + timedelta(days=3)), tags=of_a_job
    )
    assert "asset's page" in done.run.failures[FLOW_REPORT]
    done = run_partitions(home, FLOW_REPORT, (first, day, first, day - timedelta(days=3)))
    assert "wrong way round" in done.run.failures[FLOW_REPORT]
    done = run_partitions(home, FLOW_REPORT, (second, day, first, day))
    assert "wrong way round" in done.run.failures[FLOW_REPORT]
    assert request_count(home, FLOW_REPORT) == 0


def test_a_missing_scope_skips_the_report(open_home: StartHome) -> None:
    """The run is green, nothing is materialized, and the scope is named."""
    key = PrivateApiKey(
        value="pk_" + "a" * 40,
        scopes=frozenset({"accounts:read", "metrics:read", "campaigns:read"}),
    )
    home = open_home(now=NOW, timezone="UTC", keys=(key,))
    home.settings["KLAVIYO_REPORT_START_DATE"] = "2026-01-01"
    add_metrics(home, report_metrics(home))
    done = run_partitions(home, FLOW_REPORT, (report_metrics(home)[0], date(2026, 10, 1)))
    assert done.run.success
    assert done.materializations == ()
    assert "flows:read" in done.run.warnings
