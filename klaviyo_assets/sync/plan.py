"""Plans what a sync reads, and its price: which windows of which slices, from which mark.

The price of a first read is its requests, the least time that the rate limits allow, and disk.
Klaviyo tells no totals, so the numbers of records are those of the lake, or somebody's guess.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from math import ceil
from typing import cast

from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake.write.soft_deletes import ColumnValues
from klaviyo_assets.model.selection import upstream_streams
from klaviyo_assets.model.stream import (
    OLDEST_SHAPE,
    PARENT_ID,
    REVISION_COLUMN,
    WHOLE_COLLECTION,
    Children,
    Collection,
    Detail,
    Slice,
    Stream,
    ViewSource,
)
from klaviyo_assets.model.window import (
    QUARANTINE_RETRIES_KEY,
    SliceProgress,
    SyncProgress,
    Window,
    cursor_from_json,
    parse_instant,
    retries_from_json,
    slices_from_json,
    slices_to_json,
)
from klaviyo_assets.settings import Settings

FUTURE_CURSOR_TOLERANCE = timedelta(days=2)
"""A cursor this far ahead of our clock is taken for an error, not for a difference of clocks."""


class SyncMode(StrEnum):
    """The sync modes of the public contract: what is read again, and whether history is kept."""

    INCREMENTAL_DEDUPED = "incremental_deduped"
    INCREMENTAL_APPEND = "incremental_append"
    FULL_REFRESH_OVERWRITE = "full_refresh_overwrite"
    FULL_REFRESH_APPEND = "full_refresh_append"

    @property
    def is_full_refresh(self) -> bool:
        """Return whether everything is read again and the table replaced."""
        return self in (SyncMode.FULL_REFRESH_OVERWRITE, SyncMode.FULL_REFRESH_APPEND)

    @property
    def should_keep_history(self) -> bool:
        """Return whether the history table also gets every version that is read."""
        return self in (SyncMode.INCREMENTAL_APPEND, SyncMode.FULL_REFRESH_APPEND)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """What the caller requests.

    `reread_window` reads one window again without moving the cursor. `is_id_scan` reads only ids,
    to find records that were deleted. `is_shrink_confirmed` allows a complete read to remove more
    of the table than KLAVIYO_SHRINK_LIMIT. `renews_synced_at` gives rows that come back unchanged a
    new `synced_at` where they would keep theirs.
    """

    mode: SyncMode = SyncMode.INCREMENTAL_DEDUPED
    reread_window: Window | None = None
    is_id_scan: bool = False
    is_shrink_confirmed: bool = False
    renews_synced_at: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousSync:
    """What earlier syncs left: the cursor in asset metadata, the lake's state and version."""

    metadata_cursor: datetime | None = None
    lake_state: Mapping[str, object] | None = None
    table_version: int | None = None


SHAPE_KEY = "shape"
"""The key, in a commit's state, of the revision whose shape of records the table was read in."""

FAN_OUT_SINCE_KEY = "asking_since"
"""The key, in a commit's state, of when an unfinished sync of all parents began."""

PARENTS_READ_KEY = "parents_read"
"""The key, in a commit's state, of the parents that an unfinished read of all has read."""

MAX_PARENT_ROUND_AGE = timedelta(hours=20)
"""How old an unfinished read of all parents may be to be continued.

It is less than a day, so that the next day's read of all never takes over what is a day old.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRound:
    """An unfinished read of the children of all parents.

    `started_at` is when it began by our clock, `since` by its first response (both UTC): rows that
    it has stored were synced since then. `slices` is the progress of each parent whose children it
    has read to the end, by the parent's id.
    """

    started_at: datetime
    since: datetime
    slices: Mapping[str, SliceProgress]

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that a commit stores under `PARENTS_READ_KEY`."""
        return {
            "started_at": self.started_at.isoformat(),
            "since": self.since.isoformat(),
            "slices": slices_to_json(self.slices),
        }


def read_parent_round(state: Mapping[str, object], *, now: datetime) -> ParentRound | None:
    """Return the unfinished read that a commit stored; None where there is none, or an old one.

    Raises:
        ConfigError: its progress cannot be read.
    """
    stored = state.get(PARENTS_READ_KEY)
    if not isinstance(stored, dict):
        return None
    found = cast("Mapping[str, object]", stored)
    started_at, since = cursor_from_json(found, "started_at"), cursor_from_json(found, "since")
    if started_at is None or since is None or now - started_at >= MAX_PARENT_ROUND_AGE:
        return None
    return ParentRound(started_at=started_at, since=since, slices=slices_from_json(found))


