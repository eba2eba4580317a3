"""Assets: one per stream, made from the stream's declaration.

What belongs here: what an asset looks like and how its body begins. What does not: draining it
(`io_manager`), what the stream is (`streams`).
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import dagster as dg

from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.checks import (
    Looked,
    freshness_of,
    not_checked,
    results,
    specs_of,
)
from klaviyo_assets.defs.config import config_schema, given_config, order_of
from klaviyo_assets.defs.cursors import CURSOR, remembered
from klaviyo_assets.defs.failures import as_failures
from klaviyo_assets.defs.lateness import unread_late_events
from klaviyo_assets.defs.metadata import asset_key, asset_tags, definition_metadata, sync_metadata
from klaviyo_assets.defs.resources import Connection, KlaviyoResource, LakeResource
from klaviyo_assets.defs.same_lake import refuse_other_lake
from klaviyo_assets.defs.selections import with_own_keys
from klaviyo_assets.defs.syncing import Syncing
from klaviyo_assets.errors import (
    CorruptFileError,
    LakeError,
    MissingScopeError,
    MissingTableError,
    RefusedStreamError,
)
from klaviyo_assets.lake import Lake, stored_columns
from klaviyo_assets.model.stream import Detail, Join, Stream
from klaviyo_assets.redaction import Redaction
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync.begin import begin
from klaviyo_assets.sync.desk import Desk
from klaviyo_assets.sync.plan import Order, refuse_nonsense
from klaviyo_assets.wording import quantity

OWNERS = ("team:klaviyo",)
KINDS = {"klaviyo", "deltalake", "duckdb"}

RETRY = dg.RetryPolicy(
    max_retries=1, delay=60, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
"""One more try of what passes by itself; the client has tried six times by then."""


Afterwards = Callable[[dg.AssetExecutionContext, KlaviyoResource, LakeResource], None]
"""What a run does once its table is stored."""


def asset_of(stream: Stream, *, afterwards: Afterwards | None = None) -> dg.AssetsDefinition:
    """Return the asset of a stream: a view for a join, a sync for everything else."""
    if isinstance(stream.source, Join):
        return _joined(stream)
    return _synced(stream, afterwards)


def parents_of(stream: Stream) -> tuple[str, ...]:
    """Return the streams that this one is made of."""
    match stream.source:
        case Join(left=left, right=right):
            return (left, right)
        case Detail(parent=parent):
            return (parent,)
        case _:
            return ()


def group_of(stream: Stream) -> str:
    """Return the asset group: the section of Klaviyo's API reference."""
    return stream.section.lower().replace(" ", "_")


def _synced(stream: Stream, afterwards: Afterwards | None) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(stream.name),
        description=stream.about,
        group_name=group_of(stream),
        kinds=KINDS,
        owners=OWNERS,
        tags=asset_tags(stream),
        metadata=definition_metadata(stream),
        deps=[asset_key(parent) for parent in parents_of(stream)],
        io_manager_key="lake_io_manager",
        retry_policy=RETRY,
        output_required=False,
        check_specs=specs_of(stream),
        freshness_policy=freshness_of(stream),
        config_schema=config_schema(stream),
    )
    def synced(
        context: dg.AssetExecutionContext,
        klaviyo: KlaviyoResource,
        lake: LakeResource,
    ) -> Iterator[dg.Output[Syncing] | dg.AssetCheckResult]:
        context.log.addFilter(Redaction())
        syncing = _begun(context, stream, klaviyo=klaviyo, lake=lake)
        try:
            yield from _told(stream, syncing, lake=lake)
        finally:
            # Also of a step that ends before the IO manager has the sync.
            if syncing is not None:
                syncing.close()
        if afterwards is not None and syncing is not None:
            afterwards(context, klaviyo, lake)

    return synced


def _begun(
    context: dg.AssetExecutionContext,
    stream: Stream,
    *,
    klaviyo: KlaviyoResource,
    lake: LakeResource,
) -> Syncing | None:
    """Return the sync, its first answer there; None where the key may not read the stream."""
    try:
        with as_failures(stream.name, may_skip=True, worded=partial(with_own_keys, context)):
            return _begin(context, stream, klaviyo=klaviyo, lake=lake)
    except RefusedStreamError as error:
        skip(context, stream, error, lake=lake)
        return None


def _begin(
    context: dg.AssetExecutionContext,
    stream: Stream,
    *,
    klaviyo: KlaviyoResource,
    lake: LakeResource,
) -> Syncing:
    order = _order(context, stream)
    store = lake.lake()
    connection = klaviyo.connect(say=context.log.warning, lake=store)
    try:
        return _syncing(context, stream, order, connection=connection, store=store)
    except BaseException:
        connection.close()
        raise


def _syncing(
    context: dg.AssetExecutionContext,
    stream: Stream,
    order: Order,
    *,
    connection: Connection,
    store: Lake,
) -> Syncing:

    def say(text: str) -> None:
        context.log.warning("%s", with_own_keys(context, text))

    desk = Desk(
        client=connection.client,
        lake=store,
        settings=connection.settings,
        account=connection.account,
        clock=utc_now,
        say=say,
        salt=connection.salt,
    )
    before = remembered(context.instance, context.asset_key)
    history = None if order.mode.is_full else before.lake
    lake = refuse_other_lake(context.asset_key, stream, before=history, lake=store)
    late_events = unread_late_events(context, stream, connection.settings)
    if late_events is not None:
        say(late_events)
    return Syncing(
        stream=stream,
        asset_key=context.asset_key,
        order=order,
        pull=begin(stream, order, before.mark, desk=desk),
        connection=connection,
        log=context.log.info,
        observe=context.log_event,
        lake=str(lake),
        rows_before=before.rows,
        late_events=late_events,
    )


