"""A replacement that others overtook: what they stored meanwhile is beside its own rows."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import pyarrow as pa
import pytest

from klaviyo_assets.errors import LakeConflictError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.maintenance.personal_data import ProfileTable, remove_profile_rows
from klaviyo_assets.lake.write.session import CommitReceipt, WriteSession
from klaviyo_assets.lake.write.soft_deletes import DeletionScan
from klaviyo_assets.lake.write.table_writer import Rebase
from klaviyo_assets_tests.crash_hooks import run_at_crash_point
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    PROFILES,
    START_TIME,
    list_data_files,
    merge_rows,
    numbered_batch,
    read_notes,
    replace_rows,
    utc_now,
)
from klaviyo_assets_tests.integration.lake.test_soft_deletes import (
    MARKING,
    add_null_deletion_column,
    key,
    marks,
)

BEGAN = 100.0
"""When the replacement began to read, in seconds since START."""

BEFORE, MEANWHILE, LATER = BEGAN - 10, BEGAN + 10, BEGAN + 20


def open_write_session(lake: Lake, table: LakeTable, *, with_history: bool = False) -> WriteSession:
    """Return a replacement that found what there is now."""
    return lake.open_session(
        table, account=ACCOUNT_ID, mode="replace", with_history=with_history, started_at=utc_now()
    )


def rebase(hidden: frozenset[str] = frozenset()) -> Rebase:
    """Return how it goes on: the states of both in one."""

    def both(theirs: Mapping[str, object]) -> dict[str, object]:
        return {"ours": 1, "theirs": theirs.get("n")}

    return Rebase(
        synced_since=START_TIME + timedelta(seconds=BEGAN), merge_state=both, cleared_columns=hidden
    )


def commit_replacement(
    session: WriteSession, batches: Sequence[pa.RecordBatch], **more: object
) -> CommitReceipt:
    """Bring the rows of the replacement and commit it."""
    wanted = rebase(**more)  # pyright: ignore[reportArgumentType]
    with session:
        for each in batches:
            session.add(each)
        return session.commit({"ours": 1}, None, wanted)


def state(lake: Lake, name: str) -> object:
    """Return what the newest commit says."""
    found = lake.read_table_state(name)
    return None if found is None else found.state


@pytest.mark.parametrize("table", [PROFILES, EVENTS], ids=["by cursor", "by day"])
def test_rows_of_both_are_there_once(lake: Lake, table: LakeTable) -> None:
    """New rows of others stay, of a key that both have the newer; what left Klaviyo leaves."""
    merge_rows(lake, table, [numbered_batch(0, 50, note="old", synced=BEFORE)], {"n": 1})
    session = open_write_session(lake, table)
    # Of keys that are there already, so that the old rows beside them come into new files.
    merge_rows(lake, table, [numbered_batch(20, 5, note="theirs", synced=LATER)], {"n": 2})
    merge_rows(lake, table, [numbered_batch(25, 5, note="theirs, older", synced=BEGAN)], {"n": 3})
    merge_rows(lake, table, [numbered_batch(60, 5, note="theirs", synced=MEANWHILE)], {"n": 4})
    receipt = commit_replacement(session, [numbered_batch(10, 40, note="ours", synced=MEANWHILE)])
    expected = {key(at): "ours" for at in range(10, 50)}
    expected |= {key(at): "theirs" for at in (*range(20, 25), *range(60, 65))}
    assert read_notes(lake, table.name) == expected
    assert state(lake, table.name) == {"ours": 1, "theirs": 4}
    assert (receipt.rows_total, receipt.rows_rebased) == (45, 15)


def test_the_first_of_two_makes_the_table(lake: Lake) -> None:
    """A refresh that found no table goes on from the one that an increment made."""
    session = open_write_session(lake, PROFILES)
    merge_rows(lake, PROFILES, [numbered_batch(0, 5, note="theirs", synced=MEANWHILE)], {"n": 1})
    commit_replacement(session, [numbered_batch(3, 5, note="ours", synced=LATER)])
    assert read_notes(lake, "profiles") == {
        **{key(at): "theirs" for at in range(3)},
        **{key(at): "ours" for at in range(3, 8)},
    }


def test_nobody_came_between(lake: Lake) -> None:
    """Then it is a replacement like any other, and nothing of the table is read for it."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5, synced=MEANWHILE)], {"n": 1})
    session = open_write_session(lake, PROFILES)
    for path in list_data_files(lake.root, "profiles"):
        path.write_bytes(b"damaged")
    receipt = commit_replacement(session, [numbered_batch(3, 5, synced=LATER)])
    assert (receipt.rows_total, receipt.rows_rebased) == (5, 0)
    assert state(lake, "profiles") == {"ours": 1}


