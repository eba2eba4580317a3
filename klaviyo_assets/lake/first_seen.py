"""Rows that some commits brought for the first time, and how long after their moment.

What belongs here: telling rows that are new from those that were read again, by the files of two
versions. What does not: what the figures mean (`sync/lateness.py`). A row read again has a new
`synced_at`, so how late it was can only be told when it first comes in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from klaviyo_assets.lake.disk import told
from klaviyo_assets.lake.engine import connection
from klaviyo_assets.lake.layout import SYNCED_AT, table_folder
from klaviyo_assets.lake.log import Snapshot, snapshot
from klaviyo_assets.lake.parquet import DataFile
from klaviyo_assets.lake.relations import Shown, literal, quoted, select

KEY = "id"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSeen:
    """New rows with one value, as late as one step of the scale says.

    `is_behind`: their moment lies before the mark of then. `longest_seconds` is the latest of them.
    """

    value: str | None
    is_behind: bool
    step: int
    rows: int
    longest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """What was there before: the version and its mark; `value` and `moment` name columns."""

    version: int
    mark: datetime
    value: str
    moment: str


def first_seen(root: Path, name: str, since: Since, *, steps_a_doubling: int) -> list[FirstSeen]:
    """Return the rows that came in since a version, by value and by how late they were.

    Step 0 ends a minute after the moment, and so many steps later twice that. What is dated later
    than it was read is left out. Nothing where that version is no longer in the log.

    Raises:
        CorruptFileError: the log cannot be read.
        StorageError: a file cannot be read.
    """
    folder = table_folder(root, name)
    now = snapshot(folder, name)
    if now is None or now.version == since.version:
        return []
    before = snapshot(folder, name, since.version)
    if before is None:
        return []
    known = {file.path for file in before.files}
    added = [file for file in now.files if file.path not in known]
    touched = {file.partition for file in added}
    earlier = [file for file in before.files if file.partition in touched]
    sql = _query(
        _shown(folder, now, added, [KEY, since.value, since.moment, SYNCED_AT]),
        _shown(folder, before, earlier, [KEY]),
        since,
        steps_a_doubling,
    )
    with told(folder, name), connection() as opened:
        rows = opened.sql(sql).fetchall()
    return [
        FirstSeen(
            value=each[0], is_behind=each[1], step=each[2], rows=each[3], longest_seconds=each[4]
        )
        for each in rows
    ]


def _shown(
    folder: Path, found: Snapshot, files: Sequence[DataFile], columns: Sequence[str]
) -> Shown:
    kinds = dict(zip(found.schema.names, found.schema.types, strict=True))
    schema = pa.schema([(name, kinds[name]) for name in columns])
    return Shown(schema=schema, paths=tuple(folder / file.path for file in files))


def _query(added: Shown, earlier: Shown, since: Since, steps: int) -> str:
    moment = quoted(since.moment)
    late = f"epoch({quoted(SYNCED_AT)}) - epoch({moment})"
    mark = f"TIMESTAMPTZ {literal(since.mark.isoformat())}"
    return (
        f"SELECT {quoted(since.value)}, {moment} < {mark} AS behind, "
        f"CAST(floor({steps} * log2(greatest({late}, 60) / 60)) AS INTEGER) AS step, "
        f"count(*), max({late}) "
        f"FROM ({select(added)}) AS n ANTI JOIN ({select(earlier)}) AS o ON n.{KEY} = o.{KEY} "
        f"WHERE {late} >= 0 GROUP BY ALL"
    )
