"""The verbs `plan`, what reports and members will cost, and `status`, how far each stream is."""

import os
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime

from klaviyo_assets.account.connection import open_rate_limiter
from klaviyo_assets.account.metrics import (
    describe_missing_revenue,
    find_metric_setting_problems,
    read_metrics,
    resolve_metric_words,
    select_metric_ids,
)
from klaviyo_assets.cli.lake_access import (
    open_lake,
    open_stored_lake,
    print_privacy_warnings,
    split_names,
)
from klaviyo_assets.cli.member_plan import member_plan_lines
from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.report import NO_METRIC, ReportEndpoint
from klaviyo_assets.model.selection import selected_streams
from klaviyo_assets.model.stream import Stream, ViewSource
from klaviyo_assets.reports.backfill_plan import (
    PlanContext,
    format_alternative,
    format_failed_metrics,
    format_plan,
    format_report_status,
    no_complete_day_error,
    plan_backfill,
    plannable_days,
)
from klaviyo_assets.reports.calendar import build_calendar_offline
from klaviyo_assets.reports.failed_requests import read_failed_metrics
from klaviyo_assets.reports.planner import report_endpoint
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import REPORTS, STREAMS


@contextmanager
def _open_plan_context(settings: Settings) -> Generator[PlanContext]:
    lake = open_lake(settings)
    with closing(open_rate_limiter(settings, lake.stored_account() or "")) as rate_limiter:
        yield PlanContext(
            lake=lake, rate_limiter=rate_limiter, settings=settings, now=datetime.now(tz=UTC)
        )


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
    with _open_plan_context(settings) as context:
        _print_plan(context, start, end, named=split_names(metrics))
    return 0


def _print_plan(context: PlanContext, start: date, end: date, *, named: Sequence[str]) -> None:
    settings, first_day = context.settings, context.settings.first_report_day
    if end < max(start, first_day):
        raise no_complete_day_error(start, end, first_day=first_day, zone="the account's time zone")
    selected = selected_streams(settings, STREAMS)
    reports = [each for each in REPORTS if each.name in selected]
    with_metrics = [each for each in reports if report_endpoint(each).has_conversion_metric]
    metrics = _metrics_to_plan(context, named) if with_metrics else ()
    calendar = build_calendar_offline(settings, context.lake, context.now)
    days = plannable_days(start, end, calendar)
    _print_metric_warnings(context)
    alternatives = resolve_metric_words(read_metrics(context.lake), context.mapped_metric)
    for stream in with_metrics:
        planned = plan_backfill(stream, metrics, days, context=context)
        print("\n".join(format_plan(planned)))
        for name, others in alternatives.items():
            planned = plan_backfill(stream, others, days, context=context)
            print(format_alternative(name, planned))
    for stream in (each for each in reports if each not in with_metrics):
        own_calendar = calendar.starting_at(report_endpoint(stream).first_day)
        if own_calendar.first_day <= days.last:
            own_days = plannable_days(start, end, own_calendar)
            planned = plan_backfill(stream, [NO_METRIC], own_days, context=context)
            print("\n".join(format_plan(planned)))


def _metrics_to_plan(context: PlanContext, named: Sequence[str]) -> Sequence[str]:
    """Return the metrics named by options, or else those of the settings.

    Raises:
        SettingError: there is none.
    """
    stored = read_metrics(context.lake)
    metrics = named or select_metric_ids(context.settings, stored, mapped=context.mapped_metric)
    if metrics:
        return metrics
    if stored:
        raise SettingError(describe_missing_revenue(stored))
    raise SettingError(
        "no metric is known: materialize klaviyo/metrics first, or name some with --metrics"
    )


def _print_metric_warnings(context: PlanContext) -> None:
    """Print what is wrong with the setting that names the metrics of reports."""
    proven_ids = {
        partition.metric_id
        for stream in REPORTS
        for partition in context.lake.read_partition_states(stream.name)
    }
    for problem in find_metric_setting_problems(
        context.settings,
        read_metrics(context.lake),
        mapped=context.mapped_metric,
        proven_ids=proven_ids,
    ):
        print(f"warning: {problem}")


def show_status(settings: Settings) -> int:
    """Print how far each stream is."""
    print_privacy_warnings(settings)
    open_stored_lake(settings)
    with _open_plan_context(settings) as context:
        for stream in STREAMS.values():
            if not isinstance(stream.source, ViewSource):
                _print_stream_status(stream, context)
        _print_metric_warnings(context)
    _print_automation_status(settings)
    return 0


def _print_stream_status(stream: Stream, context: PlanContext) -> None:
    state = context.lake.read_table_state(stream.name)
    if state is None:
        if failed := read_failed_metrics(context.lake, stream.name):
            print("\n".join([f"{stream.name:<24} never stored", *format_failed_metrics(failed)]))
        return
    cursor = state.state.get("cursor") if stream.cursor is not None else None
    up_to = f", complete up to {cursor}" if cursor is not None else ""
    print(f"{stream.name:<24} {state.rows:>12,} rows{up_to}")
    if isinstance(stream.source, ReportEndpoint):
        print("\n".join(format_report_status(stream, context=context)))


def _print_automation_status(settings: Settings) -> None:
    """Print which guarantees are not met because their schedules and sensors are off."""
    # Imported here: Dagster takes two seconds to load, and no other part of a verb needs it.
    from klaviyo_assets.defs.automation import (  # noqa: PLC0415
        default_automations,
        find_switched_on,
        unmet_guarantees,
    )

    running = default_automations(settings)
    source = f"KLAVIYO_AUTOMATION={settings.automation or 'off'}"
    if "DAGSTER_HOME" in os.environ:
        try:
            running, source = tuple(find_switched_on(settings)), "the switches in DAGSTER_HOME"
        except SettingError as error:
            source += f"; {error}"
    else:
        source += "; without DAGSTER_HOME the switches of the UI are not known"
    unmet = unmet_guarantees(settings, running)
    print(f"automation: {'off is what follows' if unmet else 'everything is on'} ({source})")
    for guarantee in unmet:
        print(f"  off: {guarantee.subject} ({', '.join(guarantee.automations)})")
    if unmet:
        print("  KLAVIYO_AUTOMATION=recommended starts all of it; each has its switch in the UI")
