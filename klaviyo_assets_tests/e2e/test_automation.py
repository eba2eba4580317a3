"""What starts by itself: a real daemon with `KLAVIYO_AUTOMATION`, and who looks for late events."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from subprocess import DEVNULL

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorStatus

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.model.selection import all_automations
from klaviyo_assets.seams import use_clock, utc_now
from klaviyo_assets.settings import Settings
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.daemon_turns import (
    find_schedule,
    open_workspace,
    read_states,
    read_ticks,
    start_an_hour_ago,
    turn_schedules,
    turn_sensors,
)
from klaviyo_assets_tests.e2e.home import Home, environment_variables
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_ticks import evaluate_daily_schedules
from klaviyo_assets_tests.e2e.test_report_plan import command

PATIENCE_SECONDS = 600

METRICS_SENSOR = "klaviyo_conversion_metrics"
"""On whatever the setting: it costs nothing, and without it reports have no partitions."""

LATE_SCHEDULE = "klaviyo_late_events"

COLLECTION_SCHEDULES = [
    "klaviyo_collections",
    "klaviyo_slow_details",
    "klaviyo_checks",
    LATE_SCHEDULE,
    "klaviyo_lifted_suppressions",
    "klaviyo_deleted_profiles",
]

DAILY_REPORTS = [
    "klaviyo_campaign_values_reports",
    "klaviyo_flow_series_reports",
]
"""They stand in for the draining sensor, which is on with them."""

RECOMMENDED = {
    *COLLECTION_SCHEDULES,
    *DAILY_REPORTS,
    "klaviyo_reports_drain",
    "klaviyo_events_healing",
    "klaviyo_reports_newest_days",
    "klaviyo_marketing_overview",
    METRICS_SENSOR,
}

FEW_STREAMS = (
    "campaign_values_reports,events,flow_series_reports,global_exclusions,lists,lists_detailed,"
    "metrics,profiles"
)
"""For a whole daemon: each automation that is recommended has something to do."""


@contextmanager
def daemon(home: Home) -> Generator[None]:
    """Run Dagster's own daemon on the home, and end it, its servers and runs included."""
    dagster = [str(Path(sys.executable).with_name("dagster-daemon")), "run"]
    environment = {**os.environ, **home.variables, "DAGSTER_HOME": str(home.dagster_home)}
    process = subprocess.Popen(
        [*dagster, "-m", "klaviyo_assets.definitions"],
        cwd=ROOT,
        env=environment,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(timeout=300)


def eventually(happened: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.5)


@pytest.mark.takes(20)
def test_recommended_is_on_from_the_start_and_launches(home: Home) -> None:
    """The daemon starts all that the setting names; an hour later the collections are read."""
    # Each automation has something to do, and the hourly job no more than that.
    home.settings["KLAVIYO_STREAMS"] = FEW_STREAMS
    launched = dg.RunsFilter(tags={"dagster/schedule_name": "klaviyo_collections"})
    with open_workspace(home) as workspace:
        start_an_hour_ago(workspace, "klaviyo_collections")
    with open_instance(home.dagster_home) as instance:
        with daemon(home):
            eventually(lambda: read_states(instance).keys() >= RECOMMENDED)
            found = read_states(instance)
            assert {each.status for each in found.values()} == {InstigatorStatus.DECLARED_IN_CODE}
            eventually(lambda: any(run.is_finished for run in instance.get_runs(launched)))
        (run,) = instance.get_runs(launched)
        assert run.is_success
        assert run.job_name == "klaviyo_collections"
        late = instance.get_latest_materialization_event(dg.AssetKey(["klaviyo", "events"]))
        assert late is not None
        assert late.asset_materialization is not None
        assert "klaviyo/late_events" not in late.asset_materialization.metadata
    assert set(home.account.true_ids("lists")) == set(home.ids("lists"))


def test_off_nothing_starts_but_the_keys_of_partitions(home: Home) -> None:
    """Without the setting the daemon starts no schedule, and no sensor that launches anything."""
    home.settings["KLAVIYO_AUTOMATION"] = ""
    with open_workspace(home) as workspace:
        turn_schedules(workspace)
        turn_sensors(workspace)
        assert set(read_states(workspace.instance)) == {METRICS_SENSOR}
        assert read_ticks(workspace.instance, METRICS_SENSOR)
        assert list(workspace.instance.get_runs()) == []
    assert home.account.request_counts().total() == 0


def test_the_recommended_set_is_all_there_is() -> None:
    """A schedule or sensor that is added later belongs to the set, or says here why not."""
    repository = build_defs(Settings(automation="recommended")).get_repository_def()
    found = [*repository.schedule_defs, *repository.sensor_defs]
    assert {each.name for each in found if each.default_status.value == "RUNNING"} == RECOMMENDED
    assert {each.name for each in found} == RECOMMENDED
    assert set(all_automations()) == RECOMMENDED


def test_status_says_which_promises_nothing_keeps(home: Home) -> None:
    """`status` lists each automation that is off; a setting that disables one counts, too."""
    home.settings["KLAVIYO_AUTOMATION"] = "off"
    output = command(home, "status").stdout
    for name in RECOMMENDED - {METRICS_SENSOR, *DAILY_REPORTS}:
        assert f"({name})" in output
    assert "KLAVIYO_AUTOMATION=recommended starts all of it" in output
    home.settings["KLAVIYO_AUTOMATION"] = "recommended"
    assert "everything is on" in command(home, "status").stdout
    home.settings["KLAVIYO_LATE_EVENTS_DAYS"] = "0"
    (off,) = re.findall("off: (.*)", command(home, "status").stdout)
    assert off == f"events that arrive late ({LATE_SCHEDULE})"


def reasons(home: Home) -> list[str]:
    """Return why the schedules of collections would launch nothing now; empty texts: they would."""
    defs = home.load_definitions()
    found: list[str] = []
    with open_instance(home.dagster_home) as instance:
        for name in COLLECTION_SCHEDULES:
            with dg.build_schedule_context(
                instance=instance, scheduled_execution_time=home.account.now
            ) as context:
                tick = defs.resolve_schedule_def(name).evaluate_tick(context)
            assert bool(tick.run_requests) is (tick.skip_message is None)
            found.append(tick.skip_message or "")
    return found


def test_ticks_wait_for_the_first_sync(home: Home) -> None:
    """Nothing is launched beside a first sync, unless that has been under way for a day."""
    assert reasons(home) == [""] * 6
    with open_instance(home.dagster_home) as instance:
        run = dg.DagsterRun(job_name="klaviyo_first_sync", status=dg.DagsterRunStatus.STARTED)
        instance.add_run(run)
    why = f"run {run.run_id} of klaviyo_first_sync is under way"
    assert reasons(home) == [why] * 6
    tomorrow = utc_now() + timedelta(days=1, minutes=1)
    with use_clock(lambda: tomorrow):
        assert reasons(home) == [""] * 6


def test_daily_reports_are_left_to_the_sensor_that_is_on(home: Home) -> None:
    """With the draining sensor on, the daily schedule launches nothing: no day is paid twice."""
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = "AbC123"
    assert home.sync("metrics").success
    assert len(evaluate_daily_schedules(home, home.account.now)) == 2
    assert evaluate_daily_schedules(home, home.account.now, automation="recommended") == []


NOT_LOOKED_FOR = "nothing looks for late events"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, True),
        ({"lookback_days": "2"}, False),
        ({"automation": "recommended"}, False),
        ({"automation": "recommended", "late_events_days": "0"}, True),
    ],
    ids=["defaults", "lookback", "recommended", "no-days"],
)
def test_events_say_that_late_ones_are_not_looked_for(
    home: Home, more: dict[str, str], *, says: bool
) -> None:
    """Events warn exactly where nothing reads late ones; other streams never do."""
    home.settings |= environment_variables({"automation": "", **more})
    for _ in range(2):
        run = home.sync("events", "lists")
        assert run.success, run.failures
        assert run.warnings.count(NOT_LOOKED_FOR) == says
        assert ("klaviyo/late_events" in run.materializations["events"]) is says
        assert "klaviyo/late_events" not in run.materializations["lists"]


def test_a_switch_in_the_ui_decides(home: Home) -> None:
    """With the schedule switched on in the UI a run does not warn of late events; off, it does."""
    home.settings["KLAVIYO_AUTOMATION"] = "off"
    switch(home, on=True)
    assert NOT_LOOKED_FOR not in home.sync("events").warnings
    switch(home, on=False)
    assert NOT_LOOKED_FOR in home.sync("events").warnings
    home.settings["KLAVIYO_AUTOMATION"] = "recommended"
    assert NOT_LOOKED_FOR in home.sync("events").warnings
    home.settings["DAGSTER_HOME"] = str(home.dagster_home)
    (off,) = re.findall("off: (.*)", command(home, "status").stdout)
    assert off == f"events that arrive late ({LATE_SCHEDULE})"


def switch(home: Home, *, on: bool) -> None:
    """Start or stop the schedule of late events, as the UI's switch does."""
    with open_workspace(home) as workspace:
        schedule, instance = find_schedule(workspace, LATE_SCHEDULE), workspace.instance
        if on:
            instance.start_schedule(schedule)
        else:
            instance.stop_schedule(schedule.get_remote_origin_id(), schedule.selector_id, schedule)
