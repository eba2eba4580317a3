"""Whether a report is kept up: the newest days that should be there, of each metric wanted.

Dagster's own freshness policy looks at the last materialization of an asset, of whichever
partition: a backfill of an old day would turn a report green that nobody has fetched for weeks. So
reports have none, and this check reads the facts of days in the newest commit of the lake, no row
and nothing of Klaviyo's. A check changes when somebody runs it, but days go by without a run: the
sensor judges as well, and tells Dagster where the verdict is another one than before.

                   a week of days due              26 hours
    ──────[═══════════════════════════════════]──────────────┼──▶
          └─ red where one is missing for 74 hours           now
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import dagster as dg

from klaviyo_assets.account.metrics import read_mapped_metric
from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.automation import default_sensor_status, find_asset_key
from klaviyo_assets.defs.checks import (
    DAILY_FRESHNESS_WINDOWS,
    check_key,
    failed_result,
    missing_table_warning,
    passed_result,
    warning_result,
)
from klaviyo_assets.defs.failures import raise_as_failures
from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.defs.partitions import BACKFILL_SENSOR_NAME
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.defs.sensors import metrics_to_fetch
from klaviyo_assets.errors import KlaviyoAssetsError, SettingError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import DateRange
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.calendar import last_complete_day, resolve_zone_offline
from klaviyo_assets.reports.failed_requests import read_failed_metrics
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import REPORTS
from klaviyo_assets.wording import format_quantity

NEWEST_DAYS_CHECK = "newest_days_are_there"
NEWEST_DAYS_DESCRIPTION = (
    "The last seven days due are there, of each metric that the settings want and somebody fetched."
)

NEWEST_DAYS_SENSOR_NAME = "klaviyo_reports_newest_days"
NEWEST_DAYS_SENSOR_INTERVAL_SECONDS = 1800

NEWEST_DAYS_PERIOD = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedDays:
    """The days of the last week that should be there; `overdue` are those that should long be."""

    days: DateRange
    overdue: frozenset[date]


def build_newest_days_check(stream: Stream, settings: Settings) -> dg.AssetChecksDefinition:
    """Return the check of a report."""
    spec = dg.AssetCheckSpec(
        NEWEST_DAYS_CHECK, asset=asset_key(stream.name), description=NEWEST_DAYS_DESCRIPTION
    )

    @dg.multi_asset_check(specs=[spec], name=f"klaviyo__{stream.name}_newest")
    def newest(
        context: dg.AssetCheckExecutionContext, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult]:
        with raise_as_failures(stream.name):
            found = check_newest_days(context.instance, stream, lake.lake(), settings, utc_now())
        yield (
            found
            if found is not None
            else missing_table_warning(check_key(stream.name, NEWEST_DAYS_CHECK))
        )

    return newest


def build_newest_days_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor; it launches nothing, and passes a report over that nobody has fetched."""

    @dg.sensor(
        name=NEWEST_DAYS_SENSOR_NAME,
        description="Judges whether reports are kept up, as days go by; it launches nothing.",
        minimum_interval_seconds=NEWEST_DAYS_SENSOR_INTERVAL_SECONDS,
        default_status=default_sensor_status(settings),
        required_resource_keys={"lake"},
    )
    def newest(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        lake: Lake = context.resources.lake.lake()
        before: dict[str, str] = json.loads(context.cursor or "{}")
        told = dict(before)
        changed: list[dg.AssetCheckEvaluation] = []
        for stream in REPORTS:
            try:
                found = check_newest_days(context.instance, stream, lake, settings, utc_now())
            except KlaviyoAssetsError as error:
                context.log.warning("%s is not judged: %s", stream.name, error)
                continue
            if found is None:
                continue
            told[stream.name] = f"{found.passed} {found.severity.value} {found.description}"
            if told[stream.name] != before.get(stream.name):
                changed.append(_to_check_evaluation(find_asset_key(context, stream.name), found))
        if not changed:
            return dg.SkipReason("every verdict is as it was, or no report was fetched yet")
        return dg.SensorResult(asset_events=changed, cursor=json.dumps(told))

    return newest


def check_newest_days(
    instance: dg.DagsterInstance, stream: Stream, lake: Lake, settings: Settings, now: datetime
) -> dg.AssetCheckResult | None:
    """Judge the newest days of a report; None where no partition of it was ever fetched.

    Raises:
        LakeError: the lake cannot be read.
    """
    stored: dict[str, set[date]] = {}
    for cell in lake.read_partition_states(stream.name):
        stored.setdefault(cell.metric_id, set()).add(cell.day)
    if not stored:
        return None
    key = check_key(stream.name, NEWEST_DAYS_CHECK)
    try:
        due = find_expected_days(settings, lake, now)
    except SettingError as error:
        return warning_result(key, f"Not checked: {error.message}")
    mapped = read_mapped_metric(lake, settings)
    wanted = metrics_to_fetch(instance, lake, settings, stream=stream.name, mapped_metric_id=mapped)
    judged = {each: stored[each] for each in wanted if each in stored}
    if not judged:
        return warning_result(
            key,
            "Not checked: of the metrics that KLAVIYO_CONVERSION_METRIC_IDS names, none was "
            f"fetched yet. Backfill them, or switch on {BACKFILL_SENSOR_NAME}.",
        )
    if due is None:
        return passed_result(key, "No day is due yet.")
    found = _build_newest_days_result(
        key, stream, due, judged, never_fetched=len(wanted) - len(judged)
    )
    failed = [each for each in read_failed_metrics(lake, stream.name) if each in judged]
    if found.passed or not failed:
        return found
    told = (
        f"Requests of {format_quantity(len(failed), 'metric')} failed of late: "
        "klaviyo-assets status."
    )
    return found._replace(description=f"{found.description} {told}")


def find_expected_days(settings: Settings, lake: Lake, now: datetime) -> ExpectedDays | None:
    """Return the days that should be there at `now`; None where none should be yet.

    The daily fetch comes four hours after a day is over, and has a day more.

    Raises:
        SettingError: the account's zone is not known, or not that of the settings.
    """
    zone = resolve_zone_offline(settings, lake, now=now)
    late, stale = (last_complete_day(now - after, zone) for after in DAILY_FRESHNESS_WINDOWS)
    first = max(settings.first_report_day, late - NEWEST_DAYS_PERIOD + timedelta(days=1))
    if late < first:
        return None
    days = DateRange(first, late)
    return ExpectedDays(days=days, overdue=frozenset(day for day in days if day <= stale))


def _build_newest_days_result(
    key: dg.AssetCheckKey,
    stream: Stream,
    expected: ExpectedDays,
    days_by_metric: Mapping[str, Collection[date]],
    *,
    never_fetched: int,
) -> dg.AssetCheckResult:
    missing = {
        metric_id: [day for day in expected.days if day not in there]
        for metric_id, there in days_by_metric.items()
    }
    lacking = {metric_id: days for metric_id, days in missing.items() if days}
    shown = {
        "klaviyo/newest_day_due": expected.days.last.isoformat(),
        "klaviyo/metrics_judged": len(days_by_metric),
        "klaviyo/metrics_never_fetched": never_fetched,
        "klaviyo/days_missing": sum(map(len, lacking.values())),
    }
    if not lacking:
        return passed_result(
            key,
            f"All days from {expected.days.first} to {expected.days.last} are there, of "
            f"{format_quantity(len(days_by_metric), 'metric')}.",
            shown,
        )
    days = sorted({day for each in lacking.values() for day in each})
    verdict = failed_result if expected.overdue.intersection(days) else warning_result
    return verdict(
        key,
        f"Days from {days[0]} to {days[-1]} are missing, of {len(lacking)} of "
        f"{format_quantity(len(days_by_metric), 'metric')}. Backfill them from the asset's page, "
        "or switch on "
        f"{BACKFILL_SENSOR_NAME} or klaviyo_daily_{stream.name}, which keep the report up.",
        shown,
    )


def _to_check_evaluation(key: dg.AssetKey, result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """Return a verdict as the event that tells Dagster of it without a run."""
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=NEWEST_DAYS_CHECK,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )
