"""Replacements that keep what they do not bring: marked, whole, and in one commit."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_assets.lake import Lake, Noticed, Plain, Receipt, Table, parquet
from klaviyo_assets_tests.integration.lake.ground import (
    ACCOUNT,
    MOMENT,
    PROFILES,
    SCHEMA,
    START,
    lake_at,
    merge,
    now,
    numbered,
    replace,
    shown,
)
from klaviyo_assets_tests.integration.lake.killed import Moment, die_at, run

MARKING = Table(
    name="profiles",
    schema=SCHEMA.append(pa.field("deleted_at", MOMENT)),
    key=("id",),
    cursor="updated",
)


def unmarked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows as the room `tables` hands them over: none is marked."""
    return batch.append_column(pa.field("deleted_at", MOMENT), pa.nulls(batch.num_rows, MOMENT))


def at_day(day: int) -> datetime:
    """Return a moment long after all cursors."""
    return START + timedelta(days=1000 + day)


def refresh(
    lake: Lake,
    batches: Sequence[pa.RecordBatch],
    noticed: Noticed,
    *,
    with_history: bool = False,
    state: dict[str, object] | None = None,
) -> Receipt:
    """Replace the table, and keep what is gone."""
    with lake.open(
        MARKING, account=ACCOUNT, mode="replace", with_history=with_history, started_at=now()
    ) as session:
        for each in batches:
            session.add(unmarked(each))
            session.stage()
        return session.commit(state or {}, noticed)


def marks(lake: Lake) -> dict[str, datetime | None]:
    """Return the mark of every key; one that is there twice fails the test."""
    found = lake.relation("profiles").select("id", "deleted_at").fetchall()
    assert len(dict(found)) == len(found), "a key is there twice"
    return dict(found)


def key(at: int) -> str:
    """Return the key of a numbered row."""
    return f"k{at:07}"


def test_what_a_replacement_does_not_bring_is_marked(lake: Lake) -> None:
    """Rows that are gone stay as they were, once, with the moment; a first mark is kept."""
    refresh(lake, [numbered(0, 50, note="old")], Noticed(at=at_day(0)))
    second = refresh(lake, [numbered(10, 50, note="new")], Noticed(at=at_day(1)))
    assert (second.rows_written, second.rows_total, second.deleted) == (50, 60, 10)
    third = refresh(lake, [numbered(20, 40)], Noticed(at=at_day(2)))
    assert (third.rows_total, third.deleted) == (60, 10)
    found = marks(lake)
    assert {found[key(at)] for at in range(10)} == {at_day(1)}
    assert {found[key(at)] for at in range(10, 20)} == {at_day(2)}
    assert {found[key(at)] for at in range(20, 60)} == {None}
    notes = lake.relation("profiles").filter("deleted_at IS NOT NULL").select("id", "note")
    assert dict(notes.fetchall()) == {key(at): "old" if at < 10 else "new" for at in range(20)}


def test_what_comes_back_has_no_mark(lake: Lake) -> None:
    """A key that is brought again is a plain row, by a replacement or by a merge."""
    refresh(lake, [numbered(0, 3)], Noticed(at=at_day(0)))
    refresh(lake, [], Noticed(at=at_day(1)))
    assert set(marks(lake).values()) == {at_day(1)}
    refresh(lake, [numbered(0, 1)], Noticed(at=at_day(2)))
    merge(lake, MARKING, [unmarked(numbered(1, 1, synced=5))])
    assert marks(lake) == {key(0): None, key(1): None, key(2): at_day(1)}


def test_rows_before_the_read_began_leave(lake: Lake) -> None:
    """What was not looked for is not called deleted: it leaves, marked before or not."""
    refresh(lake, [numbered(0, 10, days=1)], Noticed(at=at_day(0)))
    refresh(lake, [numbered(1, 8, days=1)], Noticed(at=at_day(1)))
    since = START + timedelta(days=5)
    receipt = refresh(lake, [numbered(7, 1, days=1)], Noticed(at=at_day(2), since=since))
    assert receipt.deleted == 3
    assert marks(lake) == {
        key(5): at_day(2),
        key(6): at_day(2),
        key(7): None,
        key(8): at_day(2),
        key(9): at_day(1),
    }


def test_a_read_that_may_have_missed_something_marks_nothing(lake: Lake) -> None:
    """Without a moment the rows that did not come stay exactly as they are."""
    refresh(lake, [numbered(0, 4)], Noticed(at=at_day(0)))
    refresh(lake, [numbered(0, 3)], Noticed(at=at_day(1)))
    receipt = refresh(lake, [numbered(0, 1)], Noticed(at=None))
    assert receipt.deleted == 0
    assert marks(lake) == {key(0): None, key(1): None, key(2): None, key(3): at_day(1)}


