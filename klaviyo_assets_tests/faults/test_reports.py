"""F57 to F60, F85 to F87: reports that refuse, cost too much, restate, fall short, or lie."""

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    REPORT_PATHS,
    add_metrics,
    assert_rows_match,
    days_between,
    report_metrics,
    request_count,
    run_partitions,
    set_metrics,
    stored_rows,
)
from klaviyo_assets_tests.e2e.report_ticks import book_requests
from klaviyo_assets_tests.e2e.test_report_responses import DAYS, FLOW, LABELS, answer, three_days
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home
from klaviyo_assets_tests.faults.assertions import assert_unique_keys
from klaviyo_assets_tests.faults.test_records import read_quarantine

BOTH = pytest.mark.parametrize("stream", [FLOW_REPORT, CAMPAIGN_REPORT])


@BOTH
def test_f57_a_metric_that_reports_refuse_is_done_as_empty(
    open_home: StartHome, stream: str
) -> None:
    """The 400 for one metric is a warning, and its partitions are green; the others come."""
    home = report_home(open_home, NOW)
    good = report_metrics(home)[:2]
    refused = min(
        {each for (each,) in home.query("SELECT id FROM klaviyo.metrics")} - {*report_metrics(home)}
    )
    add_metrics(home, [refused])
    days = days_between(date(2026, 10, 1), date(2026, 10, 3))
    done = run_partitions(home, stream, (good[0], days[0], refused, days[-1]))
    assert done.run.success, done.run.failures
    assert f"makes no {stream} with metric {refused!a}" in done.run.warnings
    empty = {day for _, day, shown in done.materializations if shown.get("klaviyo/refused")}
    assert empty == {*days}
    assert {day for each, day in done.partitions if each == refused} == {*days}
    for metric in good:
        assert {day for each, day in done.partitions if each == metric} == {*days}
        assert assert_rows_match(home, stream, metric, days)
    statuses = [
        each.status
        for each in home.account.sandbox.journal.requests()
        if each.path == REPORT_PATHS[stream]
    ]
    assert statuses.count(400) == 1
    assert_unique_keys(home, stream)


def test_f58_what_the_day_cannot_pay_comes_the_next_day(open_home: StartHome) -> None:
    """The 225th request is sent and its days are stored; the 226th is sent the next day."""
    home = report_home(open_home, NOW)
    home.settings["KLAVIYO_RATE_LIMIT_SCALE"] = "1"
    metric = report_metrics(home)[0]
    days = days_between(date(2026, 9, 8), date(2026, 11, 9))
    book_requests(home, {FLOW_REPORT: 224})
    done = run_partitions(home, FLOW_REPORT, (metric, days[0], metric, days[-1]))
    assert "60 partitions stored, 3 partitions of 1 metric left" in done.run.failures[FLOW_REPORT]
    assert done.run.attempts[FLOW_REPORT] == 1
    assert request_count(home, FLOW_REPORT) == 1
    assert assert_rows_match(home, FLOW_REPORT, metric, days[3:])
    assert not stored_rows(home, FLOW_REPORT, metric, days[:3])
    book_requests(home, {FLOW_REPORT: 224}, hours_ago=49)
    done = run_partitions(home, FLOW_REPORT, (metric, days[0], metric, days[2]))
    assert done.run.success, done.run.failures
    assert request_count(home, FLOW_REPORT) == 2
    assert assert_rows_match(home, FLOW_REPORT, metric, days)
    assert_unique_keys(home, FLOW_REPORT)


@BOTH
def test_f59_restated_numbers_replace_the_first_ones(open_home: StartHome, stream: str) -> None:
    """The second fetch of the same days leaves the numbers of then, and as many rows as before."""
    home = report_home(open_home, NOW)
    metric = report_metrics(home)[0]
    days = days_between(date(2026, 11, 1), date(2026, 11, 9))
    run_partitions(home, stream, (metric, days[0], metric, days[-1]))
    first = assert_rows_match(home, stream, metric, days)
    before = stored_rows(home, stream, metric, days)
    home.account.advance_clock(days=5)
    run_partitions(home, stream, (metric, days[0], metric, days[-1]))
    assert assert_rows_match(home, stream, metric, days) >= first
    after = stored_rows(home, stream, metric, days)
    assert any(after[key]["opens"] != row["opens"] for key, row in before.items())
    assert_unique_keys(home, stream)


