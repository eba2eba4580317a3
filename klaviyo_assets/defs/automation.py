"""What jobs, schedules and sensors share, and how the last runs of assets ended.

Assets are selected by a tag and not by key, so that selections still hold where a user has renamed
assets. A schedule or sensor is on by its switch in the UI, or, while nobody used that, by the
setting KLAVIYO_AUTOMATION.
"""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.scheduler.instigation import InstigatorStatus
from dagster._core.storage.event_log.base import AssetRecord

from klaviyo_assets.defs.metadata import STREAM_TAG, asset_key
from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.selection import all_automations, default_automations
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.settings import AUTOMATION_RECOMMENDED, Settings
from klaviyo_assets.streams import STREAMS

_ASSET_NAME_PATTERN = re.compile(r"(?<![\w/])klaviyo/([a-z_]+)\b")
"""How messages of rooms that do not know Dagster name an asset: by its default key."""


def select_assets(*streams: str) -> dg.AssetSelection:
    """Return the assets of streams, whatever their keys, with their checks."""
    selection = dg.AssetSelection.tag(STREAM_TAG, streams[0])
    for stream in streams[1:]:
        selection |= dg.AssetSelection.tag(STREAM_TAG, stream)
    return selection


class ChecksByName(dg.AssetSelection):
    """Selects the checks of our assets that have one of the given names, and no asset."""

    def __init__(self, *names: str) -> None:
        self._names = frozenset(names)

    def resolve_inner(
        self,
        asset_graph: BaseAssetGraph[Any],  # noqa: ARG002 - the signature is Dagster's
        allow_missing: bool,  # noqa: ARG002, FBT001 - the signature is Dagster's
    ) -> AbstractSet[dg.AssetKey]:
        """Return no asset."""
        return set()

    def resolve_checks_inner(
        self,
        asset_graph: BaseAssetGraph[Any],
        allow_missing: bool,  # noqa: ARG002, FBT001 - the signature is Dagster's
    ) -> AbstractSet[dg.AssetCheckKey]:
        """Return the checks of those names in a code location."""
        our_assets = {node.key for node in asset_graph.asset_nodes if STREAM_TAG in node.tags}
        return {
            key
            for key in asset_graph.asset_check_keys
            if key.asset_key in our_assets and key.name in self._names
        }


def replace_asset_names(context: dg.AssetExecutionContext, text: str) -> str:
    """Return the text with each asset's default key replaced by the key that it has here.

    An asset that is not part of the run's job is left with its default key.
    """
    if not any(each.group(1) in STREAMS for each in _ASSET_NAME_PATTERN.finditer(text)):
        return text
    nodes = context.job_def.asset_layer.asset_graph.asset_nodes
    keys = {node.tags[STREAM_TAG]: node.key for node in nodes if STREAM_TAG in node.tags}

    def replace_name(match: re.Match[str]) -> str:
        key = keys.get(match.group(1))
        return match.group() if key is None else key.to_user_string()

    return _ASSET_NAME_PATTERN.sub(replace_name, text)


def find_asset_key(
    context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext, stream: str
) -> dg.AssetKey:
    """Return the key that a stream's asset has in the code location of a tick.

    A test may evaluate the tick without a code location; then it is the default key.
    """
    try:
        repository = context.repository_def
    except dg.DagsterInvariantViolationError:
        repository = None
    if repository is None:
        return asset_key(stream)
    (key,) = select_assets(stream).resolve(repository.asset_graph)
    return key


def default_schedule_status(settings: Settings) -> dg.DefaultScheduleStatus:
    """Return whether the schedules behind the README's promises run from the start."""
    is_on = settings.automation == AUTOMATION_RECOMMENDED
    return dg.DefaultScheduleStatus.RUNNING if is_on else dg.DefaultScheduleStatus.STOPPED


def default_sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Return whether the sensors behind the README's promises run from the start."""
    is_on = settings.automation == AUTOMATION_RECOMMENDED
    return dg.DefaultSensorStatus.RUNNING if is_on else dg.DefaultSensorStatus.STOPPED


