"""Starts a sync: decides what to read and how to write it, and starts the readers."""

from dataclasses import replace
from datetime import datetime
from functools import partial
from math import ceil

from klaviyo_assets.api.client import MAX_CONNECTIONS
from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.crash_points import reach_crash_point
from klaviyo_assets.decode.decoder import PageDecoder
from klaviyo_assets.errors import CorruptFileError, MissingTableError, SettingError
from klaviyo_assets.lake.delta.state import TableState
from klaviyo_assets.lake.layout import HISTORY_SUFFIX
from klaviyo_assets.model.stream import PARENT_ID, Collection, Detail, Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.sync.children import (
    expand_children,
    start_children_readers,
)
from klaviyo_assets.sync.context import (
    PrivacyGuard,
    SyncContext,
    build_privacy_guard,
    build_request_context,
)
from klaviyo_assets.sync.details import start_fan_out
from klaviyo_assets.sync.memory import tune_process
from klaviyo_assets.sync.plan import PreviousSync, SyncOptions, SyncPlan, plan_sync
from klaviyo_assets.sync.sync_run import SyncRun
from klaviyo_assets.sync.window_reader import PageSource, RequestContext, WindowReader
from klaviyo_assets.sync.workers import TwoPassReader, WorkerPool


def id_scan_stream(stream: Stream) -> Stream:
    """Return the stream with only its ids, sorted by a value that never changes.

    That value is its only column, so that windows of it can be read in parallel.

    Raises:
        SettingError: the stream has no such value.
    """
    order, source = stream.id_scan_cursor, stream.source
    if order is None or not isinstance(source, Collection):
        raise SettingError("sweep_ids: this stream has no id scan", stream=stream.name)
    return replace(
        stream,
        source=replace(source, include=(), additional_fields=()),
        cursor=order,
        columns=tuple(each for each in stream.columns if each.name == order.column),
        has_soft_deletes=False,
        id_scan_cursor=None,
    )


def start_sync(
    stream: Stream, options: SyncOptions, metadata_cursor: datetime | None, *, context: SyncContext
) -> SyncRun:
    """Return the sync, once its first page is there; nothing has been written.

    Raises:
        KlaviyoAssetsError: bad options, a lake that cannot be read, or a refusal of Klaviyo.
    """
    context.lake.prepare_for_sync(context.account)
    if context.settings.tune_process:
        tune_process()
    before = _load_previous_state(stream, options, context=context)
    if options.is_id_scan and before is None:
        raise MissingTableError(
            f"the table {stream.name} was never read, so no row of it can have been deleted; "
            f"materialize klaviyo/{stream.name} first"
        )
    stream, chosen_parents = expand_children(stream, context.lake, context.settings)
    previous = PreviousSync(
        metadata_cursor=metadata_cursor,
        lake_state=before.state if before else None,
        table_version=before.version if before else None,
    )
    plan = plan_sync(stream, options, previous, settings=context.settings, now=context.clock())
    plan.chosen_parents = chosen_parents
    for note in plan.warnings:
        context.warn(note)
    privacy_guard = build_privacy_guard(stream, context, is_replacement=plan.is_replacement)
    request_context = _build_request_context(stream, options, privacy_guard, context=context)
    sync_run = SyncRun(
        stream,
        plan,
        context=context,
        privacy_guard=privacy_guard,
        start_reading=partial(_start_reading, request_context, plan, privacy_guard, context),
    )
    try:
        context.lake.load_duckdb()
        reach_crash_point("before awaiting the first page")
        sync_run.fetch_first_page()
    except BaseException:
        sync_run.close()
        raise
    return sync_run


def _load_previous_state(
    stream: Stream, options: SyncOptions, *, context: SyncContext
) -> TableState | None:
    """Return the table's state; a full refresh sets aside what cannot be read.

    It needs nothing of the old table or history, so a damaged one must not make it fail.
    """
    if not options.mode.is_full_refresh:
        return context.lake.check_table_state(stream.name)
    if options.mode.should_keep_history:
        _read_state_or_set_aside(stream.name + HISTORY_SUFFIX, context=context)
    return _read_state_or_set_aside(stream.name, context=context)


def _read_state_or_set_aside(table: str, *, context: SyncContext) -> TableState | None:
    """Return a table's state; a table that cannot be read is set aside, with a warning."""
    try:
        return context.lake.check_table_state(table)
    except CorruptFileError:
        place = context.lake.set_aside_table(table)
        context.warn(
            f"the table {table} could not be read and was set aside: {place} holds all its files; "
            "reading from the beginning"
        )
        return None


def _build_request_context(
    stream: Stream, options: SyncOptions, privacy_guard: PrivacyGuard, *, context: SyncContext
) -> RequestContext:
    if not options.is_id_scan:
        fields = privacy_guard.requested_fields
        return build_request_context(
            stream, privacy_guard.decoder, context=context, requested_fields=fields
        )
    ids = id_scan_stream(stream)
    decoder = PageDecoder(ids, privacy=privacy_guard.privacy)
    fields = tuple(column.name for column in ids.columns)
    return build_request_context(ids, decoder, context=context, requested_fields=fields)


def _start_reading(
    request_context: RequestContext,
    plan: SyncPlan,
    privacy_guard: PrivacyGuard,
    context: SyncContext,
) -> PageSource:
    stream, lake = request_context.stream, context.lake
    if isinstance(stream.source, Detail):
        return start_fan_out(request_context, plan, privacy_guard, lake=lake)
    start = partial(_start_readers, plan=plan, rate_limiter=context.client.rate_limiter)
    if any(each.source == PARENT_ID for each in stream.columns):
        return start_children_readers(request_context, privacy_guard, start, lake=lake, plan=plan)
    return start(request_context)


def _start_readers(
    request_context: RequestContext, plan: SyncPlan, rate_limiter: RateLimiter
) -> PageSource:
    """Start the readers of the plan's windows, and return them.

    A replacement that marks missing rows as deleted gets a second pass, over what changed during
    the first: a record that moved behind the readers is not taken for deleted. One whose cursor is
    no version cannot move.
    """
    stream = request_context.stream
    readers = [WindowReader(request_context, slice_, window) for slice_, window in plan.windows]
    is_splittable = stream.cursor is not None and stream.is_sorted_by_cursor
    workers = count_workers(request_context, rate_limiter)
    pool = WorkerPool(readers, workers=workers if is_splittable else min(workers, len(readers)))
    is_first_sync = plan.planned_version is None
    can_move = is_splittable and stream.cursor is not None and stream.cursor.is_version
    if is_first_sync or not (plan.is_replacement and can_move and stream.has_soft_deletes):
        return pool

    def start_second_pass(since: datetime) -> WorkerPool:
        later = Window(max(filter(None, (since, plan.progress.start))), None)
        return WorkerPool(
            [WindowReader(request_context, slice_, later) for slice_, _ in plan.windows], workers=1
        )

    return TwoPassReader(pool, start_second_pass)


def count_workers(request_context: RequestContext, rate_limiter: RateLimiter) -> int:
    """Return how many windows are read in parallel at most: one for two requests a second.

    A response takes less than half a second as a rule, so more readers would only wait for the rate
    limit, and each window costs up to one request more.
    """
    buckets = request_context.stream.rate_limit_buckets(
        excluded_fields=request_context.excluded_fields
    )
    bursts = (rate_limiter.bucket_limits(bucket)[0].requests for bucket in buckets)
    return min(MAX_CONNECTIONS, *(ceil(burst / 2) for burst in bursts))
