"""Metrics that Klaviyo refuses, or that the account does not have, in runs, backfills and ticks."""

import shutil
from collections import Counter
from contextlib import nullcontext
from datetime import UTC, date, datetime

import dagster as dg
import pytest

from klaviyo_assets.sandbox.account.records import RecordCollection
from klaviyo_assets_tests.e2e.backfills import run_backfill
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
    stored_rows,
)
from klaviyo_assets_tests.e2e.report_ticks import (
    evaluate_daily_schedules,
    evaluate_sensor,
    metric_partitions,
    record_run,
    run_request,
)
from klaviyo_assets_tests.e2e.test_report_plan import command, planned
from klaviyo_assets_tests.e2e.test_report_responses import answer
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home

DRAIN = "klaviyo_reports_drain"
WORDS = "Passed in conversion metric does not support querying for values data"
POINTER = "/data/attributes/conversion_metric_id"


def refused_metric(home: Home) -> str:
    """Return a metric of the account that no report takes, and make it a partition."""
    everything = {each for (each,) in home.query("SELECT id FROM metrics")}
    refused = min(everything - set(report_metrics(home)))
    add_metrics(home, [refused])
    return refused


def mistyped(home: Home) -> str:
    """Return the main metric's id with one character wrong, and make it a partition."""
    right = report_metrics(home)[0]
    wrong = right[:-1] + ("x" if right[-1] != "x" else "y")
    add_metrics(home, [wrong])
    return wrong


@pytest.mark.parametrize("stream", [FLOW_REPORT, CAMPAIGN_REPORT])
def test_a_refused_metric_ends_green_and_is_asked_once(open_home: StartHome, stream: str) -> None:
    """A refused metric costs one request; its partitions are empty with the reason."""
    home = report_home(open_home, NOW)
    good, refused = report_metrics(home)[0], refused_metric(home)
    days = days_between(date(2026, 10, 1), date(2026, 10, 3))
    for times in range(2):
        done = run_partitions(home, stream, (refused, days[0], refused, days[-1]))
        assert done.run.success, done.run.failures
        assert done.partitions == dict.fromkeys([(refused, day) for day in days], 1)
        for _, _, shown in done.materializations:
            assert shown["klaviyo/refused"] is True
            assert shown["klaviyo/refused_reason"] == WORDS
            assert shown["klaviyo/refused_on"] == "2026-11-10"
            assert shown["dagster/partition_row_count"] == 0
            assert shown["klaviyo/requests"] == 1 - times
            assert shown["klaviyo/account_timezone"] == "UTC"
        assert WORDS in done.run.warnings
        assert request_count(home, stream) == 1
    run_partitions(home, stream, (refused, days[0]), config={"ask_refused": True})
    assert request_count(home, stream) == 2
    done = run_partitions(home, stream, (good, days[0], good, days[-1]))
    assert {"klaviyo/refused"}.isdisjoint(done.materializations[0][2])
    assert assert_rows_match(home, stream, good, days)


def test_a_metric_that_is_refused_no_more_is_fetched(open_home: StartHome) -> None:
    """Once Klaviyo accepts the metric it has rows, and its other days are missing again."""
    home = report_home(open_home, NOW)
    metric = report_metrics(home)[0]
    days = days_between(date(2026, 10, 1), date(2026, 10, 3))
    match = {"path": REPORT_PATHS[FLOW_REPORT]}
    with home.account.inject_fault(
        "error", match=match, status=400, detail="Not now.", pointer=POINTER
    ):
        done = run_partitions(home, FLOW_REPORT, (metric, days[0], metric, days[-1]))
    assert {shown["klaviyo/refused_reason"] for _, _, shown in done.materializations} == {
        "Not now."
    }
    done = run_partitions(home, FLOW_REPORT, (metric, days[0]), config={"ask_refused": True})
    assert done.run.success, done.run.failures
    assert assert_rows_match(home, FLOW_REPORT, metric, days[:1])
    home.settings |= {
        "KLAVIYO_CONVERSION_METRIC_IDS": metric,
        "KLAVIYO_REPORT_START_DATE": "2026-10-01",
    }
    assert any(
        each.tags["klaviyo/drain"] == FLOW_REPORT for each in evaluate_sensor(home, DRAIN).runs
    )


