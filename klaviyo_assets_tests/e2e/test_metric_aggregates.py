"""Metric aggregates: what Klaviyo counts of each metric and day is what the events say."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_runs import run_partitions
from klaviyo_assets_tests.e2e.report_ticks import RANGE_TAGS, evaluate_sensor
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

NOW, ZONE = datetime(2026, 11, 10, 12, tzinfo=UTC), "America/Los_Angeles"
FIRST, LAST = date(2026, 10, 12), date(2026, 11, 9)
STREAM, PATH, PARTITIONS = "metric_aggregates", "/api/metric-aggregates", "klaviyo_event_metrics"
REQUESTS = 5
"""One for the total, and one for each dimension."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, dagster_template: Path) -> Iterator[Home]:
    """A home with all events and metrics, over a change of clocks; no aggregate was fetched."""
    with open_sandbox_account(now=NOW, timezone=ZONE, days=30, events=3000) as account:
        home = Home(
            account=account,
            root=tmp_path_factory.mktemp("aggregates"),
            dagster_template=dagster_template,
            settings={
                "KLAVIYO_STREAMS": f"accounts,events_detailed,{STREAM}",
                "KLAVIYO_REPORT_START_DATE": FIRST.isoformat(),
            },
        )
        assert home.sync("accounts", "metrics", "events", "events_detailed").success
        yield home


@pytest.fixture(scope="module")
def metrics(home: Home) -> list[str]:
    """The partitions by metric after two of them were fetched, the most frequent one first."""
    with open_instance(home.dagster_home) as instance:
        known = list(instance.get_dynamic_partitions(PARTITIONS))
    counted = home.query(
        "SELECT metric_id FROM events WHERE metric_id IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC"
    )
    frequent = [metric for (metric,) in counted]
    assert set(known) >= set(frequent)
    home.account.clear_journal()
    done = run_partitions(home, STREAM, (frequent[0], FIRST, frequent[0], LAST))
    assert done.run.success, done.run.failures
    assert home.account.request_counts()[PATH] == REQUESTS
    assert len(done.partitions) == (LAST - FIRST).days + 1
    credited = home.query(
        "SELECT metric_id FROM events WHERE attributed_flow_id IS NOT NULL OR "
        "attributed_campaign_id IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"
    )
    other = str(credited[0][0])
    assert run_partitions(home, STREAM, (other, FIRST, other, LAST)).run.success
    return [frequent[0], *(each for each in (other,) if each != frequent[0])]


EVENTS_SQL = f"""
SELECT date, metric_id, {{dimension}} AS value, count(*), count(DISTINCT profile_id),
    round(sum(coalesce(value, 0)), 2)
FROM events_detailed WHERE date BETWEEN '{FIRST}' AND '{LAST}'
    AND metric_id IN (SELECT metric_id FROM {STREAM})
GROUP BY ALL ORDER BY ALL
"""


@pytest.mark.parametrize(
    ("dimension", "of_events"),
    [
        ("total", "''"),
        ("$attributed_flow", "coalesce(attributed_flow_id, '')"),
        (
            "$attributed_message",
            "coalesce(attributed_campaign_message_id, attributed_flow_message_id, '')",
        ),
        ("$message", "coalesce(json_extract_string(event_properties, '$.\"$message\"'), '')"),
    ],
)
def test_counts_are_those_of_the_events(
    home: Home, metrics: list[str], dimension: str, of_events: str
) -> None:
    """By local day, and by what events are credited to: count, profiles and sum of values."""
    rows = home.query(
        f'SELECT date, metric_id, dimension_value AS value, count, "unique", '
        f"round(sum_value, 2) FROM {STREAM} WHERE dimension = '{dimension}' AND count > 0 "
        "ORDER BY ALL"
    )
    assert rows == home.query(EVENTS_SQL.format(dimension=of_events))
    assert {row[1] for row in rows} == set(metrics)
    assert len({row[2] for row in rows}) > (0 if dimension == "total" else 2)


def test_a_total_has_every_day_and_a_value_those_with_events(
    home: Home, metrics: list[str]
) -> None:
    """Zeros are there once a day and metric; a key is there once."""
    by_dimension = dict(home.query(f"SELECT dimension, count(*) FROM {STREAM} GROUP BY 1"))
    assert set(by_dimension) == {
        "total",
        "$attributed_channel",
        "$attributed_flow",
        "$attributed_message",
        "$message",
    }
    assert by_dimension["total"] == len(metrics) * ((LAST - FIRST).days + 1)
    empty = f"SELECT count(*) FROM {STREAM} WHERE count = 0 AND dimension <> 'total'"
    assert home.query(empty) == [(0,)]
    key = "date, metric_id, dimension, dimension_value"
    assert home.query(f"SELECT count(*) - count(DISTINCT ({key})) FROM {STREAM}") == [(0,)]


def test_days_are_fetched_again_and_late_events_come(home: Home, metrics: list[str]) -> None:
    """A day again costs its requests, and replaces what was stored of that day alone."""
    sql = f"SELECT * EXCLUDE (fetched_at, synced_at) FROM {STREAM} ORDER BY ALL"
    before = home.query(sql)
    home.account.clear_journal()
    assert run_partitions(home, STREAM, (metrics[0], LAST, metrics[0], LAST)).run.success
    assert home.account.request_counts()[PATH] == REQUESTS
    assert home.query(sql) == before


def test_a_metric_that_is_not_counted_is_done_as_empty(home: Home, metrics: list[str]) -> None:
    """A metric that Klaviyo does not count costs one request; its partitions have the reason."""
    assert metrics
    custom = home.account.sandbox.store.custom_metrics.records[0].id
    with open_instance(home.dagster_home) as instance:
        instance.add_dynamic_partitions(PARTITIONS, [custom])
    home.account.clear_journal()
    for requests in (1, 1):
        done = run_partitions(home, STREAM, (custom, LAST))
        assert done.run.success, done.run.failures
        assert home.account.request_counts()[PATH] == requests
        ((_, _, metadata),) = done.materializations
        assert metadata["klaviyo/refused"] is True


def test_the_sensor_fetches_what_is_missing(home: Home, metrics: list[str]) -> None:
    """It launches a metric that was never fetched, without a quota of the day to wait for."""
    (request,) = evaluate_sensor(home, "klaviyo_reports_drain").runs
    assert [key.path[-1] for key in request.asset_selection or ()] == [STREAM]
    ends = [request.tags[name].split("|") for name in RANGE_TAGS]
    assert [day for day, _ in ends] == [FIRST.isoformat(), LAST.isoformat()]
    assert not {metric for _, metric in ends} & set(metrics)
