"""Days of two time zones in one report: which they are, since when, and the way out.

What belongs here: what a report's state says of the zones that its days were counted in. What does
not: which zone counts now (`account_zone`). An account's zone can be changed at Klaviyo: what is
fetched from then on has other days than what was fetched before, under the same dates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import cast
from zoneinfo import ZoneInfo

from klaviyo_assets.lake import CellFacts, Lake
from klaviyo_assets.model.report import Cell
from klaviyo_assets.model.window import instant
from klaviyo_assets.sync.reports.account_zone import is_same_zone
from klaviyo_assets.sync.reports.desk import Calendar
from klaviyo_assets.wording import quantity

ZONES = "zones"
"""The key of a report table's state that holds which zone counted, from which fetch on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneEra:
    """A zone that days were counted in, and the first fetch that did (UTC; None: all before)."""

    zone: str
    since: datetime | None


def eras_of(state: Mapping[str, object]) -> list[ZoneEra]:
    """Return the zones of a report table's state in order; none where it was written before."""
    written = cast("Sequence[tuple[str, str | None]]", state.get(ZONES, ()))
    return [ZoneEra(zone=zone, since=instant(since)) for zone, since in written]


def eras_to_json(state: Mapping[str, object], calendar: Calendar) -> list[list[str | None]]:
    """Return what the state says once a fetch by this calendar is stored."""
    eras = eras_of(state)
    if not eras:
        # What is there was written before zones were noted: it is taken for this one's.
        eras = [ZoneEra(zone=calendar.zone.key, since=None)]
    elif not _is_now(eras[-1], calendar):
        eras.append(ZoneEra(zone=calendar.zone.key, since=calendar.now.replace(microsecond=0)))
    return [[each.zone, each.since.isoformat() if each.since else None] for each in eras]


def days_of_another_zone(lake: Lake, report: str, calendar: Calendar) -> str | None:
    """Return a sentence that names the partitions whose days are another zone's; None: none are.

    Raises:
        LakeError: the lake cannot be read.
    """
    state = lake.state(report)
    eras = eras_of(state.state) if state is not None else []
    if not eras or (len(eras) == 1 and _is_now(eras[0], calendar)):
        return None
    cells = {
        cell: era
        for cell, facts in lake.cell_facts(report).items()
        if not _is_now(era := _era_at(eras, facts), calendar)
    }
    if not cells:
        return None
    zones = sorted({era.zone for era in cells.values()})
    return (
        f"{report}: the account's time zone was {' and '.join(zones)} and is {calendar.zone.key} "
        f"now. {quantity(len(cells), 'partition')} stored before have the days of the former zone: "
        f"{_named(cells)}. Launch a backfill of them to have all days in one zone"
    )


def _named(cells: Mapping[Cell, ZoneEra]) -> str:
    """Return partitions by metric, each with its first and its last day."""
    days: dict[str, list[date]] = {}
    for cell in cells:
        days.setdefault(cell.metric_id, []).append(cell.day)
    return "; ".join(
        f"{min(each)} to {max(each)} of metric {metric_id}"
        for metric_id, each in sorted(days.items())
    )


def _era_at(eras: Sequence[ZoneEra], facts: CellFacts) -> ZoneEra:
    begun = [each for each in eras if each.since is None or each.since <= facts.fetched_at]
    return begun[-1] if begun else eras[0]


def _is_now(era: ZoneEra, calendar: Calendar) -> bool:
    """Tell whether an era's zone is the one of now, maybe by another name."""
    if era.zone == calendar.zone.key:
        return True
    first = datetime(*calendar.first.timetuple()[:3], tzinfo=UTC)
    return is_same_zone(ZoneInfo(era.zone), calendar.zone, first, calendar.now)
