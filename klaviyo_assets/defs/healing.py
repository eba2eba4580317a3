"""Healing: a sensor that has exactly the short days of events read again.

What belongs here: from the last comparison to a run. What does not: the comparison
(`completeness`), reading (`assets`).

One stretch of days a run, the newest first, and one run at a time: two would meet at the lake's
commit. Each run ends with the comparison, whose new verdict names what is left. Nothing is kept
here: what was tried is read from the runs' tags.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import cast

import dagster as dg

from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.checks import checks_of
from klaviyo_assets.defs.completeness import last_verdict, told_in
from klaviyo_assets.defs.completeness_verdict import ASKED_AT, COMPLETE, DAYS, SHORT_DAYS, named
from klaviyo_assets.defs.report_flight import UNFINISHED
from klaviyo_assets.defs.selections import assets_of, key_in
from klaviyo_assets.defs.switches import sensor_status
from klaviyo_assets.model.report import Days
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams.events import EVENTS
from klaviyo_assets.sync.completeness import in_a_row

HEALING = "klaviyo/healing"
"""The tag of the sensor's runs: the verdict that they follow from."""

HEALED = "klaviyo/healed_days"
"""The tag that says which days a run reads again: `2026-10-01 2026-10-02`, both inclusive."""

EVERY_SECONDS = 60

MOST_TRIES, WITHIN = 3, timedelta(days=1)
"""A day that is short after so many runs within so long is left alone."""


def healing_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor; it can be switched on and paused in the UI."""

    @dg.sensor(
        name="klaviyo_events_healing",
        description="Reads the days again on which the last comparison found events missing.",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=sensor_status(settings),
        target=assets_of(EVENTS.name),
    )
    def healing(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        check = dg.AssetCheckKey(key_in(context, EVENTS.name), COMPLETE.name)
        return _wanted(context.instance, check)

    return healing


def _wanted(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> dg.RunRequest | dg.SkipReason:
    """Return the run to launch, or why there is none."""
    record = last_verdict(instance, check)
    if record is None:
        return dg.SkipReason("events were never compared: launch klaviyo_checks")
    told = cast("Mapping[str, int]", told_in(record, SHORT_DAYS) or {})
    short = [date.fromisoformat(day) for day in told]
    if not short:
        return dg.SkipReason("no day was short when events were last compared")
    runs = _healing_runs(instance)
    if any(run.status in UNFINISHED for run in runs):
        return dg.SkipReason("a healing run is under way")
    verdict_id = str(record.id)
    if any(run.is_success for run in runs if run.tags[HEALING] == verdict_id):
        return dg.SkipReason("these days were read again; the next comparison tells what is left")
    tries = {day: sum(day in _days_of(run) for run in runs) for day in short}
    left = in_a_row(day for day in short if tries[day] < MOST_TRIES)
    if not left:
        return dg.SkipReason(
            f"{named(short)}: still short after {MOST_TRIES} healing runs within {WITHIN}, so "
            "Klaviyo counts events there that it does not show. Look at the table of the check "
            "klaviyo/events complete, and ask Klaviyo's support; the next try is a day after the "
            "first"
        )
    days = left[-1]
    config = {
        "days": told_in(record, DAYS),
        "read_again": {f"{day}": told_in(record, ASKED_AT) for day in days},
    }
    return _request(days, config, check=check, verdict_id=verdict_id, attempt=tries[days.first])


def _request(
    days: Days,
    config: Mapping[str, object],
    *,
    check: dg.AssetCheckKey,
    verdict_id: str,
    attempt: int,
) -> dg.RunRequest:
    window = {"start": f"{days.first}", "end": f"{days.last + timedelta(days=1)}"}
    ops = {"klaviyo__events": {"config": window}, "klaviyo__events_complete": {"config": config}}
    return dg.RunRequest(
        # The same tick, evaluated again after a crash, launches nothing twice.
        run_key=f"{verdict_id} {days.first} {days.last} {attempt}",
        asset_selection=[check.asset_key],
        # With those of the asset's own step, which Dagster cannot leave out of it.
        asset_check_keys=[
            check,
            *(dg.AssetCheckKey(check.asset_key, name) for name in checks_of(EVENTS)),
        ],
        run_config={"ops": ops},
        tags={HEALING: verdict_id, HEALED: f"{days.first} {days.last}"},
    )


def _healing_runs(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """Return the healing runs that began within a day."""
    runs = instance.get_runs(dg.RunsFilter(created_after=utc_now() - WITHIN))
    return [run for run in runs if HEALING in run.tags]


def _days_of(run: dg.DagsterRun) -> Days:
    first, last = run.tags[HEALED].split()
    return Days(date.fromisoformat(first), date.fromisoformat(last))
