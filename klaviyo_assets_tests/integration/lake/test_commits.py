"""Commits: rows and state together, newest wins, and nothing written that need not be."""

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.errors import ContractError, LakeError
from klaviyo_assets.lake import parquet
from klaviyo_assets.lake.delta.log import read_snapshot
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.write import merge
from klaviyo_assets.lake.write import session as session_module
from klaviyo_assets_tests.examples import costly_examples
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    PROFILES,
    SCHEMA,
    START_TIME,
    TIMESTAMP_TYPE,
    SampleRow,
    build_batch,
    list_data_files,
    merge_rows,
    numbered_batch,
    open_lake,
    read_notes,
    read_rows,
    replace_rows,
    utc_now,
)


def test_a_lake_without_tables_knows_nothing(lake: Lake, root: Path) -> None:
    """The state of a table that was never read is None, and reading it creates nothing."""
    assert lake.read_table_state("profiles") is None
    assert not root.exists()


def test_rows_and_state_come_back(lake: Lake, root: Path) -> None:
    """What was committed is there for another process: rows, counts, account and state."""
    state: dict[str, object] = {"cursor": "2024-01-01T00:00:00Z", "done": [["a", 1]], "n": None}
    receipt = merge_rows(lake, PROFILES, [numbered_batch(0, 10), numbered_batch(10, 5)], state)
    assert (receipt.version, receipt.rows_written, receipt.rows_total) == (0, 15, 15)
    assert receipt.files_removed == 0
    assert len(list_data_files(root, "profiles")) == 1
    found = open_lake(root).read_table_state("profiles")
    assert found is not None
    assert (found.version, found.account, found.rows) == (0, ACCOUNT_ID, 15)
    assert found.state == state
    assert len(read_rows(lake, "profiles")) == 15


def test_an_empty_stream_has_a_table(lake: Lake) -> None:
    """A sync that found nothing leaves a table with the right columns and no row."""
    receipt = merge_rows(lake, PROFILES, [])
    assert (receipt.version, receipt.rows_total) == (0, 0)
    assert lake.read_table_state("profiles") is not None
    relation = lake.query_relation("profiles")
    assert relation.columns == SCHEMA.names
    assert relation.fetchall() == []


def test_a_state_alone_is_committed_where_it_changed(lake: Lake) -> None:
    """Without rows and without a new state there is no commit; with a new state there is one."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 3)], {"mark": 1, "pair": (1, 2)})
    again = merge_rows(lake, PROFILES, [], {"mark": 1, "pair": (1, 2)})
    assert (again.version, again.rows_written, again.rows_total) == (0, 0, 3)
    moved = merge_rows(lake, PROFILES, [], {"mark": 2})
    assert (moved.version, moved.rows_total) == (1, 3)
    state = lake.read_table_state("profiles")
    assert state is not None
    assert state.state == {"mark": 2}


def test_many_commits_in_one_session(lake: Lake) -> None:
    """Each commit of a session is visible at once and moves the state."""
    with lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    ) as session:
        for number in range(5):
            session.add(numbered_batch(number * 10, 10))
            receipt = session.commit({"n": number})
            state = lake.read_table_state("profiles")
            assert state is not None
            assert (state.version, state.rows, state.state) == (
                receipt.version,
                10 * number + 10,
                {"n": number},
            )


def test_the_later_cursor_wins_whenever_it_comes(lake: Lake) -> None:
    """An older version that comes later does not bring a record back in time."""
    merge_rows(lake, PROFILES, [build_batch([("a", 5, "new", 1)])])
    late = merge_rows(lake, PROFILES, [build_batch([("a", 4, "old", 9), ("b", 1, "other", 9)])])
    assert late.rows_written == 1
    assert read_notes(lake, "profiles") == {"a": "new", "b": "other"}


def test_an_event_is_kept_as_it_was_read_last(lake: Lake) -> None:
    """Where the cursor is no version, what comes in later wins, whatever a clock said of it."""
    day = 86_400.0
    merge_rows(lake, EVENTS, [build_batch([("a", 0.5, "first", day), ("b", 0.5, "first", 5)])])
    merge_rows(lake, EVENTS, [build_batch([("a", 0.1, "second", 4), ("b", 0.1, "second", 5)])])
    assert read_notes(lake, "events") == {"a": "second", "b": "second"}
    ahead = build_batch([("a", 0.1, "third", day), ("b", 0.1, "third", 7)])
    merge_rows(
        lake, EVENTS, [ahead, build_batch([("a", 0.1, "fourth", 8), ("b", 0.1, "fourth", 6)])]
    )
    assert read_notes(lake, "events") == {"a": "fourth", "b": "fourth"}


def test_only_files_with_a_superseded_row_are_rewritten(lake: Lake, root: Path) -> None:
    """A commit leaves every file alone that holds none of its keys."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 40, days=0.1)])
    before = set(list_data_files(root, "events"))
    receipt = merge_rows(lake, EVENTS, [build_batch([("k0000011", 1.1, "again", 9)])])
    assert receipt.files_removed == 1
    assert len(set(list_data_files(root, "events")) - before) == 2
    current = {file.path for file in snapshot_files(lake)}
    assert len(current & {str(path.relative_to(root / "lake/events")) for path in before}) == 3
    assert read_notes(lake, "events")["k0000011"] == "again"
    assert len(read_rows(lake, "events")) == 40