def test_f60_a_series_that_falls_short_fails(open_home: StartHome) -> None:
    """A statistic with fewer values than dates fails over its shape; no row of it is stored."""
    home = report_home(open_home, NOW)
    metric = report_metrics(home)[0]
    days = days_between(date(2026, 10, 1), date(2026, 10, 12))
    stored_days = days[:6]
    assert run_partitions(
        home,
        FLOW_REPORT,
        (metric, stored_days[0], metric, stored_days[-1]),
    ).run.success
    before = stored_rows(home, FLOW_REPORT, metric, days)
    home.account.advance_clock(days=1)
    with home.account.inject_fault("short_series", match={"path": REPORT_PATHS[FLOW_REPORT]}):
        done = run_partitions(home, FLOW_REPORT, (metric, days[0], metric, days[-1]))
    assert "the shape of the series is broken" in done.run.failures[FLOW_REPORT]
    assert done.run.attempts[FLOW_REPORT] == 1
    assert done.materializations == ()
    assert stored_rows(home, FLOW_REPORT, metric, days) == before
    done = run_partitions(home, FLOW_REPORT, (metric, days[0], metric, days[-1]))
    assert done.run.success, done.run.failures
    assert assert_rows_match(home, FLOW_REPORT, metric, days)
    assert_unique_keys(home, FLOW_REPORT)


EMPTY = {
    "nothing": answer(date_times=[], results=[]),
    "no results": answer(date_times=LABELS, results=[]),
}
HALF = {
    "no results": answer(date_times=LABELS),
    "no days": answer(results=[{"groupings": FLOW, "statistics": {"opens": [1, 2, 3]}}]),
    "days without labels": answer(
        date_times=[], results=[{"groupings": FLOW, "statistics": {"opens": [1, 2, 3]}}]
    ),
}


@pytest.mark.parametrize("text", EMPTY.values(), ids=EMPTY)
def test_f85_an_empty_series_is_no_rows(open_home: StartHome, text: str) -> None:
    """Without a result there is nothing to store: its days are done, the next metric comes too."""
    home = three_days(open_home)
    empty, other = report_metrics(home)[:2]
    with home.account.inject_fault(
        "text_body", match={"path": REPORT_PATHS[FLOW_REPORT], "body": empty}, text=text
    ):
        done = run_partitions(home, FLOW_REPORT, (empty, DAYS[0], other, DAYS[-1]))
    assert done.run.success, done.run.failures
    assert {day for each, day in done.partitions if each == empty} == {*DAYS}
    assert not stored_rows(home, FLOW_REPORT, empty, DAYS)
    assert assert_rows_match(home, FLOW_REPORT, other, DAYS)
    assert_unique_keys(home, FLOW_REPORT)


@pytest.mark.parametrize("text", HALF.values(), ids=HALF)
def test_f85_half_a_series_fails_its_metric_alone(open_home: StartHome, text: str) -> None:
    """With one part missing no row is guessed: the metric is named, the others are stored."""
    home = three_days(open_home)
    first, broken, last = report_metrics(home)[:3]
    with home.account.inject_fault(
        "text_body", match={"path": REPORT_PATHS[FLOW_REPORT], "body": broken}, text=text
    ):
        done = run_partitions(home, FLOW_REPORT, (first, DAYS[0], last, DAYS[-1]))
    assert f"metric {broken!a}" in done.run.failures[FLOW_REPORT]
    assert {each for each, _ in done.partitions} == {first, last}
    assert not stored_rows(home, FLOW_REPORT, broken, DAYS)
    for metric in (first, last):
        assert assert_rows_match(home, FLOW_REPORT, metric, DAYS)
    assert_unique_keys(home, FLOW_REPORT)


def slow_campaign(open_home: StartHome) -> tuple[Home, str, date]:
    """Return a home with a campaign that went out over three days and says at once; its first."""
    home = report_home(open_home, NOW, slow_campaigns=1)
    (campaign,) = home.account.sandbox.service.report_endpoints.sends.slow_campaign_ids()
    ((sent,),) = home.query(
        f"SELECT send_time FROM campaigns WHERE id = '{campaign}' AND status = 'Sent' "
        "AND send_strategy_method = 'static'"
    )
    assert isinstance(sent, datetime)
    first = sent.astimezone(UTC).date()
    later = datetime.combine(first, datetime.min.time(), UTC) + timedelta(days=1, hours=12)
    home.account.advance_clock(seconds=(later - home.account.now).total_seconds())
    return home, campaign, first


