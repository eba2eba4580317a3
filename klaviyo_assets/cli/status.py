"""The verbs `status` and `dashboard`.

`status`: how far each stream is, how its last run ended, and what is off. `dashboard`: writes the
marketing overview from what is stored, and opens it.
"""

import os
import webbrowser
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from klaviyo_assets.account.metrics import read_metrics, select_report_metrics
from klaviyo_assets.api.rate_limiter import read_daily_quota
from klaviyo_assets.cli.lake_access import (
    open_lake,
    open_stored_lake,
    privacy_warnings,
    refuse_empty_lake,
)
from klaviyo_assets.cli.plan import find_metric_warnings, open_plan_context
from klaviyo_assets.cli.tables import print_table
from klaviyo_assets.cli.terminal import print_errors, print_json
from klaviyo_assets.errors import LakeError, SettingError, format_quantity, format_seconds
from klaviyo_assets.lake.health import read_health
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.health import RunOutcome, describe_freshness, judge_health
from klaviyo_assets.model.report import ReportEndpoint, ReportPartition
from klaviyo_assets.model.selection import (
    default_automations,
    selected_streams,
    unmet_guarantees,
)
from klaviyo_assets.model.stream import Stream, ViewSource
from klaviyo_assets.reports.backfill_plan import (
    PlanContext,
    format_failed_metrics,
    format_report_status,
)
from klaviyo_assets.reports.calendar import build_calendar_offline
from klaviyo_assets.reports.failed_requests import read_failed_metrics
from klaviyo_assets.reports.planner import report_endpoint
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import REPORTS, STREAMS

if TYPE_CHECKING:
    from klaviyo_assets.defs.automation import AssetHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """A line of the table; None where it is not known or does not apply. Times are in UTC."""

    stream: str
    rows: int | None
    newest_record: datetime | None
    cursor: str | None
    stored_at: datetime | None
    age_seconds: int | None
    freshness: str | None
    last_run: str | None
    missing_scope: str | None
    health: str | None
    why: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStatus:
    """The partitions of a report, and its quota: `missing` is None while the days are not known."""

    stream: str
    filled: int
    moving: int
    missing: int | None
    newest_day: str | None
    requests_left: int | None
    requests_a_day: int | None
    next_request_at: datetime | None


def show_status(settings: Settings, *, as_json: bool) -> int:
    """Print how far each stream is."""
    warnings = list(privacy_warnings(settings))
    lake = open_lake(settings)
    if not as_json:
        _print_warnings(warnings)
        if not lake.has_tables():
            print("\n".join(_describe_automation(settings)))
    refuse_empty_lake(lake, settings)
    histories, history_problem = _read_histories()
    with open_plan_context(settings) as context:
        health = read_health(lake)
        streams = [
            _examine_stream(
                stream,
                lake,
                histories.get(stream.name),
                last_run=health.streams[stream.name].last_run
                if stream.name in health.streams
                else None,
                now=context.now,
            )
            for stream in _shown_streams(settings, lake)
        ]
        reports = [
            _examine_report(each, context)
            for each in REPORTS
            if lake.read_table_state(each.name) is not None
        ]
        metric_warnings = find_metric_warnings(context)
        if as_json:
            _print_as_json(settings, streams, reports, [*warnings, *metric_warnings])
            return 0
        _print_streams(streams)
        if history_problem:
            print(history_problem)
        for stream in REPORTS:
            _print_report(stream, context, reports)
        _print_warnings(metric_warnings)
    print("\n".join(_describe_automation(settings)))
    return 0


def _print_warnings(warnings: Iterable[str]) -> None:
    for each in warnings:
        print(f"warning: {each}")


def _read_histories() -> "tuple[Mapping[str, AssetHistory], str]":
    """Return the histories of assets, and a sentence where Dagster's are not known."""
    if "DAGSTER_HOME" not in os.environ:
        return {}, "last runs: not known without DAGSTER_HOME; ages go by the newest commit"
    # Late, as below: importing Dagster takes more CPU than the rest of this verb.
    from klaviyo_assets.defs.automation import read_asset_histories  # noqa: PLC0415

    try:
        return read_asset_histories(STREAMS.values()), ""
    except SettingError as refused:
        return {}, f"last runs: {refused}"