def test_a_file_whose_rows_all_came_again_is_dropped(lake: Lake) -> None:
    """Reading a day again replaces its file without rewriting the old one."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 10, days=0.05)])
    receipt = merge_rows(lake, EVENTS, [numbered_batch(0, 10, days=0.05, note="again", synced=9)])
    assert (receipt.files_removed, receipt.rows_total) == (1, 10)
    assert len(snapshot_files(lake)) == 1
    assert set(read_notes(lake, "events").values()) == {"again"}


def test_a_first_sync_only_appends(lake: Lake) -> None:
    """Keys that are new take no file away."""
    for number in range(4):
        receipt = merge_rows(lake, PROFILES, [numbered_batch(number * 10, 10)])
        assert receipt.files_removed == 0


def test_small_files_are_merged_as_they_come(lake: Lake) -> None:
    """However many commits a partition sees, it keeps few files and every row."""
    for number in range(40):
        merge_rows(lake, PROFILES, [numbered_batch(number * 3, 3)])
        assert len(snapshot_files(lake, "profiles")) <= 6
    assert len(read_rows(lake, "profiles")) == 120


def test_events_lie_by_day_in_utc(lake: Lake, root: Path) -> None:
    """The folder of a row is the UTC day of its cursor; the files have no such column."""
    rows: list[SampleRow] = [("a", -0.00001, "", 0), ("b", 0, "", 0), ("c", 400.99999, "", 0)]
    merge_rows(lake, EVENTS, [build_batch(rows)])
    days = {path.parent.name: path for path in list_data_files(root, "events")}
    assert set(days) == {"day=2023-12-31", "day=2024-01-01", "day=2025-02-04"}
    assert all(pq.read_schema(path).names == SCHEMA.names for path in days.values())


@pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled"])
def test_the_order_of_rows_does_not_matter(lake: Lake, order: str) -> None:
    """Rows of many days in any order all arrive in their day."""
    numbers = list(range(300))
    if order == "backwards":
        numbers.reverse()
    if order == "shuffled":
        numbers = [number * 77 % 300 for number in numbers]
    rows: list[SampleRow] = [(f"k{number}", number / 10, "", 0) for number in numbers]
    merge_rows(lake, EVENTS, [build_batch(rows[:100]), build_batch(rows[100:])])
    assert len(read_rows(lake, "events")) == 300
    assert len(snapshot_files(lake)) == 30


def test_row_groups_and_files_are_bounded(
    lake: Lake, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups end by rows or bytes, files by size, whatever comes in."""
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(parquet, "FILE_BYTES", 10_000)
    rows = [(f"k{at}", 0.0, f"{at * 7919:x}" * 9, 0.0) for at in range(2000)]
    merge_rows(lake, PROFILES, [build_batch(rows)])
    files = [pq.ParquetFile(path) for path in list_data_files(root, "profiles")]
    groups = [
        file.metadata.row_group(at).num_rows for file in files for at in range(file.num_row_groups)
    ]
    assert len(files) > 1
    assert max(groups) <= 100
    assert len(read_rows(lake, "profiles")) == 2000


