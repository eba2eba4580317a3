"""Report assets: one per report, partitioned by conversion metric and day.

What belongs here: a run's partitions in, an event per partition out. What does not: which requests
that takes (`sync.reports`), who launches it (`report_sensors`).

A run whose partitions are all stored returns its result: Dagster logs a materialization for each
and runs the report's checks. A run that ends before that, because the quota does, logs those of the
partitions that are stored and returns none: exactly they count.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import dagster as dg

from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.assets import KINDS, OWNERS, RETRY, group_of, skip
from klaviyo_assets.defs.config import asks_refused, config_schema, given_config
from klaviyo_assets.defs.cursors import remembered_lake
from klaviyo_assets.defs.failures import as_failures
from klaviyo_assets.defs.metadata import asset_key, asset_tags, definition_metadata
from klaviyo_assets.defs.partitions import (
    ALONE,
    REQUESTS,
    SKIPPED,
    by_metric,
    report_partitions,
    run_cells,
)
from klaviyo_assets.defs.report_events import ReportEvents
from klaviyo_assets.defs.report_history import days_of, delivered_at, siblings
from klaviyo_assets.defs.resources import Connection, KlaviyoResource, LakeResource
from klaviyo_assets.defs.same_lake import refuse_other_lake
from klaviyo_assets.defs.selections import with_own_keys
from klaviyo_assets.errors import QuotaError, RefusedStreamError
from klaviyo_assets.model.report import Cell, Report
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.redaction import Redaction
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.memory import tune_process
from klaviyo_assets.sync.reports.desk import ReportDesk
from klaviyo_assets.sync.reports.fetch import Fetch, Outcome
from klaviyo_assets.sync.reports.paying import Purse
from klaviyo_assets.sync.reports.present import calendar_of
from klaviyo_assets.sync.reports.walk import Wish
from klaviyo_assets.sync.reports.zone_changes import days_of_another_zone

CHUNK = 360
"""Partitions a run of a backfill, of both reports: six whole time frames of a series, and nearly a
year of totals. One number, because Dagster gives a sensor over both assets the smaller of two and
warns of it at every load; kept answers make the cut free (a request covers more than a run)."""


def report_asset(stream: Stream, settings: Settings, zone: str | None) -> dg.AssetsDefinition:
    """Return the asset of a report; `zone` is that of its days, None where it is not known yet.

    Raises:
        TypeError: the stream is none.
    """
    is_series = report_of(stream).interval is not None
    parents = ["metrics"] if is_series else ["metrics", "campaigns"]

    @dg.asset(
        key=asset_key(stream.name),
        description=stream.about,
        group_name=group_of(stream),
        kinds=KINDS,
        owners=OWNERS,
        tags=asset_tags(stream),
        metadata=definition_metadata(stream),
        deps=[asset_key(parent) for parent in parents],
        partitions_def=report_partitions(settings, zone),
        backfill_policy=dg.BackfillPolicy.multi_run(CHUNK),
        retry_policy=RETRY,
        output_required=False,
        config_schema=config_schema(stream),
    )
    def reported(
        context: dg.AssetExecutionContext,
        klaviyo: KlaviyoResource,
        lake: LakeResource,
    ) -> Iterator[dg.MaterializeResult[Any]]:
        context.log.addFilter(Redaction())
        events = _report(context, stream, klaviyo=klaviyo, lake=lake)
        if events is not None:
            yield events.materialize()

    return reported


def report_of(stream: Stream) -> Report:
    """Return the report that a stream is.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(stream.source, Report):
        raise TypeError(f"{stream.name} is no report")
    return stream.source