@dataclass(slots=True, kw_only=True)
class SyncPlan:
    """What a sync reads, and how it writes the table: merged or replaced."""

    options: SyncOptions
    windows: tuple[tuple[Slice, Window], ...] = ()
    """The windows to read, in order; none where the parents of a detail are requested."""
    progress: SyncProgress
    """The progress that the windows add to."""
    is_replacement: bool
    planned_version: int | None
    """The table version that the plan was made from; None where there was no table."""
    started_at: datetime
    reread_since: datetime | None = None
    """When an interrupted sync of all parents began, by our clock (UTC): Klaviyo's may differ."""
    warnings: tuple[str, ...] = ()
    scanned_rows: ColumnValues | None = None
    """The stored rows that a complete read looks for, where it cannot see others; None: all."""
    shape: str | None = None
    """The shape of records that the commits name for the table; None: all revisions have one."""
    full_read_reason: str = ""
    """Why everything is read although nobody asked for it; empty: it is not."""
    parent_round: ParentRound | None = None
    """The unfinished replacement by parent that this one continues; None: it begins anew."""
    commits_by_parent: bool = False
    """Whether a replacement commits the rows of parents that it has read, before the last."""
    handed_on: Mapping[str, object] = field(default_factory=dict[str, object])
    """The state of an unfinished replacement by parent, which an increment commits unchanged."""
    previous_state: Mapping[str, object] = field(default_factory=dict[str, object])
    """The state of the table's last commit."""

    @property
    def should_advance_cursor(self) -> bool:
        """Return whether what is read counts as read."""
        return self.options.reread_window is None and not self.options.is_id_scan

    @property
    def is_all_or_nothing(self) -> bool:
        """Return whether there is a single commit, made only once everything was read."""
        return self.is_replacement or self.options.is_id_scan

    @property
    def is_fan_out(self) -> bool:
        """Return whether each parent is requested for a row of its own, and all are one slice."""
        return not self.windows and self.progress.active_slices == (WHOLE_COLLECTION.name,)

    @property
    def parents_read(self) -> Mapping[str, SliceProgress]:
        """Return the progress of the slices that the continued read has read."""
        if self.parent_round is None:
            return {}
        known = self.parent_round.slices
        if self.is_fan_out:
            return known
        return {name: known[name] for name in self.progress.active_slices if name in known}

    @property
    def unread_windows(self) -> tuple[tuple[Slice, Window], ...]:
        """Return the windows of slices that no earlier part of the same read has read."""
        read = self.parents_read
        return tuple(each for each in self.windows if each[0].name not in read)

    @property
    def round_started_at(self) -> datetime:
        """Return when the read of all parents began of which this sync is a part, by our clock."""
        return self.started_at if self.parent_round is None else self.parent_round.started_at

    def copy_progress(self) -> SyncProgress:
        """Return a copy of the progress, with what the continued read has read."""
        progress, read = deepcopy(self.progress), self.parents_read
        progress.slices.update(read)
        progress.finished_slices.update(read)
        return progress


def parent_column(stream: Stream) -> str | None:
    """Return the column with the id of the parent that a record was read by, if there is one."""
    return next((each.name for each in stream.columns if each.source == PARENT_ID), None)


def select_slices(stream: Stream, settings: Settings) -> tuple[Slice, ...]:
    """Return the slices to read: one a metric where KLAVIYO_EVENT_METRIC_IDS names some."""
    if not isinstance(stream.source, Collection):
        return ()
    if not stream.source.has_metric_filter or not settings.event_metric_ids:
        return stream.source.slices
    return tuple(
        Slice(name=metric, filter=f'equals(metric_id,"{metric}")')
        for metric in settings.event_metric_ids
    )


