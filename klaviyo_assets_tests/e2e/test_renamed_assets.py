"""Assets under other keys, as Dagster's `asset_key_replacements` gives them: everything follows.

The whole code location is renamed, checks included; jobs, schedules and sensors are as they were
made, and find the assets by a tag.
"""

import shutil
from datetime import date
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from klaviyo_assets.sandbox.account.config import PrivateApiKey
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import AssetKeyRename, Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    assert_rows_match,
    days_between,
    report_metrics,
    request_count,
    set_metrics,
)
from klaviyo_assets_tests.e2e.report_ticks import (
    evaluate_daily_schedules,
    evaluate_sensor,
    record_run,
)
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.test_completeness import DAY, FIRST, add_daily_events, skip
from klaviyo_assets_tests.e2e.test_reports import NOW

STORED = (dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION)

RENAMES: dict[str, AssetKeyRename] = {
    "a prefix": lambda key: key.with_prefix("crm"),
    "a name of its own": lambda key: dg.AssetKey(f"raw_{key.path[-1]}_of_klaviyo"),
}


FEW_STREAMS = "events,events_detailed,metrics"
"""For jobs, which otherwise run every stream."""


def rename_throughout(key: dg.AssetKey) -> dg.AssetKey:
    """Give an asset a prefix and a name of its own, for tests of several runs."""
    return dg.AssetKey(["crm", f"{key.path[-1]}_of_klaviyo"])


@pytest.fixture(params=RENAMES)
def rename(request: pytest.FixtureRequest) -> AssetKeyRename:
    """Give each way to rename an asset."""
    return RENAMES[request.param]


def launch(home: Home, *streams: str, request: dg.RunRequest | None = None) -> RunResult:
    """Run assets with all of their checks, as the button does, or what a tick asks for."""
    job = home.load_definitions().get_repository_def().get_job("__ASSET_JOB")
    if request is None:
        part = job.get_subset(asset_selection=set(map(home.asset_key, streams)))
    else:
        checks = request.asset_check_keys
        part = job.get_subset(
            asset_selection=set(request.asset_selection or ()),
            asset_check_selection=set(checks) if checks is not None else None,
        )
    return home.execute(
        lambda instance: part.execute_in_process(
            run_config=dict(request.run_config) if request else None,
            tags=dict(request.tags) if request else None,
            instance=instance,
            raise_on_error=False,
        )
    )


def run_job(home: Home, name: str) -> RunResult:
    """Run a job by its name."""
    job = home.load_definitions().resolve_job_def(name)
    return home.execute(lambda each: job.execute_in_process(instance=each, raise_on_error=False))


def keys_of(home: Home, run: RunResult, kind: dg.DagsterEventType) -> set[dg.AssetKey]:
    """Return the assets that the events of a kind in a run are about."""
    with open_instance(home.dagster_home) as instance:
        entries = instance.all_logs(run.id, of_type=kind)
    events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    if kind is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        return {event.asset_check_evaluation_data.asset_key for event in events}
    return {event.asset_key for event in events if event.asset_key is not None}


def test_a_renamed_collection_is_synced_and_goes_on(home: Home) -> None:
    """All that a run logs is about the new key, and the next run finds its cursor there."""
    home.rename = rename_throughout
    streams = ("metrics", "events", "events_detailed", "profiles", "lists", "lists_detailed")
    first = launch(home, *streams)
    assert first.success, first.failures
    for kind in STORED:
        assert keys_of(home, first, kind) == set(map(home.asset_key, streams))
    for stream in ("events", "profiles", "lists"):
        assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))
    second = launch(home, *streams)
    assert second.success, second.failures
    assert "no cursor in asset metadata" not in second.warnings
    name = home.asset_key("profiles").path[-1]
    assert second.cursor(name) == first.cursor(name) is not None
    assert second.check_results[name, "row_count_holds"].metadata["klaviyo/rows_before"] == 90


def test_a_cursor_without_a_materialization_is_kept_under_the_new_key(
    home: Home, rename: AssetKeyRename
) -> None:
    """A sync that fails after its last commit leaves its cursor as an observation of the asset."""
    home.rename = rename
    in_the_way = home.data_dir / "klaviyo.duckdb" / "a file"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    run = launch(home, "events")
    assert run.failures
    assert keys_of(home, run, dg.DagsterEventType.ASSET_OBSERVATION) == {home.asset_key("events")}
    shutil.rmtree(in_the_way.parent)
    again = launch(home, "events")
    assert again.success, again.failures
    assert "no cursor in asset metadata" not in again.warnings
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_errors_name_renamed_assets_by_their_own_keys(home: Home, rename: AssetKeyRename) -> None:
    """What is to be materialized first is named as the page shows it, not as it was once called."""
    home.rename = rename
    run = launch(home, "lists_detailed")
    assert f"materialize {home.asset_key('lists').to_user_string()} first" in str(run.failures)
    run = launch(home, "events_detailed")
    assert f"materialize {home.asset_key('events').to_user_string()} first" in str(run.failures)
    assert "klaviyo/events" not in str(run.failures).replace(
        home.asset_key("events").to_user_string(), ""
    )