def test_rows_from_before_a_refusal_stay(open_home: StartHome) -> None:
    """The rows of a metric that Klaviyo now refuses stay, and the metadata counts them."""
    home = report_home(open_home, NOW)
    metric, day = report_metrics(home)[0], date(2026, 10, 1)
    run_partitions(home, FLOW_REPORT, (metric, day))
    assert assert_rows_match(home, FLOW_REPORT, metric, [day])
    rows = len(stored_rows(home, FLOW_REPORT, metric, [day]))
    home.account.advance_clock(days=1)
    match = {"path": REPORT_PATHS[FLOW_REPORT]}
    with home.account.inject_fault("error", match=match, status=400, detail="No.", pointer=POINTER):
        done = run_partitions(home, FLOW_REPORT, (metric, day))
    ((_, _, shown),) = done.materializations
    assert shown["klaviyo/refused"] is True
    assert shown["dagster/partition_row_count"] == rows
    assert len(stored_rows(home, FLOW_REPORT, metric, [day])) == rows


def test_a_backfill_with_a_refused_metric_succeeds(open_home: StartHome) -> None:
    """Three metrics, one refused, ten days: all thirty are materialized, by three requests."""
    home = report_home(open_home, NOW, "America/New_York")
    good, refused = report_metrics(home)[:2], refused_metric(home)
    days = days_between(date(2026, 10, 31), date(2026, 11, 9))
    wanted = [f"{day}|{metric}" for day in days for metric in (*good, refused)]
    done = run_backfill(home, FLOW_REPORT, wanted)
    assert done.status == "COMPLETED_SUCCESS", [run.status for run in done.runs]
    assert Counter(done.partitions) == dict.fromkeys(wanted, 1)
    assert request_count(home, FLOW_REPORT) == 3
    for metric in good:
        assert assert_rows_match(home, FLOW_REPORT, metric, days)
    plan = planned(home, days[0], days[-1], *good, refused)[FLOW_REPORT]
    assert plan["partitions wanted"].startswith("20 ")
    assert plan["already there"] == "20"


def test_a_backfill_with_a_mistyped_metric_says_so_once(open_home: StartHome) -> None:
    """Its partitions end red, in words; those of the other metrics are stored, by one request."""
    home = report_home(open_home, NOW)
    good, wrong = report_metrics(home)[0], mistyped(home)
    days = days_between(date(2026, 10, 31), date(2026, 11, 9))
    done = run_backfill(
        home, FLOW_REPORT, [f"{day}|{metric}" for day in days for metric in (good, wrong)]
    )
    assert done.status == "COMPLETED_FAILED"
    assert Counter(done.partitions) == dict.fromkeys([f"{day}|{good}" for day in days], 1)
    assert assert_rows_match(home, FLOW_REPORT, good, days)
    requested = [
        each["data"]["attributes"]
        for each in home.account.request_bodies(REPORT_PATHS[FLOW_REPORT])
    ]
    assert Counter(each["conversion_metric_id"] for each in requested) == {good: 1, wrong: 1}


@pytest.mark.parametrize("stream", [FLOW_REPORT, CAMPAIGN_REPORT])
def test_a_mistyped_metric_fails_in_words(open_home: StartHome, stream: str) -> None:
    """The run names it, Klaviyo's words, the nearest metric and what to do; nothing is retried."""
    home = report_home(open_home, NOW)
    good, wrong, refused = report_metrics(home)[0], mistyped(home), refused_metric(home)
    day = date(2026, 10, 1)
    for _ in range(2):
        done = run_partitions(home, stream, (wrong, day, refused, day))
        message = done.run.failures[stream]
        assert f"metric {wrong!a}: the account has no metric of this id" in message
        assert "Passed in conversion metric does not exist" in message
        assert f"Nearest: {good!a} (Placed Order)" in message
        assert "1 partition of it not stored" in message
        assert done.run.attempts[stream] == 1
        assert done.partitions == {(refused, day): 1}
        assert request_count(home, stream) == 2
    assert f"not in the account: {wrong} (2026-11-10): Passed in" in command(home, "status").stdout
    run_partitions(home, stream, (wrong, day), config={"ask_refused": True})
    assert request_count(home, stream) == 3