def plan_sync(
    stream: Stream,
    options: SyncOptions,
    previous: PreviousSync,
    *,
    settings: Settings,
    now: datetime,
) -> SyncPlan:
    """Return the plan for a stream of a collection or of details.

    Raises:
        SettingError: the stream does not support these options.
        ConfigError: the state in the lake cannot be read.
    """
    validate_options(stream, options)
    slices = select_slices(stream, settings)
    start = None if stream.is_exempt_from_start_date else settings.start
    plan = SyncPlan(
        options=options,
        progress=SyncProgress(start, {}, tuple(each.name for each in slices)),
        is_replacement=stream.is_snapshot or options.mode.is_full_refresh,
        planned_version=previous.table_version,
        started_at=now,
        previous_state=previous.lake_state or {},
    )
    if isinstance(stream.source, Detail):
        _plan_fan_out(plan)
        return plan
    if stream.has_shapes:
        _plan_shape(plan, stream, previous)
    if plan.is_replacement:
        whole = Window(None if stream.is_snapshot else start)
        plan.windows = tuple((each, whole) for each in slices)
        plan.commits_by_parent = parent_column(stream) is not None and stream.has_soft_deletes
        plan.parent_round = read_parent_round(plan.previous_state, now=now)
        return plan
    plan.warnings = _load_progress(plan.progress, stream, previous, now=now)
    plan.parent_round = read_parent_round(plan.previous_state, now=now)
    if not plan.should_advance_cursor:
        plan.windows = tuple((each, options.reread_window or Window()) for each in slices)
        return plan
    has_lookback = stream.cursor and stream.cursor.has_lookback
    lookback = timedelta(days=settings.lookback_days if has_lookback else 0)
    plan.windows = _plan_unread(plan.progress, slices, lookback=lookback, now=now)
    return plan


def _plan_fan_out(plan: SyncPlan) -> None:
    """Plan one slice of all parents, and what of an unfinished sync of them counts."""
    plan.progress = SyncProgress(None, {}, (WHOLE_COLLECTION.name,))
    plan.reread_since = parse_instant(
        cast("str | None", plan.previous_state.get(FAN_OUT_SINCE_KEY))
    )
    # A history would take the rows of an earlier part for another version.
    plan.commits_by_parent = plan.options.mode is SyncMode.FULL_REFRESH_OVERWRITE
    if not plan.options.mode.is_full_refresh or plan.commits_by_parent:
        plan.parent_round = read_parent_round(plan.previous_state, now=plan.started_at)


def _plan_unread(
    progress: SyncProgress, slices: tuple[Slice, ...], *, lookback: timedelta, now: datetime
) -> tuple[tuple[Slice, Window], ...]:
    progress.retries.select_due(now, progress.active_slices)
    return tuple(
        (each, window)
        for each in slices
        for window in _unread_windows(progress, each, start=progress.start, lookback=lookback)
    )


def _plan_shape(plan: SyncPlan, stream: Stream, previous: PreviousSync) -> None:
    """Read everything if another revision's shape of the records is stored; keep it in the state.

    A window that is read again does not change what the table is said to hold, for its rows say
    themselves which shape they have.
    """
    stored = _stored_shape(previous.lake_state)
    plan.shape = stored if stored and plan.options.reread_window is not None else stream.shape
    if stream.is_partial:
        plan.scanned_rows = ColumnValues(
            REVISION_COLUMN.name, frozenset({stream.shape}), includes_null=True
        )
    if plan.is_replacement or plan.shape != stream.shape or stored in (None, stream.shape):
        return
    plan.is_replacement = True
    plan.full_read_reason = (
        f"{stream.name}: stored as revision {stored} shows them, and read as {stream.shape} does: "
        "everything is read once in full"
    )
    plan.warnings = (plan.full_read_reason,)


def changes_shape(stream: Stream, lake_state: Mapping[str, object]) -> bool:
    """Return whether a stored table has another shape than the stream's records have now."""
    return stream.has_shapes and _stored_shape(lake_state) != stream.shape


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
        history_columns=(),
    )


def _stored_shape(lake_state: Mapping[str, object] | None) -> str | None:
    """Return the revision whose shape of records a table has; None where there is no table."""
    if lake_state is None:
        return None
    return str(lake_state.get(SHAPE_KEY) or OLDEST_SHAPE)


