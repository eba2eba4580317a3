"""A run's log speaks of nothing that did not happen: every check planned has a result."""

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from klaviyo_assets.sandbox.account.config import DEFAULT_KEY, PrivateApiKey
from klaviyo_assets.streams import DEFAULT_COLLECTIONS
from klaviyo_assets_tests.e2e.check_runs import run_completeness_check
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_runs import (
    FLOW_REPORT,
    days_between,
    read_materializations,
    report_metrics,
)
from klaviyo_assets_tests.e2e.report_ticks import RANGE_TAGS
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home

UNASKED = ("did not yield", "Skipping step", "skipped", "no result", "without gating")
"""Words of Dagster's for what a run had planned and did not do."""

OF_EVERY_KIND = (
    *("accounts", "campaigns", "campaigns_detailed", "event_attributions", "events"),
    *("events_detailed", "global_exclusions", "lists", "lists_detailed", "metrics", "profiles"),
)
"""For jobs: with a cursor and without, of parents, of other tables, and a view."""

JOBS = ("first_sync", "collections", "slow_details", "deleted_profiles", "checks")


def materialize(home: Home, *streams: str, tags: Mapping[str, str] | None = None) -> RunResult:
    """Materialize streams with all of their checks, as the button of the UI does."""
    return run_job(home, "__ASSET_JOB", assets={asset_key(each) for each in streams}, tags=tags)


def run_job(
    home: Home,
    name: str,
    *,
    assets: set[dg.AssetKey] | None = None,
    tags: Mapping[str, str] | None = None,
) -> RunResult:
    """Run a job, or a part of it, in this process."""
    defs = home.load_definitions()

    def execute(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        job = defs.resolve_job_def(name)
        part = job.get_subset(asset_selection=assets) if assets else job
        return part.execute_in_process(
            instance=instance, raise_on_error=False, tags=dict(tags or {})
        )

    return home.execute(execute)


def assert_clear_log(home: Home, run: RunResult) -> None:
    """Assert that a run ended well, did all that it had planned, and said nothing besides."""
    assert run.success, run.failures
    with open_instance(home.dagster_home) as instance:
        entries = instance.all_logs(run.id)
    planned, done = set[dg.AssetCheckKey](), set[dg.AssetCheckKey]()
    for entry in entries:
        phrases = [word for word in UNASKED if word in entry.user_message]
        assert not phrases, entry.user_message
        event = entry.dagster_event
        assert event is None or event.event_type is not dg.DagsterEventType.STEP_SKIPPED
        if event and event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED:
            planned.add(event.asset_check_planned_data.asset_check_key)
        if event and event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            done.add(event.asset_check_evaluation_data.asset_check_key)
    assert planned == done


def test_everything_materialized_by_hand_is_checked(home: Home) -> None:
    """All checks of all collections have a result; those that need Klaviyo say that they wait."""
    every = [stream.name for stream in DEFAULT_COLLECTIONS]
    run = materialize(home, *every)
    assert_clear_log(home, run)
    assert {stream for stream, _ in run.check_results} == {*every}
    colours = {key: each.colour for key, each in run.check_results.items()}
    assert colours.pop(("events", "complete")) == "yellow"
    assert set(colours.values()) == {"green"}


def test_a_comparison_is_repeated_and_not_made_again(home: Home) -> None:
    """With events materialized by hand the last verdict stands: no request, and it says so."""
    for _ in range(2):
        before = materialize(home, "events").check_results["events", "complete"]
        assert before.description.startswith("Not compared yet")
        assert "Launch klaviyo_checks" in before.description
        assert before.colour == "yellow"
    assert home.sync("metrics").success
    compared = run_completeness_check(home)
    assert compared.colour == "green"
    home.account.clear_journal()
    for _ in range(2):
        run = materialize(home, "events")
        assert_clear_log(home, run)
        repeated = run.check_results["events", "complete"]
        assert repeated.colour == "green"
        assert repeated.description.startswith("As of ")
        assert repeated.description.endswith(compared.description)
        assert repeated.metadata["klaviyo/missing"] == compared.metadata["klaviyo/missing"]
    assert not home.account.request_counts()["/api/metric-aggregates"]


@pytest.fixture(scope="module")
def synced_home(tmp_path_factory: pytest.TempPathFactory, dagster_template: Path) -> Iterator[Home]:
    """Give a home in which each kind of stream was synced; jobs may run in it in any order."""
    with open_sandbox_account() as account:
        home = Home(
            account=account,
            root=tmp_path_factory.mktemp("home"),
            dagster_template=dagster_template,
            settings={"KLAVIYO_STREAMS": ",".join(OF_EVERY_KIND)},
        )
        assert home.sync(*OF_EVERY_KIND).success
        yield home


@pytest.mark.parametrize("name", JOBS)
def test_each_job_does_what_it_plans(synced_home: Home, name: str) -> None:
    """No job leaves a check without a result or a step behind."""
    assert_clear_log(synced_home, run_job(synced_home, f"klaviyo_{name}"))


def test_a_run_of_report_partitions_is_checked(open_home: StartHome) -> None:
    """Its partitions are materialized once each by Dagster, and then its rows are checked."""
    home = report_home(open_home, NOW)
    metric = report_metrics(home)[0]
    days = days_between(date(2026, 11, 1), date(2026, 11, 5))
    ends = {RANGE_TAGS[0]: f"{days[0]}|{metric}", RANGE_TAGS[1]: f"{days[-1]}|{metric}"}
    run = materialize(home, FLOW_REPORT, tags=ends)
    assert_clear_log(home, run)
    assert sorted(day for _, day, _ in read_materializations(home, run.id)) == days
    verdicts = {name: each.colour for (_, name), each in run.check_results.items()}
    # Days of weeks ago: the newest that should be there are not.
    newest = {"newest_days_are_there": "red"}
    assert verdicts == {"key_is_unique": "green", "key_and_cursor_not_null": "green", **newest}


def test_a_stream_without_its_scope_says_so_alone(open_home: StartHome) -> None:
    """A green run, nothing materialized, a warning, an observation, and each own check warns."""
    home = open_home(keys=(PrivateApiKey(value=DEFAULT_KEY, scopes=frozenset({"accounts:read"})),))
    run = home.sync("flows")
    assert run.success
    assert "flows is skipped: the key lacks the scope flows:read" in run.warnings
    assert not run.materializations
    assert [each["klaviyo/missing_scope"] for each in run.observations["flows"]] == ["flows:read"]
    with open_instance(home.dagster_home) as instance:
        assert not [each for each in instance.all_logs(run.id) if UNASKED[0] in each.user_message]
