"""Reports that fail: what fails for good costs three requests a day, what passes heals by itself.

Every request is counted where it arrives: in the sandbox's journal.
"""

from collections.abc import Mapping
from datetime import date

import pytest

from klaviyo_assets.sandbox.account.config import PrivateApiKey
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
    set_metrics,
    stored_rows,
)
from klaviyo_assets_tests.e2e.report_ticks import (
    evaluate_daily_schedules,
    evaluate_sensor,
    run_request,
)
from klaviyo_assets_tests.e2e.test_report_plan import command
from klaviyo_assets_tests.e2e.test_report_responses import answer
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home

pytestmark = pytest.mark.usefixtures("fast_retries")

DRAIN = "klaviyo_reports_drain"
DAYS = days_between(date(2026, 11, 7), date(2026, 11, 9))
BOTH = pytest.mark.parametrize("stream", [FLOW_REPORT, CAMPAIGN_REPORT])

FOR_GOOD: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "400": ("error", {"status": 400, "detail": "Cannot be computed."}),
    "504": ("error", {"status": 504}),
    "cut": ("truncated_json", {}),
    "no answer": ("reset", {}),
    "no report": ("text_body", {"text": answer()}),
}
"""What may come back every time, in the sandbox's words."""

ROW = {"campaign_id": "C1", "campaign_message_id": "M1", "send_channel": "email"}
CONTRADICTION = answer(
    results=[{"groupings": ROW, "statistics": {"recipients": each}} for each in (1, 2)]
)
"""An answer that can be read, and not stored: two rows of one key and name."""


def small_home(open_home: StartHome, metric_count: int = 2, **numbers: object) -> Home:
    """Return a home with three days of reports, of some metrics."""
    home = report_home(open_home, NOW, "UTC", **numbers)
    metrics = report_metrics(home)[:metric_count]
    home.settings |= {
        "KLAVIYO_REPORT_START_DATE": str(DAYS[0]),
        "KLAVIYO_CONVERSION_METRIC_IDS": ",".join(metrics),
    }
    set_metrics(home, metrics)
    return home


def posts(home: Home, stream: str, metric: str) -> int:
    """Return how many requests about a metric have arrived."""
    bodies = home.account.request_bodies(REPORT_PATHS[stream])
    return sum(body["data"]["attributes"]["conversion_metric_id"] == metric for body in bodies)


@pytest.mark.parametrize(("stream", "kind"), [(FLOW_REPORT, "504"), (CAMPAIGN_REPORT, "two rows")])
def test_what_fails_for_good_costs_three_requests_a_day(
    open_home: StartHome, stream: str, kind: str
) -> None:
    """Launches by hand with Dagster's retries, a day of ticks, the daily schedule: three in all."""
    home = small_home(open_home)
    broken, good = report_metrics(home)[:2]
    two_rows = ("text_body", {"text": CONTRADICTION})
    fault, options = FOR_GOOD.get(kind, two_rows)
    match = {"path": REPORT_PATHS[stream], "body": broken}
    with home.account.inject_fault(fault, match=match, **options):
        for launch in ("tick", "tick", "hand", "tick", "daily", "tick", "hand", "tick"):
            launched = {
                "tick": evaluate_sensor(home, DRAIN).runs if launch == "tick" else (),
                "daily": evaluate_daily_schedules(home, home.account.now)
                if launch == "daily"
                else (),
                "hand": (),
            }
            for request in launched[launch]:
                if request.asset_selection == [home.asset_key(stream)]:
                    run_request(home, request)
            if launch == "hand":
                assert not run_partitions(
                    home, stream, (broken, DAYS[0], broken, DAYS[-1])
                ).run.success
            home.account.advance_clock(hours=2, minutes=55)
        assert posts(home, stream, broken) == 3
        assert not stored_rows(home, stream, broken, DAYS)
        assert stored_rows(home, stream, good, DAYS)
        home.account.advance_clock(hours=1)
        for _ in range(3):
            run_partitions(home, stream, (broken, DAYS[0], broken, DAYS[-1]))
        assert posts(home, stream, broken) in {4, 5, 6}
    home.account.advance_clock(days=1)
    assert run_partitions(home, stream, (broken, DAYS[0], broken, DAYS[-1])).run.success
    assert assert_rows_match(home, stream, broken, DAYS)


