"""What Dagster remembers of each asset: when it was last stored, and how its last run ended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy
from dagster._core.storage.event_log.base import AssetRecord

from klaviyo_assets.defs.checks import freshness_policy
from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.stream import Stream


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


def describe_freshness(stream: Stream, age_seconds: float) -> str:
    """Return `fresh`, `late` or `stale`, as the asset's freshness policy has it."""
    policy = freshness_policy(stream)
    if not isinstance(policy, TimeWindowFreshnessPolicy):
        return "fresh"
    if age_seconds > policy.fail_window.to_timedelta().total_seconds():
        return "stale"
    warn = policy.warn_window
    is_late = warn is not None and age_seconds > warn.to_timedelta().total_seconds()
    return "late" if is_late else "fresh"
