"""The layout: safe names, sensible tables, and a rule for compaction that pays off."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.layout import (
    MAX_SMALL_FILES,
    SMALL_FILE_BYTES,
    LakeTable,
    build_history_table,
    build_table,
    has_data_file_name,
    parse_partition_values,
    quarantine_folder,
    report_partition_folder,
    select_files_to_compact,
    table_folder,
)
from klaviyo_assets.model.column import Column
from klaviyo_assets.model.report import NO_METRIC
from klaviyo_assets.model.stream import Collection, Cursor, Stream

MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("updated", MOMENT),
        pa.field("synced_at", MOMENT, nullable=False),
    ]
)
STREAM = Stream(
    name="profiles",
    description="One row per profile.",
    section="Profiles",
    source=Collection(path="/api/profiles", page_size=100),
    columns=(Column("updated", "When it changed.", "timestamp"),),
    tier=None,
    scopes=(),
    cursor=Cursor(column="updated", field="updated"),
)


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "a/b", "/etc", "a.b", "A", "%2e%2e", "a" * 64, "1a", "_log", "a\n", "a b"],
)
def test_a_name_never_leaves_the_folder(name: str) -> None:
    """A name that is not plain lower case is refused before it becomes a path."""
    for place in (table_folder, quarantine_folder):
        with pytest.raises(LakeError, match="cannot name a table"):
            place(Path("/data"), name)


def test_a_table_follows_its_stream() -> None:
    """Key, cursor and partitions come from the stream, and every column may be NULL."""
    table = build_table(STREAM, SCHEMA)
    assert (table.name, table.key, table.cursor) == ("profiles", ("id",), "updated")
    assert table.partitioning == "none"
    assert all(table.schema.field(name).nullable for name in table.schema.names)


def test_the_cursor_counts_first_where_it_is_a_version() -> None:
    """Of two versions the cursor decides, and no clock where the cursor is no version."""
    newest = build_table(STREAM, SCHEMA)
    by_read = LakeTable(
        name="events", schema=SCHEMA, key=("id",), cursor="updated", newest_by_cursor=False
    )
    assert newest.version_columns == ("updated",)
    assert by_read.version_columns == ()


def test_a_history_is_keyed_by_version() -> None:
    """A history's key is key and cursor, or key and sync where there is no cursor."""
    table = build_table(STREAM, SCHEMA)
    bare = LakeTable(name="tags", schema=SCHEMA, key=("id",))
    assert build_history_table(table).key == ("id", "updated")
    assert build_history_table(bare).key == ("id", "sync_started_at")
    assert build_history_table(bare).schema.field("sync_started_at").type == MOMENT
    assert build_history_table(table).kept_versions == "every"


def test_a_stream_cannot_be_taken_for_a_history() -> None:
    """A stream whose table would be another one's history is refused."""
    stream = Stream(
        name="profiles_history",
        description="One row per version.",
        section="Profiles",
        source=STREAM.source,
        columns=(),
        tier=None,
        scopes=(),
    )
    with pytest.raises(LakeError, match="history"):
        build_table(stream, SCHEMA)


def test_a_table_without_its_key_is_refused() -> None:
    """Key, cursor and `synced_at` must be columns."""
    for key, cursor in ((("nothing",), None), (("id",), "nothing")):
        with pytest.raises(LakeError, match="nothing"):
            LakeTable(name="tags", schema=SCHEMA, key=key, cursor=cursor)
    with pytest.raises(LakeError, match="synced_at"):
        LakeTable(name="tags", schema=pa.schema([("id", pa.string())]), key=("id",))


def test_columns_that_differ_in_case_alone_are_refused() -> None:
    """SQL does not tell `Name` from `name`."""
    schema = SCHEMA.append(pa.field("ID", pa.string()))
    with pytest.raises(LakeError, match="case"):
        LakeTable(name="tags", schema=schema, key=("id",))


