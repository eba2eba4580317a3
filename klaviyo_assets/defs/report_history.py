"""What Dagster remembers of report partitions: who fetched them, and who else is about to.

What belongs here: reading the instance. What does not: what follows from it (`report_assets`,
`report_sensors`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime

import dagster as dg

from klaviyo_assets.defs.partitions import cell_of, key_of
from klaviyo_assets.model.report import Cell
from klaviyo_assets.model.window import instant

FETCHED_AT = "klaviyo/fetched_at"
BACKFILL = "dagster/backfill"


def delivered_at(
    instance: dg.DagsterInstance, key: dg.AssetKey, cells: Collection[Cell], *, run_id: str
) -> Mapping[Cell, datetime]:
    """Return for each cell when the run that delivered it last got its answer, UTC.

    A run that failed or was killed does not count as having delivered: who launches it again goes
    on with the answers that it paid for. Nor does the run itself, which a retry begins anew.
    """
    records = latest_materializations(instance, key, cells)
    runs = {record.run_id for record in records.values()} - {run_id}
    found = instance.get_runs(dg.RunsFilter(run_ids=list(runs))) if runs else ()
    well = {run.run_id for run in found if run.status is dg.DagsterRunStatus.SUCCESS}
    delivered: dict[Cell, datetime] = {}
    for cell, record in records.items():
        at = _fetched_at(record)
        if record.run_id in well and at is not None:
            delivered[cell] = at
    return delivered


def latest_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, cells: Collection[Cell]
) -> Mapping[Cell, dg.EventLogRecord]:
    """Return the last materialization of each cell that has one."""
    if not cells:
        return {}
    latest = instance.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, {key_of(cell) for cell in cells}
    )
    if not latest:
        return {}
    wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=list(latest.values()))
    records = instance.fetch_materializations(wanted, limit=len(latest)).records
    return {
        cell_of(record.partition_key): record
        for record in records
        if record.partition_key is not None
    }


@dataclass(frozen=True, slots=True)
class Siblings:
    """Cells of a backfill: all of them, and those that none of its runs has materialized yet."""

    cells: frozenset[Cell] = frozenset()
    pending: frozenset[Cell] = frozenset()


def siblings(instance: dg.DagsterInstance, key: dg.AssetKey, tags: Mapping[str, str]) -> Siblings:
    """Return the cells of the backfill that a run belongs to; none where it belongs to none."""
    backfill_id = tags.get(BACKFILL)
    backfill = instance.get_backfill(backfill_id) if backfill_id is not None else None
    data = backfill.asset_backfill_data if backfill is not None else None
    if data is None or key not in data.target_subset.partitions_subsets_by_asset_key:
        return Siblings()
    cells, done = (
        frozenset(cell_of(each) for each in subset.get_partitions_subset(key).get_partition_keys())
        if key in subset.partitions_subsets_by_asset_key
        else frozenset[Cell]()
        for subset in (data.target_subset, data.materialized_subset)
    )
    return Siblings(cells, cells - done)


def _fetched_at(record: dg.EventLogRecord) -> datetime | None:
    shown = record.asset_materialization
    value = shown.metadata.get(FETCHED_AT) if shown is not None else None
    return instant(value.value) if value is not None and isinstance(value.value, str) else None


def days_of(cells: Collection[Cell], metric_id: str) -> frozenset[date]:
    """Return the days of one metric among cells."""
    return frozenset(cell.day for cell in cells if cell.metric_id == metric_id)
