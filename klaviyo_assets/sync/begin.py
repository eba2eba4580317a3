"""Putting one sync together: what to read, with which client, into which table.

What belongs here: choosing between windows and a fan-out, and the JSON state that each commit
carries. What does not: carrying it out (`pull`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from types import MappingProxyType
from typing import cast

from klaviyo_assets.api.client import Answer, Client
from klaviyo_assets.api.protocol import Request
from klaviyo_assets.errors import (
    CorruptFileError,
    MissingTableError,
    RequestError,
    ServerError,
    SettingError,
)
from klaviyo_assets.lake import HISTORY, Lake, TableState, set_aside, table_of
from klaviyo_assets.model.settings import Settings
from klaviyo_assets.model.stream import WHOLE, Collection, Detail, Slice, Stream
from klaviyo_assets.model.window import instant
from klaviyo_assets.sync.details import FanOut, worth_asking
from klaviyo_assets.sync.memory import give_large_blocks_back
from klaviyo_assets.sync.pace import Pace
from klaviyo_assets.sync.plan import Known, Order, Plan, plan_of, refuse_nonsense
from klaviyo_assets.sync.pool import Pool
from klaviyo_assets.sync.progress import Progress, progress_to_json
from klaviyo_assets.sync.pull import Manner, Pull
from klaviyo_assets.sync.walk import Ask, PageReader, Walk
from klaviyo_assets.tables.decode import Page, PageDecoder
from klaviyo_assets.tables.schema import PARENT_VERSION, SYNCED_AT, arrow_schema

_MOST_WORKERS = 16
"""As many as a client is safe for: they keep the largest tier busy at 270 ms a page."""

_ASKING_SINCE = "asking_since"
_NOTHING: Mapping[str, datetime | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Everything a sync works with."""

    client: Client
    lake: Lake
    settings: Settings
    account: str
    clock: Callable[[], datetime]
    say: Callable[[str], None]
    """Takes a sentence for the operator: what was unexpected and what is done about it."""


def begin(stream: Stream, order: Order, metadata_mark: datetime | None, *, desk: Desk) -> Pull:
    """Return the sync, its first answer already there; nothing has been written.

    Raises:
        KlaviyoAssetsError: the order makes no sense, the lake cannot be read, Klaviyo refuses.
    """
    desk.lake.prepare(desk.account)
    give_large_blocks_back()
    before = _before(stream, order, desk=desk)
    known = Known(
        metadata_mark=metadata_mark,
        lake_state=before.state if before else None,
        version=before.version if before else None,
    )
    if isinstance(stream.source, Detail):
        pull = _fan_out(stream, order, known, desk=desk)
    else:
        plan = plan_of(stream, order, known, settings=desk.settings, now=desk.clock())
        for note in plan.notes:
            desk.say(note)
        pull = _windows(stream, order, plan, desk=desk, version=known.version)
    try:
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
    ask = _ask(stream, PageDecoder(stream), desk=desk)
    walks = [Walk(ask, slice_, window) for slice_, window in plan.windows]
    client = desk.client
    burst = stream.tier.burst if stream.tier is not None else 1
    is_splittable = stream.cursor is not None
    workers = min(_MOST_WORKERS, burst, _MOST_WORKERS if is_splittable else len(walks))
    return Pull(
        table=table_of(stream, arrow_schema(stream)),
        items=Pool(walks, workers=workers, pace=Pace(lambda: client.counters.throttled_seconds)),
        manner=Manner(
            account=desk.account,
            replaces=plan.replaces,
            keeps_history=order.mode.keeps_history,
            moves_mark=plan.moves_mark,
            started_at=desk.clock(),
            version=version,
            hang_up=client.stop,
        ),
        progress=plan.progress,
        state=progress_to_json,
    )


def _ask(stream: Stream, decoder: PageDecoder, *, desk: Desk) -> Ask:
    return Ask(
        stream=stream,
        base_url=desk.settings.base_url,
        left_out=desk.settings.left_out,
        read=page_reader(stream, decoder, desk=desk),
    )