def test_large_rows_end_a_row_group_early(
    lake: Lake, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a few megabytes each do not fill a row group by number."""
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 4 * 2**20)
    merge_rows(lake, PROFILES, [build_batch([(f"k{at}", 0, "x" * 2**20, 0) for at in range(10)])])
    (path,) = list_data_files(root, "profiles")
    metadata = pq.read_metadata(path)
    sizes = [metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups)]
    assert len(sizes) >= 3
    assert len(read_rows(lake, "profiles")) == 10


def test_a_replacement_is_the_whole_table(lake: Lake) -> None:
    """After a replacement nothing of before is left, and keys are there once."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 50)], {"mark": 1})
    receipt = replace_rows(
        lake, PROFILES, [numbered_batch(40, 20, note="a"), numbered_batch(55, 20, note="b")]
    )
    assert (receipt.rows_written, receipt.rows_total, receipt.files_removed) == (35, 35, 1)
    found = read_notes(lake, "profiles")
    assert len(found) == 35
    assert found["k0000057"] == "b"


def test_a_replacement_is_unique_over_all_that_was_staged(lake: Lake) -> None:
    """A key that came again after its rows went to disk is there once, the newest."""
    for table in (PROFILES, EVENTS):
        with lake.open_session(
            table, account=ACCOUNT_ID, mode="replace", with_history=False, started_at=utc_now()
        ) as session:
            for number in range(4):
                session.add(numbered_batch(number * 5, 20, note=str(number), synced=number))
                session.stage_batches()
            assert session.buffered_bytes == 0
            receipt = session.commit({})
        assert receipt.rows_total == 35
        assert read_notes(lake, table.name)["k0000015"] == "3"


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_memory_is_bounded_however_much_is_added(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Rows beyond the bound go to the staging folder by themselves, and one commit takes them."""
    monkeypatch.setattr(session_module, "MAX_BUFFERED_BYTES", 2000)
    with lake.open_session(
        PROFILES,
        account=ACCOUNT_ID,
        mode="replace" if mode == "replace" else "merge",
        with_history=False,
        started_at=utc_now(),
    ) as session:
        for number in range(20):
            session.add(numbered_batch(number * 10, 10))
            assert session.buffered_bytes < 2000
        assert lake.read_table_state("profiles") is None
        assert session.commit({}).rows_total == 200
    assert len(read_rows(lake, "profiles")) == 200


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_very_many_keys_are_compared_on_disk(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Beyond the number of keys that memory is for, the outcome is the same."""
    monkeypatch.setattr(merge, "MAX_KEYS_IN_MEMORY", 10)
    merge_rows(lake, PROFILES, [numbered_batch(0, 30, note="old")])
    with lake.open_session(
        PROFILES,
        account=ACCOUNT_ID,
        mode="replace" if mode == "replace" else "merge",
        with_history=True,
        started_at=utc_now(),
    ) as session:
        for number in range(3):
            session.add(numbered_batch(10 + 5 * number, 20, note=str(number), synced=number))
            session.stage_batches()
        receipt = session.commit({})
    found = read_notes(lake, "profiles")
    assert receipt.rows_total == len(found) == (30 if mode == "replace" else 40)
    assert (found["k0000014"], found["k0000025"]) == ("0", "2")
    assert ("k0000009" in found) == (mode == "merge")


def test_a_replacement_by_nothing_empties_the_table(lake: Lake) -> None:
    """A full refresh that found nothing leaves no row, and an unchanged one no commit."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)], {"mark": 1})
    receipt = replace_rows(lake, PROFILES, [], {"mark": 1})
    assert (receipt.rows_total, receipt.files_removed, receipt.version) == (0, 1, 1)
    assert replace_rows(lake, PROFILES, [], {"mark": 1}).version == 1
    state = lake.read_table_state("profiles")
    assert state is not None
    assert state.rows == 0


def test_a_replacement_commits_once(lake: Lake) -> None:
    """After its commit a replacing session takes no more rows."""
    with lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="replace", with_history=False, started_at=utc_now()
    ) as session:
        session.add(numbered_batch(0, 5))
        session.commit({})
        with pytest.raises(LakeError, match="over"):
            session.add(numbered_batch(5, 5))


def break_off(lake: Lake, kind: type[BaseException]) -> None:
    """Stage some rows, add some more, and end the session by an error."""
    with lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="merge", with_history=True, started_at=utc_now()
    ) as session:
        session.add(numbered_batch(5, 5))
        session.stage_batches()
        session.add(numbered_batch(10, 5))
        raise kind


def test_uncommitted_rows_are_removed(lake: Lake, root: Path) -> None:
    """Leaving a session by an error or a cancel leaves neither rows nor files."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)], {"mark": 1})
    before = list_data_files(root, "profiles")
    for kind in (RuntimeError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(kind):
            break_off(lake, kind)
    assert list_data_files(root, "profiles") == before
    assert list((root / "lake/profiles/_staging").iterdir()) == []
    assert len(read_rows(lake, "profiles")) == 5


@pytest.mark.parametrize("column", ["id", "updated", "synced_at"])
def test_a_row_without_key_or_cursor_is_refused(lake: Lake, column: str) -> None:
    """NULL where the table cannot have it stops the sync, and nothing of it is stored."""
    rows = numbered_batch(0, 3)
    at = SCHEMA.names.index(column)
    kind: Any = SCHEMA.types[at]
    nothing = cast("pa.Array[Any]", pa.nulls(3, kind))
    broken = rows.set_column(at, pa.field(column, kind), nothing)
    with pytest.raises(ContractError, match=f"3 rows without {column}"):
        merge_rows(lake, PROFILES, [broken])
    assert lake.read_table_state("profiles") is None


def test_other_columns_are_refused(lake: Lake) -> None:
    """A batch must have the columns of its table, in order."""
    rows = numbered_batch(0, 3).select(["id", "note", "updated", "synced_at"])
    with pytest.raises(LakeError, match="other columns"):
        merge_rows(lake, PROFILES, [rows])


def test_what_a_schema_says_beside_its_columns_is_the_tables(lake: Lake) -> None:
    """Rows whose schema speaks of more, or of NULL otherwise, lie beside those that do not."""
    loose = pa.schema(list(zip(SCHEMA.names, SCHEMA.types, strict=True)), metadata={"from": "x"})
    other = pa.RecordBatch.from_arrays(numbered_batch(0, 3).columns, schema=loose)
    merge_rows(lake, PROFILES, [other, numbered_batch(3, 3)])
    assert len(read_notes(lake, "profiles")) == 6


def test_a_key_of_several_columns(lake: Lake) -> None:
    """The whole key, dates included, identifies a row."""
    schema = pa.schema(
        [
            ("date", pa.date32()),
            ("campaign_id", pa.string()),
            ("opens", pa.float64()),
            ("synced_at", TIMESTAMP_TYPE),
        ]
    )
    table = LakeTable(name="reports", schema=schema, key=("date", "campaign_id"))
    day = START_TIME.date()

    def rows(opens: float, seconds: int, *keys: tuple[int, str]) -> pa.RecordBatch:
        when = START_TIME + timedelta(seconds=seconds)
        return pa.RecordBatch.from_pylist(
            [
                {
                    "date": day + timedelta(days=days),
                    "campaign_id": name,
                    "opens": opens,
                    "synced_at": when,
                }
                for days, name in keys
            ],
            schema=schema,
        )

    merge_rows(lake, table, [rows(1, 1, (0, "a"), (0, "b"), (1, "a"))])
    merge_rows(lake, table, [rows(2, 2, (0, "b"), (1, "b"))])
    found = lake.query_relation("reports").select("date", "campaign_id", "opens").fetchall()
    assert sorted(found) == [
        (day, "a", 1.0),
        (day, "b", 2.0),
        (day + timedelta(days=1), "a", 1.0),
        (day + timedelta(days=1), "b", 2.0),
    ]


COMMITS = st.lists(
    st.tuples(
        st.sampled_from(["merge", "merge", "merge", "replace"]),
        st.lists(
            st.tuples(
                st.sampled_from("abcdefgh"),
                st.integers(0, 4),
                st.sampled_from("xyz"),
                st.integers(0, 4),
            ),
            max_size=12,
        ),
        st.integers(1, 4),
    ),
    max_size=6,
)


@costly_examples(12)
@given(COMMITS)
def test_any_sequence_of_commits_equals_a_dict(
    commits: list[tuple[str, list[tuple[str, int, str, int]], int]],
) -> None:
    """Merges and replacements, staged in pieces, leave what a dict by the same rule would hold."""
    with TemporaryDirectory() as folder:
        lake = open_lake(Path(folder))
        oracle: dict[str, tuple[int, str]] = {}
        for number, (mode, rows, pieces) in enumerate(commits):
            if mode == "replace":
                oracle = {}
            for key, cursor, note, _ in rows:
                known = oracle.get(key)
                if known is None or known[0] <= cursor:
                    oracle[key] = (cursor, note)
            parts = (
                [build_batch(rows[at::pieces]) for at in range(pieces)]
                if pieces == 1
                else [build_batch(rows[at : at + pieces]) for at in range(0, len(rows), pieces)]
            )
            with lake.open_session(
                PROFILES,
                account=ACCOUNT_ID,
                mode="replace" if mode == "replace" else "merge",
                with_history=False,
                started_at=utc_now(),
            ) as session:
                for part in parts:
                    session.add(part)
                    session.stage_batches()
                session.commit({"n": number})
        if commits:
            found = read_rows(lake, "profiles")
            assert {key: row[1] for key, row in found.items()} == {
                key: row[1] for key, row in oracle.items()
            }
            lake.check_integrity()


def snapshot_files(lake: Lake, name: str = "events") -> tuple[parquet.DataFile, ...]:
    """Return the files of the current version."""
    found = read_snapshot(lake.root / "lake" / name, name)
    assert found is not None
    return found.files
