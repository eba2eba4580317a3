"""What is due is fetched in the order of its worth, and only as far as the quota reaches."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.defs.backfill_sensor import (
    BACKFILL_SENSOR_INTERVAL_SECONDS,
    MAX_BACKFILL_RUN_MINUTES,
)
from klaviyo_assets.defs.report_assets import MAX_PARTITIONS_PER_RUN
from klaviyo_assets.lake.delta.state import PartitionState
from klaviyo_assets.model.report import DateRange
from klaviyo_assets.reports.backfill_plan import (
    BackfillTask,
    BatchLimits,
    RunBatch,
    choose_next_batch,
    due_days,
    rank_tasks,
)
from klaviyo_assets.reports.planner import report_endpoint
from klaviyo_assets.streams.reports import FLOW_SERIES_REPORTS, FLOW_VALUES_REPORTS
from klaviyo_assets_tests.unit.reports.simulated_account import day_of_year, days_of_year

ZONE = ZoneInfo("America/Los_Angeles")
YEAR = days_of_year(0, 364)
SERIES, MONTHS = report_endpoint(FLOW_SERIES_REPORTS), report_endpoint(FLOW_VALUES_REPORTS)


def test_missing_and_moving_days_are_due() -> None:
    """A day is due if it is missing, or if it still moves and was not fetched today."""
    now = datetime(2026, 12, 31, 12, tzinfo=UTC)
    today, before = now - timedelta(hours=1), now - timedelta(days=1)
    stored = {
        day_of_year(0): PartitionState(fetched_at=before, is_final=True, rows=1),
        day_of_year(1): PartitionState(fetched_at=before, is_final=False, rows=1),
        day_of_year(2): PartitionState(fetched_at=today, is_final=False, rows=1),
    }
    assert due_days(stored, days=days_of_year(0, 3), now=now, zone=ZONE) == {
        day_of_year(1),
        day_of_year(3),
    }


def test_today_is_the_accounts_today() -> None:
    """At 02:00 UTC it is still yesterday in Los Angeles: what was fetched then is of today."""
    now = datetime(2026, 12, 31, 2, tzinfo=UTC)
    stored = {
        day_of_year(0): PartitionState(fetched_at=now - timedelta(hours=6), is_final=False, rows=1)
    }
    assert due_days(stored, days=days_of_year(0, 0), now=now, zone=ZONE) == frozenset()


def test_yesterday_of_every_metric_comes_before_the_past() -> None:
    """The newest time frame of each metric first, the revenue metric's before the rest."""
    due = {"revenue": frozenset(days_of_year(0, 119)), "other": frozenset(days_of_year(60, 119))}
    assert rank_tasks(due, bounds=days_of_year(0, 119), report=SERIES) == [
        BackfillTask("revenue", days_of_year(60, 119)),
        BackfillTask("other", days_of_year(60, 119)),
        BackfillTask("revenue", days_of_year(0, 59)),
    ]


def test_one_metric_may_come_before_all_the_rest() -> None:
    """Its past comes before the yesterday of others, wherever it stands among them."""
    due = {"other": frozenset(days_of_year(60, 119)), "revenue": frozenset(days_of_year(0, 119))}
    assert rank_tasks(
        due, bounds=days_of_year(0, 119), report=SERIES, first_metric_id="revenue"
    ) == [
        BackfillTask("revenue", days_of_year(60, 119)),
        BackfillTask("revenue", days_of_year(0, 59)),
        BackfillTask("other", days_of_year(60, 119)),
    ]


@given(
    st.dictionaries(
        st.sampled_from(["a", "b"]), st.sets(st.integers(0, 364).map(day_of_year)).map(frozenset)
    )
)
def test_every_day_due_is_in_a_task(due: dict[str, frozenset[date]]) -> None:
    """No day due is forgotten, and no task is longer than one request."""
    found = rank_tasks(due, bounds=YEAR, report=SERIES)
    assert all(len(task.date_range) <= 60 for task in found)
    for metric_id, wanted in due.items():
        held = {each for task in found if task.metric_id == metric_id for each in task.date_range}
        assert wanted <= held


def test_of_a_report_by_month_each_month_is_a_task() -> None:
    """Months have their own lengths, and neighbours still fit into one run."""
    due = {"a": frozenset({date(2026, 1, 1), date(2026, 2, 1)})}
    january, february = MONTHS.days_of(date(2026, 1, 9)), MONTHS.days_of(date(2026, 2, 1))
    assert (len(january), len(february)) == (31, 28)
    tasks = rank_tasks(due, bounds=YEAR, report=MONTHS)
    assert tasks == [BackfillTask("a", february), BackfillTask("a", january)]
    both = DateRange(january.first, february.last)
    choice = choose_next_batch(tasks, ORDER, limits=MANY, task_cost=one_each)
    assert choice == (RunBatch(("a",), both), 2)
    assert MONTHS.partition_days(both) == [january.first, february.first]
    assert MONTHS.partition_days(DateRange(date(2026, 1, 2), february.last)) == [february.first]


ORDER = ["a", "b", "c", "d"]
MANY = BatchLimits(quota_left=100, max_requests=100, max_partitions=10_000)


def one_each(_: BackfillTask) -> int:
    """Return the price of a series: one request for a time frame."""
    return 1


@pytest.mark.parametrize(
    ("wanted", "batch", "price"),
    [
        # Side by side, in whatever order they are worth it.
        ([("b", 60, 119), ("d", 60, 119), ("a", 60, 119), ("c", 60, 119)], ("abcd", 60, 119), 4),
        # A metric between them is not due: a rectangle would hold it too.
        ([("a", 60, 119), ("c", 60, 119)], ("a", 60, 119), 1),
        # Other days.
        ([("a", 60, 119), ("b", 61, 119)], ("a", 60, 119), 1),
        # One metric's past, where it comes before the rest.
        ([("a", 60, 119), ("a", 0, 59), ("b", 60, 119)], ("a", 0, 119), 2),
        ([("a", 60, 119), ("a", 0, 58)], ("a", 60, 119), 1),
        ([("a", 60, 119), ("b", 60, 119), ("a", 0, 59)], ("ab", 60, 119), 2),
    ],
)
def test_a_run_holds_a_rectangle(
    wanted: list[tuple[str, int, int]], batch: tuple[str, int, int], price: int
) -> None:
    """A run's partitions are given by two ends, so everything between them must be due."""
    found = choose_next_batch(
        [BackfillTask(metric_id, days_of_year(first, last)) for metric_id, first, last in wanted],
        ORDER,
        limits=MANY,
        task_cost=one_each,
    )
    metrics, first, last = batch
    assert found == (RunBatch(tuple(metrics), days_of_year(first, last)), price)


@given(
    st.lists(st.integers(0, 9), max_size=30),
    st.integers(0, 60),
    st.integers(1, 20),
    st.integers(1, 40),
)
def test_never_more_than_is_left(costs: list[int], left: int, requests: int, most: int) -> None:
    """The longest prefix within the quota and the run is taken, the first task at any cost.

    Each task is one day of the metric after the one before.
    """
    metrics = [f"m{number}" for number in range(len(costs))]
    wanted = [BackfillTask(metric_id, days_of_year(0, 0)) for metric_id in metrics]
    prices = iter(costs)
    limits = BatchLimits(quota_left=left, max_requests=requests, max_partitions=most)
    found = choose_next_batch(wanted, metrics, limits=limits, task_cost=lambda _: next(prices))
    if found is None:
        assert not costs or costs[0] > left
        return
    batch, price = found
    taken = len(batch.metric_ids)
    assert batch.metric_ids == tuple(metrics[:taken])
    assert price == sum(costs[:taken]) <= left
    assert taken == 1 or (price <= requests and taken <= most)
    if taken < len(costs):
        assert price + costs[taken] > min(left, requests) or taken == most


def test_the_days_quota_is_used_up_within_the_day() -> None:
    """The arithmetic of the sensor's limits: runs of a series, and the worst case of one request.

    A run takes its start, two requests a minute, an event for each partition; then the next look
    comes.
    """
    start, event = 15, 0.016

    def hours(requests: int, partitions: int) -> float:
        seconds = start + requests * 30 + partitions * event + BACKFILL_SENSOR_INTERVAL_SECONDS
        return 225 / requests * seconds / 3600

    requests = min(2 * MAX_BACKFILL_RUN_MINUTES, MAX_PARTITIONS_PER_RUN // 60)
    assert requests == 6
    assert hours(requests, MAX_PARTITIONS_PER_RUN) < 3
    assert hours(1, 60) < 8