def test_a_lake_of_an_earlier_release_is_widened(lake: Lake) -> None:
    """A table without the column gets it with the first commit, its rows unmarked."""
    merge(lake, PROFILES, [numbered(0, 3)])
    assert lake.keys("profiles", ["id", "deleted_at"])["deleted_at"].null_count == 3
    merge(lake, MARKING, [unmarked(numbered(3, 1))])
    refresh(lake, [numbered(1, 3)], Noticed(at=at_day(0)))
    assert marks(lake) == {key(0): at_day(0), key(1): None, key(2): None, key(3): None}


def test_a_history_knows_no_deletion(lake: Lake) -> None:
    """The history holds what was sent: no column for marks, no version more for a deletion."""
    refresh(lake, [numbered(0, 3)], Noticed(at=at_day(0)), with_history=True)
    refresh(lake, [numbered(0, 2)], Noticed(at=at_day(1)), with_history=True)
    history = lake.relation("profiles_history")
    assert "deleted_at" not in history.columns
    assert len(history.fetchall()) == 3


def test_many_files_are_compared_file_by_file(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever files old and new rows lie in, a row is gone only if no new file has its key."""
    monkeypatch.setattr(parquet, "FILE_BYTES", 1)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 7)
    refresh(lake, [numbered(0, 60)], Noticed(at=at_day(0)))
    receipt = refresh(
        lake, [numbered(0, 60).take(pa.array(range(0, 60, 3)))], Noticed(at=at_day(1))
    )
    assert receipt.files_removed > 4
    assert receipt.deleted == 40
    found = marks(lake)
    assert {at for at in range(60) if found[key(at)] is None} == set(range(0, 60, 3))


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.booleans()), max_size=6))
def test_any_sequence_of_reads_equals_a_dict(reads: list[tuple[set[int], bool]]) -> None:
    """Complete reads and merges leave the marks that a dict by the same rule would hold."""
    with TemporaryDirectory() as folder:
        lake = lake_at(Path(folder))
        oracle: dict[str, datetime | None] = {}
        for day, (living, is_complete) in enumerate(reads):
            rows = numbered(0, 10, synced=day).take(pa.array(sorted(living), pa.int64()))
            if is_complete:
                refresh(lake, [rows], Noticed(at=at_day(day)))
                oracle = {each: mark or at_day(day) for each, mark in oracle.items()}
            else:
                merge(lake, MARKING, [unmarked(rows)])
            oracle |= dict.fromkeys(map(key, living))
        if reads:
            assert marks(lake) == oracle
            lake.check()


def refresh_and_die(root: Path, moment: Moment | None) -> None:
    """Replace half of the rows and publish, in a process that kills itself."""
    if moment is not None:
        die_at(moment)
    lake = lake_at(root)
    noticed = Noticed(at=at_day(1))
    refresh(lake, [numbered(30, 60, note="new")], noticed, state={"generation": 2})
    lake.publish([Plain(name="profiles")])


MOMENTS: dict[str, Moment] = {
    "before the gone rows are looked for": ("call", "gone", 1),
    "as the gone rows are written": ("call", "write_table", 2),
    "as a file is placed": ("c_call", "replace", 1),
    "before the commit": ("c_call", "create_write_transaction", 1),
    "after the commit": ("c_return", "create_write_transaction", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_all_marks_or_none(tmp_path: Path, moment: str) -> None:
    """Rows, marks and state are of one generation; a rerun ends it."""
    lake = lake_at(tmp_path)
    refresh(lake, [numbered(0, 60, note="old")], Noticed(at=at_day(0)), state={"generation": 1})
    lake.publish([Plain(name="profiles")])
    assert run(refresh_and_die, tmp_path, MOMENTS[moment]) == -9
    state = lake.state("profiles")
    assert state is not None
    new = {key(at): at_day(1) if at < 30 else None for at in range(90)}
    expected = {1: dict.fromkeys(map(key, range(60))), 2: new}
    assert marks(lake) == expected[int(str(state.state["generation"]))]
    (counted,) = shown(tmp_path, "SELECT count(*) FROM k.profiles")
    assert counted[0] in {60, 90}
    refresh_and_die(tmp_path, None)
    assert marks(lake) == new
    lake.check()


def test_without_a_word_a_replacement_is_the_whole_table(lake: Lake) -> None:
    """A stream that does not mark loses what a replacement does not bring, as ever."""
    merge(lake, PROFILES, [numbered(0, 5)])
    assert replace(lake, PROFILES, [numbered(0, 2)]).rows_total == 2