def _shown_streams(settings: Settings, lake: Lake) -> list[Stream]:
    """Return the streams that are on or stored, and have a table of their own."""
    selected = selected_streams(settings, STREAMS)
    return [
        each
        for name, each in STREAMS.items()
        if not isinstance(each.source, ViewSource)
        and (name in selected or lake.read_table_state(name) is not None)
    ]


def _examine_stream(
    stream: Stream,
    lake: Lake,
    history: "AssetHistory | None",
    *,
    last_run: RunOutcome | None,
    now: datetime,
) -> StreamStatus:
    """Return the line of a stream.

    `history` is what Dagster knows of its asset, `last_run` what the lake does: that one is there
    without DAGSTER_HOME too, and whatever key a user gave the asset.
    """
    state = lake.read_table_state(stream.name)
    stored_at = lake.last_commit_time(stream.name) if state is not None else None
    if last_run is not None and last_run.stored_at is not None:
        stored_at = last_run.stored_at
    if history is not None and history.materialized_at is not None:
        stored_at = history.materialized_at
    color, why = _judge(stream, last_run, stored_at, now=now)
    outcome = history.outcome if history is not None else ""
    if not outcome and last_run is not None:
        outcome = last_run.outcome
    age = now - stored_at if stored_at is not None else None
    cursor = state.state.get("cursor") if state is not None and stream.cursor else None
    return StreamStatus(
        stream=stream.name,
        rows=state.rows if state is not None else None,
        newest_record=_read_newest_record(stream, lake) if state is not None else None,
        cursor=cursor if isinstance(cursor, str) else None,
        stored_at=stored_at,
        age_seconds=round(age.total_seconds()) if age is not None else None,
        freshness=describe_freshness(stream, age) if age is not None else None,
        last_run=outcome or None,
        missing_scope=history.missing_scope or None if history is not None else None,
        health=color,
        why=why,
    )


def _judge(
    stream: Stream, last_run: RunOutcome | None, stored_at: datetime | None, *, now: datetime
) -> tuple[str | None, str | None]:
    """Return the color of a stream and why; None where it was never read.

    A lake that an earlier release wrote has no outcomes: its age is all that is known.
    """
    if last_run is None:
        if stored_at is None or isinstance(stream.source, ReportEndpoint):
            return None, None
        last_run = RunOutcome(outcome="ok", ended_at=stored_at, stored_at=stored_at)
    return judge_health(stream, last_run, now=now)


def _read_newest_record(stream: Stream, lake: Lake) -> datetime | None:
    """Return the greatest cursor value that is stored; None without a cursor or a readable file."""
    if stream.cursor is None:
        return None
    with suppress(LakeError):
        found = lake.query_relation(stream.name).max(stream.cursor.column).fetchall()
        value = found[0][0] if found else None
        return value.astimezone(UTC) if isinstance(value, datetime) else None
    return None


def _examine_report(stream: Stream, context: PlanContext) -> ReportStatus:
    stored = context.lake.read_partition_states(stream.name)
    quota = read_daily_quota(stream, context.rate_limiter)
    newest = max((each.day for each in stored), default=None)
    return ReportStatus(
        stream=stream.name,
        filled=len(stored),
        moving=sum(not each.is_final for each in stored.values()),
        missing=_count_missing(stream, context),
        newest_day=str(newest) if newest is not None else None,
        requests_left=quota.remaining if quota is not None else None,
        requests_a_day=quota.limit if quota is not None else None,
        next_request_at=quota.next_free_at if quota is not None else None,
    )


def _count_missing(stream: Stream, context: PlanContext) -> int | None:
    """Return how many partitions of the settings' metrics are not stored."""
    report = report_endpoint(stream)
    metrics = select_report_metrics(
        report, context.settings, read_metrics(context.lake), mapped=context.mapped_metric
    )
    refused = context.lake.read_metric_refusals(stream.name)
    stored = context.lake.read_partition_states(stream.name)
    with suppress(SettingError):
        calendar = build_calendar_offline(context.settings, context.lake, context.now)
        bounds = calendar.starting_at(report.first_day).bounds
        days = report.partition_days(bounds) if bounds is not None else ()
        wanted = [each for each in metrics if each not in refused]
        return sum(ReportPartition(each, day) not in stored for each in wanted for day in days)
    return None