def page_reader(stream: Stream, decoder: PageDecoder, *, desk: Desk) -> PageReader:
    """Return what sends a request and decodes its page, with Klaviyo's clock at the answer.

    One page is decoded at a time: threads do not speed it up, but each would hold a page thrice.
    """
    turn = Lock()

    def read(request: Request, slice_: Slice) -> tuple[Page, datetime]:
        def decode(answer: Answer) -> tuple[Page, datetime]:
            now = answer.server_time or desk.clock()
            with turn:
                return decoder.decode(answer.body, synced_at=now, slice_=slice_), now

        try:
            return desk.client.read(request, decode, stream=stream.name)
        except RequestError as error:
            if slice_.name not in desk.settings.event_metric_ids:
                raise
            raise SettingError(
                f"KLAVIYO_EVENT_METRIC_IDS names {slice_.name!r}, and Klaviyo's filter of events "
                f"does not take it (ids of custom metrics are not taken). {error.message}",
                stream=stream.name,
            ) from error
        except ServerError as error:
            error.message += _way_round(stream, desk.settings)
            raise

    return read


def _way_round(stream: Stream, settings: Settings) -> str:
    """Return what an operator can do when Klaviyo fails again and again; empty: only wait.

    Of the fields that come only on request, some make Klaviyo's answers slow enough to fail.
    """
    extras = stream.source.additional_fields if isinstance(stream.source, Collection) else ()
    return "".join(
        f" Asking for {each.name} may be too much: KLAVIYO_DISABLE_{each.name.upper()}=true leaves "
        "it out, and the rest is read."
        for each in extras
        if each.optional and each.name not in settings.left_out
    )


def _fan_out(stream: Stream, order: Order, known: Known, *, desk: Desk) -> Pull:
    refuse_nonsense(stream, order)
    source = cast("Detail", stream.source)
    now = desk.clock()
    state = known.lake_state or {}
    # None: the last sync asked for all there was, so everything is asked for again. Only what a
    # killed one left is measured by the clock, which may differ from Klaviyo's.
    since = instant(cast("str | None", state.get(_ASKING_SINCE)))
    stored = _stored(stream, source, desk.lake) if not order.mode.is_full else _NOTHING
    decoder = PageDecoder(stream)
    ask = _ask(stream, decoder, desk=desk)
    wanted = worth_asking(_parents(source, desk.lake), stored, since=since)
    return Pull(
        table=table_of(stream, arrow_schema(stream)),
        items=FanOut(ask, wanted, decoder=decoder, asked_at=now),
        manner=Manner(
            account=desk.account,
            replaces=order.mode.is_full,
            keeps_history=order.mode.keeps_history,
            moves_mark=True,
            started_at=now,
            version=known.version,
            hang_up=desk.client.stop,
        ),
        progress=Progress(None, {}, (WHOLE.name,)),
        state=lambda progress: {
            "cursor": None,
            _ASKING_SINCE: None if WHOLE.name in progress.finished else (since or now).isoformat(),
        },
    )


def _parents(source: Detail, lake: Lake) -> Mapping[str, datetime | None]:
    if lake.state(source.parent) is None:
        raise MissingTableError(
            f"the table {source.parent} was never read; materialize klaviyo/{source.parent} first"
        )
    if source.version is not None:
        return _moments(lake, source.parent, source.version)
    rows = lake.keys(source.parent, ["id"])
    return dict.fromkeys(cast("list[str]", rows["id"].to_pylist()))


def _stored(stream: Stream, source: Detail, lake: Lake) -> Mapping[str, datetime | None]:
    if lake.state(stream.name) is None:
        return {}
    return _moments(lake, stream.name, SYNCED_AT if source.version is None else PARENT_VERSION)


def _moments(lake: Lake, table: str, column: str) -> Mapping[str, datetime | None]:
    rows = lake.keys(table, ["id", column])
    ids = cast("list[str]", rows["id"].to_pylist())
    return dict(zip(ids, cast("list[datetime | None]", rows[column].to_pylist()), strict=True))
