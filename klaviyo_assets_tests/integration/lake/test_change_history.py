"""Dated versions: a change of a history column adds a row, nothing else does."""

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa

from klaviyo_assets.lake.delta.log import read_snapshot
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable, build_history_table
from klaviyo_assets.lake.write.session import CommitReceipt, WriteMode
from klaviyo_assets.lake.write.table_writer import Rebase
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    PROFILES,
    START_TIME,
    TAGS,
    build_batch,
    merge_rows,
    numbered_batch,
    read_notes,
)

DATED = replace(PROFILES, history_columns=("note",))
DATED_TAGS = replace(TAGS, history_columns=("note",))


def sync(
    lake: Lake,
    *commits: pa.RecordBatch,
    hour: int,
    table: LakeTable = DATED,
    mode: WriteMode = "merge",
    with_history: bool = False,
) -> list[CommitReceipt]:
    """Write each batch in a commit of one session, which began at an hour."""
    with lake.open_session(
        table,
        account=ACCOUNT_ID,
        mode=mode,
        with_history=with_history,
        with_changes=True,
        started_at=START_TIME + timedelta(hours=hour),
    ) as session:
        receipts: list[CommitReceipt] = []
        for number, batch in enumerate(commits, start=1):
            session.add(batch)
            receipts.append(session.commit({}, is_last=number == len(commits)))
        return receipts


def versions(lake: Lake, name: str = "profiles_history") -> list[tuple[object, ...]]:
    """Return key, cursor in days, note and `synced_at` in seconds of each version, in order."""
    found = lake.query_relation(name).select("id", "updated", "note", "synced_at").fetchall()
    return sorted(
        (key, (at - START_TIME) / timedelta(days=1), note, (read - START_TIME).total_seconds())
        for key, at, note, read in found
    )


def test_only_a_change_of_a_history_column_is_a_version(lake: Lake) -> None:
    """A new cursor alone is none; another value is one, also beside the same cursor."""
    sync(lake, build_batch([("a", 1, "one", 1), ("b", 1, "one", 1)]), hour=1)
    (moved,) = sync(lake, build_batch([("a", 2, "one", 2)]), hour=2)
    assert moved.versions_written == 0
    (changed,) = sync(lake, build_batch([("a", 2, "two", 3), ("c", 1, "new", 3)]), hour=3)
    assert changed.versions_written == 2
    sync(lake, build_batch([("a", 3, "one", 4)]), hour=4)
    assert versions(lake) == [
        ("a", 1, "one", 1),
        ("a", 2, "two", 3),
        ("a", 3, "one", 4),
        ("b", 1, "one", 1),
        ("c", 1, "new", 3),
    ]
    assert read_notes(lake, "profiles") == {"a": "one", "b": "one", "c": "new"}
    lake.check_integrity()


def test_what_did_not_change_writes_nothing(lake: Lake) -> None:
    """A full refresh of equal rows leaves the files and the log of the history as they are."""
    folder = lake.root / "lake" / "profiles_history"
    sync(lake, numbered_batch(0, 500), hour=1)
    before = read_snapshot(folder, "profiles_history")
    (receipt,) = sync(lake, numbered_batch(0, 500, synced=60), hour=2, mode="replace")
    after = read_snapshot(folder, "profiles_history")
    assert before is not None
    assert after is not None
    assert (after.version, after.files) == (before.version, before.files)
    assert receipt.versions_written == 0


def test_a_sync_of_several_commits_keeps_each_change(lake: Lake) -> None:
    """What changes while it is read is there in both forms; of one commit, the last."""
    once = build_batch([("a", 1, "one", 1), ("a", 2, "two", 2)])
    sync(lake, once, build_batch([("a", 3, "three", 3)]), hour=1)
    assert versions(lake) == [("a", 2, "two", 2), ("a", 3, "three", 3)]


def test_many_changes_leave_few_files(lake: Lake) -> None:
    """The files of a history are merged as those of every table."""
    for hour in range(12):
        sync(lake, build_batch([("a", hour, f"note {hour}", hour)]), hour=hour)
    found = read_snapshot(lake.root / "lake" / "profiles_history", "profiles_history")
    assert found is not None
    assert len(found.files) <= 5
    assert len(versions(lake)) == 12


