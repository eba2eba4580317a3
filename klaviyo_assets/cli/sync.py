"""The verb `sync`: the assets of streams, materialized in this process without Dagster's log.

It is the same code as in Dagster's UI, with the same cursors, and its runs stand in the history of
DAGSTER_HOME where that is set. Dagster's events say which stream begins and how it ended; the
numbers in between are those of the running sync and of its client.
"""

import logging
import os
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from klaviyo_assets.api.messages import validate_api_key
from klaviyo_assets.cli.tables import PROGRESS_LINE_SECONDS, STYLES, build_console
from klaviyo_assets.cli.terminal import (
    call_before_forced_end,
    call_on_interrupt,
    print_errors,
    print_json,
)
from klaviyo_assets.defs.io_manager import LakeIOManager, SyncOutput
from klaviyo_assets.defs.metadata import STREAM_TAG, asset_key
from klaviyo_assets.defs.resources import KlaviyoConnection, KlaviyoResource
from klaviyo_assets.errors import SettingError, format_quantity, format_seconds
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import DEFAULT_GROUP, selected_streams, selection_errors
from klaviyo_assets.settings import KEY_VARIABLE, Settings
from klaviyo_assets.streams import COLLECTIONS, REPORTS, STREAMS

REFRESHES_PER_SECOND = 4


@dataclass(slots=True, kw_only=True)
class StreamProgress:
    """How far a stream is. `outcome`: `` while it runs, then ok, failed, skipped, not begun."""

    stream: str
    began_at: float
    """Monotonic seconds, as `ended_at`."""
    ended_at: float | None = None
    outcome: str = ""
    detail: str = ""
    records: int = 0
    rows: int | None = None
    requests: int = 0
    waited_seconds: float = 0.0
    waits_until: datetime | None = None
    complete_up_to: str | None = None

    @property
    def seconds(self) -> float:
        """Return how long it has taken so far."""
        return (self.ended_at or monotonic()) - self.began_at

    def describe(self) -> str:
        """Return the numbers as a part of a line."""
        if self.outcome in {"skipped", "not begun"}:
            return format_seconds(self.seconds)
        if self.rows and not self.records and not self.requests:
            rows = format_quantity(self.rows, "row")
            return f"{rows}, made from stored tables, {format_seconds(self.seconds)}"
        rate = self.records / self.seconds if self.seconds else 0
        parts = [
            format_quantity(self.records, "record"),
            f"{rate:,.0f}/s",
            format_quantity(self.requests, "request"),
            format_seconds(self.seconds),
        ]
        if self.waited_seconds >= 1:
            parts.append(f"{format_seconds(self.waited_seconds)} of it waiting for the rate limit")
        if self.waits_until is not None:
            parts.append(f"waits until {self.waits_until:%H:%M:%S}")
        if self.complete_up_to is not None:
            moment = datetime.fromisoformat(self.complete_up_to).astimezone(UTC)
            parts.append(f"complete up to {moment:%Y-%m-%d %H:%M:%S} UTC")
        return ", ".join(parts)

    def take_metadata(self, metadata: Mapping[str, dg.MetadataValue[Any]]) -> None:
        """Take the numbers of a materialization."""
        values: dict[str, object] = {name: each.value for name, each in metadata.items()}

        def read_number(name: str) -> float:
            value = values.get(name)
            return value if isinstance(value, int | float) else 0

        self.records = int(read_number("klaviyo/records_read"))
        self.requests = int(read_number("klaviyo/requests"))
        self.rows = int(read_number("dagster/row_count"))
        self.waited_seconds = float(read_number("klaviyo/throttled_seconds"))
        cursor = values.get("klaviyo/cursor")
        self.complete_up_to = cursor if isinstance(cursor, str) else None


@dataclass(slots=True)
class SyncWatcher:
    """Collects the progress of each stream of a run, from Dagster's events and from two resources.

    Streams run one after another, so the newest connection and output are those of the one that
    runs.
    """

    streams: dict[str, StreamProgress] = field(default_factory=dict[str, StreamProgress])
    warnings: list[str] = field(default_factory=list[str])
    running: StreamProgress | None = None
    connection: KlaviyoConnection | None = None
    output: SyncOutput | None = None
    is_cancelled: bool = False

    def cancel(self) -> None:
        """End the waits and requests of the stream that runs, also those of other threads."""
        self.is_cancelled = True
        if self.connection is not None:
            self.connection.client.cancel()

    def take_event(self, entry: dg.EventLogEntry) -> None:
        """Take an entry of the run's log."""
        event = entry.dagster_event
        if event is None:
            if int(entry.level) >= logging.WARNING and entry.step_key is not None:
                self.warnings.append(entry.user_message)
            return
        if event.is_run_failure and not self.streams:
            self.warnings.append(entry.user_message)
        name = str(event.step_key).removeprefix("klaviyo__")
        if event.is_step_start or event.is_step_restarted or event.is_step_skipped:
            self._begin(name)
        if name in self.streams:
            self._take_stream_event(self.streams[name], event)

    def _take_stream_event(self, one: StreamProgress, event: dg.DagsterEvent) -> None:
        if event.is_step_materialization:
            one.take_metadata(event.step_materialization_data.materialization.metadata)
        elif event.is_asset_observation:
            observed = event.asset_observation_data.asset_observation
            if "klaviyo/skipped" in observed.metadata:
                reason = (observed.description or "").removeprefix("Skipped: ")
                one.outcome, one.detail = "skipped", reason
        elif event.is_step_up_for_retry:
            one.detail = "failed, and is tried once more"
        elif event.is_step_failure:
            self._end(one, "failed", read_failure_text(event))
        elif event.is_step_skipped:
            self._end(one, "not begun", "a stream that it is made from was not stored")
        elif event.is_step_success:
            is_skipped = one.outcome == "skipped"
            self._end(one, "skipped" if is_skipped else "ok", one.detail if is_skipped else "")

    def _begin(self, name: str) -> None:
        self.connection, self.output = None, None
        self.running = StreamProgress(stream=name, began_at=monotonic())
        self.streams[name] = self.running

    def _end(self, one: StreamProgress, outcome: str, detail: str) -> None:
        one.outcome, one.detail = outcome, detail
        one.ended_at, one.waits_until, self.running = monotonic(), None, None

    def refresh(self) -> None:
        """Take the numbers of the stream that runs."""
        one, connection, output = self.running, self.connection, self.output
        if one is None or connection is None:
            return
        stats = connection.client.stats
        one.requests, one.waited_seconds = stats.requests, stats.throttled_seconds
        ahead = connection.client.stats_collector.throttled_until - monotonic()
        one.waits_until = (
            datetime.now().astimezone() + timedelta(seconds=ahead) if ahead > 0 else None
        )
        if output is not None:
            one.records = output.sync_run.stats.records_read
            mark = output.high_water_mark
            one.complete_up_to = mark.isoformat() if mark is not None else None


