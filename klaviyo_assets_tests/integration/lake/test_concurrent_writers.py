"""Several writers: of one table, the commit lets one through; of different ones, all."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as replace_values
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from klaviyo_assets.errors import LakeConflictError
from klaviyo_assets.lake.delta.log import CommitState, TableChange, commit_change
from klaviyo_assets.lake.disk import acquire_lock
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.read.views import PlainRelation
from klaviyo_assets.lake.write.session import WriteSession
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.forkserver import FORKSERVER
from klaviyo_assets_tests.integration.lake.killed_process import run_in_child_process, sync_rows
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    PROFILES,
    SCHEMA,
    list_data_files,
    merge_rows,
    numbered_batch,
    open_lake,
    query_database,
    read_notes,
    replace_rows,
    utc_now,
)


def open_write_session(lake: Lake, mode: str = "merge") -> WriteSession:
    """Return a session on profiles with ten rows that nobody else brings."""
    session = lake.open_session(
        PROFILES,
        account=ACCOUNT_ID,
        mode="replace" if mode == "replace" else "merge",
        with_history=False,
        started_at=utc_now(),
    )
    session.add(numbered_batch(1000, 10, note="stale"))
    return session


@pytest.mark.parametrize("mode", ["merge", "replace"])
@pytest.mark.parametrize("first", ["merge", "replace"])
def test_the_second_writer_is_refused(lake: Lake, root: Path, mode: str, first: str) -> None:
    """The second of two commits stores nothing, not even rows with keys of its own."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)], {"n": 1})
    with open_write_session(lake, mode) as stale:
        (merge_rows if first == "merge" else replace_rows)(
            lake, PROFILES, [numbered_batch(5, 10)], {"n": 2}
        )
        with pytest.raises(LakeConflictError, match=r"profiles: another run .* then run again"):
            stale.commit({"n": 9})
    state = lake.read_table_state("profiles")
    assert state is not None
    assert state.state == {"n": 2}
    assert "stale" not in read_notes(lake, "profiles").values()
    stored = [pq.read_table(path)["note"].to_pylist() for path in list_data_files(root, "profiles")]
    assert all("stale" not in notes for notes in stored)


def test_a_writer_that_is_overtaken_between_its_commits(lake: Lake) -> None:
    """A session with one commit is refused like any other if another writer committed since."""
    with open_write_session(lake) as stale:
        stale.commit({"n": 1})
        merge_rows(lake, PROFILES, [numbered_batch(0, 10)], {"n": 2})
        stale.add(numbered_batch(2000, 10, note="stale"))
        with pytest.raises(LakeConflictError):
            stale.commit({"n": 3})
    state = lake.read_table_state("profiles")
    assert state is not None
    assert (state.state, state.rows) == ({"n": 2}, 20)


def test_two_first_writers(lake: Lake) -> None:
    """Of two that both found no table, one creates it and the other is refused."""
    with open_write_session(lake) as stale:
        merge_rows(lake, PROFILES, [numbered_batch(0, 10)])
        with pytest.raises(LakeConflictError):
            stale.commit({})
    assert len(read_notes(lake, "profiles")) == 10


def test_a_state_alone_is_fenced_too(lake: Lake) -> None:
    """A mark without rows does not slip past another writer's commit."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)], {"n": 1})
    with lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    ) as stale:
        merge_rows(lake, PROFILES, [numbered_batch(10, 10)], {"n": 2})
        with pytest.raises(LakeConflictError):
            stale.commit({"n": 9})


def test_a_history_is_fenced_too(lake: Lake) -> None:
    """A writer that was overtaken leaves nothing in the history either."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)], with_history=True)
    with lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="merge", with_history=True, started_at=utc_now()
    ) as stale:
        stale.add(numbered_batch(1000, 10))
        merge_rows(lake, PROFILES, [numbered_batch(10, 10)], with_history=True)
        with pytest.raises(LakeConflictError):
            stale.commit({})
    assert lake.query_relation("profiles_history").aggregate("count(*)").fetchall() == [(20,)]


def test_a_losing_writer_whose_files_were_vacuumed(lake: Lake) -> None:
    """Files that upkeep removed meanwhile make a conflict, and no talk of damage."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)])
    with open_write_session(lake) as stale:
        stale.add(numbered_batch(0, 10, note="stale"))
        replace_rows(lake, PROFILES, [numbered_batch(0, 10, note="new")])
        for path in lake.root.glob("lake/profiles/part-*.parquet"):
            path.unlink()
        with pytest.raises(LakeConflictError):
            stale.commit({})


def test_a_commit_whose_answer_was_lost_is_known_again(lake: Lake, root: Path) -> None:
    """What went through is not taken for another writer's, though it was reported as failed."""
    folder = root / "lake/profiles"
    mark = CommitState(
        account=ACCOUNT_ID, key=("id",), state={"n": 1}, rows=0, session="s", sequence=1
    )
    nothing = TableChange(added=[], removed=[], changed_at=utc_now())
    assert commit_change(folder, PROFILES, None, nothing, mark) == 0
    assert commit_change(folder, PROFILES, None, nothing, mark) == 0
    with pytest.raises(LakeConflictError):
        commit_change(folder, PROFILES, None, nothing, replace_values(mark, sequence=2))
    state = lake.read_table_state("profiles")
    assert state is not None
    assert state.version == 0


def test_the_next_session_clears_up_after_a_killed_one(lake: Lake, root: Path) -> None:
    """The next session removes the staged files of a killed one when it begins."""
    assert (
        run_in_child_process(sync_rows, root, "merge", KillAt("before rewriting files", count=2))
        == -9
    )
    assert list_data_files(root, "profiles")
    open_write_session(lake).close()
    assert list_data_files(root, "profiles") == []


def test_a_lock_whose_file_went_is_taken_anew(tmp_path: Path) -> None:
    """Who waited for a lock that its owner removed locks the name, and not the removed file."""
    path = tmp_path / "x.lock"
    first = acquire_lock(path, wait=True)
    assert first is not None
    assert acquire_lock(path, wait=False) is None
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(acquire_lock, path, wait=True)
        path.unlink()
        os.close(first)
        second = waiting.result()
    assert second is not None
    assert path.exists()
    assert acquire_lock(path, wait=False) is None
    os.close(second)


def test_a_live_session_keeps_what_it_staged(lake: Lake) -> None:
    """Another session does not take the staged files of one that lives for a dead one's."""
    with open_write_session(lake) as first:
        first.stage_batches()
        with open_write_session(lake) as second:
            second.stage_batches()
        lake.vacuum("profiles")
        assert first.commit({}).rows_written == 10


def write_and_publish(root: Path, name: str) -> None:
    """Write a table of its own in several commits, showing each."""
    lake = open_lake(root)
    table = LakeTable(name=name, schema=SCHEMA, key=("id",), cursor="updated")
    for number in range(5):
        merge_rows(lake, table, [numbered_batch(number * 10, 10)], {"n": number})
        lake.publish([PlainRelation(name=name)])


def test_writers_of_different_tables_do_not_lose_each_others_views(root: Path) -> None:
    """Four processes write and publish at once; in the end the database shows all of everything."""
    names = [f"table{number}" for number in range(4)]
    children = [FORKSERVER.Process(target=write_and_publish, args=(root, name)) for name in names]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    for name in names:
        assert query_database(root, f"SELECT count(*) FROM k.{name}") == [(50,)]
