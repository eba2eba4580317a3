"""What a sync reads: which windows of which slices, from which mark, and why.

What belongs here: the decision, pure, with a sentence for everything unexpected. What does not:
carrying it out (`pool`, `pull`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.stream import WHOLE, Collection, Join, Slice, Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.progress import (
    RETRIES,
    Progress,
    SliceProgress,
    mark_from_json,
    slices_from_json,
)
from klaviyo_assets.sync.quarantine_retries import retries_from_json

CURSOR_IN_FUTURE = timedelta(days=2)
"""A mark this far past our own clock is a fault, not a wrong clock."""


class SyncMode(StrEnum):
    """What a sync reads and what it keeps; the words are the contract's."""

    INCREMENTAL_DEDUPED = "incremental_deduped"
    INCREMENTAL_APPEND = "incremental_append"
    FULL_REFRESH_OVERWRITE = "full_refresh_overwrite"
    FULL_REFRESH_APPEND = "full_refresh_append"

    @property
    def is_full(self) -> bool:
        """Return whether everything is read again and the table replaced."""
        return self in (SyncMode.FULL_REFRESH_OVERWRITE, SyncMode.FULL_REFRESH_APPEND)

    @property
    def keeps_history(self) -> bool:
        """Return whether every version seen is kept in the history table as well."""
        return self in (SyncMode.INCREMENTAL_APPEND, SyncMode.FULL_REFRESH_APPEND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the caller wants: the mode, a window to read again, or which ids there still are.

    `confirms_shrink`: a complete read may take away more of the table than KLAVIYO_SHRINK_LIMIT.
    """

    mode: SyncMode = SyncMode.INCREMENTAL_DEDUPED
    again: Window | None = None
    sweeps_ids: bool = False
    confirms_shrink: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known before a sync: asset metadata's mark, and the lake's state and version."""

    metadata_mark: datetime | None = None
    lake_state: Mapping[str, object] | None = None
    version: int | None = None


@dataclass(slots=True, kw_only=True)
class Plan:
    """Windows to read, in order, the progress they add to, and what has to be said aloud."""

    windows: tuple[tuple[Slice, Window], ...]
    progress: Progress
    replaces: bool
    moves_mark: bool
    notes: tuple[str, ...]


def slices_of(stream: Stream, settings: Settings) -> tuple[Slice, ...]:
    """Return the parts that the stream is asked for in, one a metric where a setting says so."""
    if not isinstance(stream.source, Collection):
        return ()
    if not stream.source.metric_filter or not settings.event_metric_ids:
        return stream.source.slices
    return tuple(
        Slice(name=metric, filter=f'equals(metric_id,"{metric}")')
        for metric in settings.event_metric_ids
    )


def plan_of(
    stream: Stream, order: Order, known: Known, *, settings: Settings, now: datetime
) -> Plan:
    """Return what to read of a collection stream.

    Raises:
        SettingError: the order makes no sense for this stream.
        ConfigError: the lake's mark cannot be read.
    """
    refuse_nonsense(stream, order)
    slices = slices_of(stream, settings)
    start = None if stream.ignores_start else settings.start
    if stream.is_swept or order.mode.is_full:
        windows = tuple((each, Window(None if stream.is_swept else start)) for each in slices)
        progress = Progress(start, {}, tuple(each.name for each in slices))
        return Plan(windows=windows, progress=progress, replaces=True, moves_mark=True, notes=())
    progress, notes = _progress_before(stream, known, slices=slices, start=start, now=now)
    if order.again is not None or order.sweeps_ids:
        windows = tuple((each, order.again or Window()) for each in slices)
        return Plan(
            windows=windows, progress=progress, replaces=False, moves_mark=False, notes=notes
        )
    lookback = timedelta(days=settings.lookback_days if _looks_back(stream) else 0)
    progress.retries.begin(now, progress.active)
    windows = tuple(
        (each, window)
        for each in slices
        for window in _unread(
            progress.slices.get(each.name),
            start=start,
            lookback=lookback,
            again=progress.retries.of_slice(each.name),
        )
    )
    return Plan(windows=windows, progress=progress, replaces=False, moves_mark=True, notes=notes)


def refuse_nonsense(stream: Stream, order: Order) -> None:
    """Refuse an order that the stream cannot carry out.

    Raises:
        SettingError: `start`/`end` with a full refresh, for a stream without a filter, or reversed;
            a history of a view; a sweep with anything else, or of a stream without one.
    """
    if order.sweeps_ids:
        _refuse_sweep(stream, order)
    if order.mode.keeps_history and isinstance(stream.source, Join):
        raise SettingError(
            f"sync_mode {order.mode.value} keeps a history, and this stream stores nothing of its "
            f"own: it shows {stream.source.left}, so keep a history of that",
            stream=stream.name,
        )
    if order.confirms_shrink and not (stream.is_swept or order.mode.is_full or order.sweeps_ids):
        raise SettingError(
            "confirm_shrink: this sync neither drops nor marks a row; give it with sync_mode: "
            "full_refresh_overwrite, or with the option that was refused",
            stream=stream.name,
        )
    if order.again is None:
        return
    if order.mode.is_full:
        raise SettingError(
            "start/end read one window again, a full refresh reads everything: give one of the two",
            stream=stream.name,
        )
    if stream.cursor is None or not isinstance(stream.source, Collection):
        raise SettingError(
            "start/end make no sense here: Klaviyo cannot filter this stream by time",
            stream=stream.name,
        )
    if order.again.is_empty:
        raise SettingError("start must lie before end (end is exclusive)", stream=stream.name)


def _refuse_sweep(stream: Stream, order: Order) -> None:
    if stream.ids_by is None:
        raise SettingError("sweep_ids: the ids of this stream are not swept", stream=stream.name)
    if order.again is not None or order.mode is not SyncMode.INCREMENTAL_DEDUPED:
        raise SettingError(
            "sweep_ids reads which ids there still are and no record: give it alone, without "
            "start, end or another sync_mode",
            stream=stream.name,
        )


def _looks_back(stream: Stream) -> bool:
    return stream.cursor is not None and stream.cursor.has_lookback


def _unread(
    known: SliceProgress | None,
    *,
    start: datetime | None,
    lookback: timedelta,
    again: tuple[Window, ...],
) -> tuple[Window, ...]:
    """Return what is left of `[start, ∞)`, and the lookback window before the mark once more.

    As well as the one before the end of all that was read, where that lies beyond a gap, and the
    windows `again`, which held records that could not be stored.

                start        mark - lookback      mark
    ──────────────┼────────────────┼────────────────┼──────────▶ UTC
    read before ──[═════════════════════════════════)
    to read ───────────────────────[════════════════╪══════════▶

    A slice without a record has no mark to look back from, and is asked for as a whole: an empty
    answer takes one request all the same, and it brings what comes late, or is imported.
    """
    progress = known or SliceProgress()
    if progress.highest is None:
        return (Window(start),)
    coverage = progress.coverage
    # What a killed run read beyond a gap ends later than the mark; late events lie there as well.
    ends = (progress.mark(start), *(own.end for own in coverage.windows[-1:]))
    back = [Window(end - lookback, end) for end in ends if end is not None]
    for window in (*back, *again):
        coverage = coverage.without(window)
    return coverage.gaps(Window(start))


def _progress_before(
    stream: Stream,
    known: Known,
    *,
    slices: tuple[Slice, ...],
    start: datetime | None,
    now: datetime,
) -> tuple[Progress, tuple[str, ...]]:
    names = tuple(each.name for each in slices)
    if known.lake_state is None:
        lost = known.metadata_mark is not None
        note = (
            f"asset metadata says {known.metadata_mark}, but the lake holds no {stream.name}: "
            "reading from the beginning"
        )
        return Progress(start, {}, names), ((note,) if lost else ())
    stored = slices_from_json(known.lake_state)
    before = _with_all_metrics(stored, names)
    lake_mark = mark_from_json(known.lake_state)
    progress = Progress(start, before, names, former=lake_mark, shown=known.metadata_mark)
    progress.retries = retries_from_json(known.lake_state.get(RETRIES))
    # What of all metrics could not be stored may be one of each that is read alone from now on.
    progress.retries.share(WHOLE.name, (each for each in names if each not in stored))
    notes = _reconciled(progress, behind=mark_from_json(known.lake_state, "behind"))
    if any(each.highest and each.highest > now + CURSOR_IN_FUTURE for each in before.values()):
        notes.append(f"cursor in the future: going on from {now.isoformat()} instead")
        progress.former = None
        for name, each in progress.slices.items():
            progress.slices[name] = each.lowered_to(now)
    return progress, tuple(notes)


def _reconciled(progress: Progress, *, behind: datetime | None) -> list[str]:
    """Forget what only one of the two marks says was read; return what is to be said of it.

    `behind` is what asset metadata shows where a run was killed right after a commit.
    """
    lake_mark, shown = progress.former, progress.shown
    if lake_mark is None or shown == lake_mark:
        return []
    if shown is None:
        note = (
            f"no mark in asset metadata: going on from the lake's, {lake_mark.isoformat()} "
            "(to read everything again, use sync_mode: full_refresh_overwrite)"
        )
        return [note]
    if shown == behind:
        note = (
            f"asset metadata is one commit behind, as a kill leaves it ({shown}): going on from "
            f"the lake's mark, {lake_mark.isoformat()}"
        )
        return [note]
    for name, each in progress.slices.items():
        agreed = each.coverage.without(Window(shown, max(shown, lake_mark)))
        progress.slices[name] = replace(each, coverage=agreed)
    return [f"marks differ: asset metadata {shown}, lake {lake_mark}; the lower counts"]


def _with_all_metrics(
    before: dict[str, SliceProgress], names: tuple[str, ...]
) -> dict[str, SliceProgress]:
    """Return the progress where what was read of all metrics counts for each single one."""
    everything = before.get(WHOLE.name)
    if everything is None:
        return before
    united = dict(before)
    for name in names:
        own = before.get(name, SliceProgress())
        united[name] = SliceProgress(
            own.coverage.union(everything.coverage),
            max(filter(None, (own.highest, everything.highest)), default=None),
        )
    return united
