"""Answers that hold nothing, half of what they should, or nothing but zeros."""

import json
from datetime import UTC, date, datetime

import pytest

from klaviyo_assets.sandbox.facts.reporting import PUBLISHED_STATISTICS
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    REPORT_PATHS,
    assert_rows_match,
    days_between,
    report_metrics,
    request_count,
    run_partitions,
    stored_rows,
)
from klaviyo_assets_tests.e2e.test_reports import report_home

DAYS = days_between(date(2026, 10, 1), date(2026, 10, 3))
LABELS = [f"{day}T00:00:00+00:00" for day in DAYS]
FLOW = {
    "flow_id": "FLOW01",
    "flow_message_id": "MSG001",
    "send_channel": "email",
    "flow_name": "Welcome",
    "flow_message_name": "Welcome 1",
}


def three_days(open_home: StartHome) -> Home:
    """Return a home whose reports have three days, so that an answer tells of just these."""
    home = report_home(open_home, datetime(2026, 10, 4, 12, tzinfo=UTC))
    home.settings["KLAVIYO_REPORT_START_DATE"] = str(DAYS[0])
    return home


def answer(**attributes: object) -> str:
    """Return the text of an answer with these attributes."""
    data = {"type": "flow-series-report", "attributes": attributes}
    return json.dumps({"data": data, "links": {"self": "x", "next": None, "prev": None}})


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (FLOW_REPORT, answer(date_times=[], results=[])),
        (FLOW_REPORT, answer(date_times=LABELS, results=[])),
        (CAMPAIGN_REPORT, answer(results=[])),
    ],
    ids=["no days and no results", "no results", "no totals"],
)
def test_an_answer_without_anything_is_done(open_home: StartHome, stream: str, text: str) -> None:
    """Its partitions are stored as empty, by one request, and the next metric comes too."""
    home = three_days(open_home)
    empty, other = report_metrics(home)[:2]
    match = {"path": REPORT_PATHS[stream], "body": empty}
    with home.account.inject_fault("text_body", match=match, text=text):
        done = run_partitions(home, stream, (empty, DAYS[0], other, DAYS[-1]))
    assert done.run.success, done.run.failures
    assert done.partitions == dict.fromkeys(
        [(metric, day) for metric in (empty, other) for day in DAYS], 1
    )
    assert not stored_rows(home, stream, empty, DAYS)
    assert {
        shown["dagster/partition_row_count"]
        for metric, _, shown in done.materializations
        if metric == empty
    } == {0}
    assert assert_rows_match(home, stream, other, DAYS)
    again = request_count(home, stream)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = empty
    assert run_partitions(home, stream, (empty, DAYS[0])).run.success
    assert request_count(home, stream) == again + 1


HALVES = {
    "no date_times": answer(results=[]),
    "no results": answer(date_times=LABELS),
    "results null": answer(date_times=LABELS, results=None),
    "two days of three": answer(date_times=LABELS[:2], results=[]),
    "days without labels": answer(
        date_times=[], results=[{"groupings": FLOW, "statistics": {"opens": [1, 2, 3]}}]
    ),
    "short": answer(
        date_times=LABELS, results=[{"groupings": FLOW, "statistics": {"opens": [1, 2]}}]
    ),
}


def test_half_an_answer_fails_its_metric_alone(open_home: StartHome) -> None:
    """A truncated response fails its metric alone, without a second try; the others are stored."""
    home = three_days(open_home)
    first, broken, last = report_metrics(home)[:3]
    match = {"path": REPORT_PATHS[FLOW_REPORT], "body": broken}
    with home.account.inject_fault("text_body", match=match, text=HALVES["no results"]):
        done = run_partitions(home, FLOW_REPORT, (first, DAYS[0], last, DAYS[-1]))
    assert not done.run.success
    assert f"metric {broken!a}" in done.run.failures[FLOW_REPORT]
    assert "3 partitions of it not stored" in done.run.failures[FLOW_REPORT]
    assert "6 partitions of other metrics stored" in done.run.failures[FLOW_REPORT]
    assert done.run.attempts[FLOW_REPORT] == 1
    assert done.partitions == dict.fromkeys(
        [(metric, day) for metric in (first, last) for day in DAYS], 1
    )
    for metric in (first, last):
        assert assert_rows_match(home, FLOW_REPORT, metric, DAYS)
    assert not stored_rows(home, FLOW_REPORT, broken, DAYS)
    assert request_count(home, FLOW_REPORT) == 3
    assert run_partitions(home, FLOW_REPORT, (broken, DAYS[0], broken, DAYS[-1])).run.success
    assert assert_rows_match(home, FLOW_REPORT, broken, DAYS)