def test_a_custom_metric_that_is_refused_is_known(open_home: StartHome) -> None:
    """No table has custom metrics: Klaviyo is queried before a metric is called unknown."""
    home = report_home(open_home, NOW)
    custom = home.account.sandbox.store.custom_metrics.id_of(0)
    add_metrics(home, [custom])
    match = {"path": REPORT_PATHS[FLOW_REPORT]}
    with home.account.inject_fault("error", match=match, status=400, detail="No.", pointer=POINTER):
        done = run_partitions(home, FLOW_REPORT, (custom, date(2026, 10, 1)))
    assert done.run.success, done.run.failures
    ((_, _, shown),) = done.materializations
    assert shown["klaviyo/refused"] is True


def half_mistyped(open_home: StartHome) -> tuple[Home, str, str]:
    """Return a home whose setting names a metric and a mistyped one, and both ids."""
    home = report_home(open_home, NOW)
    good, wrong = report_metrics(home)[0], mistyped(home)
    home.settings |= {
        "KLAVIYO_CONVERSION_METRIC_IDS": f"{wrong},{good}",
        "KLAVIYO_REPORT_START_DATE": "2026-11-05",
    }
    return home, good, wrong


def test_a_mistyped_setting_is_told(open_home: StartHome) -> None:
    """The sync of metrics, plan and status say so, with the nearest name."""
    home, good, wrong = half_mistyped(open_home)
    named = f"KLAVIYO_CONVERSION_METRIC_IDS names {wrong!a}"
    nearest = f"Nearest: {good!a} (Placed Order)"
    run = home.sync("metrics")
    assert run.success
    assert named in run.warnings
    assert nearest in run.warnings
    for words in (["plan", "--start", "2026-11-05", "--end", "2026-11-09"], ["status"]):
        done = command(home, *words)
        assert done.returncode == 0, done.stderr
        assert named in done.stdout
        assert nearest in done.stdout


@pytest.mark.parametrize("knows_custom", [True, False], ids=["asked", "not allowed"])
def test_a_mistyped_setting_costs_at_most_one_request(
    open_home: StartHome, *, knows_custom: bool
) -> None:
    """A day of ticks fetches the valid metric, and says what is wrong with the mistyped one.

    Where nobody may say whether it is a custom metric, each report fails once for it.
    """
    home, good, wrong = half_mistyped(open_home)
    match = {"path": "/api/custom-metrics"}
    hidden = (
        nullcontext()
        if knows_custom
        else home.account.inject_fault("error", match=match, status=403)
    )
    failed: list[str] = []
    reasons: set[str] = set()
    with hidden:
        for _ in range(8):
            found = evaluate_sensor(home, DRAIN)
            home.account.advance_clock(hours=3)
            reasons.add(found.reason)
            failed += [
                text
                for request in found.runs
                for text in run_request(home, request).run.failures.values()
            ]
    requested = [
        each["data"]["attributes"]["conversion_metric_id"]
        for path in REPORT_PATHS.values()
        for each in home.account.request_bodies(path)
    ]
    assert requested.count(wrong) == len(failed) == (0 if knows_custom else 2)
    assert all(f"metric {wrong!a}: the account has no metric" in text for text in failed)
    named = f"KLAVIYO_CONVERSION_METRIC_IDS names {wrong!a}"
    assert any(named in each and f"Nearest: {good!a}" in each for each in reasons)
    for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
        assert stored_rows(home, stream, good, days_between(date(2026, 11, 5), date(2026, 11, 9)))


def test_a_name_in_the_place_of_an_id_finds_its_metric(open_home: StartHome) -> None:
    """A metric's name instead of its id is refused with that id."""
    home = report_home(open_home, NOW)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = "Placed_order"
    message = home.sync("metrics").warnings
    assert "names 'Placed_order'" in message
    assert f"{report_metrics(home)[0]!a} (Placed Order)" in message


