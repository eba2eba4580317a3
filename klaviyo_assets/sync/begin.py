"""Putting one sync together: what to read, with which client, into which table.

What belongs here: choosing between windows and a fan-out, and the JSON state that each commit
carries. What does not: carrying it out (`pull`).
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.api.client import CONNECTIONS
from klaviyo_assets.api.ledger import Ledger
from klaviyo_assets.errors import (
    CorruptFileError,
    MissingTableError,
)
from klaviyo_assets.lake import (
    HISTORY,
    Lake,
    Table,
    TableState,
    load,
    set_aside,
    table_of,
    values_of,
)
from klaviyo_assets.model.stream import WHOLE, Detail, Stream
from klaviyo_assets.model.window import Window, instant
from klaviyo_assets.sync.desk import Desk, ask_of
from klaviyo_assets.sync.details import FanOut, worth_asking
from klaviyo_assets.sync.manner import Manner
from klaviyo_assets.sync.memory import tune_process
from klaviyo_assets.sync.pace import Pace
from klaviyo_assets.sync.plan import Known, Order, Plan, plan_of, refuse_nonsense
from klaviyo_assets.sync.pool import Pool
from klaviyo_assets.sync.progress import Progress, progress_to_json
from klaviyo_assets.sync.protection import guard_of
from klaviyo_assets.sync.pull import Items, Pull
from klaviyo_assets.sync.rounds import Rounds
from klaviyo_assets.sync.sweep import ids_of
from klaviyo_assets.sync.walk import Ask, Walk
from klaviyo_assets.tables.decode import PageDecoder
from klaviyo_assets.tables.schema import DELETED_AT, PARENT_VERSION, SYNCED_AT, arrow_schema
from klaviyo_assets.tables.values import nulls

_ASKING_SINCE = "asking_since"
_NOTHING: Mapping[str, datetime | None] = MappingProxyType({})


def begin(stream: Stream, order: Order, metadata_mark: datetime | None, *, desk: Desk) -> Pull:
    """Return the sync, its first answer already there; nothing has been written.

    Raises:
        KlaviyoAssetsError: the order makes no sense, the lake cannot be read, Klaviyo refuses.
    """
    desk.lake.prepare(desk.account)
    if desk.settings.tune_process:
        tune_process()
    before = _before(stream, order, desk=desk)
    known = Known(
        metadata_mark=metadata_mark,
        lake_state=before.state if before else None,
        version=before.version if before else None,
    )
    if order.sweeps_ids and before is None:
        raise MissingTableError(
            f"the table {stream.name} was never read, so nothing of it can be gone; materialize "
            f"klaviyo/{stream.name} first"
        )
    if isinstance(stream.source, Detail):
        pull = _fan_out(stream, order, known, desk=desk)
    else:
        plan = plan_of(stream, order, known, settings=desk.settings, now=desk.clock())
        for note in plan.notes:
            desk.say(note)
        pull = _windows(stream, order, plan, desk=desk, version=known.version)
    try:
        load()
        pull.prime()
    except BaseException:
        pull.close()
        raise
    return pull


def _before(stream: Stream, order: Order, *, desk: Desk) -> TableState | None:
    """Return the table's state; what a full refresh cannot read is no reason for it to fail.

    It needs nothing of what is there, so a table or history of it that cannot be read is set aside.
    """
    if not order.mode.is_full:
        return desk.lake.state(stream.name)
    if order.mode.keeps_history:
        _mended(stream.name + HISTORY, desk=desk)
    return _mended(stream.name, desk=desk)


def _mended(table: str, *, desk: Desk) -> TableState | None:
    """Return a table's state; a table that cannot be read is set aside, and said to be."""
    try:
        return desk.lake.state(table)
    except CorruptFileError:
        place = set_aside(desk.lake.root, table, now=desk.clock())
        desk.say(
            f"the table {table} could not be read and was set aside: {place} holds all its files; "
            "reading from the beginning"
        )
        return None


def _windows(stream: Stream, order: Order, plan: Plan, *, desk: Desk, version: int | None) -> Pull:
    guard = guard_of(stream, desk, replaces=plan.replaces)
    if order.sweeps_ids:
        ids = ids_of(stream)
        only = tuple(column.name for column in ids.columns)
        ask = ask_of(ids, PageDecoder(ids, privacy=guard.privacy), desk=desk, fields=only)
    else:
        ask = ask_of(stream, guard.decoder, desk=desk, fields=guard.fields)
    return Pull(
        table=table_of(stream, arrow_schema(stream)),
        read=lambda: _rounds(ask, plan, desk=desk, is_first=version is None),
        manner=Manner(
            account=desk.account,
            replaces=plan.replaces,
            sweeps=order.sweeps_ids,
            marks_deleted=stream.marks_deleted and (plan.replaces or order.sweeps_ids),
            since=plan.progress.start,
            hidden=guard.hidden,
            keeps_history=order.mode.keeps_history,
            moves_mark=plan.moves_mark,
            started_at=desk.clock(),
            version=version,
            shrink_limit=desk.settings.shrink_limit,
            confirms_shrink=order.confirms_shrink,
            tunes_process=desk.settings.tune_process,
            say=desk.say,
            hang_up=desk.client.stop,
        ),
        progress=plan.progress,
        state=lambda progress: {**progress_to_json(progress), **guard.claims},
    )