def test_no_half_of_an_answer_is_stored(open_home: StartHome) -> None:
    """Whatever part is missing: its metric fails by name after one request, without a row."""
    home = three_days(open_home)
    good, *broken = report_metrics(home)[: len(HALVES) + 1]
    for metric, text in zip(broken, HALVES.values(), strict=True):
        home.account.clear_journal()
        match = {"path": REPORT_PATHS[FLOW_REPORT], "body": metric}
        with home.account.inject_fault("text_body", match=match, text=text):
            done = run_partitions(home, FLOW_REPORT, (metric, DAYS[0], metric, DAYS[-1]))
        assert f"metric {metric!a}" in done.run.failures[FLOW_REPORT], text
        assert done.run.attempts[FLOW_REPORT] == 1, text
        assert not done.partitions, text
        assert request_count(home, FLOW_REPORT) == 1, text
    assert run_partitions(home, FLOW_REPORT, (good, DAYS[0], good, DAYS[-1])).run.success
    assert not [each for each in broken if stored_rows(home, FLOW_REPORT, each, DAYS)]


def test_half_an_answer_of_totals_fails_its_metric_alone(open_home: StartHome) -> None:
    """The same for campaigns: no results, and the metric after it comes."""
    home = three_days(open_home)
    broken, other = report_metrics(home)[:2]
    match = {"path": REPORT_PATHS[CAMPAIGN_REPORT], "body": broken}
    with home.account.inject_fault("text_body", match=match, text=answer()):
        done = run_partitions(home, CAMPAIGN_REPORT, (broken, DAYS[0], other, DAYS[-1]))
    assert f"metric {broken!a}" in done.run.failures[CAMPAIGN_REPORT]
    assert done.partitions == dict.fromkeys([(other, day) for day in DAYS], 1)
    assert assert_rows_match(home, CAMPAIGN_REPORT, other, DAYS)


RENAMED = FLOW | {"flow_message_name": "Welcome one"}


def counts(*days: int, share: float) -> dict[str, list[float]]:
    """Return the statistics of a series: everything counts the same, a share of it was opened."""
    found: dict[str, list[float]] = {name: [*days] for name in PUBLISHED_STATISTICS}
    return found | {"open_rate": [share if each else 0 for each in days]}


def test_a_renamed_message_is_one_message(open_home: StartHome) -> None:
    """Rows of one key under two names become one: counts added, rates weighted, the newest name."""
    home = three_days(open_home)
    metric = report_metrics(home)[0]
    text = answer(
        date_times=LABELS,
        results=[
            {"groupings": RENAMED, "statistics": counts(0, 3, 7, share=0.5)},
            {"groupings": FLOW, "statistics": counts(5, 1, 0, share=0.25)},
        ],
    )
    with home.account.inject_fault(
        "text_body", match={"path": REPORT_PATHS[FLOW_REPORT]}, text=text
    ):
        done = run_partitions(home, FLOW_REPORT, (metric, DAYS[0], metric, DAYS[-1]))
    assert done.run.success, done.run.failures
    found = home.query(
        "SELECT date, recipients, conversion_value, open_rate, flow_message_name "
        "FROM flow_series_reports ORDER BY date"
    )
    assert found == [
        (DAYS[0], 5, 5, 0.25, "Welcome one"),
        (DAYS[1], 4, 4, 0.4375, "Welcome one"),
        (DAYS[2], 7, 7, 0.5, "Welcome one"),
    ]


def test_a_renamed_campaign_message_is_one_message(open_home: StartHome) -> None:
    """The same for totals: the parts are added, and placed as one message."""
    home = three_days(open_home)
    metric = report_metrics(home)[0]
    groupings = {"campaign_id": "C1", "campaign_message_id": "M1", "send_channel": "email"}
    text = answer(
        results=[
            {
                "groupings": groupings | {"campaign_message_name": name},
                "statistics": {"recipients": count, "delivered": count, "open_rate": share},
            }
            for name, count, share in (("Old", 3, 1.0), ("New", 1, 0.0))
        ]
    )
    home.settings["KLAVIYO_REPORT_START_DATE"] = str(DAYS[-1])
    with home.account.inject_fault(
        "text_body", match={"path": REPORT_PATHS[CAMPAIGN_REPORT]}, text=text
    ):
        done = run_partitions(home, CAMPAIGN_REPORT, (metric, DAYS[-1]))
    assert done.run.success, done.run.failures
    assert home.query(
        "SELECT date, recipients, open_rate, campaign_message_name FROM campaign_values_reports"
    ) == [(DAYS[-1], 4, 0.75, "New")]


def test_days_of_zeros_and_nulls_are_stored_as_they_are_sent(open_home: StartHome) -> None:
    """A message has a row on each day of its response: 0 is 0, null is NULL, averages are right."""
    home = three_days(open_home)
    metric = report_metrics(home)[0]
    numbers = {name: [4, 0, None] for name in PUBLISHED_STATISTICS}
    text = answer(date_times=LABELS, results=[{"groupings": FLOW, "statistics": numbers}])
    with home.account.inject_fault(
        "text_body", match={"path": REPORT_PATHS[FLOW_REPORT]}, text=text
    ):
        done = run_partitions(home, FLOW_REPORT, (metric, DAYS[0], metric, DAYS[-1]))
    assert done.run.success, done.run.failures
    found = home.query(
        "SELECT date, opens, conversion_value, open_rate FROM flow_series_reports ORDER BY date"
    )
    assert found == [(DAYS[0], 4, 4, 4), (DAYS[1], 0, 0, 0), (DAYS[2], None, None, None)]
    assert home.query("SELECT avg(opens) FROM flow_series_reports") == [(2,)]