def test_a_custom_metric_is_no_mistake(open_home: StartHome) -> None:
    """It is not in the table, but Klaviyo lists it; once a report came, plan and status know."""
    home = report_home(open_home, NOW)
    custom = home.account.sandbox.store.custom_metrics.id_of(0)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = custom
    assert "KLAVIYO_CONVERSION_METRIC_IDS" not in home.sync("metrics").warnings
    assert "unless it is a custom metric" in command(home, "status").stdout
    assert home.sync("custom_metrics").success
    done = run_partitions(home, FLOW_REPORT, (custom, date(2026, 10, 1)))
    assert done.run.success
    assert "KLAVIYO_CONVERSION_METRIC_IDS" not in command(home, "status").stdout
    ((name,),) = home.query(f"SELECT name FROM custom_metrics WHERE id = '{custom}'")
    shown = home.query(f"SELECT DISTINCT conversion_metric_name FROM {FLOW_REPORT}")
    assert shown == [(name,)]
    assert done.run.materializations[FLOW_REPORT]["klaviyo/metric_name"] == name


def test_failing_runs_of_a_metric_stop_that_metric(open_home: StartHome) -> None:
    """After three failures within an hour it is left alone; the report's other metrics are not."""
    home = report_home(open_home, NOW)
    bad, good = report_metrics(home)[:2]
    home.settings |= {
        "KLAVIYO_CONVERSION_METRIC_IDS": f"{bad},{good}",
        "KLAVIYO_REPORT_START_DATE": "2026-11-01",
    }
    ends = {
        "dagster/asset_partition_range_start": f"2026-11-01|{bad}",
        "dagster/asset_partition_range_end": f"2026-11-09|{bad}",
    }
    for stream in (FLOW_REPORT, CAMPAIGN_REPORT) * 3:
        record_run(home, stream, dg.DagsterRunStatus.FAILURE, {"klaviyo/drain": stream, **ends})
    found = evaluate_sensor(home, DRAIN)
    launched = Counter(
        (each.tags["klaviyo/drain"], each.tags["dagster/asset_partition_range_end"][11:])
        for each in found.runs
    )
    assert launched == {(FLOW_REPORT, good): 1, (CAMPAIGN_REPORT, good): 1}
    for request in found.runs:
        assert run_request(home, request).run.success
    idle = evaluate_sensor(home, DRAIN)
    assert not idle.runs
    assert idle.reason.count(f"3 runs of each failed within 1:00:00: {bad!a}") == 2


def test_a_report_of_which_every_metric_fails_is_left_alone(open_home: StartHome) -> None:
    """Three metrics that failed and no run that ended well: it is the report that is broken."""
    home = report_home(open_home, NOW)
    for metric in report_metrics(home)[:3]:
        ends = {
            "dagster/asset_partition_range_start": f"2026-11-01|{metric}",
            "dagster/asset_partition_range_end": f"2026-11-09|{metric}",
        }
        record_run(
            home, FLOW_REPORT, dg.DagsterRunStatus.FAILURE, {"klaviyo/drain": FLOW_REPORT, **ends}
        )
    found = evaluate_sensor(home, DRAIN)
    assert {each.tags["klaviyo/drain"] for each in found.runs} == {CAMPAIGN_REPORT}
    record_run(home, FLOW_REPORT, dg.DagsterRunStatus.SUCCESS, {"klaviyo/drain": FLOW_REPORT})
    assert FLOW_REPORT in {each.tags["klaviyo/drain"] for each in evaluate_sensor(home, DRAIN).runs}


