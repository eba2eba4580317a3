"""Partitions of reports: a conversion metric and a day in the account's zone.

What belongs here: the definitions, and from Dagster's keys to cells and back. What does not: which
metrics there are (`report_sensors`), what a run does with its partitions (`report_assets`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta

import dagster as dg

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.report import Cell, Days
from klaviyo_assets.settings import Settings

METRIC = "metric"
DATE = "date"
"""The two dimensions; Dagster puts them in the order of their names: `2026-10-01|AbC123`."""

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"

REQUESTS = "klaviyo/requests_at_most"
"""The tag of a run that may make so many requests, and ends well when they are made."""

ALONE = "klaviyo/alone"
"""The tag of a run whose answers serve nobody else: its time frames are as short as they can be."""

REPORT = "klaviyo/report"
"""The tag of runs that a sensor or schedule launches for a report: its name."""

PRIORITY = "dagster/priority"
"""Dagster's tag: of the runs in the queue the highest comes first; without it a run has 0."""

DRAIN = "klaviyo/drain"
"""The tag of the draining sensor's runs: the report they are for."""

FAILED_METRICS = "klaviyo/failed_metrics"
FAILED_SEPARATOR = "|"
"""The tag of a run that stored its partitions but for those of some metrics, and what stands
between these: what no key of a partition holds."""

SKIPPED = "klaviyo/skipped"
"""The tag of a report's run that was skipped, as the key may not read it: `true`."""

DRAIN_SENSOR = "klaviyo_reports_drain"
"""The draining sensor's name, as the UI shows it."""

UNFIT = re.compile(r"[|\x00-\x1f]|\.\.\.")
"""What Dagster takes in no key of one dimension of two: its two separators, control characters."""

METRICS = dg.DynamicPartitionsDefinition(name="klaviyo_conversion_metrics")
"""The account's metrics. Keys are added as they appear, and never taken away."""


AHEAD_OF_ALL = "Etc/GMT-14"
"""Fourteen hours ahead of UTC, as far as any zone; the sign is that of POSIX."""


def report_partitions(settings: Settings, zone: str | None) -> dg.MultiPartitionsDefinition:
    """Return metric x day, from the first report day on, up to the last day that is over.

    Without a zone, before the first sync, every day is there that is over anywhere on earth. The
    keys are local dates whatever the zone, so those who launch need not load the code again: a
    run refuses a day that is not over in the account's zone, in words.
    """
    days = dg.DailyPartitionsDefinition(
        start_date=settings.first_report_day.isoformat(), timezone=zone or AHEAD_OF_ALL
    )
    return dg.MultiPartitionsDefinition({METRIC: METRICS, DATE: days})


def key_of(cell: Cell) -> str:
    """Return the partition key of a cell."""
    return str(dg.MultiPartitionKey({METRIC: cell.metric_id, DATE: cell.day.isoformat()}))


def cell_of(key: str) -> Cell:
    """Return the cell of a partition key, as Dagster gives it to a run.

    Raises:
        ValueError: it is none of these partitions.
    """
    if isinstance(key, dg.MultiPartitionKey):
        parts = key.keys_by_dimension
        return Cell(parts[METRIC], date.fromisoformat(parts[DATE]))
    # The date stands first and holds no bar; a metric may hold anything.
    day, _, metric_id = key.partition("|")
    return Cell(metric_id, date.fromisoformat(day))


def by_metric(cells: Iterable[Cell]) -> Mapping[str, frozenset[date]]:
    """Return the days by metric, metrics in the order of their first cell."""
    days: dict[str, set[date]] = {}
    for cell in cells:
        days.setdefault(cell.metric_id, set()).add(cell.day)
    return {metric_id: frozenset(each) for metric_id, each in days.items()}


def range_tags(metric_ids: Sequence[str], days: Days) -> Mapping[str, str]:
    """Return the tags of a run over days of metrics that stand side by side, in their order."""
    return {
        RANGE_START: key_of(Cell(metric_ids[0], days.first)),
        RANGE_END: key_of(Cell(metric_ids[-1], days.last)),
    }


def report_run_tags(stream_name: str, *, priority: int) -> Mapping[str, str]:
    """Return the tags that keep runs of a report from holding up others.

    Runs of one report wait for the same two requests a minute: `deploy/dagster.yaml` lets one of
    them run at a time, and what has a higher priority is taken out of the queue before them.
    """
    return {REPORT: stream_name, ALONE: "true", PRIORITY: str(priority)}


def run_cells(context: dg.AssetExecutionContext) -> list[Cell]:
    """Return the cells that a run is for; any rectangle, in one run.

    Raises:
        SettingError: Dagster would cut the launch down in silence.
    """
    tags = context.run.tags
    start, end = tags.get(RANGE_START), tags.get(RANGE_END)
    is_of_a_job = any(tag.startswith("dagster/partition/") for tag in tags)
    if start is not None and start != end and is_of_a_job:
        # Seen with 1.13.27: one of the range's partitions would run, and all would count as done.
        raise SettingError(
            "This backfill was launched from a job's page, and Dagster would fetch one of its "
            "partitions and call it done (dagster#28861). Launch it from the asset's page."
        )
    if start is not None and end is not None:
        return range_cells(start, end, context.instance.get_dynamic_partitions(METRICS.name or ""))
    if not context.has_partition_key:
        raise SettingError("A report is fetched for partitions: choose metrics and days.")
    return [cell_of(key) for key in context.partition_keys]


def range_cells(start: str, end: str, metrics: Sequence[str]) -> list[Cell]:
    """Return the cells of the rectangle between two keys, day by day; metrics in their order.

    Not by the partitions definition: who launched the run may have loaded another one, from before
    the account's zone was known, and a day more in it is no reason to fetch none.

    Raises:
        SettingError: there is none, or a metric is no partition.
    """
    first, last = cell_of(start), cell_of(end)
    places = {metric_id: place for place, metric_id in enumerate(metrics)}
    unknown = [each for each in (first.metric_id, last.metric_id) if each not in places]
    if unknown:
        raise SettingError(f"The metric {unknown[0]} of the range is no partition any more.")
    between = metrics[places[first.metric_id] : places[last.metric_id] + 1]
    days = range((last.day - first.day).days + 1)
    cells = [Cell(each, first.day + timedelta(days=day)) for day in days for each in between]
    if not cells:
        raise SettingError(
            f"The range from {start} to {end} holds no partition: are its ends, or its metrics, "
            "the wrong way round? Metrics stand in the order in which they were added."
        )
    return cells
