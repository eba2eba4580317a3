"""Assets: one per collection, built from the stream's declaration, and the marketing overview.

The overview is a page made from what is stored, without a request to Klaviyo. It has a job of its
own: in the job of the collections Dagster would skip it as soon as one stream is skipped or fails,
and the page can do without any of them.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from klaviyo_assets.account.connection import open_rate_limiter
from klaviyo_assets.api.rate_limiter import read_daily_quota
from klaviyo_assets.dashboard.figures import RequestQuota
from klaviyo_assets.dashboard.page import PAGE_FILE, Overview, build_overview
from klaviyo_assets.dashboard.questions import QUESTIONS, OverviewReader
from klaviyo_assets.defs.automation import (
    default_schedule_status,
    is_switched_on,
    replace_asset_names,
)
from klaviyo_assets.defs.checks import (
    CheckInputs,
    evaluate_materialization_checks,
    freshness_policy,
    materialization_check_specs,
    warn_not_checked,
)
from klaviyo_assets.defs.health import MAX_STEP_RETRIES, build_step_end, raise_as_failures
from klaviyo_assets.defs.io_manager import SyncOutput
from klaviyo_assets.defs.metadata import (
    CURSOR_METADATA_KEY,
    asset_description,
    asset_key,
    asset_tags,
    check_same_lake,
    definition_metadata,
    read_last_metadata,
    sync_metadata,
)
from klaviyo_assets.defs.resources import (
    KlaviyoConnection,
    KlaviyoResource,
    LakeResource,
    log_waits,
    parse_run_config,
    read_op_config,
    run_config_schema,
)
from klaviyo_assets.errors import (
    CorruptFileError,
    KeyRedactingFilter,
    KlaviyoAssetsError,
    LakeError,
    MissingScopeError,
    MissingTableError,
    QueryError,
    RefusedStreamError,
    format_quantity,
)
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.selection import (
    LATE_EVENTS_SCHEDULE_NAME,
    OVERVIEW_SCHEDULE_NAME,
    asset_group,
    upstream_streams,
)
from klaviyo_assets.model.stream import Join, Stream, ViewSource, records_stream
from klaviyo_assets.seams import utc_now
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import DEFAULT_REPORTS, STREAMS
from klaviyo_assets.sync.context import SyncContext
from klaviyo_assets.sync.plan import SyncMode, SyncOptions, changes_shape, validate_options
from klaviyo_assets.sync.sync_run import start_sync

ASSET_OWNERS = ("team:klaviyo",)
ASSET_KINDS = {"deltalake"}
"""One, because the list of assets cuts names off where there are three; views are of `duckdb`."""

ASSET_RETRY_POLICY = dg.RetryPolicy(
    max_retries=MAX_STEP_RETRIES,
    delay=60,
    backoff=dg.Backoff.EXPONENTIAL,
    jitter=dg.Jitter.PLUS_MINUS,
)
"""Dagster's retry of a step, `delay` in seconds. The client has retried the request by then."""


PostSyncHook = Callable[[dg.AssetExecutionContext, KlaviyoResource, LakeResource], None]
"""What the asset's step does after its table was stored."""


@cache
def build_stream_asset(
    name: str, shape: str, *, post_sync_hook: PostSyncHook | None = None
) -> dg.AssetsDefinition:
    """Return the asset of a stream: a view, or a sync.

    It depends on no setting but the revision, and of that only on `shape`, the declaration that is
    valid at it. So several `build_defs` in one process share the asset.
    """
    stream = STREAMS[name].at_revision(shape)
    if isinstance(stream.source, ViewSource):
        return _build_view_asset(stream)
    return _build_sync_asset(stream, post_sync_hook)