@pytest.mark.parametrize("is_known", [True, False], ids=["remembered", "asked at the tick"])
def test_the_revenue_metric_is_asked_before_the_rest(
    open_home: StartHome, *, is_known: bool
) -> None:
    """The mapped one, whatever its name and id: its past comes before the others' yesterday."""
    home = report_home(open_home, NOW)
    home.settings["KLAVIYO_REPORT_START_DATE"] = "2026-06-01"
    last = max(report_metrics(home))
    shelf = home.account.sandbox.store.collections["mapped-metric"]
    ordinal = shelf.ordinal_of("revenue")
    assert ordinal is not None
    assert isinstance(shelf, RecordCollection)
    shelf.records[ordinal].links["metric"] = ("metric", last)
    shutil.rmtree(home.variables["KLAVIYO_STATE_DIR"])
    if is_known:
        assert home.sync("metrics").success
    home.account.clear_journal()
    first = [
        [each.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
        for each in evaluate_sensor(home, DRAIN).runs
        if each.tags["klaviyo/drain"] == FLOW_REPORT
    ]
    # Three time frames, so that nothing of it is left when the turn of another comes.
    assert first == [[f"2026-06-01|{last}", f"2026-11-09|{last}"]]
    assert home.account.request_counts()["/api/mapped-metrics"] == (0 if is_known else 1)


def test_auto_that_finds_nothing_says_so(open_home: StartHome) -> None:
    """The run of metrics warns, the sensor and the plan refuse in words: nothing is just green."""
    home = report_home(open_home, NOW)
    for (metric,) in home.query("SELECT id FROM metrics WHERE name = 'Placed Order'"):
        home.account.mutate(metric=metric, set={"name": "Bought"})
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = "auto"
    # What the account mapped yesterday is forgotten.
    shutil.rmtree(home.variables["KLAVIYO_STATE_DIR"])
    message = "KLAVIYO_CONVERSION_METRIC_IDS=auto finds no metric"
    with home.account.inject_fault("error", match={"path": "/api/mapped-metrics"}, status=404):
        run = home.sync("metrics")
        assert run.success
        assert message in run.warnings
        found = evaluate_sensor(home, DRAIN)
    assert not found.runs
    assert message in found.reason
    assert evaluate_daily_schedules(home, datetime(2026, 11, 10, 4, 15, tzinfo=UTC)) == []
    plan = command(home, "plan", "--start", "2026-10-01", "--end", "2026-10-02")
    assert plan.returncode == 2
    assert message in plan.stderr
    assert message in command(home, "status").stdout


def test_all_can_be_said_aloud(open_home: StartHome) -> None:
    """`all` makes every metric a partition, as no setting does."""
    home = open_home(now=NOW, timezone="UTC", days=30)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = "all"
    assert home.sync("metrics").success
    assert set(metric_partitions(home)) == set(home.ids("metrics"))


def test_a_plan_names_what_all_costs_beside_auto(open_home: StartHome) -> None:
    """Partitions and requests of both, whatever the setting says."""
    home = report_home(open_home, NOW)
    first, last = date(2026, 8, 2), date(2026, 11, 9)
    days, metrics = (last - first).days + 1, home.row_count("metrics")
    for setting in ("auto", "all"):
        home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = setting
        plan = planned(home, first, last)[FLOW_REPORT]
        assert plan["with auto"] == f"{days}  partitions (1 metric x {days} days), 2 requests"
        assert plan["with all"] == (
            f"{days * metrics:,}  partitions ({metrics} metrics x {days} days), "
            f"{2 * metrics} requests"
        )
        wanted = days * (metrics if setting == "all" else 1)
        assert plan["partitions wanted"].startswith(f"{wanted:,} ")


def test_a_run_of_several_metrics_fails_for_the_one_that_failed(open_home: StartHome) -> None:
    """Three metrics share a run of the sensor; the broken one is left alone, the others come."""
    home = report_home(open_home, NOW)
    metrics = report_metrics(home)[:3]
    bad = metrics[1]
    home.settings |= {
        "KLAVIYO_CONVERSION_METRIC_IDS": ",".join(metrics),
        "KLAVIYO_REPORT_START_DATE": "2026-11-05",
    }
    match = {"path": REPORT_PATHS[FLOW_REPORT], "body": bad}
    failed, reasons = 0, ""
    with home.account.inject_fault("text_body", match=match, text=answer()):
        for _ in range(4):
            found = evaluate_sensor(home, DRAIN)
            reasons += found.reason
            for request in found.runs:
                done = run_request(home, request)
                failed += not done.run.success
                assert not done.run.failures or f"metric {bad!a}" in done.run.failures[FLOW_REPORT]
    assert failed == 1
    assert f"metric {bad!a} is left alone until 2026-11-10 13:00 UTC" in reasons
    for metric in (metrics[0], metrics[2]):
        assert assert_rows_match(
            home, FLOW_REPORT, metric, days_between(date(2026, 11, 5), date(2026, 11, 9))
        )
