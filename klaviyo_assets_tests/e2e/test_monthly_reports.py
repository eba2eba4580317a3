"""Totals of whole months: what the sandbox counts over each, one request a month and metric."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.defs.checks import check_newest_days
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.sandbox.facts.reporting import (
    FORM_STATISTICS,
    PUBLISHED_STATISTICS,
    SEGMENT_STATISTICS,
)
from klaviyo_assets.settings import read_settings
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_runs import add_metrics, report_metrics
from klaviyo_assets_tests.e2e.report_ticks import (
    RANGE_TAGS,
    evaluate_daily_schedules,
    evaluate_sensor,
    open_home_instance,
)
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

NOW, ZONE = datetime(2026, 10, 10, 12, tzinfo=UTC), "America/Los_Angeles"
MONTHS = [date(2026, 7, 1), date(2026, 8, 1), date(2026, 9, 1)]
SUBJECTS = {
    "flow_values_reports": (("flow_id", "flow_message_id", "send_channel"), PUBLISHED_STATISTICS),
    "form_values_reports": (("form_id", "form_version_id"), FORM_STATISTICS),
    "segment_values_reports": (("segment_id",), SEGMENT_STATISTICS),
}
BESIDE = ("flow_series_reports", "campaign_variation_reports", "flow_variation_reports")
each_report = pytest.mark.parametrize("stream", sorted(SUBJECTS))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, dagster_template: Path) -> Iterator[Home]:
    """A home with the reports by month, three months old, in which metrics were read."""
    with open_sandbox_account(
        now=NOW, timezone=ZONE, days=120, objects=20, flows=12, campaigns=60
    ) as account:
        home = Home(
            account=account,
            root=tmp_path_factory.mktemp("monthly"),
            dagster_template=dagster_template,
            settings={
                "KLAVIYO_STREAMS": ",".join(("accounts", "metrics", *BESIDE, *SUBJECTS)),
                # In the midst of a month: the first whole one is July.
                "KLAVIYO_REPORT_START_DATE": "2026-06-20",
            },
        )
        assert home.sync("accounts", "metrics").success
        home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = report_metrics(home)[0]
        add_metrics(home, report_metrics(home)[:1])
        yield home


def key_of(home: Home, stream: str, day: date) -> str:
    """Return Dagster's key of a partition of the only metric."""
    metric = f"|{report_metrics(home)[0]}" if stream.startswith(("flow", "campaign")) else ""
    return f"{day}{metric}"


def fetch(home: Home, stream: str, first: date, last: date) -> RunResult:
    """Run the partitions of a report from `first` to `last`."""
    defs = home.load_definitions()
    ends = (key_of(home, stream, day) for day in (first, last))

    def materialize(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            list(defs.assets or ()),  # pyright: ignore[reportArgumentType]
            selection=dg.AssetSelection.assets(home.asset_key(stream)),
            instance=instance,
            resources=defs.resources,
            tags=dict(zip(RANGE_TAGS, ends, strict=True)),
            raise_on_error=False,
        )

    return home.execute(materialize)


