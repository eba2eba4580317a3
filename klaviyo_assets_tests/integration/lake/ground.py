"""Small tables with rows that are easy to tell apart, and what a reader sees of them.

What belongs here: what several tests of this folder need. What does not: what they promise.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from klaviyo_assets.lake import Lake, Receipt, Table

MOMENT = pa.timestamp("us", tz="UTC")
START = datetime(2024, 1, 1, tzinfo=UTC)
ACCOUNT = "AbC123"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("updated", MOMENT),
        pa.field("note", pa.string()),
        pa.field("synced_at", MOMENT, nullable=False),
    ]
)

PROFILES = Table(name="profiles", schema=SCHEMA, key=("id",), cursor="updated")
"""The later cursor wins; one partition."""

EVENTS = Table(
    name="events",
    schema=SCHEMA,
    key=("id",),
    cursor="updated",
    newest_by_cursor=False,
    partitioning="day",
)
"""The later read wins; by day."""

TAGS = Table(name="tags", schema=SCHEMA, key=("id",))
"""No cursor."""

Row = tuple[str, float, str, float]
"""Key, cursor in days since START, note, `synced_at` in seconds since START."""


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(tz=UTC)


def lake_at(root: Path) -> Lake:
    """Return the lake in a folder, on the real clock."""
    return Lake(root, clock=now)


def batch(rows: Iterable[Row]) -> pa.RecordBatch:
    """Return rows as the room `tables` hands them over."""
    listed = list(rows)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([row[0] for row in listed], pa.string()),
            pa.array([START + timedelta(days=row[1]) for row in listed], MOMENT),
            pa.array([row[2] for row in listed], pa.string()),
            pa.array([START + timedelta(seconds=row[3]) for row in listed], MOMENT),
        ],
        schema=SCHEMA,
    )


def numbered(
    first: int, count: int, *, note: str = "", synced: float = 0, days: float = 0.01
) -> pa.RecordBatch:
    """Return `count` rows with keys from `first` on, `days` apart."""
    return batch((f"k{at:07}", at * days, note, synced) for at in range(first, first + count))


def merge(
    lake: Lake,
    table: Table,
    batches: Sequence[pa.RecordBatch],
    state: dict[str, object] | None = None,
    *,
    with_history: bool = False,
) -> Receipt:
    """Add the rows in one session and one commit."""
    with lake.open(
        table, account=ACCOUNT, mode="merge", with_history=with_history, started_at=now()
    ) as session:
        for each in batches:
            session.add(each)
        return session.commit({} if state is None else state)


def replace(
    lake: Lake,
    table: Table,
    batches: Sequence[pa.RecordBatch],
    state: dict[str, object] | None = None,
    *,
    with_history: bool = False,
) -> Receipt:
    """Make the rows the whole table."""
    with lake.open(
        table, account=ACCOUNT, mode="replace", with_history=with_history, started_at=now()
    ) as session:
        for each in batches:
            session.add(each)
        return session.commit({} if state is None else state)


def rows_of(lake: Lake, name: str) -> dict[str, tuple[datetime, str, datetime]]:
    """Return what the lake holds by key; a key that is there twice fails the test."""
    found = lake.relation(name).select("id", "updated", "note", "synced_at").fetchall()
    keyed = {key: (updated, note, synced) for key, updated, note, synced in found}
    assert len(keyed) == len(found), "a key is there twice"
    return keyed


def notes_of(lake: Lake, name: str) -> dict[str, str]:
    """Return the note of each key."""
    return {key: row[1] for key, row in rows_of(lake, name).items()}


def shown(root: Path, sql: str) -> list[tuple[object, ...]]:
    """Return the result of a query in klaviyo.duckdb, opened as a user would, as `k`."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        path = str(root / "klaviyo.duckdb").replace("'", "''")
        connection.execute(f"ATTACH '{path}' AS k (READ_ONLY)")
        return connection.execute(sql).fetchall()


def data_files(root: Path, name: str) -> list[Path]:
    """Return the Parquet files of a table's folder, staged ones included."""
    return sorted((root / "lake" / name).rglob("part-*.parquet"))