def is_switched_on(
    instance: dg.DagsterInstance, name: str, settings: Settings, *, run: dg.DagsterRun | None = None
) -> bool:
    """Return whether a schedule or sensor is on now.

    Its switch in the UI decides if somebody has used it, otherwise the setting does. Two code
    locations may each have one of that name; with a `run`, only that of the run's location counts.
    """
    switched = _read_switches(instance, run).get(name)
    return settings.automation == AUTOMATION_RECOMMENDED if switched is None else switched


def find_switched_on(settings: Settings) -> set[str]:
    """Return the names of the schedules and sensors that are on in the current DAGSTER_HOME.

    Raises:
        SettingError: DAGSTER_HOME is not set, or cannot be read.
    """
    try:
        with dg.DagsterInstance.get() as instance:
            switches = _read_switches(instance, None)
    except dg.DagsterError as error:
        raise SettingError(f"the switches in DAGSTER_HOME cannot be read: {error}") from error
    defaults = default_automations(settings)
    return {each for each in all_automations() if switches.get(each, each in defaults)}


def _read_switches(instance: dg.DagsterInstance, run: dg.DagsterRun | None) -> dict[str, bool]:
    """Return whether each schedule and sensor is on that somebody has switched in the UI.

    Nothing where Dagster has no storage for it. With a `run`, only those of its code location.
    """
    if instance.schedule_storage is None:
        return {}
    origin = run.remote_job_origin if run is not None else None
    selector = origin.repository_origin.get_selector_id() if origin is not None else None
    switches: dict[str, bool] = {}
    for each in instance.all_instigator_state(repository_selector_id=selector):
        if each.status is not InstigatorStatus.DECLARED_IN_CODE:
            is_on = each.status is InstigatorStatus.RUNNING
            switches[each.name] = switches.get(each.name, False) or is_on
    return switches


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetHistory:
    """When an asset was last materialized, UTC, and how its last run ended.

    `outcome`: `ok`, `failed`, `canceled`, `running`, `skipped`, or "" where there was no run.
    `missing_scope`: for want of what it was skipped, where that was a scope.
    """

    materialized_at: datetime | None = None
    outcome: str = ""
    missing_scope: str = ""


_OUTCOMES = {
    dg.DagsterRunStatus.SUCCESS: "ok",
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "canceled",
}


def read_asset_histories(streams: Iterable[Stream]) -> Mapping[str, AssetHistory]:
    """Return the history of each stream's asset in the current DAGSTER_HOME, by stream.

    Assets that a user gave another key are not found.

    Raises:
        SettingError: DAGSTER_HOME is not set, or cannot be read.
    """
    names = {asset_key(each.name): each.name for each in streams}
    try:
        with dg.DagsterInstance.get() as instance:
            records = instance.get_asset_records(list(names))
            return {
                names[each.asset_entry.asset_key]: _read_history(instance, each) for each in records
            }
    except dg.DagsterError as error:
        raise SettingError(f"the history in DAGSTER_HOME cannot be read: {error}") from error


def _read_history(instance: dg.DagsterInstance, record: AssetRecord) -> AssetHistory:
    entry = record.asset_entry
    stored = entry.last_materialization_record
    run_id = entry.last_run_id
    run = instance.get_run_by_id(run_id) if run_id is not None else None
    observed = instance.fetch_observations(entry.asset_key, limit=1).records
    is_skipped, scope = False, ""
    if observed and (stored is None or observed[0].storage_id > stored.storage_id):
        is_skipped, scope = _read_skip(observed[0])
    outcome = _OUTCOMES.get(run.status, "running") if run is not None else ""
    return AssetHistory(
        materialized_at=datetime.fromtimestamp(stored.timestamp, UTC) if stored else None,
        outcome="skipped" if is_skipped and outcome == "ok" else outcome,
        missing_scope=scope,
    )


def _read_skip(record: dg.EventLogRecord) -> tuple[bool, str]:
    """Return whether an observation says that the asset was skipped, and the scope it lacked."""
    event = record.asset_observation
    if event is None or "klaviyo/skipped" not in event.metadata:
        return False, ""
    scope = event.metadata.get("klaviyo/missing_scope")
    return True, scope.value if isinstance(scope, dg.TextMetadataValue) and scope.value else ""
