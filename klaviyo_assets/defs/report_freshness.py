"""Whether a report is up to date: a check, and a sensor, of the newest days of each metric.

Dagster's own freshness policy looks at an asset's last materialization, of any partition. A
backfill of an old day would turn a report green that nobody has fetched for weeks. So reports have
no such policy but this check. It reads which days are stored from the newest commit of the lake; it
reads no row and sends no request.

A check's result changes only when the check runs, but days pass without a run. So the sensor
evaluates the check as well, and reports a result to Dagster when it differs from the last one.

                   a week of days due              26 hours
    ──────[═══════════════════════════════════]──────────────┼──▶
          └─ red where one is missing for 74 hours           now
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta

import dagster as dg

from klaviyo_assets.account.metrics import read_mapped_metric
from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.automation import default_sensor_status, find_asset_key
from klaviyo_assets.defs.checks import (
    check_key,
    failed_result,
    missing_table_warning,
    passed_result,
    warning_result,
)
from klaviyo_assets.defs.failures import raise_as_failures
from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.defs.report_runs import BACKFILL_SENSOR_NAME, days_by_metric
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.defs.sensors import metrics_to_fetch
from klaviyo_assets.errors import KlaviyoAssetsError, SettingError, format_quantity
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.freshness import DAILY_FRESHNESS_WINDOWS
from klaviyo_assets.model.health import Color, RunOutcome
from klaviyo_assets.model.report import DateRange
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.calendar import last_complete_day, resolve_zone_offline
from klaviyo_assets.reports.failed_requests import read_failed_metrics
from klaviyo_assets.reports.planner import report_endpoint
from klaviyo_assets.settings import Settings

NEWEST_DAYS_CHECK = "newest_days_are_there"
NEWEST_DAYS_DESCRIPTION = (
    "The last seven days due, or the last month, are there, of each metric that the settings want "
    "and somebody fetched."
)

NEWEST_DAYS_SENSOR_NAME = "klaviyo_reports_newest_days"
NEWEST_DAYS_SENSOR_INTERVAL_SECONDS = 1800

NEWEST_DAYS_PERIOD = timedelta(days=7)


def build_newest_days_check(stream: Stream, settings: Settings) -> dg.AssetChecksDefinition:
    """Return the check that a report's newest days are stored."""
    spec = dg.AssetCheckSpec(
        NEWEST_DAYS_CHECK, asset=asset_key(stream.name), description=NEWEST_DAYS_DESCRIPTION
    )

    @dg.multi_asset_check(specs=[spec], name=f"klaviyo__{stream.name}_newest")
    def check_report(
        context: dg.AssetCheckExecutionContext, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult]:
        with raise_as_failures(stream.name):
            result = check_newest_days(context.instance, stream, lake.lake(), settings, utc_now())
        yield result or missing_table_warning(check_key(stream.name, NEWEST_DAYS_CHECK))

    return check_report


