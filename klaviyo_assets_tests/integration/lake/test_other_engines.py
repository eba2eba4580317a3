"""Other engines: they read what we write, and what they do to a table is met with sense."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Field, QueryBuilder, TableFeatures, write_deltalake
from deltalake.schema import PrimitiveType

from klaviyo_assets.errors import LakeVersionError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    EVENTS,
    PROFILES,
    SCHEMA,
    list_data_files,
    merge_rows,
    numbered_batch,
    read_notes,
    replace_rows,
)


def delta(root: Path, name: str) -> DeltaTable:
    """Return the table as the deltalake package sees it."""
    return DeltaTable(root / "lake" / name)


def test_another_engine_reads_the_same_rows(lake: Lake, root: Path) -> None:
    """A Delta reader finds the rows that DuckDB finds, by day, after merges and compactions."""
    for number in range(8):
        rows = numbered_batch(number * 20, 40, note=str(number), synced=number, days=0.05)
        merge_rows(lake, EVENTS, [rows])
    table = delta(root, "events")
    found = pa.table(
        QueryBuilder()
        .register("events", table)
        .execute("SELECT id, note FROM events WHERE day < '2024-01-05'")
        .read_all()
    )
    ours = (
        lake.query_relation("events").filter("updated < '2024-01-05'").select("id, note").fetchall()
    )
    assert sorted(map(tuple, (row.values() for row in found.to_pylist()))) == sorted(ours)
    assert len(ours) == 80


def test_statistics_are_true(lake: Lake, root: Path) -> None:
    """The least and greatest keys and cursors in the log bound the rows of each file."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 100, days=0.07)])
    actions = pa.table(delta(root, "events").get_add_actions(flatten=True)).to_pylist()
    for action in actions:
        rows = pq.read_table(root / "lake/events" / action["path"])
        assert action["num_records"] == rows.num_rows
        for column in ("id", "updated", "synced_at"):
            values: list[Any] = rows[column].to_pylist()
            assert (action[f"min.{column}"], action[f"max.{column}"]) == (min(values), max(values))


def test_state_outlives_the_commits_of_others(lake: Lake, root: Path) -> None:
    """A commit of another engine hides neither our state nor its own effect on the rows."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)], {"n": 1})
    delta(root, "profiles").delete("id = 'k0000003'")
    state = lake.read_table_state("profiles")
    assert state is not None
    assert (state.version, state.rows, state.state) == (1, 9, {"n": 1})
    merge_rows(lake, PROFILES, [numbered_batch(5, 10)], {"n": 2})
    assert len(read_notes(lake, "profiles")) == 14


def test_rows_that_others_append_are_merged_like_ours(lake: Lake, root: Path) -> None:
    """Files without our names or statistics are read, rewritten and replaced."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    delta(root, "profiles").alter.set_table_properties({"delta.dataSkippingNumIndexedCols": "0"})
    rows = pa.Table.from_batches([numbered_batch(5, 5, note="foreign")])
    write_deltalake(root / "lake/profiles", rows, mode="append")
    merge_rows(lake, PROFILES, [numbered_batch(8, 5, note="ours", synced=1)])
    found = read_notes(lake, "profiles")
    assert len(found) == 13
    assert (found["k0000007"], found["k0000008"]) == ("foreign", "ours")
    lake.check_integrity()


def test_a_table_that_others_emptied_starts_again(lake: Lake, root: Path) -> None:
    """An emptied table has no cursor: the sync begins at the beginning."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)], {"n": 1})
    delta(root, "profiles").delete()
    assert lake.read_table_state("profiles") is None
    merge_rows(lake, PROFILES, [], {"n": 1})
    assert lake.read_table_state("profiles") is not None


def test_a_table_that_was_empty_keeps_its_state(lake: Lake) -> None:
    """A table in which Klaviyo had nothing is not taken for an emptied one."""
    merge_rows(lake, PROFILES, [], {"n": 1})
    state = lake.read_table_state("profiles")
    assert state is not None
    assert state.state == {"n": 1}


def test_a_column_that_is_new_in_a_release_is_added(lake: Lake, root: Path) -> None:
    """Old rows have NULL in it, new rows its value, in DuckDB, in Delta, and after a rewrite."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)], {"n": 1})
    schema = SCHEMA.insert(2, pa.field("score", pa.float64()))
    table = LakeTable(name="profiles", schema=schema, key=("id",), cursor="updated")
    rows = numbered_batch(5, 10, synced=1).add_column(2, "score", pa.array([0.5] * 10))
    merge_rows(lake, table, [rows], {"n": 2})
    found = lake.query_relation("profiles").select("id, score").fetchall()
    assert len(found) == 15
    assert {score for key, score in found if key < "k0000005"} == {None}
    assert {score for key, score in found if key >= "k0000005"} == {0.5}
    assert delta(root, "profiles").schema().to_arrow().names == [*SCHEMA.names, "score"]
    state = lake.read_table_state("profiles")
    assert state is not None
    assert state.state == {"n": 2}