def validate_options(stream: Stream, options: SyncOptions) -> None:
    """Refuse options that the stream does not support.

    Raises:
        SettingError: `start`/`end` with a full refresh, for a stream without a filter, or reversed;
            a history of a view; an id scan with other options, or of a stream without one.
    """
    if options.is_id_scan:
        _validate_id_scan(stream, options)
    if options.mode.should_keep_history and isinstance(stream.source, ViewSource):
        raise SettingError(
            f"sync_mode {options.mode.value} keeps a history, and this stream stores nothing "
            f"of its own: it shows {upstream_streams(stream)[0]}, so keep a history of that",
            stream=stream.name,
        )
    if options.is_shrink_confirmed and not (
        stream.is_snapshot or options.mode.is_full_refresh or options.is_id_scan
    ):
        raise SettingError(
            "confirm_shrink: this sync neither drops rows nor marks them as deleted; use it with "
            "sync_mode: full_refresh_overwrite, or with the option that was refused",
            stream=stream.name,
        )
    if options.reread_window is None:
        return
    if options.mode.is_full_refresh:
        raise SettingError(
            "start/end read one window again, a full refresh reads everything: give one of the two",
            stream=stream.name,
        )
    if stream.cursor is None or not isinstance(stream.source, Collection | Children):
        raise SettingError(
            "start/end make no sense here: Klaviyo cannot filter this stream by time",
            stream=stream.name,
        )
    if options.reread_window.is_empty:
        raise SettingError("start must lie before end (end is exclusive)", stream=stream.name)


def _validate_id_scan(stream: Stream, options: SyncOptions) -> None:
    if stream.id_scan_cursor is None:
        raise SettingError("sweep_ids: this stream has no id scan", stream=stream.name)
    if options.reread_window is not None or options.mode is not SyncMode.INCREMENTAL_DEDUPED:
        raise SettingError(
            "sweep_ids reads ids alone, and no records: use it without start, end or another "
            "sync_mode",
            stream=stream.name,
        )


def _unread_windows(
    sync_progress: SyncProgress, slice_: Slice, *, start: datetime | None, lookback: timedelta
) -> tuple[Window, ...]:
    """Return the unread rest of `[start, ∞)`, the lookback window and the windows to retry.

    Where a gap follows the high-water mark, the lookback window before the end of everything read
    is added too. Windows to retry held records that could not be stored.

                start        mark - lookback   high-water mark
    ──────────────┼────────────────┼────────────────┼──────────▶ UTC
    read before ──[═════════════════════════════════)
    to read ───────────────────────[════════════════╪══════════▶

    A slice without records has no high-water mark, and is read whole each time. That costs one
    request, as any empty window does, and finds records that arrive late or are imported.
    """
    progress = sync_progress.slices.get(slice_.name) or SliceProgress()
    if progress.max_cursor is None:
        return (Window(start),)
    coverage = progress.coverage
    # A killed run may have read beyond a gap: events arrive late past the high-water mark too.
    ends = (progress.high_water_mark(start), *(own.end for own in coverage.windows[-1:]))
    back = [Window(end - lookback, end) for end in ends if end is not None]
    for window in (*back, *sync_progress.retries.windows_of_slice(slice_.name)):
        coverage = coverage.subtract(window)
    return coverage.gaps(Window(start))


def _load_progress(
    progress: SyncProgress, stream: Stream, previous: PreviousSync, *, now: datetime
) -> tuple[str, ...]:
    """Add what earlier syncs have read to new progress; return the warnings to show."""
    if previous.lake_state is None:
        note = (
            f"asset metadata says {previous.metadata_cursor}, but the lake holds no {stream.name}: "
            "reading from the beginning"
        )
        return (note,) if previous.metadata_cursor is not None else ()
    names, stored = progress.active_slices, slices_from_json(previous.lake_state)
    progress.slices = _apply_unfiltered_progress(stored, names)
    progress.previous_cursor = cursor_from_json(previous.lake_state)
    progress.metadata_cursor = previous.metadata_cursor
    progress.retries = retries_from_json(previous.lake_state.get(QUARANTINE_RETRIES_KEY))
    # Records of all metrics that could not be stored may belong to any metric now read by itself.
    progress.retries.share(WHOLE_COLLECTION.name, (each for each in names if each not in stored))
    notes = _resolve_cursor_conflict(
        progress, lagging_cursor=cursor_from_json(previous.lake_state, "behind")
    )
    future = now + FUTURE_CURSOR_TOLERANCE
    if any(each.max_cursor and each.max_cursor > future for each in progress.slices.values()):
        notes.append(f"cursor in the future: continuing from {now.isoformat()} instead")
        progress.previous_cursor = None
        for name, each in progress.slices.items():
            progress.slices[name] = each.cap_at(now)
    return tuple(notes)


