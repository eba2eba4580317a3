"""Replacements that keep what they do not bring: marked, whole, and in one commit."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.lake import parquet
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.read.views import PlainRelation
from klaviyo_assets.lake.write.session import CommitReceipt
from klaviyo_assets.lake.write.soft_deletes import ColumnValues, DeletionScan
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.examples import costly_examples
from klaviyo_assets_tests.integration.lake.killed_process import run_in_child_process
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    PROFILES,
    SCHEMA,
    START_TIME,
    TIMESTAMP_TYPE,
    merge_rows,
    numbered_batch,
    open_lake,
    query_database,
    replace_rows,
    utc_now,
)

MARKING = LakeTable(
    name="profiles",
    schema=SCHEMA.append(pa.field("deleted_at", TIMESTAMP_TYPE)),
    key=("id",),
    cursor="updated",
)


def add_null_deletion_column(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows as the room `tables` hands them over: none is marked."""
    return batch.append_column(
        pa.field("deleted_at", TIMESTAMP_TYPE), pa.nulls(batch.num_rows, TIMESTAMP_TYPE)
    )


def at_day(day: int) -> datetime:
    """Return a moment long after all cursors."""
    return START_TIME + timedelta(days=1000 + day)


def refresh(
    lake: Lake,
    batches: Sequence[pa.RecordBatch],
    noticed: DeletionScan,
    *,
    with_history: bool = False,
    state: dict[str, object] | None = None,
) -> CommitReceipt:
    """Replace the table, and keep what is gone."""
    with lake.open_session(
        MARKING, account=ACCOUNT_ID, mode="replace", with_history=with_history, started_at=utc_now()
    ) as session:
        for each in batches:
            session.add(add_null_deletion_column(each))
            session.stage_batches()
        return session.commit(state or {}, noticed)


def marks(lake: Lake) -> dict[str, datetime | None]:
    """Return the mark of every key; one that is there twice fails the test."""
    found = lake.query_relation("profiles").select("id", "deleted_at").fetchall()
    assert len(dict(found)) == len(found), "a key is there twice"
    return dict(found)


def key(at: int) -> str:
    """Return the key of a numbered row."""
    return f"k{at:07}"


def test_what_a_replacement_does_not_bring_is_marked(lake: Lake) -> None:
    """Rows that a replacement lacks stay with the time of deletion; a first mark is not moved."""
    refresh(lake, [numbered_batch(0, 50, note="old")], DeletionScan(deleted_at=at_day(0)))
    second = refresh(lake, [numbered_batch(10, 50, note="new")], DeletionScan(deleted_at=at_day(1)))
    assert (second.rows_written, second.rows_total, second.rows_marked_deleted) == (50, 60, 10)
    third = refresh(lake, [numbered_batch(20, 40)], DeletionScan(deleted_at=at_day(2)))
    assert (third.rows_total, third.rows_marked_deleted) == (60, 10)
    found = marks(lake)
    assert {found[key(at)] for at in range(10)} == {at_day(1)}
    assert {found[key(at)] for at in range(10, 20)} == {at_day(2)}
    assert {found[key(at)] for at in range(20, 60)} == {None}
    notes = lake.query_relation("profiles").filter("deleted_at IS NOT NULL").select("id", "note")
    assert dict(notes.fetchall()) == {key(at): "old" if at < 10 else "new" for at in range(20)}


def test_what_comes_back_has_no_mark(lake: Lake) -> None:
    """A key that is brought again is a plain row, by a replacement or by a merge."""
    refresh(lake, [numbered_batch(0, 3)], DeletionScan(deleted_at=at_day(0)))
    refresh(lake, [], DeletionScan(deleted_at=at_day(1)))
    assert set(marks(lake).values()) == {at_day(1)}
    refresh(lake, [numbered_batch(0, 1)], DeletionScan(deleted_at=at_day(2)))
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(1, 1, synced=5))])
    assert marks(lake) == {key(0): None, key(1): None, key(2): at_day(1)}


