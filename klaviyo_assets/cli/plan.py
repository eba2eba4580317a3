"""The verb `plan`: what reports and members will cost."""

from collections.abc import Iterator, Sequence
from datetime import date

from klaviyo_assets.account.metrics import (
    describe_missing_revenue,
    read_metrics,
    resolve_metric_words,
    select_event_metric_ids,
    select_metric_ids,
)
from klaviyo_assets.cli.first_sync_plan import plan_first_sync
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
from klaviyo_assets.cli.printing import print_json
from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.report import NO_METRIC, DateRange
from klaviyo_assets.model.selection import selected_streams
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.backfill_plan import (
    BackfillPlan,
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


def plan(  # noqa: PLR0913 - the options, all by name
    settings: Settings,
    *,
    start: date | None,
    end: date | None,
    members: bool,
    metrics: Sequence[str],
    first_sync: bool,
    streams: Sequence[str],
    rows: Sequence[str],
    as_json: bool,
) -> int:
    """Print what reports from `start` to `end`, members, a first sync or more streams cost."""
    has_days = start is not None and end is not None
    if [has_days, members, first_sync or bool(streams)].count(True) != 1:
        raise SettingError(
            "plan: give --start and --end for reports, or --members, --first-sync or --streams"
        )
    if start is not None and end is not None:
        with open_plan_context(settings) as context:
            _print_report_plans(context, start, end, named=metrics, as_json=as_json)
        return 0
    if not members:
        return plan_first_sync(settings, streams, rows, as_json=as_json)
    lines = list(member_plan_lines(STREAMS, lake=open_lake(settings), settings=settings))
    if as_json:
        print_json({"lines": lines})
    else:
        print("\n".join(lines))
    return 0


def _print_report_plans(
    context: PlanContext, start: date, end: date, *, named: Sequence[str], as_json: bool
) -> None:
    settings, first_day = context.settings, context.settings.first_report_day
    if end < max(start, first_day):
        raise no_complete_day_error(start, end, first_day=first_day, zone="the account's time zone")
    selected = selected_streams(settings, STREAMS)
    reports = [each for each in REPORTS if each.name in selected]
    needs_metrics = any(report_endpoint(each).has_metric for each in reports)
    metrics = _metrics_to_plan(context, named) if needs_metrics else ()
    calendar = build_calendar_offline(settings, context.lake, context.now)
    days = plannable_days(start, end, calendar)
    warnings = find_metric_warnings(context)
    if not as_json:
        for problem in warnings:
            print(f"warning: {problem}")
    plans: list[dict[str, object]] = []
    for stream in reports:
        for choice, planned in _plan_report(stream, metrics, days, named=named, context=context):
            plans.append(_plan_as_json(choice, planned))
            if not as_json:
                lines = [format_alternative(choice, planned)] if choice else format_plan(planned)
                print("\n".join(lines))
    if as_json:
        print_json({"plans": plans, "warnings": warnings})


def _plan_report(
    stream: Stream,
    metrics: Sequence[str],
    days: DateRange,
    *,
    named: Sequence[str],
    context: PlanContext,
) -> Iterator[tuple[str, BackfillPlan]]:
    """Yield the plan of a report, then those with other choices of metrics, under their names."""
    endpoint = report_endpoint(stream)
    stored = read_metrics(context.lake)
    if endpoint.metric == "event":
        counted = metrics if named else select_event_metric_ids(context.settings, stored)
        yield "", plan_backfill(stream, counted, days, context=context)
        return
    if endpoint.has_metric:
        yield "", plan_backfill(stream, metrics, days, context=context)
        alternatives = resolve_metric_words(stored, context.mapped_metric)
        for choice, others in alternatives.items():
            yield choice, plan_backfill(stream, others, days, context=context)
        return
    calendar = build_calendar_offline(context.settings, context.lake, context.now)
    own_calendar = calendar.starting_at(endpoint.first_day)
    if own_calendar.first_day <= days.last:
        own_days = plannable_days(days.first, days.last, own_calendar)
        yield "", plan_backfill(stream, [NO_METRIC], own_days, context=context)


def _plan_as_json(choice: str, planned: BackfillPlan) -> dict[str, object]:
    return {
        "stream": planned.stream,
        "metrics": choice or None,
        "metric_count": planned.metric_count if planned.has_metrics else None,
        "first_day": planned.date_range.first,
        "last_day": planned.date_range.last,
        "partitions": planned.wanted_partitions,
        "already_there": planned.stored_partitions,
        "min_requests": planned.cost.min_requests,
        "max_requests": planned.cost.max_requests,
        "requests_left": planned.rate.requests_left,
        "minutes": planned.rate.minutes_for(planned.cost.max_requests),
        "done": planned.rate.finish_time(planned.cost.max_requests, planned.now),
        "refused": list(planned.refused_metrics),
        "failed": list(planned.failed_metrics),
    }


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