def _order(context: dg.AssetExecutionContext, stream: Stream) -> Order:
    """Return what the run config orders.

    Raises:
        SettingError: the stream cannot carry it out.
    """
    order = order_of(stream, given_config(context))
    refuse_nonsense(stream, order)
    return order


def _told(
    stream: Stream, syncing: Syncing | None, *, lake: LakeResource
) -> Iterator[dg.Output[Syncing] | dg.AssetCheckResult]:
    """Yield the sync, which is drained before anything more is asked of this, then its checks."""
    if syncing is None:
        yield from not_checked(stream)
        return
    yield dg.Output(syncing)
    yield from results(stream, _looked(syncing, lake))


def _looked(syncing: Syncing, lake: LakeResource) -> Looked:
    """Return what the checks look at, right after the stream was materialized."""
    stream, tally = syncing.stream, syncing.pull.tally
    with as_failures(stream.name):
        return Looked(
            now=utc_now(),
            rows=tally.rows_total,
            rows_before=syncing.rows_before,
            is_confirmed=syncing.order.confirms_shrink,
            mark=syncing.mark,
            columns=stored_columns(lake.lake().root, stream.name),
            notices=sorted(tally.notices),
        )


def skip(
    context: dg.AssetExecutionContext,
    stream: Stream,
    error: RefusedStreamError,
    *,
    lake: LakeResource,
) -> None:
    """Say why the stream is not read; nothing is materialized, the run stays green.

    What is stored stays as it is and grows old, which its freshness shows: that is said as well.
    What depends on it in the same run, checks that read whole tables included, Dagster skips, and
    says so. It could be kept from that only by an output, which is a materialization that never
    was.
    """
    if isinstance(error, MissingScopeError):
        scope = " and ".join(error.scopes or stream.scopes)
        why, shown = f"the key lacks the scope {scope}", {"klaviyo/missing_scope": scope}
        advice = "Make a key with it (scopes of an existing key cannot be changed)"
    else:
        why, shown = "the account's plan does not have it", dict[str, str]()
        advice = "Upgrade the plan"
    words = f' Klaviyo says: "{error.detail}"' if error.detail else ""
    stored = _rows_stored(lake, stream)
    stays = f" Its {quantity(stored, 'row')} stay as they are and grow old." if stored else ""
    context.log.warning(
        "%s is skipped: %s.%s%s %s, or leave the asset out.",
        stream.name,
        why,
        words,
        stays,
        advice,
    )
    context.log_event(
        dg.AssetObservation(
            context.asset_key,
            description=f"Skipped: {why}.{words}{stays}",
            metadata={
                "klaviyo/skipped": True,
                **shown,
                "klaviyo/refusal": error.detail or error.message,
                **({"klaviyo/rows_not_updated": stored} if stored else {}),
            },
        )
    )


def _rows_stored(lake: LakeResource, stream: Stream) -> int:
    """Return the rows that a stream's table has; none where it cannot be read."""
    with suppress(LakeError):
        state = lake.lake().state(stream.name)
        return state.rows if state is not None else 0
    return 0


def _joined(stream: Stream) -> dg.AssetsDefinition:
    parents = parents_of(stream)

    @dg.asset(
        key=asset_key(stream.name),
        description=stream.about,
        group_name=group_of(stream),
        kinds={"duckdb"},
        owners=OWNERS,
        tags=asset_tags(stream),
        metadata=definition_metadata(stream),
        deps=[asset_key(parent) for parent in parents],
        io_manager_key="lake_io_manager",
        freshness_policy=freshness_of(stream),
        config_schema=config_schema(stream),
    )
    def joined(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[Any]:
        with as_failures(stream.name, worded=partial(with_own_keys, context)):
            return _view(context, stream, _order(context, stream), lake=lake)

    return joined


def _view(
    context: dg.AssetExecutionContext, stream: Stream, order: Order, *, lake: LakeResource
) -> dg.MaterializeResult[Any]:
    store = lake.lake()
    states = {parent: store.state(parent) for parent in parents_of(stream)}
    for parent, state in states.items():
        if state is None:
            raise MissingTableError(
                f"the table {parent} was never read; materialize klaviyo/{parent} first (the key "
                f"needs {' and '.join(STREAMS[parent].scopes)})"
            )
    if stream.name in lake.publish(store, say=context.log.warning):
        raise CorruptFileError(
            f"it is made of {' and '.join(states)}, and one of them cannot be read; "
            "klaviyo-assets verify names the file and the way out"
        )
    left = next(state for state in states.values() if state is not None)
    counted = ("records_read", "rows_written", "requests", "retries", "throttled_seconds")
    numbers: dict[str, int | float] = dict.fromkeys(counted, 0)
    shown = sync_metadata(
        stream, mode=order.mode.value, mark=None, numbers=numbers, row_count=left.rows
    )
    if isinstance(mark := left.state.get("cursor"), str):
        shown |= {CURSOR: mark, "klaviyo/cursor_field": "datetime"}
    rows = quantity(left.rows, "row")
    context.log.info("%s: %s, as its tables have them", stream.name, rows)
    return dg.MaterializeResult(metadata=shown)