def read_failure_text(event: dg.DagsterEvent) -> str:
    """Return the sentence of a failure, or the first line of an error that is none of ours."""
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return failure.user_failure_data.description
    return failure.error_display_string.strip().partition("\n")[0]


class WatchedKlaviyoResource(KlaviyoResource):
    """The connection to Klaviyo, which the watcher may look at."""

    watcher: dg.ResourceDependency[SyncWatcher]

    def connect(
        self, *, warn: Callable[[str], None], lake: Lake | None = None
    ) -> KlaviyoConnection:
        """Return a connection, and hand it to the watcher."""
        connection = super().connect(warn=warn, lake=lake)
        self.watcher.connection = connection
        if self.watcher.is_cancelled:
            connection.client.cancel()
        return connection


class WatchedIOManager(LakeIOManager):
    """The IO manager, whose sync the watcher may look at."""

    watcher: dg.ResourceDependency[SyncWatcher]

    def handle_output(self, context: dg.OutputContext, obj: SyncOutput) -> None:
        """Hand the sync to the watcher, and run it."""
        self.watcher.output = obj
        super().handle_output(context, obj)


@contextmanager
def show_sync_progress(watcher: SyncWatcher, *, is_quiet: bool) -> Generator[None]:
    """Show the progress on standard error until the block ends."""
    if is_quiet:
        yield
        return
    console = build_console(is_error=True)
    if console.is_terminal:
        with Live(
            get_renderable=lambda: _draw(watcher),
            console=console,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield
        return
    done = Event()
    thread = Thread(target=_print_lines, args=(watcher, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _draw(watcher: SyncWatcher) -> Table:
    watcher.refresh()
    table = Table.grid(padding=(0, 2))
    for one in list(watcher.streams.values()):
        state = Text(one.outcome, STYLES.get(one.outcome, "")) if one.outcome else _SPINNER
        table.add_row(Text(one.stream), state, Text(f"{one.describe()} {one.detail}".rstrip()))
    return table


_SPINNER = Spinner("dots")


def _print_lines(watcher: SyncWatcher, done: Event) -> None:
    """Print a line when a stream ends, and now and then one for the stream that runs."""
    console, told, printed_at = build_console(is_error=True), set[str](), monotonic()
    while True:
        is_done = done.wait(1 / REFRESHES_PER_SECOND)
        watcher.refresh()
        for one in list(watcher.streams.values()):
            is_due = monotonic() - printed_at >= PROGRESS_LINE_SECONDS
            if (one.outcome and one.ended_at and one.stream not in told) or (
                is_due and one is watcher.running
            ):
                if one.ended_at:
                    told.add(one.stream)
                state = one.outcome or "so far"
                console.print(f"{one.stream:<24} {state:<9} {one.describe()}")
                printed_at = monotonic()
        if is_done:
            return


_SILENT_CONSOLE = {"console": {"config": {"log_level": "CRITICAL"}}}

_NO_OUTPUT_CAPTURE = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}
"""Dagster would send what is printed into files, our progress included."""


HOW_REPORTS_ARE_FETCHED = (
    "Reports are not part of a sync: their days are partitions, fetched by a backfill in Dagster's "
    "UI or by the sensor klaviyo_reports_drain, which KLAVIYO_AUTOMATION=recommended turns on; "
    "`klaviyo-assets plan --start DAY --end DAY` says what they cost"
)


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
    # What is wrong with the clock or a setting is said of each stream.
    print_errors(f"warning: {each}" for each in dict.fromkeys(watcher.warnings))
    done = list(watcher.streams.values())
    if as_json:
        print_json({"success": is_success, "streams": [_as_json(each) for each in done]})
    else:
        _print_summary(done)
        selected = selected_streams(settings, STREAMS)
        if not streams and any(each.name in selected for each in REPORTS):
            print(HOW_REPORTS_ARE_FETCHED)
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
            raise SettingError(f"{name} is a report. {HOW_REPORTS_ARE_FETCHED}")
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
    if not Path(home).is_dir():
        raise SettingError(f"DAGSTER_HOME={home!a} is no folder: make it, or unset the variable")
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
    with (
        call_on_interrupt(watcher.cancel),
        call_before_forced_end(partial(_report_cancelled, instance, run_id)),
        suppress(dg.DagsterExecutionInterruptedError),
    ):
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


def _report_cancelled(instance: dg.DagsterInstance, run_id: str) -> None:
    """Tell Dagster of a run whose process is about to be ended: it would go on as running."""
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_canceled(run)


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