def build_newest_days_sensor(settings: Settings, reports: Sequence[Stream]) -> dg.SensorDefinition:
    """Return the sensor that evaluates the check of each report that was ever fetched."""

    @dg.sensor(
        name=NEWEST_DAYS_SENSOR_NAME,
        description="Checks whether reports are up to date, as days go by; it launches nothing.",
        minimum_interval_seconds=NEWEST_DAYS_SENSOR_INTERVAL_SECONDS,
        default_status=default_sensor_status(settings),
        required_resource_keys={"lake"},
    )
    def evaluate_checks(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        lake: Lake = context.resources.lake.lake()
        last_results: dict[str, str] = json.loads(context.cursor or "{}")
        results = dict(last_results)
        changed: list[dg.AssetCheckEvaluation] = []
        for stream in reports:
            try:
                result = check_newest_days(context.instance, stream, lake, settings, utc_now())
            except KlaviyoAssetsError as error:
                context.log.warning("%s is not checked: %s", stream.name, error)
                continue
            if result is None:
                continue
            results[stream.name] = f"{result.passed} {result.severity.value} {result.description}"
            if results[stream.name] != last_results.get(stream.name):
                changed.append(_to_check_evaluation(find_asset_key(context, stream.name), result))
        if not changed:
            return dg.SkipReason("every result is as it was, or no report was fetched yet")
        return dg.SensorResult(asset_events=changed, cursor=json.dumps(results))

    return evaluate_checks


def check_newest_days(
    instance: dg.DagsterInstance, stream: Stream, lake: Lake, settings: Settings, now: datetime
) -> dg.AssetCheckResult | None:
    """Check that the newest days of a report are stored, for each metric that is fetched.

    None if no partition of the report was ever fetched.

    Raises:
        LakeError: the lake cannot be read.
    """
    stored_days = days_by_metric(lake.read_partition_states(stream.name))
    if not stored_days:
        return None
    key = check_key(stream.name, NEWEST_DAYS_CHECK)
    try:
        expected = find_expected_days(stream, settings, lake, now)
    except SettingError as error:
        return warning_result(key, f"Not checked: {error.message}")
    mapped = read_mapped_metric(lake, settings)
    metrics = metrics_to_fetch(instance, lake, settings, stream=stream, mapped_metric_id=mapped)
    checked = {each: stored_days[each] for each in metrics if each in stored_days}
    if not checked:
        return warning_result(
            key,
            "Not checked: of the metrics that KLAVIYO_CONVERSION_METRIC_IDS names, none was "
            f"fetched yet. Backfill them, or switch on {BACKFILL_SENSOR_NAME}.",
        )
    if expected is None:
        return passed_result(key, f"No {report_endpoint(stream).period} is due yet.")
    result = _build_newest_days_result(
        stream, *expected, stored_days=checked, never_fetched=len(metrics) - len(checked)
    )
    failed = [each for each in read_failed_metrics(lake, stream.name) if each in checked]
    if result.passed or not failed:
        return result
    count = format_quantity(len(failed), "metric")
    hint = f"Requests of {count} failed recently: klaviyo-assets status."
    return result._replace(description=f"{result.description} {hint}")


def judge_report(
    instance: dg.DagsterInstance, stream: Stream, lake: Lake, settings: Settings
) -> RunOutcome:
    """Return the end of a report's run that did not fail, with the verdict of its check.

    Raises:
        LakeError: the lake cannot be read.
    """
    now = utc_now()
    result = check_newest_days(instance, stream, lake, settings, now)
    color: Color = "green"
    if result is None or not result.passed:
        is_red = result is not None and result.severity == dg.AssetCheckSeverity.ERROR
        color = "red" if is_red else "yellow"
    return RunOutcome(
        outcome="ok",
        ended_at=now,
        stored_at=now,
        judged=color,
        detail=(result.description or "") if result is not None else "no day was fetched yet",
    )


def find_expected_days(
    stream: Stream, settings: Settings, lake: Lake, now: datetime
) -> tuple[DateRange, date] | None:
    """Return the days that should be stored at `now`, and the last overdue day; None if none is.

    Of a report by month it is the first day of the last month that is due. The daily schedule
    fetches a day four hours after its end, and has a day more to do so.

    Raises:
        SettingError: the account's zone is not known, or differs from that of the settings.
    """
    zone = resolve_zone_offline(settings, lake, now=now)
    late, stale = (last_complete_day(now - after, zone) for after in DAILY_FRESHNESS_WINDOWS)
    first = max(settings.first_report_day, late - NEWEST_DAYS_PERIOD + timedelta(days=1))
    if late < first:
        return None
    report = report_endpoint(stream)
    if report.period == "day":
        return DateRange(first, late), stale
    months = report.partition_days(DateRange(settings.first_report_day, late))
    return (DateRange(months[-1], months[-1]), stale) if months else None


def _build_newest_days_result(
    stream: Stream,
    expected_days: DateRange,
    last_overdue_day: date,
    *,
    stored_days: Mapping[str, Collection[date]],
    never_fetched: int,
) -> dg.AssetCheckResult:
    key = check_key(stream.name, NEWEST_DAYS_CHECK)
    missing = {
        metric_id: days
        for metric_id, stored in stored_days.items()
        if (days := [day for day in expected_days if day not in stored])
    }
    metadata = {
        "klaviyo/newest_day_due": expected_days.last.isoformat(),
        "klaviyo/metrics_judged": len(stored_days),
        "klaviyo/metrics_never_fetched": never_fetched,
        "klaviyo/days_missing": sum(map(len, missing.values())),
    }
    report = report_endpoint(stream)
    metric_count = format_quantity(len(stored_days), "metric")
    if not missing:
        return passed_result(
            key,
            f"All {report.period}s from {expected_days.first} to {expected_days.last} are there"
            f"{f', of {metric_count}' if report.has_metric else ''}.",
            metadata,
        )
    days = sorted({day for each in missing.values() for day in each})
    is_overdue = report.days_of(days[0]).last <= last_overdue_day
    build_result = failed_result if is_overdue else warning_result
    return build_result(
        key,
        f"{report.period.capitalize()}s from {days[0]} to {days[-1]} are missing"
        f"{f', of {len(missing)} of {metric_count}' if report.has_metric else ''}. "
        "Backfill them from the asset's page, or switch on "
        f"the sensor {BACKFILL_SENSOR_NAME} or the schedule klaviyo_{stream.name}.",
        metadata,
    )


def _to_check_evaluation(key: dg.AssetKey, result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """Return a result as the event that reports it to Dagster without a run."""
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=NEWEST_DAYS_CHECK,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )
