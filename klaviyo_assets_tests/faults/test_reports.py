"""F57 to F60: reports that refuse a metric, cost too much, restate, or fall short."""

from datetime import date

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGNS,
    FLOWS,
    PATHS,
    add_metrics,
    compare,
    days_between,
    fetch,
    metrics_of,
    requests,
    stored_rows,
)
from klaviyo_assets_tests.e2e.report_ticks import spend
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home
from klaviyo_assets_tests.faults.judge import judge_keys

BOTH = pytest.mark.parametrize("stream", [FLOWS, CAMPAIGNS])


@BOTH
def test_f57_a_metric_that_reports_refuse_is_done_as_empty(start: StartHome, stream: str) -> None:
    """The 400 for one metric is a warning, and its partitions are green; the others come."""
    home = report_home(start, NOW)
    good = metrics_of(home)[:2]
    refused = min(
        {each for (each,) in home.query("SELECT id FROM klaviyo.metrics")} - {*metrics_of(home)}
    )
    add_metrics(home, [refused])
    days = days_between(date(2026, 10, 1), date(2026, 10, 3))
    done = fetch(home, stream, (good[0], days[0], refused, days[-1]))
    assert done.run.success, done.run.failed
    assert f"makes no {stream} with metric {refused!a}" in done.run.warnings
    empty = {day for _, day, shown in done.events if shown.get("klaviyo/refused")}
    assert empty == {*days}
    assert {day for each, day in done.partitions if each == refused} == {*days}
    for metric in good:
        assert {day for each, day in done.partitions if each == metric} == {*days}
        assert compare(home, stream, metric, days)
    statuses = [
        each.status for each in home.shop.sandbox.journal.requests() if each.path == PATHS[stream]
    ]
    assert statuses.count(400) == 1
    judge_keys(home, stream)


def test_f58_what_the_day_cannot_pay_comes_the_next_day(start: StartHome) -> None:
    """The 225th request is made and its days are kept, the 226th is not; a day later it is."""
    home = report_home(start, NOW)
    home.settings["KLAVIYO_RATE_LIMIT_SCALE"] = "1"
    metric = metrics_of(home)[0]
    days = days_between(date(2026, 9, 8), date(2026, 11, 9))
    spend(home, {FLOWS: 224})
    done = fetch(home, FLOWS, (metric, days[0], metric, days[-1]))
    assert "60 partitions stored, 3 partitions of 1 metric left" in done.run.failed[FLOWS]
    assert done.run.attempts[FLOWS] == 1
    assert requests(home, FLOWS) == 1
    assert compare(home, FLOWS, metric, days[3:])
    assert not stored_rows(home, FLOWS, metric, days[:3])
    spend(home, {FLOWS: 224}, hours_ago=49)
    done = fetch(home, FLOWS, (metric, days[0], metric, days[2]))
    assert done.run.success, done.run.failed
    assert requests(home, FLOWS) == 2
    assert compare(home, FLOWS, metric, days)
    judge_keys(home, FLOWS)


@BOTH
def test_f59_restated_numbers_replace_the_first_ones(start: StartHome, stream: str) -> None:
    """The second fetch of the same days leaves the numbers of then, and as many rows as before."""
    home = report_home(start, NOW)
    metric = metrics_of(home)[0]
    days = days_between(date(2026, 11, 1), date(2026, 11, 9))
    fetch(home, stream, (metric, days[0], metric, days[-1]))
    first = compare(home, stream, metric, days)
    before = stored_rows(home, stream, metric, days)
    home.shop.move(days=5)
    fetch(home, stream, (metric, days[0], metric, days[-1]))
    assert compare(home, stream, metric, days) >= first
    after = stored_rows(home, stream, metric, days)
    assert any(after[key]["opens"] != row["opens"] for key, row in before.items())
    judge_keys(home, stream)


def test_f60_a_series_that_falls_short_fails(start: StartHome) -> None:
    """A statistic with fewer values than dates fails over its shape; no row of it is stored."""
    home = report_home(start, NOW)
    metric = metrics_of(home)[0]
    days = days_between(date(2026, 10, 1), date(2026, 11, 9))
    kept = days[:20]
    assert fetch(
        home,
        FLOWS,
        (metric, kept[0], metric, kept[-1]),
    ).run.success
    before = stored_rows(home, FLOWS, metric, days)
    home.shop.move(days=1)
    with home.shop.faulty("short_series", match={"path": PATHS[FLOWS]}):
        done = fetch(home, FLOWS, (metric, days[0], metric, days[-1]))
    assert "the shape of the series is broken" in done.run.failed[FLOWS]
    assert done.run.attempts[FLOWS] == 1
    assert done.events == ()
    assert stored_rows(home, FLOWS, metric, days) == before
    done = fetch(home, FLOWS, (metric, days[0], metric, days[-1]))
    assert done.run.success, done.run.failed
    assert compare(home, FLOWS, metric, days)
    judge_keys(home, FLOWS)