def true_months(home: Home, stream: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return what the sandbox counts over each month, by its first day and key."""
    keys, _ = SUBJECTS[stream]
    service, metric = home.account.sandbox.service, report_metrics(home)[0]
    kind = stream.removesuffix("s").replace("_", "-")
    with service.lock:
        rows = service.report_endpoints.list_true_rows(
            kind, metric, days=MONTHS, now=service.clock.now(), by_month=True
        )
    found = cast("list[dict[str, Any]]", rows)
    return {(row["date"], *(row[key] for key in keys)): row for row in found}


@dataclass(frozen=True)
class FetchedMonths:
    """What the first fetch of a report's months brought, and the account's own counts then."""

    requests: int
    rows: list[tuple[Any, ...]]
    truth: dict[tuple[str, ...], dict[str, Any]]
    partitions: set[str]


def select_months(stream: str) -> str:
    """Return a query for the rows of a report: their keys and statistics."""
    keys, statistics = SUBJECTS[stream]
    return f"SELECT {', '.join(('date', *keys, *statistics))} FROM {stream} ORDER BY ALL"


def fetch_months(home: Home, stream: str) -> FetchedMonths:
    """Fetch the three months of a report."""
    run = fetch(home, stream, MONTHS[0], MONTHS[-1])
    assert run.success, run.failures
    with open_instance(home.dagster_home) as instance:
        partitions = instance.get_materialized_partitions(home.asset_key(stream))
    return FetchedMonths(
        requests=count_requests(home, stream),
        rows=home.query(select_months(stream)),
        truth=true_months(home, stream),
        partitions=set(partitions),
    )


def count_requests(home: Home, stream: str) -> int:
    """Return how many requests for a report there were."""
    return home.account.request_counts()[f"/api/{stream.replace('_', '-')}"]


@pytest.fixture(scope="module", autouse=True)
def fetched(home: Home) -> dict[str, FetchedMonths]:
    """Fetch all reports of the home, by name, so that the tests can come in any order."""
    found = {stream: fetch_months(home, stream) for stream in SUBJECTS}
    for stream, first, last in (
        ("flow_series_reports", date(2026, 8, 1), date(2026, 8, 31)),
        ("campaign_variation_reports", MONTHS[0], MONTHS[-1]),
        ("flow_variation_reports", MONTHS[0], MONTHS[0]),
    ):
        run = fetch(home, stream, first, last)
        assert run.success, run.failures
    return found


@each_report
def test_a_month_takes_one_request_and_is_the_truth(
    home: Home, fetched: dict[str, FetchedMonths], stream: str
) -> None:
    """Every statistic over the month equals the account's own; a month again replaces itself."""
    months = fetched[stream]
    assert months.requests == len(MONTHS)
    truth, rows = months.truth, months.rows
    keys, statistics = SUBJECTS[stream]
    stored = {(str(row[0]), *row[1 : len(keys) + 1]): row[len(keys) + 1 :] for row in rows}
    assert len(rows) == len(stored)
    assert stored.keys() >= truth.keys()
    assert len(truth) > 8
    for key, values in stored.items():
        wanted = [truth[key][name] if key in truth else 0 for name in statistics]
        assert all(map(math.isclose, values, wanted)), key
    assert months.partitions == {key_of(home, stream, day) for day in MONTHS}
    before = count_requests(home, stream)
    assert fetch(home, stream, MONTHS[0], MONTHS[0]).success
    assert count_requests(home, stream) == before + 1
    assert home.query(select_months(stream)) == rows


def test_who_opens_on_two_days_counts_once_in_a_month(home: Home) -> None:
    """The month's people are fewer than the sum of its days; its messages are that sum."""
    sums = "sum(recipients), sum(opens_unique)"
    (by_day,) = home.query(f"SELECT {sums} FROM flow_series_reports")
    (by_month,) = home.query(f"SELECT {sums} FROM flow_values_reports WHERE date = '2026-08-01'")
    assert by_month[0] == by_day[0] > 0
    assert by_month[1] < by_day[1]


def test_variations_of_a_message_are_told_apart(home: Home) -> None:
    """A test has a row for each variation; together they are what went out in the month."""
    stream = "campaign_variation_reports"
    service, metric = home.account.sandbox.service, report_metrics(home)[0]
    with service.lock:
        rows = service.report_endpoints.list_true_rows(
            "campaign-values-report", metric, days=MONTHS, now=service.clock.now(), by_month=True
        )
    truth: Counter[tuple[str, str]] = Counter()
    for row in cast("list[dict[str, Any]]", rows):
        truth[row["date"], row["campaign_id"]] += row["recipients"]
    sums = f"SELECT date, campaign_id, sum(recipients) FROM {stream} GROUP BY ALL"
    assert {(str(day), each): number for day, each, number in home.query(sums)} == truth
    tests = f"SELECT count(*), count(DISTINCT variation), count(variation_name) FROM {stream}"
    (found,) = home.query(f"{tests} WHERE variation <> ''")
    assert found[0] == found[1] == found[2] >= 2
    assert home.query(f"{tests} WHERE variation = ''")[0][0] > found[0]
    by_month = "SELECT sum(recipients) FROM {} WHERE date = '2026-07-01'"
    assert home.query(by_month.format("flow_variation_reports")) == home.query(
        by_month.format("flow_values_reports")
    )


RATES_SQL = """
SELECT sum(abs(r.open_rate - d.open_rate)), sum(abs(r.text_message_roi - d.text_message_roi)),
    sum(abs(r.revenue_per_recipient - d.revenue_per_recipient)), count(*)
FROM flow_rates AS r JOIN flow_series_reports AS d
    USING (date, conversion_metric_id, flow_id, flow_message_id, send_channel)
WHERE r.period = 'day' AND r.level = 'message' AND d.delivered > 0
"""


def test_rates_of_any_period_are_made_of_sums(home: Home) -> None:
    """Of a day they are Klaviyo's own; of longer periods and whole flows sum by sum, not a mean."""
    (row,) = home.query(RATES_SQL)
    assert [round(number or 0, 9) for number in row[:3]] == [0, 0, 0]
    assert row[3] > 50
    sums = "sum(opens_unique) / sum(delivered), sum(recipients)"
    (whole,) = home.query(f"SELECT {sums} FROM flow_series_reports")
    month = "period = 'month' AND date = '2026-08-01'"
    (found,) = home.query(
        f"SELECT open_rate, recipients FROM flow_rates WHERE {month} AND level = 'total'"
    )
    assert all(map(math.isclose, found, whole))
    (mean,) = home.query("SELECT avg(open_rate) FROM flow_series_reports WHERE delivered > 0")
    assert not math.isclose(mean[0], found[0], rel_tol=1e-3)
    columns = "flow_id, round(open_rate, 9)"
    by_flow = home.query(f"SELECT {columns} FROM flow_rates WHERE {month} AND level = 'flow'")
    wanted = home.query(
        "SELECT flow_id, round(sum(opens_unique) / nullif(sum(delivered), 0), 9) "
        "FROM flow_series_reports GROUP BY 1"
    )
    assert dict(by_flow) == dict(wanted)
    weeks = home.query(
        "SELECT DISTINCT date FROM flow_rates WHERE period = 'week' AND level = 'total'"
    )
    assert {day.weekday() for (day,) in weeks} == {0}


def test_names_stand_beside_ids_where_their_table_is_stored(home: Home) -> None:
    """A metric's name is that of its table; a form's is NULL until forms were read."""
    ((name, metric),) = home.query(
        "SELECT DISTINCT conversion_metric_name, conversion_metric_id FROM flow_values_reports"
    )
    assert name is not None
    assert home.query(f"SELECT name FROM metrics WHERE id = '{metric}'") == [(name,)]
    for column, joins in (("recipients", False), ("conversion_metric_name", True)):
        ((_, plan),) = home.query(f"EXPLAIN SELECT max({column}) FROM flow_values_reports")
        assert ("id, name" in plan) is joins
    for table, report in (("forms", "form"), ("segments", "segment")):
        names = f"SELECT DISTINCT {report}_name FROM {report}_values_reports"
        assert home.query(names) == [(None,)]
        assert home.sync(table).success
        joined = f"SELECT DISTINCT name FROM {table} JOIN {report}_values_reports r "
        known = home.query(f"{joined} ON r.{report}_id = {table}.id ORDER BY 1")
        assert known == home.query(f"{names} ORDER BY 1")
        assert len(known) > 1


@each_report
def test_a_month_that_still_runs_is_not_stored(home: Home, stream: str) -> None:
    """A run for a month that is not over says so and sends no request."""
    before = count_requests(home, stream)
    month = home.account.now.date().replace(day=1)
    run = fetch(home, stream, month, month)
    assert not run.success
    assert f"months from {month} to {month} are not stored" in str(run.failures)
    assert count_requests(home, stream) == before


@pytest.mark.parametrize(
    ("now", "verdict", "words"),
    [
        (datetime(2026, 11, 2, 8, tzinfo=UTC), "passed", "All months from 2026-09-01"),
        (datetime(2026, 11, 2, 12, tzinfo=UTC), "WARN", "Months from 2026-10-01"),
        (datetime(2026, 11, 5, 12, tzinfo=UTC), "ERROR", "Months from 2026-10-01"),
    ],
)
def test_a_report_is_kept_up_by_its_last_month(
    home: Home, now: datetime, verdict: str, words: str
) -> None:
    """A month is due 26 hours after its end, and overdue two days later."""
    with open_home_instance(home) as instance:
        stream = STREAMS["segment_values_reports"]
        settings, _ = read_settings(home.variables)
        lake = Lake(home.data_dir, clock=lambda: now)
        result = check_newest_days(instance, stream, lake, settings, now)
    assert result is not None
    assert verdict == ("passed" if result.passed else result.severity.value)
    assert (result.description or "").startswith(words)


def test_the_sensor_and_the_schedule_fetch_months(home: Home) -> None:
    """What is missing is launched by the sensor; the schedule renews the month that moves."""
    home.account.advance_clock(days=25)
    # Without those beside them: of more than three reports each has its turn.
    alone = ",".join(("accounts", "metrics", *SUBJECTS))
    launched = {
        key.path[-1]: [request.tags[name].partition("|")[0] for name in RANGE_TAGS]
        for request in evaluate_sensor(home, "klaviyo_reports_drain", streams=alone).runs
        for key in request.asset_selection or ()
    }
    # September stopped moving on October 30, after it was fetched; October is missing.
    both = ["2026-09-01", "2026-10-01"]
    assert {name: launched[name] for name in SUBJECTS} == dict.fromkeys(SUBJECTS, both)
    requests = evaluate_daily_schedules(
        home, datetime(2026, 11, 4, 13, tzinfo=UTC), reports=SUBJECTS
    )
    assert len(requests) == len(SUBJECTS)
    for request in requests:
        found = [request.tags[tag].partition("|")[0] for tag in RANGE_TAGS]
        assert found == ["2026-10-01", "2026-10-01"]


def test_partitions_are_the_whole_months(home: Home) -> None:
    """They begin with the first month that lies wholly after the first day of reports."""
    settings, refusals = read_settings(home.variables)
    assert not refusals
    graph = build_defs(settings).resolve_asset_graph()
    for name in ("form_values_reports", "segment_values_reports"):
        months = graph.get(dg.AssetKey(["klaviyo", name])).partitions_def
        assert months is not None
        assert months.get_first_partition_key() == "2026-07-01"