def test_a_renamed_stream_without_its_scope_is_skipped(
    open_home: StartHome, rename: AssetKeyRename
) -> None:
    """The run is green; the observation that names the scope is about the new key."""
    home = open_home(
        keys=(PrivateApiKey(value="pk_" + "a" * 40, scopes=frozenset({"accounts:read"})),)
    )
    home.rename = rename
    run = launch(home, "lists")
    assert run.success, run.failures
    assert keys_of(home, run, dg.DagsterEventType.ASSET_OBSERVATION) == {home.asset_key("lists")}
    (observed,) = run.observations[home.asset_key("lists").path[-1]]
    assert observed["klaviyo/missing_scope"] == "lists:read"
    assert keys_of(home, run, STORED[0]) == set()


def test_jobs_and_loading_follow_a_rename(home: Home, rename: AssetKeyRename) -> None:
    """Jobs hold the renamed assets, and downstream code loads them by their new keys."""
    home.settings["KLAVIYO_STREAMS"] = FEW_STREAMS
    home.rename = rename

    @dg.asset(ins={"table": dg.AssetIn(key=home.asset_key("events_detailed"))})
    def downstream(table: pd.DataFrame) -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata={"rows": len(table)})

    run = run_job(home, "klaviyo_collections")
    assert run.success, run.failures
    assert home.asset_key("events") in keys_of(home, run, STORED[0])
    defs = home.load_definitions()
    resources = {**(defs.resources or {}), "io_manager": (defs.resources or {})["lake_io_manager"]}
    loaded = home.execute(
        lambda instance: dg.materialize(
            [*(each for each in defs.assets or () if isinstance(each, dg.AssetsDefinition)),
             downstream],
            selection=[downstream],
            instance=instance,
            resources=resources,
        )
    )  # fmt: skip
    assert loaded.materializations["downstream"]["rows"] == home.row_count("events_detailed")


def test_renamed_events_are_compared_and_healed(open_home: StartHome) -> None:
    """Check result and repair run of renamed events have the new key."""
    home = open_home(events=0, future_events=0)
    home.settings["KLAVIYO_STREAMS"] = FEW_STREAMS
    home.rename = rename_throughout
    add_daily_events(home, *(FIRST + number * DAY for number in range(5)))
    assert run_job(home, "klaviyo_collections").success
    name = home.asset_key("events").path[-1]
    first = run_job(home, "klaviyo_checks")
    assert first.success, first.failures
    assert first.check_results[name, "complete"].colour == "green"
    skip(home, FIRST + 7 * DAY)
    assert run_job(home, "klaviyo_checks").check_results[name, "complete"].colour == "red"
    repeated = launch(home, "events").check_results[name, "complete"]
    assert repeated.description.startswith("As of ")
    (request,) = evaluate_sensor(home, "klaviyo_events_healing").runs
    assert request.asset_selection == [home.asset_key("events")]
    healed = launch(home, request=request)
    assert healed.success, healed.failures
    assert healed.check_results[name, "complete"].colour == "green"
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_a_renamed_report_is_fetched_backfilled_and_watched(open_home: StartHome) -> None:
    """Partitions are the new key's, and the sensor and the schedule launch it, once each."""
    home = open_home(now=NOW, timezone="UTC", days=30)
    home.rename = rename_throughout
    home.settings["KLAVIYO_REPORT_START_DATE"] = "2026-11-03"
    assert launch(home, "metrics", "campaigns").success
    metric = report_metrics(home)[0]
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = metric
    set_metrics(home, [metric])
    days = days_between(date(2026, 11, 3), date(2026, 11, 9))
    wanted = {each.run_key: each for each in evaluate_sensor(home, "klaviyo_reports_drain").runs}
    for request in wanted.values():
        assert set(request.asset_selection or ()) < {
            home.asset_key(FLOW_REPORT),
            home.asset_key(CAMPAIGN_REPORT),
        }
        run = launch(home, request=request)
        assert run.success, run.failures
        assert keys_of(home, run, STORED[0]) == set(request.asset_selection or ())
    assert len(wanted) == 2
    with open_instance(home.dagster_home) as instance:
        found = instance.get_materialized_partitions(home.asset_key(FLOW_REPORT))
    assert found == {f"{day}|{metric}" for day in days}
    for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
        assert assert_rows_match(home, stream, metric, days)
    (of_flows,) = (
        each
        for each in evaluate_daily_schedules(home, NOW)
        if each.asset_selection == [home.asset_key(FLOW_REPORT)]
    )
    home.account.clear_journal()
    assert launch(home, request=of_flows).success
    assert request_count(home, FLOW_REPORT) == 1
    home.account.advance_clock(days=2)
    record_run(home, FLOW_REPORT, dg.DagsterRunStatus.STARTED, {})
    again = evaluate_sensor(home, "klaviyo_reports_drain").runs
    assert {key for each in again for key in each.asset_selection or ()} == {
        home.asset_key(CAMPAIGN_REPORT)
    }