def test_rows_before_the_read_began_leave(lake: Lake) -> None:
    """What was not looked for is not called deleted: it leaves, marked before or not."""
    refresh(lake, [numbered_batch(0, 10, days=1)], DeletionScan(deleted_at=at_day(0)))
    refresh(lake, [numbered_batch(1, 8, days=1)], DeletionScan(deleted_at=at_day(1)))
    since = START_TIME + timedelta(days=5)
    receipt = refresh(
        lake, [numbered_batch(7, 1, days=1)], DeletionScan(deleted_at=at_day(2), scanned_from=since)
    )
    assert receipt.rows_marked_deleted == 3
    assert marks(lake) == {
        key(5): at_day(2),
        key(6): at_day(2),
        key(7): None,
        key(8): at_day(2),
        key(9): at_day(1),
    }


def test_a_read_that_may_have_missed_something_marks_nothing(lake: Lake) -> None:
    """Without a moment the rows that did not come stay exactly as they are."""
    refresh(lake, [numbered_batch(0, 4)], DeletionScan(deleted_at=at_day(0)))
    refresh(lake, [numbered_batch(0, 3)], DeletionScan(deleted_at=at_day(1)))
    receipt = refresh(lake, [numbered_batch(0, 1)], DeletionScan(deleted_at=None))
    assert receipt.rows_marked_deleted == 0
    assert marks(lake) == {key(0): None, key(1): None, key(2): None, key(3): at_day(1)}


def test_a_part_of_a_replacement_adds_rows_and_the_last_commit_marks(lake: Lake) -> None:
    """What a part brought is not missing at the end, and nothing is marked before the end."""
    refresh(lake, [numbered_batch(0, 6, note="old")], DeletionScan(deleted_at=at_day(0)))
    part = [numbered_batch(1, 2, note="new", synced=5), numbered_batch(6, 1, synced=5)]
    with lake.open_session(
        MARKING, account=ACCOUNT_ID, mode="replace", with_history=False, started_at=utc_now()
    ) as session:
        for each in part:
            session.add(add_null_deletion_column(each))
        session.commit_part({"part": 1})
        assert marks(lake) == {key(at): None for at in range(7)}
        session.add(add_null_deletion_column(numbered_batch(3, 1, synced=6)))
        since = cast("datetime", part[0]["synced_at"][0].as_py())
        scan = DeletionScan(deleted_at=at_day(1), found_since=since)
        receipt = session.commit({}, scan)
    assert (receipt.rows_marked_deleted, receipt.rows_total) == (3, 7)
    gone = {key(0), key(4), key(5)}
    assert marks(lake) == {key(at): at_day(1) if key(at) in gone else None for at in range(7)}
    notes = lake.query_relation("profiles").filter("note = 'new'").select("id").fetchall()
    assert sorted(notes) == [(key(1),), (key(2),)]


def test_rows_that_were_not_looked_for_stay_as_they_are(lake: Lake) -> None:
    """Rows with a value that the read left out are neither marked nor counted as missing."""
    refresh(
        lake,
        [numbered_batch(0, 3, note="asked"), numbered_batch(3, 3, note="failed")],
        DeletionScan(deleted_at=at_day(0)),
    )
    left_out = ColumnValues("note", frozenset({"failed"}))
    scan = DeletionScan(deleted_at=at_day(1), unscanned_values=left_out)
    receipt = refresh(lake, [numbered_batch(0, 1, note="asked")], scan)
    assert receipt.rows_marked_deleted == 2
    gone = {key(1), key(2)}
    assert marks(lake) == {key(at): at_day(1) if key(at) in gone else None for at in range(6)}