def test_a_column_that_was_added_by_hand_is_kept(lake: Lake, root: Path) -> None:
    """A foreign column stays, with its values, when we write on."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)], {"n": 1})
    delta(root, "profiles").alter.add_columns([Field("mine", PrimitiveType("string"))])
    delta(root, "profiles").update({"mine": "'x'"})
    merge_rows(lake, PROFILES, [numbered_batch(5, 10, synced=1)], {"n": 2})
    found = dict(lake.query_relation("profiles").select("id, mine").fetchall())
    assert found["k0000004"] == "x"
    assert found["k0000014"] is None


def test_a_column_that_was_dropped_by_hand_comes_back(lake: Lake, root: Path) -> None:
    """Rows that another engine rewrote without a column get it back, as NULL."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10, note="x")], {"n": 1})
    rows = pa.Table.from_batches([numbered_batch(0, 10)]).drop_columns(["note"])
    write_deltalake(root / "lake/profiles", rows, mode="overwrite", schema_mode="overwrite")
    merge_rows(lake, PROFILES, [numbered_batch(8, 4, note="y")], {"n": 2})
    found = read_notes(lake, "profiles")
    assert (found["k0000001"], found["k0000011"]) == (None, "y")


def test_a_feature_that_we_cannot_read_is_refused(lake: Lake, root: Path) -> None:
    """Another partitioning, or a reader's feature, is refused in words and not misread."""
    rows = pa.Table.from_batches([numbered_batch(0, 10)])
    write_deltalake(root / "lake/profiles", rows, partition_by=["note"])
    with pytest.raises(LakeVersionError, match="another program"):
        lake.read_table_state("profiles")
    merge_rows(lake, EVENTS, [numbered_batch(0, 10)])
    delta(root, "events").alter.set_table_properties({"delta.enableDeletionVectors": "true"})
    if delta(root, "events").protocol().min_reader_version > 1:
        with pytest.raises(LakeVersionError, match="another program"):
            lake.read_table_state("events")


def test_a_table_whose_rules_our_commits_do_not_keep_is_refused(lake: Lake, root: Path) -> None:
    """An append-only table, and one with features of writers, are not committed to."""
    for table in (EVENTS, PROFILES):
        merge_rows(lake, table, [numbered_batch(0, 10)])
    delta(root, "events").alter.set_table_properties({"delta.appendOnly": "true"})
    delta(root, "profiles").alter.add_feature(
        TableFeatures.ChangeDataFeed, allow_protocol_versions_increase=True
    )
    assert delta(root, "profiles").protocol().min_writer_version == 7
    for table in (EVENTS, PROFILES):
        with pytest.raises(LakeVersionError, match="another program"):
            merge_rows(lake, table, [numbered_batch(0, 20)])
        assert delta(root, table.name).count() == 10


def test_a_table_of_others_has_no_state(lake: Lake, root: Path) -> None:
    """A Delta table that we never wrote has no mark, and can be taken over by a refresh."""
    rows = pa.Table.from_batches([numbered_batch(0, 10)])
    write_deltalake(root / "lake/profiles", rows)
    assert lake.read_table_state("profiles") is None
    replace_rows(lake, PROFILES, [numbered_batch(0, 3)], {"n": 1})
    assert len(read_notes(lake, "profiles")) == 3
    assert len(list_data_files(root, "profiles")) >= 1