def _build_sync_asset(stream: Stream, post_sync_hook: PostSyncHook | None) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(stream.name),
        description=asset_description(stream),
        group_name=asset_group(stream),
        kinds=ASSET_KINDS,
        owners=ASSET_OWNERS,
        tags=asset_tags(stream),
        metadata=definition_metadata(stream),
        deps=[asset_key(parent) for parent in upstream_streams(stream)],
        io_manager_key="lake_io_manager",
        retry_policy=ASSET_RETRY_POLICY,
        output_required=False,
        check_specs=materialization_check_specs(stream),
        freshness_policy=freshness_policy(stream),
        config_schema=run_config_schema(stream),
    )
    def sync_stream(
        context: dg.AssetExecutionContext,
        klaviyo: KlaviyoResource,
        lake: LakeResource,
    ) -> Iterator[dg.Output[SyncOutput] | dg.AssetCheckResult]:
        context.log.addFilter(KeyRedactingFilter())
        with build_step_end(context, stream, lake).recording_failures():
            sync_output = _start_or_skip(context, stream, klaviyo=klaviyo, lake=lake)
        if sync_output is None:
            yield from warn_not_checked(stream)
            return
        # The IO manager closes it too, but a step can end before the IO manager gets it.
        with closing(sync_output):
            # Dagster has the IO manager write the output before it asks for the checks.
            yield dg.Output(sync_output)
            inputs = _collect_check_inputs(sync_output, lake)
            yield from evaluate_materialization_checks(stream, inputs)
        if post_sync_hook is not None:
            post_sync_hook(context, klaviyo, lake)

    whole = records_stream(stream, STREAMS)
    return sync_stream if whole is None else draw_lineage(sync_stream, asset_key(whole))


def draw_lineage(asset: dg.AssetsDefinition, upstream: dg.AssetKey) -> dg.AssetsDefinition:
    """Return the asset, downstream of another one in the lineage but not in the order of steps.

    Dagster skips a step after one that failed. This asset has requests of its own, so a failure of
    the other one must not stop it.
    """
    (spec,) = asset.specs
    drawn = spec.replace_attributes(deps=[*spec.deps, upstream])
    attributes: dict[str, Any] = {**asset.get_attributes_dict(), "specs": [drawn]}
    # `map_asset_specs` would make an input of the step for the new dependency.
    return dg.AssetsDefinition.dagster_internal_init(**attributes)


def _start_or_skip(
    context: dg.AssetExecutionContext,
    stream: Stream,
    *,
    klaviyo: KlaviyoResource,
    lake: LakeResource,
) -> SyncOutput | None:
    """Return a sync that has its first response; None if the key may not read the stream."""
    try:
        with (
            raise_as_failures(
                stream.name, may_skip=True, rewrite_message=partial(replace_asset_names, context)
            ),
            ExitStack() as on_failure,
        ):
            options = _read_sync_options(context, stream)
            store = lake.lake()
            target = SyncTarget(stream=stream, key=context.asset_key, options=options)
            _sync_first(context, target, klaviyo=klaviyo, store=store)
            connection = klaviyo.connect(warn=context.log.warning, lake=store)
            on_failure.callback(connection.close)
            output = _start_sync(context, target, connection, store)
            on_failure.pop_all()
            return output
    except RefusedStreamError as error:
        report_skipped_stream(context, stream, error, lake=lake)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncTarget:
    """What a step syncs: a stream, with the asset that its materialization is of."""

    stream: Stream
    key: dg.AssetKey
    options: SyncOptions