def _report(
    context: dg.AssetExecutionContext,
    stream: Stream,
    *,
    klaviyo: KlaviyoResource,
    lake: LakeResource,
) -> ReportEvents | None:
    """Fetch the run's partitions; return their events, or None where not all of them are stored."""
    try:
        with as_failures(stream.name, may_skip=True, worded=partial(with_own_keys, context)):
            # Who orders it does so once: the retry of a run counts with what the run has found.
            is_retry = context.op_execution_context.retry_number > 0
            ask_refused = asks_refused(stream, given_config(context)) and not is_retry
            cells = run_cells(context)
            with klaviyo.connect(say=context.log.warning, lake=lake.lake()) as connection:
                desk = _desk(context, stream, connection=connection, lake=lake)
                return _carry_out(context, cells, ask_refused=ask_refused, desk=desk, lake=lake)
    except RefusedStreamError as error:
        skip(context, stream, error, lake=lake)
        context.instance.add_run_tags(context.run.run_id, {SKIPPED: "true"})
        return None


def _desk(
    context: dg.AssetExecutionContext,
    stream: Stream,
    *,
    connection: Connection,
    lake: LakeResource,
) -> ReportDesk:
    say, settings = context.log.warning, connection.settings
    store, key = lake.lake(), context.asset_key
    refuse_other_lake(key, stream, before=remembered_lake(context.instance, key), lake=store)
    store.prepare(connection.account)
    if settings.tune_process:
        tune_process()
    return ReportDesk(
        stream=stream,
        report=report_of(stream),
        client=connection.client,
        lake=store,
        base_url=settings.base_url,
        account=connection.account,
        calendar=calendar_of(connection.asking, settings, say=say),
        clock=utc_now,
        say=say,
    )


def _carry_out(
    context: dg.AssetExecutionContext,
    cells: Sequence[Cell],
    *,
    ask_refused: bool,
    desk: ReportDesk,
    lake: LakeResource,
) -> ReportEvents | None:
    """Fetch the cells; return what was stored, or None where the run's own quota ended before.

    Raises:
        QuotaError: it ran out in a run that a person launched.
        KlaviyoAssetsError: of a metric nothing could be stored; the others are.
        SettingError: a day is not over; the others are stored.
        KlaviyoAssetsError: as `Fetch.outcomes` says.
    """
    given = context.run.tags.get(REQUESTS)
    mixed = days_of_another_zone(desk.lake, desk.stream.name, desk.calendar)
    if mixed is not None:
        desk.say(mixed)
    events = ReportEvents(context, desk)
    fetch = Fetch(
        _wishes(context, cells, is_alone=ALONE in context.run.tags),
        desk=desk,
        purse=Purse(int(given) if given is not None else None),
    )
    bounds = desk.calendar.bounds
    try:
        if bounds is not None:
            outcomes = fetch.outcomes(bounds, ask_refused=ask_refused)
            _store(outcomes, events, desk=desk, lake=lake)
        events.refuse_failed(by_sensor=given is not None)
        events.refuse_unfinished(fetch.left)
    except QuotaError as error:
        events.log_done()
        if given is None:
            raise events.spent(error, fetch.left, by_sensor=False) from error
        context.log.warning("%s", events.spent(error, fetch.left, by_sensor=True))
        events.refuse_failed(by_sensor=True)
        return None
    except BaseException:
        events.log_done()
        raise
    return events


def _store(
    outcomes: Iterator[Outcome],
    events: ReportEvents,
    *,
    desk: ReportDesk,
    lake: LakeResource,
) -> None:
    """Let a fetch store what it asks for, and show what is stored in DuckDB, however it ends."""
    try:
        for outcome in outcomes:
            events.add(outcome)
    finally:
        if events.stored:
            lake.publish(desk.lake, say=desk.say)
            desk.lake.maintain(desk.stream.name)


def _wishes(
    context: dg.AssetExecutionContext, cells: Sequence[Cell], *, is_alone: bool
) -> list[Wish]:
    """Return what is wanted of each metric."""
    delivered = delivered_at(context.instance, context.asset_key, cells, run_id=context.run.run_id)
    among = siblings(context.instance, context.asset_key, context.run.tags)
    return [
        Wish(
            metric_id=metric_id,
            days=days,
            among=days_of(among.cells, metric_id),
            pending=days_of(among.pending, metric_id),
            delivered={
                cell.day: at for cell, at in delivered.items() if cell.metric_id == metric_id
            },
            widens=not is_alone,
        )
        for metric_id, days in by_metric(cells).items()
    ]