def _rounds(ask: Ask, plan: Plan, *, desk: Desk, is_first: bool) -> Items:
    """Return the readers of the plan's windows, started.

    Where rows that they do not bring are to be marked as deleted, a second round follows.
    """
    stream, client = ask.stream, desk.client
    walks = [Walk(ask, slice_, window) for slice_, window in plan.windows]
    burst = stream.tier.burst if stream.tier is not None else 1
    is_splittable = stream.cursor is not None and stream.comes_in_order
    workers = min(CONNECTIONS, burst, CONNECTIONS if is_splittable else len(walks))
    pace = Pace(
        lambda: client.counters.throttled_seconds,
        requests_a_second=_requests_a_second(ask, client.ledger),
    )
    pool = Pool(walks, workers=workers, pace=pace)
    if is_first or not (plan.replaces and is_splittable and stream.marks_deleted):
        return pool

    def again(since: datetime) -> Pool:
        later = Window(max(filter(None, (since, plan.progress.start))), None)
        return Pool([Walk(ask, slice_, later) for slice_, _ in plan.windows], workers=1)

    return Rounds(pool, again)


def _requests_a_second(ask: Ask, ledger: Ledger) -> float:
    """Return how many requests the limits let through at their fastest."""
    budgets = ask.stream.budgets(without=ask.left_out)
    bursts = [ledger.limits(budget)[0] for budget in budgets]
    return min((burst.requests / burst.seconds for burst in bursts), default=inf)


def _fan_out(stream: Stream, order: Order, known: Known, *, desk: Desk) -> Pull:
    refuse_nonsense(stream, order)
    source = cast("Detail", stream.source)
    now = desk.clock()
    # None: the last sync asked for all there was, so everything is asked for again. Only what a
    # killed one left is measured by the clock, which may differ from Klaviyo's.
    since = instant(cast("str | None", (known.lake_state or {}).get(_ASKING_SINCE)))
    stored = _stored(stream, source, desk.lake) if not order.mode.is_full else _NOTHING
    guard = guard_of(stream, desk, replaces=order.mode.is_full)
    ask = ask_of(stream, guard.decoder, desk=desk)
    wanted = worth_asking(_parents(source, desk.lake), stored, since=since)
    table = table_of(stream, arrow_schema(stream))
    is_replaced = order.mode.is_full and known.version is not None
    rows = partial(_rows_of, table, lake=desk.lake, hidden=guard.hidden) if is_replaced else None
    read = partial(FanOut, ask, wanted, decoder=guard.decoder, asked_at=now, stored=rows)
    return Pull(
        table=table,
        read=lambda: read(has_answered=bool(stored)),
        manner=Manner(
            account=desk.account,
            replaces=order.mode.is_full,
            keeps_history=order.mode.keeps_history,
            moves_mark=True,
            started_at=now,
            version=known.version,
            shrink_limit=desk.settings.shrink_limit,
            confirms_shrink=order.confirms_shrink,
            tunes_process=desk.settings.tune_process,
            say=desk.say,
            hang_up=desk.client.stop,
        ),
        progress=Progress(None, {}, (WHOLE.name,)),
        state=lambda progress: {
            "cursor": None,
            _ASKING_SINCE: None if WHOLE.name in progress.finished else (since or now).isoformat(),
            **guard.claims,
        },
    )


def _rows_of(
    table: Table, ids: Collection[str], *, lake: Lake, hidden: frozenset[str]
) -> pa.RecordBatch | None:
    """Return the stored rows of some ids, NULL in the columns that a setting of privacy hides.

    None where there are none, or where they cannot be read: a replacement mends a damaged table.
    """
    try:
        stored = lake.keys(table.name, table.schema.names)
    except CorruptFileError:
        return None
    rows = stored.filter(pc.is_in(stored["id"], value_set=pa.array(sorted(ids), pa.string())))
    if not rows.num_rows:
        return None
    columns: list[Any] = [
        nulls(rows.num_rows, kind) if name in hidden else rows[name].cast(kind).combine_chunks()
        for name, kind in zip(table.schema.names, table.schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def _parents(source: Detail, lake: Lake) -> Mapping[str, datetime | None]:
    """Return the parents that still exist, each with its version where it has one."""
    if lake.state(source.parent) is None:
        raise MissingTableError(
            f"the table {source.parent} was never read; materialize klaviyo/{source.parent} first"
        )
    version = source.version
    rows = lake.keys(source.parent, ["id", DELETED_AT, *([] if version is None else [version])])
    rows = rows.filter(pc.is_null(rows[DELETED_AT]))
    ids = cast("list[str]", rows["id"].to_pylist())
    if version is None:
        return dict.fromkeys(ids)
    return dict(zip(ids, values_of(rows[version]), strict=True))


def _stored(stream: Stream, source: Detail, lake: Lake) -> Mapping[str, datetime | None]:
    if lake.state(stream.name) is None:
        return {}
    return _moments(lake, stream.name, SYNCED_AT if source.version is None else PARENT_VERSION)


def _moments(lake: Lake, table: str, column: str) -> Mapping[str, datetime | None]:
    rows = lake.keys(table, ["id", column])
    ids = cast("list[str]", rows["id"].to_pylist())
    return dict(zip(ids, values_of(rows[column]), strict=True))