def _sync_first(
    context: dg.AssetExecutionContext, target: SyncTarget, *, klaviyo: KlaviyoResource, store: Lake
) -> None:
    """Sync the streams that the target's relation is made from too, unless this run has done so.

    They are read in full where the target is. Each is materialized as if its own asset had run.

    Raises:
        KlaviyoAssetsError: as a sync says.
    """
    stream = target.stream
    if not stream.read_first:
        return
    revision = klaviyo.validate_settings().revision
    state = store.read_table_state(stream.name)
    has_other_shape = state is not None and changes_shape(stream, state.state)
    is_full = has_other_shape or target.options.mode.is_full_refresh
    mode = SyncMode.FULL_REFRESH_OVERWRITE if is_full else SyncMode.INCREMENTAL_DEDUPED
    keys = [each.asset_key for each in context.assets_def.get_asset_spec(target.key).deps]
    for name, key in zip(stream.read_first, keys, strict=True):
        known = store.read_table_state(name)
        event = context.instance.get_latest_materialization_event(key)
        is_done = event is not None and event.run_id == context.run.run_id
        # The first commit of a table has everything.
        if is_done and (not has_other_shape or (known is not None and known.version == 0)):
            continue
        first = SyncTarget(
            stream=STREAMS[name].at_revision(revision), key=key, options=SyncOptions(mode=mode)
        )
        connection = klaviyo.connect(warn=context.log.warning, lake=store)
        try:
            with connection, closing(_start_sync(context, first, connection, store)) as output:
                _write_at_once(context, output, store)
        except RefusedStreamError:
            raise
        except KlaviyoAssetsError as error:
            error.message = (
                f"{error.message.rstrip('.')}. {stream.name} shows what {name} says, so it was not "
                "read either, and stays as it was"
            )
            raise


def _write_at_once(context: dg.AssetExecutionContext, output: SyncOutput, store: Lake) -> None:
    """Run a sync to its end within the step of another asset, and materialize its own."""
    for receipt in output.sync_run.run(store):
        output.log_commit(receipt)
    for warning in output.warnings():
        context.log.warning("%s", warning)
    store.vacuum(output.stream.name)
    metadata = {**output.preview_metadata(), **output.metadata()}
    context.log_event(dg.AssetMaterialization(output.asset_key, metadata=metadata))


def _start_sync(
    context: dg.AssetExecutionContext,
    target: SyncTarget,
    connection: KlaviyoConnection,
    store: Lake,
) -> SyncOutput:
    stream, options = target.stream, target.options

    def warn(text: str) -> None:
        context.log.warning("%s", replace_asset_names(context, text))

    sync_context = SyncContext(
        client=connection.client,
        lake=store,
        settings=connection.settings,
        account=connection.account,
        clock=utc_now,
        warn=warn,
        salt=connection.salt,
    )
    log_waits(context.log.info, stream, connection.client)
    last = read_last_metadata(context.instance, target.key)
    # A full refresh starts from nothing, so it may begin in another lake.
    last_lake = None if options.mode.is_full_refresh else last.lake
    location = check_same_lake(target.key, stream, last_lake=last_lake, lake=store)
    late_events = _late_events_warning(context, stream, connection.settings)
    if late_events is not None:
        warn(late_events)
    return SyncOutput(
        stream=stream,
        asset_key=target.key,
        options=options,
        sync_run=start_sync(stream, options, last.cursor, context=sync_context),
        connection=connection,
        log=context.log.info,
        observe=context.log_event,
        lake_location=str(location),
        last=last,
        late_events_warning=late_events,
    )


def _late_events_warning(
    context: dg.AssetExecutionContext, stream: Stream, settings: Settings
) -> str | None:
    """Return a warning for a sync of events, which can come late, if nothing looks for late ones.

    Nothing does if there is no lookback, and the daily schedule is off or reads no day again.
    """
    can_come_late = stream.cursor is not None and stream.cursor.has_lookback
    if not can_come_late or settings.lookback_days:
        return None
    switched_on = is_switched_on(
        context.instance, LATE_EVENTS_SCHEDULE_NAME, settings, run=context.run
    )
    if switched_on and settings.late_events_days:
        return None
    return (
        "nothing looks for late events: an event that Klaviyo receives after a sync has passed its "
        f"time is never read. Switch on the schedule {LATE_EVENTS_SCHEDULE_NAME} with "
        "KLAVIYO_LATE_EVENTS_DAYS above 0 (KLAVIYO_AUTOMATION=recommended does), or set "
        "KLAVIYO_LOOKBACK_DAYS"
    )