def test_missing_rows_are_marked_but_not_those_of_other_runs(lake: Lake) -> None:
    """Where deleted rows stay, one that an increment read later than the others is no such row.

    One that it read before is marked from when it was read last: it was there then.
    """
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(0, 6, synced=BEFORE))])
    session = open_write_session(lake, MARKING)
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(10, 2, synced=BEGAN - 1))])
    merge_rows(lake, MARKING, [add_null_deletion_column(numbered_batch(20, 2, synced=MEANWHILE))])
    noticed = DeletionScan(deleted_at=START_TIME + timedelta(seconds=BEGAN - 5))
    with session:
        session.add(add_null_deletion_column(numbered_batch(2, 4, synced=BEGAN)))
        receipt = session.commit({}, noticed, rebase())
    read_last = START_TIME + timedelta(seconds=BEGAN - 1)
    expected = {key(at): noticed.deleted_at for at in range(2)}
    expected |= {key(at): read_last for at in (10, 11)}
    expected |= dict.fromkeys([*(key(at) for at in range(2, 6)), key(20), key(21)])
    assert marks(lake) == expected
    assert receipt.rows_marked_deleted == 4


def test_a_history_keeps_the_versions_of_both(lake: Lake) -> None:
    """Its commit goes on from what others stored there, too."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5, synced=BEFORE)], with_history=True)
    session = open_write_session(lake, PROFILES, with_history=True)
    merge_rows(lake, PROFILES, [numbered_batch(5, 5, synced=MEANWHILE)], with_history=True)
    commit_replacement(session, [numbered_batch(2, 5, synced=LATER, days=0.02)])
    assert lake.query_relation("profiles_history").aggregate("count(*)").fetchall() == [(15,)]
    assert len(read_notes(lake, "profiles")) == 8


def test_columns_older_than_a_setting_of_privacy_are_not_taken_over(lake: Lake) -> None:
    """A run with the old settings may have stored them."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5, synced=BEFORE)])
    session = open_write_session(lake, PROFILES)
    merge_rows(lake, PROFILES, [numbered_batch(5, 1, note="secret", synced=MEANWHILE)])
    commit_replacement(
        session, [numbered_batch(0, 5, note="ours", synced=LATER)], hidden=frozenset({"note"})
    )
    assert read_notes(lake, "profiles")[key(5)] is None


@pytest.mark.parametrize("taking", ["a replacement", "an erasure"])
def test_after_a_commit_that_took_keys_away_it_is_refused(lake: Lake, taking: str) -> None:
    """Rows that it read before would come back."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 50, synced=BEFORE)], {"n": 1})
    session = open_write_session(lake, PROFILES)
    merge_rows(lake, PROFILES, [numbered_batch(50, 5, synced=MEANWHILE)], {"n": 2})
    if taking == "a replacement":
        replace_rows(lake, PROFILES, [numbered_batch(10, 40, synced=MEANWHILE)], {"n": 3})
    else:
        place = ProfileTable(table=PROFILES, id_column="id")
        remove_profile_rows(
            lake.root, place, [key(3)], on_removal=lambda _rows, _version: None, clock=utc_now
        )
    before = read_notes(lake, "profiles")
    with pytest.raises(LakeConflictError, match=r"another run committed first"):
        commit_replacement(session, [numbered_batch(0, 50, note="ours", synced=LATER)])
    assert read_notes(lake, "profiles") == before


def test_one_that_is_outrun_as_it_commits_goes_on_from_there(lake: Lake) -> None:
    """Its files are in place when another commit comes first: they are not lost; nor for ever."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 50, note="old", synced=BEFORE)])
    rivals = [3, 2, 1]

    def commit_rival() -> None:
        if rivals:
            batch = numbered_batch(100 + rivals.pop(), 1, note="theirs", synced=MEANWHILE)
            merge_rows(lake, EVENTS, [batch])

    session = open_write_session(lake, EVENTS)
    with run_at_crash_point("after moving files", commit_rival):
        receipt = commit_replacement(session, [numbered_batch(0, 50, note="ours", synced=LATER)])
    expected = {key(at): "ours" for at in range(50)}
    assert read_notes(lake, "events") == expected | {key(at): "theirs" for at in (101, 102, 103)}
    assert receipt.rows_rebased == 3
    rivals.extend(range(10, 15))
    with (
        run_at_crash_point("after moving files", commit_rival),
        pytest.raises(LakeConflictError),
    ):
        commit_replacement(
            open_write_session(lake, EVENTS), [numbered_batch(0, 50, note="ours", synced=LATER)]
        )
