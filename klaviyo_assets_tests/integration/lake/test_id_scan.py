"""Id scans: marks on top of whatever is newest, but for what was read meanwhile."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from klaviyo_assets.errors import CorruptFileError, LakeConflictError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.views import PlainRelation
from klaviyo_assets.lake.write import session
from klaviyo_assets.lake.write.session import CommitReceipt, IdScanSession
from klaviyo_assets.lake.write.soft_deletes import DeletionScan
from klaviyo_assets_tests.crash_hooks import KillAt, run_at_crash_point
from klaviyo_assets_tests.integration.lake.killed_process import run_in_child_process
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    START_TIME,
    list_data_files,
    merge_rows,
    numbered_batch,
    open_lake,
    query_database,
)
from klaviyo_assets_tests.integration.lake.test_soft_deletes import (
    MARKING,
    add_null_deletion_column,
    at_day,
    key,
    marks,
    refresh,
)

LATE = (at_day(5) - START_TIME).total_seconds()
"""When a row was read that was read after every id scan of these tests began."""


def open_scan(lake: Lake, seen: Iterable[int]) -> IdScanSession:
    """Return an id scan that has seen some keys."""
    made = IdScanSession(MARKING, lake.root, account=ACCOUNT_ID, clock=lake.clock)
    made.add(pa.record_batch({"id": pa.array(map(key, seen), pa.string())}))
    return made


def commit_scan(lake: Lake, seen: Iterable[int], day: int) -> CommitReceipt:
    """Carry an id scan out."""
    with open_scan(lake, seen) as made:
        return made.commit({}, DeletionScan(deleted_at=at_day(day)))


def test_an_id_scan_marks_and_lifts(lake: Lake) -> None:
    """Unseen rows are marked once, seen ones have their mark lifted, the state stays."""
    merge_rows(
        lake, MARKING, [add_null_deletion_column(numbered_batch(0, 10, note="a"))], {"cursor": "x"}
    )
    first = commit_scan(lake, range(6), 1)
    assert (first.rows_marked_deleted, first.rows_written, first.rows_total) == (4, 0, 10)
    second = commit_scan(lake, range(3, 8), 2)
    assert second.rows_marked_deleted == 3
    expected: dict[str, datetime | None] = dict.fromkeys(map(key, range(3, 8)))
    expected |= dict.fromkeys(map(key, range(3)), at_day(2))
    assert marks(lake) == expected | dict.fromkeys(map(key, (8, 9)), at_day(1))
    state = lake.read_table_state("profiles")
    assert state is not None
    assert state.state == {"cursor": "x"}
    assert {note for (note,) in lake.query_relation("profiles").select("note").fetchall()} == {"a"}


def test_an_id_scan_without_news_commits_nothing(lake: Lake) -> None:
    """Where every mark is right already no version is made."""
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(0, 10))])
    version = commit_scan(lake, range(9), 1).version
    assert commit_scan(lake, range(9), 2).version == version
    assert marks(lake)[key(9)] == at_day(1)


def test_an_id_scan_rewrites_only_files_that_change(lake: Lake, root: Path) -> None:
    """A file whose rows are all there is left alone."""
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(0, 10))])
    before = set(list_data_files(root, "profiles"))
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(10, 10))])
    stored = set(list_data_files(root, "profiles"))
    receipt = commit_scan(lake, range(19), 1)
    after = set(list_data_files(root, "profiles"))
    assert receipt.files_removed == 1
    assert before <= after
    assert len(after - stored) == 1


def test_what_was_read_meanwhile_is_left_alone(lake: Lake) -> None:
    """Of rows that another run read since the id scan began, new or not, it says nothing."""
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(0, 4))])
    with open_scan(lake, [0]) as made:
        merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(2, 4, synced=LATE))])
        receipt = made.commit({}, DeletionScan(deleted_at=at_day(1)))
    assert receipt.rows_marked_deleted == 1
    assert marks(lake) == {key(at): at_day(1) if at == 1 else None for at in range(6)}


def test_what_was_read_in_the_very_second_is_judged(lake: Lake) -> None:
    """A row that lay there when the id scan began is old, however coarse the clock."""
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(0, 2, synced=LATE))])
    assert commit_scan(lake, [0], 5).rows_marked_deleted == 1
    assert commit_scan(lake, [0, 1], 5).rows_marked_deleted == 0
    assert marks(lake) == {key(0): None, key(1): None}


def test_what_was_rewritten_meanwhile_is_still_judged(lake: Lake) -> None:
    """A row that only moved to another file since is as old as before."""
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(0, 4))])
    with open_scan(lake, [0]) as made:
        merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(3, 1, synced=LATE))])
        made.commit({}, DeletionScan(deleted_at=at_day(1)))
    assert marks(lake) == {key(at): at_day(1) if at in {1, 2} else None for at in range(4)}


def test_a_mark_that_was_made_meanwhile_stays(lake: Lake) -> None:
    """A full refresh that missed a profile after the id scan had seen it knows better."""
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(0, 2))])
    with open_scan(lake, [0, 1]) as made:
        refresh(lake, [numbered_batch(0, 1, synced=10)], DeletionScan(deleted_at=at_day(2)))
        made.commit({}, DeletionScan(deleted_at=at_day(1)))
    assert marks(lake) == {key(0): None, key(1): at_day(2)}


def test_an_id_scan_that_may_have_missed_something_only_lifts(lake: Lake) -> None:
    """Without a moment nothing is marked; what was seen again is there all the same."""
    refresh(lake, [numbered_batch(0, 3)], DeletionScan(deleted_at=at_day(0)))
    commit_scan(lake, [0], 1)
    with open_scan(lake, [1]) as made:
        assert made.commit({}, DeletionScan(deleted_at=None)).rows_marked_deleted == 0
    assert marks(lake) == {key(0): None, key(1): None, key(2): at_day(1)}


def test_a_rival_is_waited_for_not_for_ever(lake: Lake) -> None:
    """A commit that comes first makes the id scan decide again; one after the other ends it."""
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(0, 4))])
    rivals = [100, 101]

    def commit_rival() -> None:
        if rivals:
            merge_rows(
                lake,
                MARKING,
                [add_null_deletion_column(numbered_batch(rivals.pop(), 1, synced=LATE))],
            )

    with run_at_crash_point("before a table commit", commit_rival):
        assert commit_scan(lake, range(3), 1).rows_marked_deleted == 1
        assert not rivals
        rivals.extend(range(200, 200 + session.MAX_ID_SCAN_ATTEMPTS))
        with pytest.raises(LakeConflictError):
            commit_scan(lake, range(2), 2)
    assert marks(lake)[key(2)] is None


def test_a_damaged_file_stops_an_id_scan(lake: Lake, root: Path) -> None:
    """An id scan that cannot read a file names it and marks nothing."""
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(0, 4))])
    (file,) = list_data_files(root, "profiles")
    file.write_bytes(b"")
    with pytest.raises(CorruptFileError, match="part-"):
        commit_scan(lake, [0], 1)


def scan_and_publish(root: Path, kill_at: KillAt | None) -> None:
    """Scan ids and publish, in a process that kills itself."""
    if kill_at is not None:
        kill_at.arm()
    lake = open_lake(root)
    commit_scan(lake, range(30), 1)
    lake.publish([PlainRelation(name="profiles")])


@pytest.mark.parametrize(
    "kill_at",
    [
        KillAt("before writing a row group"),
        KillAt("before moving a file"),
        KillAt("before a table commit"),
        KillAt("after a table commit"),
    ],
    ids=lambda each: each.point,
)
def test_a_kill_leaves_all_marks_or_none(tmp_path: Path, kill_at: KillAt) -> None:
    """An id scan is one commit: readers see the table before it or after it."""
    lake = open_lake(tmp_path)
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(0, 60))], {"cursor": "x"})
    lake.publish([PlainRelation(name="profiles")])
    assert run_in_child_process(scan_and_publish, tmp_path, kill_at) == -9
    after = {key(at): at_day(1) if at >= 30 else None for at in range(60)}
    assert marks(lake) in (after, dict.fromkeys(after))
    assert query_database(tmp_path, "SELECT count(*) FROM k.profiles") == [(60,)]
    scan_and_publish(tmp_path, None)
    assert marks(lake) == after
    lake.check_integrity()
