"""The verb `sync`: the assets of streams, materialized in this process without Dagster's log.

It is the same code as in Dagster's UI, with the same cursors, and its runs stand in the history of
DAGSTER_HOME where that is set.
"""

import logging
import os
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from uuid import uuid4

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from klaviyo_assets.api.request_guard import validate_api_key
from klaviyo_assets.cli.interrupts import call_on_interrupt
from klaviyo_assets.cli.printing import print_errors, print_json
from klaviyo_assets.cli.sync_progress import (
    StreamProgress,
    SyncWatcher,
    WatchedIOManager,
    WatchedKlaviyoResource,
    show_sync_progress,
)
from klaviyo_assets.defs.metadata import STREAM_TAG, asset_key
from klaviyo_assets.errors import SettingError, format_quantity, format_seconds
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import DEFAULT_GROUP, selected_streams, selection_errors
from klaviyo_assets.settings import KEY_VARIABLE, Settings
from klaviyo_assets.streams import COLLECTIONS, STREAMS

_SILENT_CONSOLE = {"console": {"config": {"log_level": "CRITICAL"}}}

_NO_OUTPUT_CAPTURE = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}
"""Dagster would send what is printed into files, our progress included."""


def sync(settings: Settings, *, streams: Sequence[str], full: bool, as_json: bool) -> int:
    """Materialize streams; return 0 if all are stored or skipped."""
    names = select_sync_streams(settings, streams)
    settings = replace(settings, streams=(*(settings.streams or (DEFAULT_GROUP,)), *names))
    for refused in selection_errors(settings, STREAMS):
        raise refused
    validate_api_key(os.environ.get(KEY_VARIABLE, ""))
    watcher = SyncWatcher()
    with (
        _silence_dagster(),
        _open_instance() as instance,
        show_sync_progress(watcher, is_quiet=as_json),
    ):
        is_success = _run(settings, names, watcher, instance, is_full=full)
    print_errors(f"warning: {each}" for each in watcher.warnings)
    done = list(watcher.streams.values())
    if as_json:
        print_json({"success": is_success, "streams": [_as_json(each) for each in done]})
    else:
        _print_summary(done)
    return 0 if is_success else 1


def select_sync_streams(settings: Settings, named: Sequence[str]) -> list[str]:
    """Return the streams to sync: those named, or every collection that is on.

    Raises:
        SettingError: a name is no stream, or that of a report.
    """
    if not named:
        selected = selected_streams(settings, STREAMS)
        return [each.name for each in COLLECTIONS if each.name in selected]
    for name in named:
        if name not in STREAMS:
            near = get_close_matches(name, STREAMS, n=3)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise SettingError(f"there is no stream {name!a}{hint}")
        if isinstance(STREAMS[name].source, ReportEndpoint):
            raise SettingError(
                f"{name} is a report: its days are fetched as partitions, by a backfill in the UI "
                "or by the sensor klaviyo_reports_drain"
            )
    return list(dict.fromkeys(named))


@contextmanager
def _open_instance() -> Generator[dg.DagsterInstance]:
    """Open the instance in DAGSTER_HOME; without one, an instance that keeps nothing.

    Raises:
        SettingError: it cannot be opened.
    """
    home = os.environ.get("DAGSTER_HOME")
    if home is None:
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance
        return
    try:
        opened = dg.DagsterInstance.from_ref(
            InstanceRef.from_dir(home, overrides=_NO_OUTPUT_CAPTURE)
        )
    except (dg.DagsterError, OSError) as error:
        raise SettingError(f"DAGSTER_HOME={home!a} cannot be opened: {error}") from None
    with opened as instance:
        yield instance


def _run(
    settings: Settings,
    names: Sequence[str],
    watcher: SyncWatcher,
    instance: dg.DagsterInstance,
    *,
    is_full: bool,
) -> bool:
    """Materialize streams; return whether the run succeeded.

    Raises:
        KeyboardInterrupt: it was cancelled; what was committed stays.
    """
    defs: dg.Definitions = import_module("klaviyo_assets.definitions").build_defs(settings)
    resources = dict(defs.resources or {})
    resources["klaviyo"] = WatchedKlaviyoResource(settings=settings, watcher=watcher)
    resources["lake_io_manager"] = WatchedIOManager(lake=resources["lake"], watcher=watcher)
    assets = [each for each in defs.assets or () if _stream_of_asset(each) in names]
    config: dict[str, object] = {"loggers": _SILENT_CONSOLE}
    if is_full:
        op_config = {"config": {"sync_mode": "full_refresh_overwrite"}}
        config["ops"] = {f"klaviyo__{name}": op_config for name in names}
    job = dg.Definitions(
        assets=assets, resources=resources, executor=dg.in_process_executor
    ).resolve_implicit_global_asset_job_def()
    run_id = str(uuid4())
    instance.add_event_listener(run_id, watcher.take_event)
    with call_on_interrupt(watcher.cancel), suppress(dg.DagsterExecutionInterruptedError):
        done = job.execute_in_process(
            instance=instance,
            asset_selection=[asset_key(name) for name in names],
            run_id=run_id,
            run_config=config,
            raise_on_error=False,
        )
        if not watcher.is_cancelled:
            return done.success
    raise KeyboardInterrupt


@contextmanager
def _silence_dagster() -> Generator[None]:
    """Drop what Dagster warns of its own features, and what the code location says as it loads.

    That is about settings, and was said by the command.
    """
    logger = logging.getLogger("klaviyo_assets.definitions")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            for category in (dg.BetaWarning, dg.PreviewWarning):
                warnings.simplefilter("ignore", category)
            # Dagster's own, where a resource is nested in another.
            warnings.filterwarnings("ignore", "InitResourceContext.dagster_run is deprecated")
            yield
    finally:
        logger.disabled = was_disabled


def _stream_of_asset(asset: object) -> str | None:
    if not isinstance(asset, dg.AssetsDefinition):
        return None
    return asset.tags_by_key[asset.key].get(STREAM_TAG)


def _as_json(one: StreamProgress) -> dict[str, object]:
    return {
        "stream": one.stream,
        "outcome": one.outcome,
        "detail": one.detail,
        "records": one.records,
        "rows": one.rows,
        "requests": one.requests,
        "seconds": round(one.seconds, 1),
        "waited_seconds": one.waited_seconds,
        "complete_up_to": one.complete_up_to,
    }


def _print_summary(done: Sequence[StreamProgress]) -> None:
    failed = [each for each in done if each.outcome == "failed"]
    skipped = [each for each in done if each.outcome in {"skipped", "not begun"}]
    for each in skipped:
        print(f"{each.stream}: {each.outcome}: {each.detail}")
    print_errors(each.detail for each in failed)
    stored = len(done) - len(failed) - len(skipped)
    records = format_quantity(sum(each.records for each in done), "record")
    requests = format_quantity(sum(each.requests for each in done), "request")
    seconds = sum(each.seconds for each in done)
    outcome = f"{format_quantity(stored, 'stream')} stored"
    outcome += f", {len(skipped)} skipped" * bool(skipped) + f", {len(failed)} failed" * bool(
        failed
    )
    print(f"{outcome}: {records} in {requests}, {format_seconds(seconds)}")