def test_a_day_of_its_own_is_refused() -> None:
    """A table by day cannot have a column named like the partition, nor go without a cursor."""
    schema = SCHEMA.append(pa.field("day", pa.string()))
    with pytest.raises(LakeError, match="day"):
        LakeTable(name="tags", schema=schema, key=("id",), cursor="updated", partitioning="day")
    with pytest.raises(LakeError, match="cursor"):
        LakeTable(name="tags", schema=SCHEMA, key=("id",), partitioning="day")


def test_only_our_own_names_count_as_ours() -> None:
    """A foreign file in the folder is not taken for one of ours."""
    ours = "part-0123456789abcdef0123456789abcdef.parquet"
    assert has_data_file_name(ours)
    assert has_data_file_name("day=2024-05-01/" + ours)
    assert has_data_file_name("metric=RESQ6t/month=2024-05/" + ours)
    for name in ("mine.parquet", "../" + ours, "day=x/" + ours, ours + ".old"):
        assert not has_data_file_name(name)


HOSTILE = ("../../etc/x", "a/b", "..", ".", "CON ", "x" * 300, "%2e%2e", "é", "~", "a=b", "\0", "'")


def test_a_metrics_folder_is_plain_and_its_own() -> None:
    """Whatever the id, its folder is a plain name below the table's, unique to it."""
    ours = "part-0123456789abcdef0123456789abcdef.parquet"
    known = report_partition_folder("RESQ6t", date(2024, 5, 31))
    assert known == "metric=RESQ6t/month=2024-05"
    assert parse_partition_values(known) == {"metric": "RESQ6t", "month": "2024-05"}
    folders = {each: report_partition_folder(each, date(2024, 5, 31)) for each in HOSTILE}
    assert len({*folders.values(), known}) == len(HOSTILE) + 1
    for folder in folders.values():
        assert has_data_file_name(f"{folder}/{ours}")
        assert (
            report_partition_folder(
                parse_partition_values(folder)["metric"] or "", date(2024, 5, 1)
            )
            != folder
        )


def test_a_report_without_a_metric_lies_in_folders_of_months() -> None:
    """The folder of its days is that of their month, and its files are ours."""
    folder = report_partition_folder(NO_METRIC, date(2024, 5, 31))
    assert folder == "month=2024-05"
    assert parse_partition_values(folder) == {"month": "2024-05"}
    assert has_data_file_name(f"{folder}/part-0123456789abcdef0123456789abcdef.parquet")


def test_a_report_has_no_column_named_as_its_partitions() -> None:
    """Delta's partition columns have names that no column of the table has."""
    for taken in ("metric", "month"):
        schema = SCHEMA.append(pa.field(taken, pa.string()))
        with pytest.raises(LakeError, match=taken):
            LakeTable(name="tags", schema=schema, key=("id",), partitioning="metric and month")


def test_few_small_files_are_left_alone() -> None:
    """Nothing is merged up to the number of small files that a partition may have."""
    assert select_files_to_compact([1000] * MAX_SMALL_FILES) == []
    assert select_files_to_compact([SMALL_FILE_BYTES] * 100) == []


@given(st.lists(st.integers(1, 2 * SMALL_FILE_BYTES), max_size=60))
def test_compaction_takes_small_files_alone(sizes: list[int]) -> None:
    """What is merged are at least two small files, the smallest ones."""
    chosen = select_files_to_compact(sizes)
    assert len(chosen) != 1
    taken = [sizes[at] for at in chosen]
    left = [size for at, size in enumerate(sizes) if at not in chosen]
    assert all(size < SMALL_FILE_BYTES for size in taken)
    assert not taken or not left or max(taken) <= min(left)


def test_many_commits_leave_few_files_and_rewrite_little() -> None:
    """A day of commits every minute keeps few files, and rewrites a row some ten times at most."""
    sizes: list[int] = []
    rewritten = 0
    most = 0
    for _ in range(1440):
        sizes.append(100_000)
        chosen = select_files_to_compact(sizes)
        merged = sum(sizes[at] for at in chosen)
        rewritten += merged
        sizes = [size for at, size in enumerate(sizes) if at not in chosen]
        sizes += [merged] if merged else []
        most = max(most, len(sizes))
    assert most <= 12
    assert rewritten <= 12 * 1440 * 100_000
