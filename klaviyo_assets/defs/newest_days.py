"""Whether a report is kept up: the newest days that should be there, of each metric wanted.

What belongs here: the check and the sensor that lets it follow the clock. What does not: checks of
rows (`deep_checks`), freshness of streams without partitions (`checks`).

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

from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.checks import DAILY
from klaviyo_assets.defs.deep_checks import never_read
from klaviyo_assets.defs.failures import as_failures
from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.defs.metric_keys import metrics_to_fetch
from klaviyo_assets.defs.partitions import DRAIN_SENSOR
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.defs.selections import key_in
from klaviyo_assets.defs.switches import sensor_status
from klaviyo_assets.defs.verdicts import check_key, failed, passed, warned
from klaviyo_assets.errors import KlaviyoAssetsError, SettingError
from klaviyo_assets.lake import Lake
from klaviyo_assets.model.report import Days
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import REPORTS
from klaviyo_assets.sync.reports.account_zone import zone_without_asking
from klaviyo_assets.sync.reports.failing import failed_metrics
from klaviyo_assets.sync.reports.metrics import mapped_metric
from klaviyo_assets.sync.reports.zone import last_over
from klaviyo_assets.wording import quantity

NEWEST = "newest_days_are_there"
ABOUT = (
    "The last seven days due are there, of each metric that the settings want and somebody fetched."
)

SENSOR = "klaviyo_reports_newest_days"
EVERY_SECONDS = 1800

WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaysDue:
    """The days of the last week that should be there; `overdue` are those that should long be."""

    days: Days
    overdue: frozenset[date]


def newest_days_check(stream: Stream, settings: Settings) -> dg.AssetChecksDefinition:
    """Return the check of a report."""
    spec = dg.AssetCheckSpec(NEWEST, asset=asset_key(stream.name), description=ABOUT)

    @dg.multi_asset_check(specs=[spec], name=f"klaviyo__{stream.name}_newest")
    def newest(
        context: dg.AssetCheckExecutionContext, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult]:
        with as_failures(stream.name):
            found = newest_days_verdict(context.instance, stream, lake.lake(), settings, utc_now())
        yield found if found is not None else never_read(check_key(stream.name, NEWEST))

    return newest


def newest_days_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor; it launches nothing, and passes a report over that nobody has fetched."""

    @dg.sensor(
        name=SENSOR,
        description="Judges whether reports are kept up, as days go by; it launches nothing.",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=sensor_status(settings),
        required_resource_keys={"lake"},
    )
    def newest(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        lake: Lake = context.resources.lake.lake()
        before: dict[str, str] = json.loads(context.cursor or "{}")
        told = dict(before)
        changed: list[dg.AssetCheckEvaluation] = []
        for stream in REPORTS:
            try:
                found = newest_days_verdict(context.instance, stream, lake, settings, utc_now())
            except KlaviyoAssetsError as error:
                context.log.warning("%s is not judged: %s", stream.name, error)
                continue
            if found is None:
                continue
            told[stream.name] = f"{found.passed} {found.severity.value} {found.description}"
            if told[stream.name] != before.get(stream.name):
                changed.append(_evaluation(key_in(context, stream.name), found))
        if not changed:
            return dg.SkipReason("every verdict is as it was, or no report was fetched yet")
        return dg.SensorResult(asset_events=changed, cursor=json.dumps(told))

    return newest


def newest_days_verdict(
    instance: dg.DagsterInstance, stream: Stream, lake: Lake, settings: Settings, now: datetime
) -> dg.AssetCheckResult | None:
    """Judge the newest days of a report; None where no partition of it was ever fetched.

    Raises:
        LakeError: the lake cannot be read.
    """
    stored: dict[str, set[date]] = {}
    for cell in lake.cell_facts(stream.name):
        stored.setdefault(cell.metric_id, set()).add(cell.day)
    if not stored:
        return None
    key = check_key(stream.name, NEWEST)
    try:
        due = days_due(settings, lake, now)
    except SettingError as error:
        return warned(key, f"Not checked: {error.message}")
    mapped = mapped_metric(lake, settings)
    wanted = metrics_to_fetch(instance, lake, settings, stream=stream.name, mapped=mapped)
    judged = {each: stored[each] for each in wanted if each in stored}
    if not judged:
        return warned(
            key,
            "Not checked: of the metrics that KLAVIYO_CONVERSION_METRIC_IDS names, none was "
            f"fetched yet. Backfill them, or switch on {DRAIN_SENSOR}.",
        )
    if due is None:
        return passed(key, "No day is due yet.")
    found = _judged(key, stream, due, judged, never_fetched=len(wanted) - len(judged))
    failed = [each for each in failed_metrics(lake, stream.name) if each in judged]
    if found.passed or not failed:
        return found
    told = f"Requests of {quantity(len(failed), 'metric')} failed of late: klaviyo-assets status."
    return found._replace(description=f"{found.description} {told}")


def days_due(settings: Settings, lake: Lake, now: datetime) -> DaysDue | None:
    """Return the days that should be there at `now`; None where none should be yet.

    The daily fetch comes four hours after a day is over, and has a day more.

    Raises:
        SettingError: the account's zone is not known, or not that of the settings.
    """
    zone = zone_without_asking(settings, lake, now=now)
    late, stale = (last_over(now - after, zone) for after in DAILY)
    first = max(settings.first_report_day, late - WEEK + timedelta(days=1))
    if late < first:
        return None
    days = Days(first, late)
    return DaysDue(days=days, overdue=frozenset(day for day in days if day <= stale))


def _judged(
    key: dg.AssetCheckKey,
    stream: Stream,
    due: DaysDue,
    judged: Mapping[str, Collection[date]],
    *,
    never_fetched: int,
) -> dg.AssetCheckResult:
    missing = {
        metric_id: [day for day in due.days if day not in there]
        for metric_id, there in judged.items()
    }
    lacking = {metric_id: days for metric_id, days in missing.items() if days}
    shown = {
        "klaviyo/newest_day_due": due.days.last.isoformat(),
        "klaviyo/metrics_judged": len(judged),
        "klaviyo/metrics_never_fetched": never_fetched,
        "klaviyo/days_missing": sum(map(len, lacking.values())),
    }
    if not lacking:
        return passed(
            key,
            f"All days from {due.days.first} to {due.days.last} are there, of "
            f"{quantity(len(judged), 'metric')}.",
            shown,
        )
    days = sorted({day for each in lacking.values() for day in each})
    verdict = failed if due.overdue.intersection(days) else warned
    return verdict(
        key,
        f"Days from {days[0]} to {days[-1]} are missing, of {len(lacking)} of "
        f"{quantity(len(judged), 'metric')}. Backfill them from the asset's page, or switch on "
        f"{DRAIN_SENSOR} or klaviyo_daily_{stream.name}, which keep the report up.",
        shown,
    )


def _evaluation(key: dg.AssetKey, found: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """Return a verdict as the event that tells Dagster of it without a run."""
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=NEWEST,
        passed=found.passed,
        severity=found.severity,
        description=found.description,
        metadata=found.metadata,
    )
