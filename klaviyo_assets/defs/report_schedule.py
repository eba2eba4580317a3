"""The daily fetch of reports: yesterday, and the days whose numbers still move.

What belongs here: the ticks. What does not: what a run does (`report_assets`), filling the past
(`report_drain`).
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import dagster as dg

from klaviyo_assets.defs.metric_keys import metrics_to_fetch
from klaviyo_assets.defs.partitions import DRAIN_SENSOR, range_tags, report_run_tags
from klaviyo_assets.defs.selections import assets_of, key_in
from klaviyo_assets.defs.switches import is_switched_on, schedule_status
from klaviyo_assets.errors import KlaviyoAssetsError
from klaviyo_assets.lake import Lake
from klaviyo_assets.model.report import Days
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.reports.account_zone import zone_without_asking
from klaviyo_assets.sync.reports.metrics import mapped_metric, setting_problems, stored_metrics
from klaviyo_assets.sync.reports.zone import last_over

AFTER_MIDNIGHT = "15 4 * * *"
"""In the account's zone: some hours after the day is over, so that it is counted."""

BELOW_OTHERS = -5
"""Runs of all metrics are many, and wait for each other: every other run comes first."""


def report_schedule(stream: Stream, settings: Settings, zone: str | None) -> dg.ScheduleDefinition:
    """Return a report's schedule: a run a metric, over the trailing days.

    While the sensor `klaviyo_reports_drain` is on it asks for nothing: that one fetches the same
    days, within the day's requests, and both together would pay for them twice.

    One schedule a report: their backfills are cut differently, and a schedule has one policy.
    It ticks in `zone`, in UTC while that is not known; its days are the account's all the same.

                 attribution window           yesterday  tick
    ──────────────[════════════════════════════════════]────┼──▶ days of the account's zone
                  └─ fetched for the last time, and final
    """

    @dg.schedule(
        name=f"klaviyo_daily_{stream.name}",
        cron_schedule=AFTER_MIDNIGHT,
        execution_timezone=zone or "UTC",
        default_status=schedule_status(settings),
        target=assets_of(stream.name),
        description="Yesterday and the days whose numbers still move, of every metric.",
        required_resource_keys={"lake"},
    )
    def daily(
        context: dg.ScheduleEvaluationContext,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield from _requests(context, stream, settings)

    return daily


def _requests(
    context: dg.ScheduleEvaluationContext, stream: Stream, settings: Settings
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Yield a run a metric, or why there is none."""
    if is_switched_on(context.instance, DRAIN_SENSOR, settings):
        yield dg.SkipReason(f"the sensor {DRAIN_SENSOR} is on, and fetches these days")
        return
    lake: Lake = context.resources.lake.lake()
    now = context.scheduled_execution_time
    try:
        last = last_over(now, zone_without_asking(settings, lake, now=now))
    except KlaviyoAssetsError as error:
        yield dg.SkipReason(str(error))
        return
    first = max(settings.first_report_day, last - timedelta(days=settings.report_lookback_days))
    if last < first:
        return
    metrics = _metrics(context.instance, lake, settings, stream)
    if not metrics:
        yield dg.SkipReason(_no_metric(lake, settings))
    for metric_id in metrics:
        yield dg.RunRequest(
            run_key=f"{stream.name} {metric_id} {last}",
            asset_selection=[key_in(context, stream.name)],
            # The checks of a report read its whole table: they have a schedule of their own.
            asset_check_keys=[],
            tags={
                **range_tags([metric_id], Days(first, last)),
                **report_run_tags(stream.name, priority=BELOW_OTHERS),
            },
        )


def _metrics(
    instance: dg.DagsterInstance, lake: Lake, settings: Settings, stream: Stream
) -> Sequence[str]:
    """Return the metrics to fetch, the revenue metric first."""
    mapped = mapped_metric(lake, settings)
    return metrics_to_fetch(instance, lake, settings, stream=stream.name, mapped=mapped)


def _no_metric(lake: Lake, settings: Settings) -> str:
    """Return why there is no metric to fetch."""
    stored = stored_metrics(lake)
    problems = setting_problems(settings, stored, mapped=mapped_metric(lake, settings))
    reason = "no metric is a partition of the report yet" if stored else "no metric was read yet"
    return "; ".join([reason, *problems])