def test_f87_a_campaign_that_goes_on_is_found_by_its_sums(open_home: StartHome) -> None:
    """Fetched day after day, a total that grew is requested by day; every day has its own part."""
    home, campaign, first = slow_campaign(open_home)
    metric = report_metrics(home)[0]
    began = first - timedelta(days=3)
    for number in range(4):
        days = days_between(began, first + timedelta(days=number))
        done = run_partitions(home, CAMPAIGN_REPORT, (metric, days[0], metric, days[-1]))
        assert done.run.success, done.run.failures
        assert assert_rows_match(home, CAMPAIGN_REPORT, metric, days)
        parts = home.query(
            "SELECT count(*) FROM campaign_values_reports "
            f"WHERE campaign_id = '{campaign}' AND recipients > 0"
        )
        assert parts == [(min(number + 1, 3),)]
        home.account.advance_clock(days=1)
    assert_unique_keys(home, CAMPAIGN_REPORT)


def test_f87_a_campaign_that_ended_later_is_placed_by_day(open_home: StartHome) -> None:
    """Requested once all is sent; the campaign's last change says how long sending took."""
    home, campaign, first = slow_campaign(open_home)
    metric = report_metrics(home)[0]
    ended = datetime.combine(first, datetime.min.time(), UTC) + timedelta(days=2, hours=20)
    home.account.mutate(campaign=campaign, set={"updated_at": ended.isoformat()})
    home.account.advance_clock(days=4)
    assert home.sync("campaigns").success
    days = days_between(first - timedelta(days=3), first + timedelta(days=3))
    done = run_partitions(home, CAMPAIGN_REPORT, (metric, days[0], metric, days[-1]))
    assert done.run.success, done.run.failures
    assert assert_rows_match(home, CAMPAIGN_REPORT, metric, days)


def test_f86_a_metric_that_the_account_does_not_have_hinders_no_other(open_home: StartHome) -> None:
    """An unknown metric warns, fails by name and costs no second request; the other is stored."""
    home = report_home(open_home, NOW)
    good, wrong = report_metrics(home)[0], "Zz9Zz9"
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = f"{wrong},{good}"
    assert f"{wrong!a}" in home.sync("metrics").warnings
    set_metrics(home, [wrong, good])
    days = days_between(date(2026, 10, 1), date(2026, 10, 3))
    for _ in range(2):
        done = run_partitions(home, FLOW_REPORT, (wrong, days[0], good, days[-1]))
        message = done.run.failures[FLOW_REPORT]
        assert f"metric {wrong!a}: the account has no metric of this id" in message
        assert done.run.attempts[FLOW_REPORT] == 1
        assert done.partitions == {(good, day): 1 for day in days}
        assert assert_rows_match(home, FLOW_REPORT, good, days)
        assert request_count(home, FLOW_REPORT) == 2


def test_a_row_without_a_message_costs_itself_alone(open_home: StartHome) -> None:
    """It is quarantined with its reason and reported; the other rows of its days are stored."""
    home = report_home(open_home, datetime(2026, 10, 3, 12, tzinfo=UTC))
    metric = report_metrics(home)[0]
    days = days_between(date(2026, 10, 1), date(2026, 10, 2))
    flow = {"flow_id": "F1", "send_channel": "email", "flow_name": "W", "flow_message_name": "W 1"}
    sound = {"groupings": flow | {"flow_message_id": "M1"}, "statistics": {"opens": [1, 1]}}
    nameless = {"groupings": flow | {"flow_message_id": None}, "statistics": {"opens": [5, 0]}}
    labels = [f"{day}T00:00:00+00:00" for day in days]
    attributes = {"date_times": labels, "results": [sound, nameless]}
    data = {"type": "flow-series-report", "attributes": attributes}
    links = {"self": f"{home.account.url}{REPORT_PATHS[FLOW_REPORT]}", "next": None}
    text = json.dumps({"data": data, "links": links})
    home.settings["KLAVIYO_REPORT_START_DATE"] = str(days[0])
    with home.account.inject_fault(
        "text_body", match={"path": REPORT_PATHS[FLOW_REPORT]}, text=text
    ):
        done = run_partitions(home, FLOW_REPORT, (metric, days[0], metric, days[-1]))
    assert done.run.success, done.run.failures
    found = home.query("SELECT date, flow_message_id, opens FROM flow_series_reports ORDER BY date")
    assert found == [(day, "M1", 1) for day in days]
    assert read_quarantine(home, FLOW_REPORT) == [
        ("a result of the response has no flow_message_id", nameless)
    ]
    assert "1 result of metric" in done.run.warnings
    assert "has no flow_message_id" in done.run.warnings
    assert request_count(home, FLOW_REPORT) == 1