def test_a_lake_of_an_earlier_release_is_widened(lake: Lake) -> None:
    """A table without the column gets it with the first commit, its rows unmarked."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 3)])
    assert lake.read_columns("profiles", ["id", "deleted_at"])["deleted_at"].null_count == 3
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(3, 1))])
    refresh(lake, [numbered_batch(1, 3)], DeletionScan(deleted_at=at_day(0)))
    assert marks(lake) == {key(0): at_day(0), key(1): None, key(2): None, key(3): None}


def test_a_history_knows_no_deletion(lake: Lake) -> None:
    """The history holds what was sent: no column for marks, no version more for a deletion."""
    refresh(lake, [numbered_batch(0, 3)], DeletionScan(deleted_at=at_day(0)), with_history=True)
    refresh(lake, [numbered_batch(0, 2)], DeletionScan(deleted_at=at_day(1)), with_history=True)
    history = lake.query_relation("profiles_history")
    assert "deleted_at" not in history.columns
    assert len(history.fetchall()) == 3


def test_many_files_are_compared_file_by_file(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row counts as deleted only if no new file has its key, however files overlap."""
    monkeypatch.setattr(parquet, "FILE_BYTES", 1)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 7)
    refresh(lake, [numbered_batch(0, 60)], DeletionScan(deleted_at=at_day(0)))
    receipt = refresh(
        lake,
        [numbered_batch(0, 60).take(pa.array(range(0, 60, 3)))],
        DeletionScan(deleted_at=at_day(1)),
    )
    assert receipt.files_removed > 4
    assert receipt.rows_marked_deleted == 40
    found = marks(lake)
    assert {at for at in range(60) if found[key(at)] is None} == set(range(0, 60, 3))


@costly_examples(12)
@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.booleans()), max_size=6))
def test_any_sequence_of_reads_equals_a_dict(reads: list[tuple[set[int], bool]]) -> None:
    """Complete reads and merges leave the marks that a dict by the same rule would hold."""
    with TemporaryDirectory() as folder:
        lake = open_lake(Path(folder))
        oracle: dict[str, datetime | None] = {}
        for day, (living, is_complete) in enumerate(reads):
            rows = numbered_batch(0, 10, synced=day).take(pa.array(sorted(living), pa.int64()))
            if is_complete:
                refresh(lake, [rows], DeletionScan(deleted_at=at_day(day)))
                oracle = {each: mark or at_day(day) for each, mark in oracle.items()}
            else:
                merge_rows(lake, MARKING, [add_null_deletion_column(rows)])
            oracle |= dict.fromkeys(map(key, living))
        if reads:
            assert marks(lake) == oracle
            lake.check_integrity()


def refresh_and_die(root: Path, kill_at: KillAt | None) -> None:
    """Replace half of the rows and publish, in a process that kills itself."""
    if kill_at is not None:
        kill_at.arm()
    lake = open_lake(root)
    noticed = DeletionScan(deleted_at=at_day(1))
    refresh(lake, [numbered_batch(30, 60, note="new")], noticed, state={"generation": 2})
    lake.publish([PlainRelation(name="profiles")])


MOMENTS = {
    "before the gone rows are looked for": KillAt("before marking missing rows"),
    "as the gone rows are written": KillAt(
        "before writing a row group", since="before marking missing rows"
    ),
    "as a file is placed": KillAt("before moving a file"),
    "before the commit": KillAt("before a table commit"),
    "after the commit": KillAt("after a table commit"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_all_marks_or_none(tmp_path: Path, moment: str) -> None:
    """Rows, marks and state are of one generation; a rerun ends it."""
    lake = open_lake(tmp_path)
    refresh(
        lake,
        [numbered_batch(0, 60, note="old")],
        DeletionScan(deleted_at=at_day(0)),
        state={"generation": 1},
    )
    lake.publish([PlainRelation(name="profiles")])
    assert run_in_child_process(refresh_and_die, tmp_path, MOMENTS[moment]) == -9
    state = lake.read_table_state("profiles")
    assert state is not None
    new = {key(at): at_day(1) if at < 30 else None for at in range(90)}
    expected = {1: dict.fromkeys(map(key, range(60))), 2: new}
    assert marks(lake) == expected[int(str(state.state["generation"]))]
    (counted,) = query_database(tmp_path, "SELECT count(*) FROM k.profiles")
    assert counted[0] in {60, 90}
    refresh_and_die(tmp_path, None)
    assert marks(lake) == new
    lake.check_integrity()


def test_without_a_word_a_replacement_is_the_whole_table(lake: Lake) -> None:
    """A stream that does not mark loses what a replacement does not bring, as ever."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    assert replace_rows(lake, PROFILES, [numbered_batch(0, 2)]).rows_total == 2