def _resolve_cursor_conflict(
    progress: SyncProgress, *, lagging_cursor: datetime | None
) -> list[str]:
    """Drop what only one of the two cursors counts as read; return the warnings to show.

    The lower cursor counts, since only what both confirm is certain. `lagging_cursor` is what asset
    metadata shows if a run was killed right after a commit: then the lake's cursor counts.
    """
    lake_cursor, shown = progress.previous_cursor, progress.metadata_cursor
    if lake_cursor is None or shown == lake_cursor:
        return []
    if shown is None:
        note = (
            f"no cursor in asset metadata: continuing from the lake's, {lake_cursor.isoformat()} "
            "(to read everything again, use sync_mode: full_refresh_overwrite)"
        )
        return [note]
    if shown == lagging_cursor:
        note = (
            f"asset metadata is one commit behind, as after a killed run ({shown}): continuing "
            f"from the lake's cursor, {lake_cursor.isoformat()}"
        )
        return [note]
    for name, each in progress.slices.items():
        agreed = each.coverage.subtract(Window(shown, max(shown, lake_cursor)))
        progress.slices[name] = replace(each, coverage=agreed)
    return [
        f"cursors differ: asset metadata {shown}, lake {lake_cursor}; continuing from the lower one"
    ]


def _apply_unfiltered_progress(
    previous: dict[str, SliceProgress], names: tuple[str, ...]
) -> dict[str, SliceProgress]:
    """Return progress in which windows read without a metric filter count for each metric."""
    everything = previous.get(WHOLE_COLLECTION.name)
    if everything is None:
        return previous
    merged = dict(previous)
    for name in names:
        own = previous.get(name, SliceProgress())
        merged[name] = SliceProgress(
            own.coverage.union(everything.coverage),
            max(filter(None, (own.max_cursor, everything.max_cursor)), default=None),
        )
    return merged


TYPICAL_ROW_BYTES = 300
"""Disk of a row where no row is stored to measure: about that of an event of a shop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstReadPrice:
    """What reading a stream from the beginning takes; None where its size is not known.

    `records_per_request`: of a full page, 1 where each record takes a request.
    """

    stream: str
    records: int | None
    records_per_request: int | None
    requests: int | None
    seconds: float | None
    disk_bytes: int | None


def price_first_read(
    stream: Stream,
    *,
    records: Mapping[str, int],
    row_bytes: Mapping[str, float],
    settings: Settings,
) -> FirstReadPrice:
    """Return the price of a stream, given how many records each stream has, as far as known.

    `row_bytes`: bytes on disk for each row, by stream, where that was measured.
    """
    own = records.get(stream.name)
    requests = _count_requests(stream, own, records)
    steady = _steady_limit(stream, settings)
    disk = None if own is None else round(own * row_bytes.get(stream.name, TYPICAL_ROW_BYTES))
    return FirstReadPrice(
        stream=stream.name,
        records=own,
        records_per_request=_records_per_request(stream),
        requests=requests,
        seconds=None if requests is None or steady is None else 60 * requests / steady,
        disk_bytes=disk,
    )


def _records_per_request(stream: Stream) -> int | None:
    """Return how many records a full page has; None where all come at once, or none is asked."""
    match stream.source:
        case Collection(page_size=size) | Children(page_size=size):
            return size
        case Detail():
            return 1
        case _:
            return None


def _count_requests(stream: Stream, own: int | None, records: Mapping[str, int]) -> int | None:
    """Return the requests of a first read: at least one for each slice, or for each parent."""
    match stream.source:
        case Collection(page_size=None, slices=slices):
            return len(slices)
        case Collection(page_size=size, slices=slices):
            return None if own is None or size is None else max(len(slices), ceil(own / size))
        case Detail(parent=parent):
            return records.get(parent)
        case Children(parent=parent, page_size=size):
            parents = records.get(parent)
            if parents is None:
                return None
            return max(parents, ceil((own or 0) / size)) if size else parents
        case _:
            return 0


def _steady_limit(stream: Stream, settings: Settings) -> float | None:
    """Return our requests a minute: the least that any bucket of the stream allows."""
    buckets = stream.rate_limit_buckets(excluded_fields=settings.excluded_additional_fields)
    share = settings.rate_limit_share * settings.rate_limit_scale
    return min((each.tier.steady * share for each in buckets), default=None)


def least_seconds(prices: Iterable[FirstReadPrice], streams: Mapping[str, Stream]) -> float:
    """Return the least time of all, read side by side: streams of one bucket share its limit."""
    by_bucket: dict[str, float] = {}
    for each in prices:
        for bucket in streams[each.stream].rate_limit_buckets():
            by_bucket[bucket.name] = by_bucket.get(bucket.name, 0) + (each.seconds or 0)
    return max(by_bucket.values(), default=0)
