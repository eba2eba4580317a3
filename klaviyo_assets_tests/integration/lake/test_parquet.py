"""One data file: the statistics of its rows."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.parquet import DataFile, PartitionFileWriter
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    PROFILES,
    SCHEMA,
    START_TIME,
    SampleRow,
    build_batch,
    merge_rows,
    read_notes,
)


def write_file(folder: Path, *groups: list[SampleRow]) -> DataFile:
    """Write one file, a row group for each list of rows."""
    writer = PartitionFileWriter(folder, PROFILES, "")
    for rows in groups:
        writer.write(pa.Table.from_batches([build_batch(rows)]).cast(PROFILES.schema))
        writer.flush()
    (file,) = writer.close()
    return file


def test_a_file_has_the_minimum_and_maximum_of_its_columns(tmp_path: Path) -> None:
    """Least and greatest key, cursor and `synced_at` of all row groups, and how many rows."""
    file = write_file(
        tmp_path, [("m", 3, "", 5), ("zebra", -4000, "", 9)], [("Ä", 7.5, "", 1)], [("b", 4, "", 2)]
    )
    assert file.rows == 4
    assert file.min_values == {
        "id": "b",
        "updated": START_TIME - timedelta(days=4000),
        "synced_at": START_TIME + timedelta(seconds=1),
    }
    assert file.max_values == {
        "id": "Ä",
        "updated": START_TIME + timedelta(days=7.5),
        "synced_at": START_TIME + timedelta(seconds=9),
    }


def test_a_list_before_a_column_moves_no_ends(tmp_path: Path) -> None:
    """A list is stored as its items; the columns behind it are found all the same."""
    kind = pa.list_(pa.string())
    schema = PROFILES.schema.insert(1, pa.field("tags", kind))
    table = LakeTable(name="tagged", schema=schema, key=("id",), cursor="updated")
    rows = pa.Table.from_batches([build_batch([("a", 1, "", 2)])])
    writer = PartitionFileWriter(tmp_path, table, "")
    writer.write(rows.add_column(1, "tags", pa.array([["x", "y"]], kind)))
    (file,) = writer.close()
    ends = {"id": "a", "updated": START_TIME + timedelta(days=1)}
    assert (
        file.min_values
        == file.max_values
        == ends | {"synced_at": START_TIME + timedelta(seconds=2)}
    )


def test_a_very_long_key_has_no_ends(tmp_path: Path) -> None:
    """A footer omits texts above 4 kB, and the column then has no bounds."""
    file = write_file(tmp_path, [("a", 0, "", 0)], [("b" * 5000, 0, "", 0)])
    assert set(file.min_values) == set(file.max_values) == {"updated", "synced_at"}


@pytest.mark.parametrize("length", [10, 5000])
def test_a_key_however_long_is_there_once(lake: Lake, length: int) -> None:
    """New rows replace those of the same key, whatever the file's statistics."""
    key = "k" * length
    merge_rows(lake, PROFILES, [build_batch([(key, 0, "old", 0), ("other", 0, "stays", 0)])])
    merge_rows(lake, PROFILES, [build_batch([(key, 1, "new", 1)])])
    assert read_notes(lake, "profiles") == {key: "new", "other": "stays"}


def with_dictionary(path: Path) -> set[str]:
    """Return the columns of a file that are written with a dictionary."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    return {each.path_in_schema for each in columns if "RLE_DICTIONARY" in each.encodings}


def test_short_values_that_repeat_get_a_dictionary(tmp_path: Path) -> None:
    """Not a key's, not those that differ, are long, are not there, or are lists."""
    texts: dict[str, list[str | None]] = {
        "same": ["a"] * 100,
        "some": [None if at % 2 else f"{at // 4}" for at in range(100)],
        "all_differ": [str(at) for at in range(100)],
        "long": ["long " * 20] * 100,
        "absent": [None] * 100,
    }
    fields: list[Any] = [*SCHEMA, *(pa.field(name, pa.string()) for name in texts)]
    fields.append(pa.field("tags", pa.list_(pa.string())))
    table = LakeTable(name="any", schema=pa.schema(fields), key=("id",))
    rows = pa.Table.from_batches([build_batch((f"k{at % 2}", at, "", 0) for at in range(100))])
    for name, values in texts.items():
        rows = rows.append_column(name, pa.array(values, pa.string()))
    writer = PartitionFileWriter(tmp_path, table, "")
    writer.write(rows.append_column("tags", pa.array([["x"]] * 100, pa.list_(pa.string()))))
    (file,) = writer.close()
    chosen = {"note", "synced_at", "same", "some"}
    assert with_dictionary(tmp_path / file.path) == chosen


def test_each_file_chooses_its_own_dictionaries(lake: Lake) -> None:
    """A long sync is not bound by what its first rows looked like."""
    with lake.open_session(
        EVENTS, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=START_TIME
    ) as session:
        for day, note in ((1, None), (2, "seen")):
            rows = build_batch((f"{day}-{at}", day, note or f"{at}", 0) for at in range(100))
            session.add(rows)
            session.commit({})
    folder = lake.root / "lake" / "events"
    chosen = {path.parent.name: with_dictionary(path) for path in folder.glob("day=*/*.parquet")}
    assert [chosen[day] for day in sorted(chosen)] == [
        {"updated", "synced_at"},
        {"updated", "synced_at", "note"},
    ]
