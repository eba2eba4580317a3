"""How many rows a table by day has, by UTC day and the value of one column.

What belongs here: counting in the files of the current version, reading three columns of the days
wanted. What does not: what the numbers are compared with (`sync/completeness.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa

from klaviyo_assets.lake.disk import told
from klaviyo_assets.lake.engine import connection
from klaviyo_assets.lake.layout import DAY, SYNCED_AT, table_folder
from klaviyo_assets.lake.log import Snapshot, snapshot
from klaviyo_assets.lake.parquet import DataFile
from klaviyo_assets.lake.relations import Shown, literal, quoted, select
from klaviyo_assets.model.window import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCount:
    """Rows of one UTC day with one value; `seen` are those read since the moment asked about."""

    value: str | None
    day: date
    rows: int
    seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """What to count: rows by `value` whose `moment` is in the window; the table is parted by it.

    `since` has, for some days, the moment from which on a row counts as seen.
    """

    value: str
    moment: str
    window: Window
    since: Mapping[date, datetime]


def day_counts(root: Path, name: str, counting: Counting) -> list[DayCount]:
    """Return the counts, in no order; nothing where the table was never read.

    Raises:
        CorruptFileError: the log cannot be read.
        StorageError: a file cannot be read.
    """
    folder = table_folder(root, name)
    found = snapshot(folder, name)
    if found is None:
        return []
    columns = [counting.value, counting.moment, SYNCED_AT]
    shown = Shown(
        schema=_some(found, columns),
        paths=tuple(folder / file.path for file in found.files if _meets(file, counting.window)),
    )
    with told(folder, name), connection() as opened:
        rows = opened.sql(_query(shown, counting)).fetchall()
    return [DayCount(value=each[0], day=each[1], rows=each[2], seen=each[3]) for each in rows]


def first_day(root: Path, name: str) -> date | None:
    """Return the first UTC day that a table by day has rows of, None where it has none."""
    found = snapshot(table_folder(root, name), name)
    return min(_days(found.files), default=None) if found is not None else None


def _days(files: Sequence[DataFile]) -> Iterator[date]:
    for file in files:
        day = file.partition.removeprefix(f"{DAY}=")
        if day != file.partition:
            yield date.fromisoformat(day)


def _some(found: Snapshot, columns: Sequence[str]) -> pa.Schema:
    kinds = dict(zip(found.schema.names, found.schema.types, strict=True))
    return pa.schema([(name, kinds[name]) for name in columns])


def _meets(file: DataFile, window: Window) -> bool:
    """Tell whether rows of a file may lie in the window, by the day it is of."""
    return all(window.floor.date() <= day <= window.ceiling.date() for day in _days([file]))


def _query(shown: Shown, counting: Counting) -> str:
    moment, value = quoted(counting.moment), quoted(counting.value)
    start, end = counting.window.start, counting.window.end
    bounds = [
        *([f"{moment} >= {_instant(start)}"] if start is not None else []),
        *([f"{moment} < {_instant(end)}"] if end is not None else []),
    ]
    cases = " ".join(
        f"WHEN DATE {literal(day.isoformat())} THEN {_instant(since)}"
        for day, since in counting.since.items()
    )
    day = f"CAST({moment} AS DATE)"
    seen = f"{quoted(SYNCED_AT)} >= CASE {day} {cases} END" if cases else "true"
    return (
        f"SELECT {value}, {day} AS day, count(*), "
        f"count(*) FILTER (coalesce({seen}, true)) "
        f"FROM ({select(shown)}) WHERE {' AND '.join(bounds) or 'true'} GROUP BY ALL"
    )


def _instant(moment: datetime) -> str:
    return f"TIMESTAMPTZ {literal(moment.astimezone(UTC).isoformat())}"