def _read_sync_options(context: dg.AssetExecutionContext, stream: Stream) -> SyncOptions:
    """Return the options of the run config.

    Raises:
        SettingError: the stream does not support one of them, or a value cannot be used.
    """
    options = parse_run_config(stream, read_op_config(context))
    validate_options(stream, options)
    return options


def _collect_check_inputs(sync_output: SyncOutput, lake: LakeResource) -> CheckInputs:
    """Return what the checks look at, right after the stream was materialized."""
    stream, stats = sync_output.stream, sync_output.sync_run.stats
    with raise_as_failures(stream.name):
        return CheckInputs(
            now=utc_now(),
            rows=stats.rows_total,
            rows_before=sync_output.last.row_count,
            is_confirmed=sync_output.options.is_shrink_confirmed,
            high_water_mark=sync_output.high_water_mark,
            stored_columns=lake.lake().stored_columns(stream.name),
            notices=sorted(stats.notices),
        )


def report_skipped_stream(
    context: dg.AssetExecutionContext,
    stream: Stream,
    error: RefusedStreamError,
    *,
    lake: LakeResource,
) -> None:
    """Log and observe why the stream is skipped. Nothing is materialized, the run succeeds.

    Stored rows stay and grow old. The asset's freshness shows that, and the warning says it.
    Dagster skips what depends on the stream in the same run, checks of whole tables included. Only
    an output would prevent that, and an output would count as a materialization.
    """
    if isinstance(error, MissingScopeError):
        scope = " and ".join(error.scopes or stream.scopes)
        reason, missing = f"the key lacks the scope {scope}", {"klaviyo/missing_scope": scope}
        advice = "Make a key with it (scopes of an existing key cannot be changed)"
    else:
        reason, missing = "the account's plan does not have it", dict[str, str]()
        advice = "Upgrade the plan"
    quote = f' Klaviyo says: "{error.detail}"' if error.detail else ""
    rows = _stored_row_count(lake, stream)
    old_rows = f" Its {format_quantity(rows, 'row')} stay as they are and grow old." if rows else ""
    context.log.warning(
        "%s is skipped: %s.%s%s %s, or leave the asset out.",
        stream.name,
        reason,
        quote,
        old_rows,
        advice,
    )
    build_step_end(context, stream, lake).record_other("skipped", f"{reason}.{old_rows}")
    context.log_event(
        dg.AssetObservation(
            context.asset_key,
            description=f"Skipped: {reason}.{quote}{old_rows}",
            metadata={
                "klaviyo/skipped": True,
                **missing,
                "klaviyo/refusal": error.detail or error.message,
                **({"klaviyo/rows_not_updated": rows} if rows else {}),
            },
        )
    )


def _stored_row_count(lake: LakeResource, stream: Stream) -> int:
    """Return how many rows a stream's table has; 0 if it cannot be read."""
    with suppress(LakeError):
        state = lake.lake().read_table_state(stream.name)
        return state.rows if state is not None else 0
    return 0