def test_without_a_cursor_the_history_is_dated_too(lake: Lake) -> None:
    """A stream that every sync reads whole keeps what changed between two of them."""
    for hour, note in enumerate(("one", "one", "two")):
        batch = build_batch([("a", 0, note, hour), ("b", 0, "same", hour)])
        sync(lake, batch, hour=hour, table=DATED_TAGS, mode="replace")
    assert versions(lake, "tags_history") == [
        ("a", 0, "one", 0),
        ("a", 0, "two", 2),
        ("b", 0, "same", 0),
    ]


def test_an_append_keeps_what_is_dated(lake: Lake) -> None:
    """Versions of one cursor value stay when an append mode reads that value once more."""
    sync(lake, build_batch([("a", 1, "one", 1)]), hour=1)
    sync(lake, build_batch([("a", 1, "two", 2)]), hour=2)
    merge_rows(lake, DATED, [build_batch([("a", 1, "two", 3)])], with_history=True)
    expected = [("a", 1, "one", 1), ("a", 1, "two", 2)]
    assert versions(lake) == expected
    rows = [("a", 2.0, "two", 4.0), ("a", 2.0, "three", 5.0), ("a", 3.0, "three", 6.0)]
    sync(lake, *(build_batch([row]) for row in rows), hour=4, with_history=True)
    assert versions(lake) == sorted([*expected, *rows])
    lake.check_integrity()


def test_a_redo_after_a_lost_commit_dates_nothing_twice(lake: Lake) -> None:
    """The history is committed first: if the table's commit is lost, the redo finds it there."""
    with lake.open_session(
        DATED,
        account=ACCOUNT_ID,
        mode="merge",
        with_history=False,
        with_changes=True,
        started_at=START_TIME,
    ) as session:
        session.add(numbered_batch(0, 10))
        session.stage_batches()
        assert session.commit_history(None) == 10
    assert lake.read_table_state("profiles") is None
    sync(lake, numbered_batch(0, 10, synced=5), hour=1)
    assert len(versions(lake)) == 10
    assert len(read_notes(lake, "profiles")) == 10


def test_a_sync_beside_a_full_refresh_is_dated_before_it(lake: Lake) -> None:
    """Both keep what they read; the refresh does not take back what is newer."""
    sync(lake, build_batch([("a", 1, "one", 1)]), hour=1)
    refresh = lake.open_session(
        DATED,
        account=ACCOUNT_ID,
        mode="replace",
        with_history=False,
        with_changes=True,
        started_at=START_TIME + timedelta(hours=2),
    )
    with refresh:
        refresh.add(build_batch([("a", 1, "one", 2)]))
        sync(lake, build_batch([("a", 2, "two", 3)]), hour=2)
        rebase = Rebase(synced_since=START_TIME, merge_state=dict)
        refresh.commit({}, rebase=rebase)
    assert read_notes(lake, "profiles") == {"a": "two"}
    assert ("a", 2, "two", 3) in versions(lake)
    (again,) = sync(lake, build_batch([("a", 2, "two", 9)]), hour=9)
    assert again.versions_written == 0


def test_the_history_of_a_table_with_new_columns_goes_on(lake: Lake) -> None:
    """A history column that a release adds is NULL in older versions, and so a change."""
    merge_rows(lake, PROFILES, [build_batch([("a", 1, "one", 1)])], with_history=True)
    schema = DATED.schema.append(pa.field("mood", pa.string()))
    wider = replace(DATED, schema=schema, history_columns=("note", "mood"))
    batch = build_batch([("a", 1, "one", 2)])
    rows = pa.RecordBatch.from_arrays([*batch.columns, pa.array(["glad"])], schema=schema)
    (receipt,) = sync(lake, rows, hour=2, table=wider)
    assert receipt.versions_written == 1
    found = lake.query_relation(build_history_table(wider).name).select("mood").fetchall()
    assert sorted(found, key=str) == [("glad",), (None,)]
