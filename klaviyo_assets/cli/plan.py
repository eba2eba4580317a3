"""The verb `plan`: what reports and members will cost."""

from collections.abc import Sequence
from datetime import date

from klaviyo_assets.account.metrics import (
    describe_missing_revenue,
    read_metrics,
    resolve_metric_words,
    select_event_metric_ids,
    select_metric_ids,
)
from klaviyo_assets.cli.lake_access import (
    open_lake,
)
from klaviyo_assets.cli.member_plan import member_plan_lines
from klaviyo_assets.cli.metrics import resolve_metric_names
from klaviyo_assets.cli.plan_context import (
    find_metric_warnings,
    find_proven_metrics,
    open_plan_context,
)
from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.report import NO_METRIC
from klaviyo_assets.model.selection import selected_streams
from klaviyo_assets.reports.backfill_plan import (
    PlanContext,
    format_alternative,
    format_plan,
    no_complete_day_error,
    plan_backfill,
    plannable_days,
)
from klaviyo_assets.reports.calendar import build_calendar_offline
from klaviyo_assets.reports.planner import report_endpoint
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import REPORTS, STREAMS


def plan(
    settings: Settings,
    *,
    start: date | None,
    end: date | None,
    members: bool,
    metrics: Sequence[str],
) -> int:
    """Print what reports from `start` to `end`, or what members cost."""
    if members and (start is None or end is None):
        for line in member_plan_lines(STREAMS, lake=open_lake(settings), settings=settings):
            print(line)
        return 0
    if start is None or end is None or members:
        raise SettingError("plan: give --start and --end for reports, or --members")
    with open_plan_context(settings) as context:
        _print_plan(context, start, end, named=metrics)
    return 0


def _print_plan(context: PlanContext, start: date, end: date, *, named: Sequence[str]) -> None:
    settings, first_day = context.settings, context.settings.first_report_day
    if end < max(start, first_day):
        raise no_complete_day_error(start, end, first_day=first_day, zone="the account's time zone")
    selected = selected_streams(settings, STREAMS)
    reports = [each for each in REPORTS if each.name in selected]
    with_metrics = [each for each in reports if report_endpoint(each).has_metric]
    metrics = _metrics_to_plan(context, named) if with_metrics else ()
    calendar = build_calendar_offline(settings, context.lake, context.now)
    days = plannable_days(start, end, calendar)
    for problem in find_metric_warnings(context):
        print(f"warning: {problem}")
    stored = read_metrics(context.lake)
    alternatives = resolve_metric_words(stored, context.mapped_metric)
    for stream in with_metrics:
        is_counted = report_endpoint(stream).metric == "event"
        counted = metrics if named else select_event_metric_ids(settings, stored)
        wanted = counted if is_counted else metrics
        planned = plan_backfill(stream, wanted, days, context=context)
        print("\n".join(format_plan(planned)))
        for name, others in () if is_counted else alternatives.items():
            planned = plan_backfill(stream, others, days, context=context)
            print(format_alternative(name, planned))
    for stream in (each for each in reports if each not in with_metrics):
        own_calendar = calendar.starting_at(report_endpoint(stream).first_day)
        if own_calendar.first_day <= days.last:
            own_days = plannable_days(start, end, own_calendar)
            planned = plan_backfill(stream, [NO_METRIC], own_days, context=context)
            print("\n".join(format_plan(planned)))


def _metrics_to_plan(context: PlanContext, named: Sequence[str]) -> Sequence[str]:
    """Return the ids of the metrics named by options, or else those of the settings.

    Raises:
        SettingError: there is none, or an option names none.
    """
    stored = read_metrics(context.lake)
    known_ids = find_proven_metrics(context) | {*context.settings.conversion_metric_ids}
    ids = resolve_metric_names(named, context.lake, known_ids=known_ids)
    metrics = ids or select_metric_ids(context.settings, stored, mapped=context.mapped_metric)
    if metrics:
        return metrics
    if stored:
        raise SettingError(describe_missing_revenue(stored))
    raise SettingError(
        "no metric is known: materialize klaviyo/metrics first, or name some with --metrics"
    )