def _print_streams(streams: Sequence[StreamStatus]) -> None:
    print_table(
        ["stream", "health", "rows", "newest record", "cursor", "age", "", "last run"],
        [
            (
                each.stream,
                each.health or "",
                "never stored" if each.rows is None else format_quantity(each.rows, "row"),
                _format_time(each.newest_record),
                _format_time(datetime.fromisoformat(each.cursor)) if each.cursor else "",
                "" if each.age_seconds is None else format_seconds(each.age_seconds),
                each.freshness or "",
                _describe_last_run(each),
            )
            for each in streams
        ],
        numbers=["rows", "age"],
    )
    for each in streams:
        if each.health not in {None, "green"} and not each.missing_scope:
            print(f"  {each.health}: {each.stream}: {each.why}")


def _describe_last_run(status: StreamStatus) -> str:
    if status.missing_scope:
        return f"{status.last_run}: the key lacks {status.missing_scope}"
    return status.last_run or ""


def _format_time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _print_report(stream: Stream, context: PlanContext, reports: Sequence[ReportStatus]) -> None:
    """Print the lines of a report; of one that was never stored only what failed."""
    status = next((each for each in reports if each.stream == stream.name), None)
    if status is None:
        if failed := read_failed_metrics(context.lake, stream.name):
            print("\n".join([f"{stream.name:<24} never stored", *format_failed_metrics(failed)]))
        return
    missing = "" if status.missing is None else f", {status.missing:,} missing"
    print(stream.name)
    print(f"  {status.filled:,} filled{missing}, {status.moving:,} not final")
    print("\n".join(format_report_status(stream, context=context)))


def _print_as_json(
    settings: Settings,
    streams: Sequence[StreamStatus],
    reports: Sequence[ReportStatus],
    warnings: Sequence[str],
) -> None:
    running, source = _find_running(settings)
    print_json(
        {
            "streams": [asdict(each) for each in streams],
            "reports": [asdict(each) for each in reports],
            "warnings": list(warnings),
            "automation": {
                "source": source,
                "off": [asdict(each) for each in unmet_guarantees(settings, running)],
            },
        }
    )


def _find_running(settings: Settings) -> tuple[tuple[str, ...], str]:
    """Return the schedules and sensors that are on, and how that is known."""
    running = default_automations(settings)
    source = f"KLAVIYO_AUTOMATION={settings.automation or 'off'}"
    if "DAGSTER_HOME" not in os.environ:
        return running, f"{source}; without DAGSTER_HOME the switches of the UI are not known"
    from klaviyo_assets.defs.automation import find_switched_on  # noqa: PLC0415 - late, as above

    try:
        return tuple(find_switched_on(settings)), "the switches in DAGSTER_HOME"
    except SettingError as error:
        return running, f"{source}; {error}"


def _describe_automation(settings: Settings) -> Iterable[str]:
    """Yield which guarantees are not met because their schedules and sensors are off."""
    running, source = _find_running(settings)
    unmet = unmet_guarantees(settings, running)
    yield f"automation: {'off is what follows' if unmet else 'everything is on'} ({source})"
    for guarantee in unmet:
        yield f"  off: {guarantee.subject} ({', '.join(guarantee.automations)})"
    if unmet:
        yield "  KLAVIYO_AUTOMATION=recommended starts all of it; each has its switch in the UI"


def show_dashboard(settings: Settings, *, should_open: bool, as_json: bool) -> int:
    """Write the page as its asset does, print where it is, and open it if wanted.

    Dagster is not told: its history has what its own runs wrote.
    """
    from klaviyo_assets.defs.assets import write_overview  # noqa: PLC0415 - late, as above

    overview, path = write_overview(open_stored_lake(settings), settings)
    scope, missing = overview.scope, [each.title for each in overview.sections if each.missing]
    if as_json:
        print_json(
            {
                "page": path,
                "first_day": scope.first_day,
                "last_day": scope.last_day,
                "timezone": scope.zone,
                "headlines": {each.name: each.value for each in overview.headlines},
                "without_data": missing,
            }
        )
    else:
        print(path)
        for each in overview.headlines:
            print(f"  {each.label}: {each.text}{f', {each.context}' if each.context else ''}")
        for title in missing:
            print(f"  {title} No data: the page says what to switch on")
    if should_open and not webbrowser.open(path.as_uri()):
        print_errors([f"no browser can be opened on this machine; the page is {path}"])
        return 1
    return 0