def test_whatever_fails_for_good_costs_three_requests(open_home: StartHome) -> None:
    """Each kind of failure, a metric each: four launches with Dagster's retries, three requests."""
    home = small_home(open_home, len(FOR_GOOD))
    metrics = report_metrics(home)[: len(FOR_GOOD)]
    for metric, (fault, options) in zip(metrics, FOR_GOOD.values(), strict=True):
        match = {"path": REPORT_PATHS[FLOW_REPORT], "body": metric}
        with home.account.inject_fault(fault, match=match, **options):
            for _ in range(4):
                done = run_partitions(home, FLOW_REPORT, (metric, DAYS[0], metric, DAYS[-1]))
                assert metric in done.run.failures[FLOW_REPORT]
    assert [posts(home, FLOW_REPORT, each) for each in metrics] == [3] * len(FOR_GOOD)
    assert FLOW_REPORT not in home.relation_names()
    launched = evaluate_sensor(home, DRAIN).runs
    assert {each.tags["klaviyo/drain"] for each in launched} == {CAMPAIGN_REPORT}


def test_what_failed_is_remembered_and_told(open_home: StartHome) -> None:
    """The failure, the asset's page, status, the sensor and a fresh DAGSTER_HOME know it."""
    home = small_home(open_home)
    broken, good = report_metrics(home)[:2]
    wanted = (broken, DAYS[0], good, DAYS[-1])
    match = {"path": REPORT_PATHS[FLOW_REPORT], "body": broken}
    with home.account.inject_fault("error", match=match, status=400, detail="Cannot be computed."):
        for times in (1, 2, 3):
            done = run_partitions(home, FLOW_REPORT, wanted)
            message = done.run.failures[FLOW_REPORT]
            assert f"metric {broken!a}" in message
            assert "Cannot be computed" in message
            assert f"{times} request" in message
            assert "3 partitions of other metrics stored" in message
    assert "ask_refused: true" in message
    (shown,) = done.run.observations[FLOW_REPORT]
    assert shown["klaviyo/failed_metric"] == broken
    assert shown["klaviyo/failed_requests"] == 3
    assert "Cannot be computed" in str(shown["klaviyo/failed_reason"])
    assert shown["klaviyo/asked_again_at"] == "2026-11-11T11:50:00+00:00"
    home.reset_dagster_home()
    set_metrics(home, [broken, good])
    again = run_partitions(home, FLOW_REPORT, wanted)
    assert posts(home, FLOW_REPORT, broken) == 3
    assert "Cannot be computed" in again.run.failures[FLOW_REPORT]
    assert again.run.attempts[FLOW_REPORT] == 1
    assert assert_rows_match(home, FLOW_REPORT, good, DAYS)
    assert f"set aside: {broken}: 3 requests failed" in command(home, "status").stdout
    for request in evaluate_sensor(home, DRAIN).runs:
        assert run_request(home, request).run.success
    assert (
        f"metric {broken!a} is left alone until 2026-11-11 11:50"
        in evaluate_sensor(home, DRAIN).reason
    )
    done = run_partitions(home, FLOW_REPORT, wanted, config={"ask_refused": True})
    assert done.run.success, done.run.failures
    assert assert_rows_match(home, FLOW_REPORT, broken, DAYS)
    assert "set aside" not in command(home, "status").stdout


