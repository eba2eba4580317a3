"""Small tables with rows that are easy to tell apart, and what a reader sees of them."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.write.session import CommitReceipt, WriteMode

TIMESTAMP_TYPE = pa.timestamp("us", tz="UTC")
START_TIME = datetime(2024, 1, 1, tzinfo=UTC)
ACCOUNT_ID = "AbC123"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("updated", TIMESTAMP_TYPE),
        pa.field("note", pa.string()),
        pa.field("synced_at", TIMESTAMP_TYPE, nullable=False),
    ]
)

PROFILES = LakeTable(name="profiles", schema=SCHEMA, key=("id",), cursor="updated")
"""The later cursor wins; one partition."""

EVENTS = LakeTable(
    name="events",
    schema=SCHEMA,
    key=("id",),
    cursor="updated",
    newest_by_cursor=False,
    partitioning="day",
    keeps_unchanged_rows=True,
)
"""The later read wins, unless it is equal; by day."""

TAGS = LakeTable(name="tags", schema=SCHEMA, key=("id",))
"""No cursor."""

SampleRow = tuple[str, float, str, float]
"""Key, cursor in days since START, note, `synced_at` in seconds since START."""


def utc_now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(tz=UTC)


def open_lake(root: Path) -> Lake:
    """Return the lake in a folder, on the real clock."""
    return Lake(root, clock=utc_now)


def build_batch(rows: Iterable[SampleRow]) -> pa.RecordBatch:
    """Return rows as the room `tables` hands them over."""
    listed = list(rows)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([row[0] for row in listed], pa.string()),
            pa.array([START_TIME + timedelta(days=row[1]) for row in listed], TIMESTAMP_TYPE),
            pa.array([row[2] for row in listed], pa.string()),
            pa.array([START_TIME + timedelta(seconds=row[3]) for row in listed], TIMESTAMP_TYPE),
        ],
        schema=SCHEMA,
    )


def numbered_batch(
    first: int, count: int, *, note: str = "", synced: float = 0, days: float = 0.01
) -> pa.RecordBatch:
    """Return `count` rows with keys from `first` on, `days` apart."""
    return build_batch((f"k{at:07}", at * days, note, synced) for at in range(first, first + count))


def write_rows(  # noqa: PLR0913 - what a session takes, by name
    lake: Lake,
    table: LakeTable,
    batches: Sequence[pa.RecordBatch],
    state: dict[str, object] | None = None,
    *,
    mode: WriteMode,
    with_history: bool = False,
) -> CommitReceipt:
    """Write the rows in one session and one commit."""
    with lake.open_session(
        table, account=ACCOUNT_ID, mode=mode, with_history=with_history, started_at=utc_now()
    ) as session:
        for each in batches:
            session.add(each)
        return session.commit({} if state is None else state)


merge_rows = partial(write_rows, mode="merge")
replace_rows = partial(write_rows, mode="replace")


def read_rows(lake: Lake, name: str) -> dict[str, tuple[datetime, str, datetime]]:
    """Return what the lake holds by key; a key that is there twice fails the test."""
    found = lake.query_relation(name).select("id", "updated", "note", "synced_at").fetchall()
    keyed = {key: (updated, note, synced) for key, updated, note, synced in found}
    assert len(keyed) == len(found), "a key is there twice"
    return keyed


def read_notes(lake: Lake, name: str) -> dict[str, str]:
    """Return the note of each key."""
    return {key: row[1] for key, row in read_rows(lake, name).items()}


def query_database(root: Path, sql: str) -> list[tuple[object, ...]]:
    """Return the result of a query in klaviyo.duckdb, opened as a user would, as `k`."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        path = str(root / "klaviyo.duckdb").replace("'", "''")
        connection.execute(f"ATTACH '{path}' AS k (READ_ONLY)")
        return connection.execute(sql).fetchall()


def list_data_files(root: Path, name: str) -> list[Path]:
    """Return the Parquet files of a table's folder, staged ones included."""
    return sorted((root / "lake" / name).rglob("part-*.parquet"))
