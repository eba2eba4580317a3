"""Starts a sync: decides what to read and how to write it, and starts the readers."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.api.client import MAX_CONNECTIONS
from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.arrow_buffers import build_null_array, to_python_values
from klaviyo_assets.crash_points import reach_crash_point
from klaviyo_assets.decode.decoder import PageDecoder
from klaviyo_assets.decode.schema import (
    DELETED_AT_FIELD,
    PARENT_VERSION_FIELD,
    SYNCED_AT_FIELD,
    arrow_schema,
)
from klaviyo_assets.errors import CorruptFileError, MissingTableError, SettingError
from klaviyo_assets.lake.delta.state import TableState
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import HISTORY_SUFFIX, LakeTable, build_table
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Collection, Detail, Stream
from klaviyo_assets.model.window import SyncProgress, Window, parse_instant, progress_to_json
from klaviyo_assets.sync.context import SyncContext, build_request_context
from klaviyo_assets.sync.details import FanOut, parents_to_fetch
from klaviyo_assets.sync.memory import tune_process
from klaviyo_assets.sync.plan import (
    PreviousSync,
    SyncOptions,
    SyncPlan,
    plan_sync,
    validate_options,
)
from klaviyo_assets.sync.privacy_guard import PrivacyGuard, build_privacy_guard
from klaviyo_assets.sync.sync_run import PageSource, SyncRun, WriteOptions
from klaviyo_assets.sync.window_reader import RequestContext, WindowReader
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


_FAN_OUT_SINCE_KEY = "asking_since"
_NO_VERSIONS: Mapping[str, datetime | None] = MappingProxyType({})


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
    previous = PreviousSync(
        metadata_cursor=metadata_cursor,
        lake_state=before.state if before else None,
        table_version=before.version if before else None,
    )
    if options.is_id_scan and before is None:
        raise MissingTableError(
            f"the table {stream.name} was never read, so no row of it can have been deleted; "
            f"materialize klaviyo/{stream.name} first"
        )
    if isinstance(stream.source, Detail):
        sync_run = _build_fan_out_sync(stream, options, previous, context=context)
    else:
        plan = plan_sync(stream, options, previous, settings=context.settings, now=context.clock())
        for note in plan.warnings:
            context.warn(note)
        sync_run = _build_window_sync(
            stream, options, plan, context=context, planned_version=previous.table_version
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


def _build_window_sync(
    stream: Stream,
    options: SyncOptions,
    plan: SyncPlan,
    *,
    context: SyncContext,
    planned_version: int | None,
) -> SyncRun:
    privacy_guard = build_privacy_guard(stream, context, is_replacement=plan.is_replacement)
    request_context = _build_window_request_context(
        stream, context=context, privacy_guard=privacy_guard, is_id_scan=options.is_id_scan
    )
    write_options = _build_write_options(
        context,
        options,
        is_replacement=plan.is_replacement,
        planned_version=planned_version,
        started_at=context.clock(),
    )
    return SyncRun(
        table=build_table(stream, arrow_schema(stream)),
        start_reading=lambda: _start_readers(
            request_context, plan, context=context, is_first_sync=planned_version is None
        ),
        options=replace(
            write_options,
            is_id_scan=options.is_id_scan,
            should_mark_deleted=stream.has_soft_deletes
            and (plan.is_replacement or options.is_id_scan),
            scanned_from=plan.progress.start,
            cleared_columns=privacy_guard.cleared_columns,
            should_advance_cursor=plan.should_advance_cursor,
        ),
        progress=plan.progress,
        build_state=lambda progress: {**progress_to_json(progress), **privacy_guard.claims},
    )


def _build_window_request_context(
    stream: Stream, *, context: SyncContext, privacy_guard: PrivacyGuard, is_id_scan: bool
) -> RequestContext:
    if not is_id_scan:
        return build_request_context(
            stream,
            privacy_guard.decoder,
            context=context,
            requested_fields=privacy_guard.requested_fields,
        )
    ids = id_scan_stream(stream)
    return build_request_context(
        ids,
        PageDecoder(ids, privacy=privacy_guard.privacy),
        context=context,
        requested_fields=tuple(column.name for column in ids.columns),
    )


def _build_write_options(
    context: SyncContext,
    options: SyncOptions,
    *,
    is_replacement: bool,
    planned_version: int | None,
    started_at: datetime,
) -> WriteOptions:
    return WriteOptions(
        account=context.account,
        is_replacement=is_replacement,
        should_keep_history=options.mode.should_keep_history,
        should_advance_cursor=True,
        started_at=started_at,
        planned_version=planned_version,
        shrink_limit=context.settings.shrink_limit,
        is_shrink_confirmed=options.is_shrink_confirmed,
        tunes_process=context.settings.tune_process,
        warn=context.warn,
        cancel=context.client.cancel,
    )


def _start_readers(
    request_context: RequestContext, plan: SyncPlan, *, context: SyncContext, is_first_sync: bool
) -> PageSource:
    """Start the readers of the plan's windows, and return them.

    A replacement that marks missing rows as deleted gets a second pass, over what changed during
    the first: a record that moved behind the readers is not taken for deleted.
    """
    stream, client = request_context.stream, context.client
    readers = [WindowReader(request_context, slice_, window) for slice_, window in plan.windows]
    is_splittable = stream.cursor is not None and stream.is_sorted_by_cursor
    workers = count_workers(request_context, client.rate_limiter)
    pool = WorkerPool(readers, workers=workers if is_splittable else min(workers, len(readers)))
    if is_first_sync or not (plan.is_replacement and is_splittable and stream.has_soft_deletes):
        return pool

    def start_second_pass(since: datetime) -> WorkerPool:
        later = Window(max(filter(None, (since, plan.progress.start))), None)
        return WorkerPool(
            [WindowReader(request_context, slice_, later) for slice_, _ in plan.windows], workers=1
        )

    return TwoPassReader(pool, start_second_pass)


def count_workers(request_context: RequestContext, rate_limiter: RateLimiter) -> int:
    """Return how many windows are read in parallel at most: one for each request a second.

    A response takes less than a second, so more readers would only wait for the rate limit, and
    each window costs up to one request more.
    """
    buckets = request_context.stream.rate_limit_buckets(
        excluded_fields=request_context.excluded_fields
    )
    bursts = (rate_limiter.bucket_limits(bucket)[0].requests for bucket in buckets)
    return min(MAX_CONNECTIONS, *bursts)


def _build_fan_out_sync(
    stream: Stream, options: SyncOptions, previous: PreviousSync, *, context: SyncContext
) -> SyncRun:
    validate_options(stream, options)
    source = cast("Detail", stream.source)
    now = context.clock()
    # None: the last sync requested all parents, so this one starts over. Set only by an interrupted
    # sync, since it is compared by our clock, which may differ from Klaviyo's.
    since = parse_instant(cast("str | None", (previous.lake_state or {}).get(_FAN_OUT_SINCE_KEY)))
    is_refresh, lake = options.mode.is_full_refresh, context.lake
    stored = _NO_VERSIONS if is_refresh else _read_stored_versions(stream, source, lake)
    privacy_guard = build_privacy_guard(stream, context, is_replacement=is_refresh)
    table = build_table(stream, arrow_schema(stream))
    read_stored = partial(_read_stored_rows, table, lake=lake, hidden=privacy_guard.cleared_columns)
    start_reading = partial(
        FanOut,
        build_request_context(stream, privacy_guard.decoder, context=context),
        parents_to_fetch(_read_parent_versions(source, lake), stored, reread_since=since),
        decoder=privacy_guard.decoder,
        requested_at=now,
        stored=read_stored if is_refresh and previous.table_version is not None else None,
        has_stored_rows=bool(stored),
    )
    return SyncRun(
        table=table,
        start_reading=start_reading,
        options=_build_write_options(
            context,
            options,
            is_replacement=is_refresh,
            planned_version=previous.table_version,
            started_at=now,
        ),
        progress=SyncProgress(None, {}, (WHOLE_COLLECTION.name,)),
        build_state=lambda progress: {
            **_fan_out_state(progress, since or now),
            **privacy_guard.claims,
        },
    )


def _fan_out_state(progress: SyncProgress, since: datetime) -> dict[str, object]:
    has_ended = WHOLE_COLLECTION.name in progress.finished_slices
    return {"cursor": None, _FAN_OUT_SINCE_KEY: None if has_ended else since.isoformat()}


def _read_stored_rows(
    table: LakeTable, ids: Iterable[str], *, lake: Lake, hidden: frozenset[str]
) -> pa.RecordBatch | None:
    """Return the stored rows of some ids, NULL in the columns that a privacy setting hides.

    None where there are none, or where they cannot be read: a replacement repairs a damaged table.
    """
    try:
        stored = lake.read_columns(table.name, table.schema.names)
    except CorruptFileError:
        return None
    rows = stored.filter(pc.is_in(stored["id"], value_set=pa.array(sorted(ids), pa.string())))
    if not rows.num_rows:
        return None
    columns: list[Any] = [
        build_null_array(rows.num_rows, kind)
        if name in hidden
        else rows[name].cast(kind).combine_chunks()
        for name, kind in zip(table.schema.names, table.schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def _read_parent_versions(source: Detail, lake: Lake) -> Mapping[str, datetime | None]:
    """Return the parents that are not deleted, each with its version where it has one."""
    if lake.read_table_state(source.parent) is None:
        raise MissingTableError(
            f"the table {source.parent} was never read; materialize klaviyo/{source.parent} first"
        )
    version = source.version_column
    rows = lake.read_columns(
        source.parent, ["id", DELETED_AT_FIELD, *([] if version is None else [version])]
    )
    rows = rows.filter(pc.is_null(rows[DELETED_AT_FIELD]))
    ids = cast("list[str]", rows["id"].to_pylist())
    if version is None:
        return dict.fromkeys(ids)
    return dict(zip(ids, to_python_values(rows[version]), strict=True))


def _read_stored_versions(
    stream: Stream, source: Detail, lake: Lake
) -> Mapping[str, datetime | None]:
    if lake.read_table_state(stream.name) is None:
        return {}
    return _read_timestamps(
        lake,
        stream.name,
        SYNCED_AT_FIELD if source.version_column is None else PARENT_VERSION_FIELD,
    )


def _read_timestamps(lake: Lake, table: str, column: str) -> Mapping[str, datetime | None]:
    rows = lake.read_columns(table, ["id", column])
    ids = cast("list[str]", rows["id"].to_pylist())
    return dict(zip(ids, to_python_values(rows[column]), strict=True))