def _build_view_asset(stream: Stream) -> dg.AssetsDefinition:
    parents = upstream_streams(stream)

    @dg.asset(
        key=asset_key(stream.name),
        description=asset_description(stream),
        group_name=asset_group(stream),
        kinds={"duckdb"},
        owners=ASSET_OWNERS,
        tags=asset_tags(stream),
        metadata=definition_metadata(stream),
        deps=[asset_key(parent) for parent in parents],
        io_manager_key="lake_io_manager",
        freshness_policy=freshness_policy(stream),
        config_schema=run_config_schema(stream),
    )
    def materialize_view(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> dg.MaterializeResult[Any]:
        # No retry: a view is made of what is stored, and the next run makes it again.
        step_end = replace(build_step_end(context, stream, lake), will_retry=False)
        with (
            step_end.recording_failures(),
            raise_as_failures(stream.name, rewrite_message=partial(replace_asset_names, context)),
        ):
            result = _materialize_view(
                context, stream, _read_sync_options(context, stream), lake=lake
            )
        step_end.record_success()
        return result

    return materialize_view


def _materialize_view(
    context: dg.AssetExecutionContext, stream: Stream, options: SyncOptions, *, lake: LakeResource
) -> dg.MaterializeResult[Any]:
    """Publish the view; return its metadata: its rows, and the cursor of a join's left table.

    Raises:
        MissingTableError: a table of the view was never stored.
        CorruptFileError: a table of the view cannot be read.
        QueryError: DuckDB refuses the view's SQL.
    """
    store = lake.lake()
    states = {parent: store.read_table_state(parent) for parent in upstream_streams(stream)}
    for parent, state in states.items():
        if state is None:
            raise MissingTableError(
                f"the table {parent} was never read; materialize klaviyo/{parent} first (the key "
                f"needs {' and '.join(STREAMS[parent].scopes)})"
            )
    problem = lake.publish(store, warn=context.log.warning).get(stream.name)
    if isinstance(problem, QueryError):
        raise problem
    if problem is not None:
        raise CorruptFileError(
            f"it is made of {' and '.join(states)}, and one of them cannot be read; "
            "klaviyo-assets verify names the file and the way out"
        )
    left = next(state for state in states.values() if state is not None)
    is_join = isinstance(stream.source, Join)
    row_count = left.rows if is_join else store.count_relation_rows(stream.name)
    counters = ("records_read", "rows_written", "requests", "retries", "throttled_seconds")
    metadata = sync_metadata(
        stream,
        mode=options.mode.value,
        cursor=None,
        numbers=dict.fromkeys(counters, 0),
        row_count=row_count,
    )
    if is_join and isinstance(cursor := left.state.get("cursor"), str):
        metadata |= {CURSOR_METADATA_KEY: cursor, "klaviyo/cursor_field": "datetime"}
    rows = format_quantity(row_count, "row")
    context.log.info("%s: %s, as its tables have them", stream.name, rows)
    return dg.MaterializeResult(metadata=metadata)


OVERVIEW_NAME = "marketing_overview"
OVERVIEW_JOB_NAME = "klaviyo_marketing_overview"
OVERVIEW_JOB_DESCRIPTION = "The page of pictures, from what is stored; no request is made."
_PAGE_TAG = "klaviyo/page"

OVERVIEW_MEMORY_LIMIT = "512MB"
"""What DuckDB may take for the queries; a million events need a fraction of it."""


def overview_streams() -> list[str]:
    """Return the names of the relations that the questions read, each once."""
    names = (name for each in QUESTIONS.values() for name in each.needs)
    return list(dict.fromkeys(["accounts", "metrics", "mapped_metrics", *names]))


@cache
def build_overview_asset(selected: frozenset[str]) -> dg.AssetsDefinition:
    """Return the asset of the page; it depends on those of its streams that are assets."""

    @dg.asset(
        key=asset_key(OVERVIEW_NAME),
        description="A page for people who know no SQL: revenue, campaigns, flows, lists, consent, "
        "deliverability, customers who come back, and quotas. One HTML file beside klaviyo.duckdb; "
        "it needs no network, and names no person.",
        group_name="reports",
        kinds={"html", "duckdb"},
        owners=ASSET_OWNERS,
        tags={_PAGE_TAG: OVERVIEW_NAME},
        deps=[asset_key(name) for name in overview_streams() if name in selected],
        freshness_policy=dg.FreshnessPolicy.time_window(
            warn_window=timedelta(hours=3), fail_window=timedelta(hours=26)
        ),
    )
    def write_marketing_overview(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> dg.MaterializeResult[Any]:
        with raise_as_failures(OVERVIEW_NAME):
            store = lake.lake()
            try:
                overview, path = write_overview(store, lake.settings)
            except MissingTableError:
                # Nothing was ever synced: the page then says what to switch on.
                store.ensure_writable()
                lake.publish(store, warn=context.log.warning)
                overview, path = write_overview(store, lake.settings)
            context.log.info("the page is %s", path)
            return dg.MaterializeResult(metadata=overview_metadata(overview, path))

    return write_marketing_overview


def write_overview(store: Lake, settings: Settings) -> tuple[Overview, Path]:
    """Write the page from the lake as it is published now; return it, and where it is.

    Raises:
        MissingTableError: nothing was published yet.
        StorageError: a file cannot be read or written.
    """
    connection = store.open_published_views(memory_limit=OVERVIEW_MEMORY_LIMIT)
    with closing(connection), store.map_query_errors():
        overview = build_overview(
            OverviewReader(connection), now=utc_now(), quotas=read_quotas(settings, store)
        )
    return overview, store.write_page(PAGE_FILE, overview.html)


def read_quotas(settings: Settings, lake: Lake) -> Sequence[RequestQuota]:
    """Return how many requests a day the reports have used; none where that is not known."""
    quotas: list[RequestQuota] = []
    with suppress(KlaviyoAssetsError):
        account = lake.stored_account()
        if account is None:
            return quotas
        with closing(open_rate_limiter(settings, account)) as limiter:
            for report in DEFAULT_REPORTS:
                quota = read_daily_quota(report, limiter)
                if quota is not None:
                    quotas.append(
                        RequestQuota(report=report.name, used=quota.used, limit=quota.limit)
                    )
    return quotas


def _escape_markdown(text: str) -> str:
    """Return a text, which may have a campaign's name in it, so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~])", r"\\\1", text)


def open_page_command(path: Path) -> str:
    """Return the command that opens the page, to copy: browsers refuse links from http to files."""
    return f"klaviyo-assets dashboard --open --data-dir {shlex.quote(str(path.parent))}"


def overview_metadata(overview: Overview, path: Path) -> dict[str, Any]:
    """Return the metadata of a materialization: where the page is, and its headline numbers."""
    rows = [
        f"| {each.label} | **{_escape_markdown(each.text)}** | {_escape_markdown(each.context)} |"
        for each in overview.headlines
    ]
    answers = [
        f"* {each.title} {_escape_markdown(each.answer)}"
        for each in overview.sections
        if each.answer
    ]
    summary = "\n".join(["| | | |", "|---|---|---|", *rows, "", *answers])
    return {
        "klaviyo/page": dg.MetadataValue.path(path),
        "klaviyo/open_page_with": open_page_command(path),
        "klaviyo/overview": dg.MetadataValue.md(summary),
        "klaviyo/period": f"{overview.scope.first_day} to {overview.scope.last_day}",
        "klaviyo/account_timezone": overview.scope.zone,
        "klaviyo/sections_without_data": sum(bool(each.missing) for each in overview.sections),
        **{
            f"klaviyo/{each.name}": round(each.value, 4)
            for each in overview.headlines
            if each.value is not None
        },
    }


def build_overview_job() -> UnresolvedAssetJobDefinition:
    """Return the job that writes the page."""
    return dg.define_asset_job(
        OVERVIEW_JOB_NAME,
        selection=dg.AssetSelection.tag(_PAGE_TAG, OVERVIEW_NAME),
        executor_def=dg.in_process_executor,
        description=OVERVIEW_JOB_DESCRIPTION,
    )


def build_overview_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule: half an hour after the hourly sync has begun."""
    return dg.ScheduleDefinition(
        name=OVERVIEW_SCHEDULE_NAME,
        job_name=OVERVIEW_JOB_NAME,
        cron_schedule="37 * * * *",
        default_status=default_schedule_status(settings),
        description=OVERVIEW_JOB_DESCRIPTION,
    )