@BOTH
def test_what_passes_heals_in_the_same_run(open_home: StartHome, stream: str) -> None:
    """One failure is tried again at once, two by Dagster's retry; it is forgotten when answered."""
    home = small_home(open_home)
    metric = report_metrics(home)[0]
    wanted = (metric, DAYS[0], metric, DAYS[-1])
    for failures in (1, 2, 2):
        home.account.clear_journal()
        match = {"path": REPORT_PATHS[stream], "body": metric, "to": failures}
        with home.account.inject_fault("error", match=match, status=503):
            done = run_partitions(home, stream, wanted)
        assert done.run.success, done.run.failures
        assert posts(home, stream, metric) >= failures + 1
        assert assert_rows_match(home, stream, metric, DAYS)
        home.account.advance_clock(minutes=5)


def test_what_passes_heals_by_the_sensor(open_home: StartHome) -> None:
    """A run of the sensor's tries twice; the third request is a run an hour later, not at once."""
    home = small_home(open_home)
    broken, good = report_metrics(home)[:2]
    match = {"path": REPORT_PATHS[FLOW_REPORT], "body": broken, "to": 2}
    with home.account.inject_fault("error", match=match, status=503):
        for _ in range(4):
            for request in evaluate_sensor(home, DRAIN).runs:
                run_request(home, request)
            home.account.advance_clock(minutes=10)
        assert posts(home, FLOW_REPORT, broken) == 2
        assert stored_rows(home, FLOW_REPORT, good, DAYS)
        home.account.advance_clock(minutes=30)
        for request in evaluate_sensor(home, DRAIN).runs:
            assert run_request(home, request).run.success
    assert posts(home, FLOW_REPORT, broken) == 3
    assert assert_rows_match(home, FLOW_REPORT, broken, DAYS)


def test_an_order_to_ask_again_has_three_requests_of_its_own(open_home: StartHome) -> None:
    """`ask_refused` allows three new requests, the run's retry no more; without it none is sent."""
    home = small_home(open_home)
    metric = report_metrics(home)[0]
    wanted = (metric, DAYS[0], metric, DAYS[-1])
    match = {"path": REPORT_PATHS[FLOW_REPORT], "body": metric}
    with home.account.inject_fault("error", match=match, status=500):
        for expected, config in ((3, None), (3, None), (6, {"ask_refused": True}), (6, None)):
            assert not run_partitions(home, FLOW_REPORT, wanted, config=config).run.success
            assert posts(home, FLOW_REPORT, metric) == expected


def test_a_report_that_the_key_may_not_read_is_not_asked_for_all_day(open_home: StartHome) -> None:
    """Each request would be of the day; the sensor says why it waits, the other report comes."""
    key = PrivateApiKey(
        value="pk_" + "a" * 40,
        scopes=frozenset({"accounts:read", "metrics:read", "campaigns:read"}),
    )
    home = small_home(open_home, keys=(key,))
    for _ in range(3):
        found = evaluate_sensor(home, DRAIN)
        for request in found.runs:
            assert run_request(home, request).run.success
    assert request_count(home, FLOW_REPORT) == 1
    assert stored_rows(home, CAMPAIGN_REPORT, report_metrics(home)[0], DAYS)
    assert "the key may not read it" in evaluate_sensor(home, DRAIN).reason


def test_paging_without_end_is_ended(open_home: StartHome) -> None:
    """Links that are new each time while the rows stay: some pages, not the day's requests."""
    home = small_home(open_home)
    broken, good = report_metrics(home)[:2]
    match = {"path": REPORT_PATHS[FLOW_REPORT], "body": broken}
    with home.account.inject_fault("endless", match=match):
        for _ in range(4):
            done = run_partitions(home, FLOW_REPORT, (broken, DAYS[0], good, DAYS[-1]))
            assert not done.run.success
            assert "bring no row that was not there before" in done.run.failures[FLOW_REPORT]
    assert posts(home, FLOW_REPORT, broken) == 5
    assert assert_rows_match(home, FLOW_REPORT, good, DAYS)
    assert not stored_rows(home, FLOW_REPORT, broken, DAYS)
