"""A row that comes back unchanged keeps its `synced_at`, and its file is not written again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.write import unchanged_rows
from klaviyo_assets.lake.write.session import CommitReceipt, WriteMode
from klaviyo_assets.lake.write.unchanged_rows import (
    RowComparison,
    mask_equal_values,
    take_rows,
)
from klaviyo_assets_tests.examples import costly_examples
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
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

EACH_DAY = [(f"k{day}", day + 0.5, f"note {day}") for day in range(3)]


def batch_of(rows: Iterable[tuple[str, float, str]], *, synced: float) -> pa.RecordBatch:
    """Return rows that were read at one time."""
    return build_batch([(*row, synced) for row in rows])


def synced_seconds(lake: Lake, name: str = "events") -> dict[str, float]:
    """Return when each key was read, in seconds since START."""
    rows = read_rows(lake, name)
    return {key: (row[2] - START_TIME) / timedelta(seconds=1) for key, row in rows.items()}


def merge_parts(lake: Lake, parts: Iterable[pa.RecordBatch]) -> CommitReceipt:
    """Merge batches that are staged one after the other, in one commit."""
    with lake.open_session(
        EVENTS, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    ) as session:
        for part in parts:
            session.add(part)
            session.stage_batches()
        return session.commit({})


@pytest.fixture(params=["before staging", "by the merge"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have rows compared in each of the two ways."""
    if request.param == "by the merge":
        monkeypatch.setattr(unchanged_rows, "MAX_READ_SHARE", 0)
    return str(request.param)


@pytest.mark.usefixtures("road")
def test_rows_that_come_back_unchanged_write_nothing(lake: Lake, root: Path) -> None:
    """Every row keeps its time, the files are the same, and nothing counts as written."""
    merge_rows(lake, EVENTS, [batch_of(EACH_DAY, synced=1)])
    before = list_data_files(root, "events")
    receipt = merge_rows(lake, EVENTS, [batch_of(EACH_DAY[::-1], synced=2)], {"cursor": "later"})
    assert synced_seconds(lake) == {"k0": 1, "k1": 1, "k2": 1}
    assert list_data_files(root, "events") == before
    assert (receipt.rows_written, receipt.rows_total, receipt.files_removed) == (0, 3, 0)
    state = lake.read_table_state("events")
    assert state is not None
    assert state.state == {"cursor": "later"}


@pytest.mark.usefixtures("road")
def test_changed_and_new_rows_get_the_new_time(lake: Lake, root: Path) -> None:
    """Beside unchanged ones of the same day, in a file that has to be written again."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 40, days=0.1, synced=1)])
    rows = [(f"k{at:07}", at * 0.1, "changed" if at == 7 else "") for at in range(20)]
    before = {path for path in list_data_files(root, "events") if "2024-01-02" in str(path)}
    receipt = merge_rows(lake, EVENTS, [batch_of([*rows, ("new", 0.35, "")], synced=2)])
    times = synced_seconds(lake)
    assert {key for key, at in times.items() if at == 2} == {"k0000007", "new"}
    assert len(times) == receipt.rows_total == 41
    assert receipt.rows_written == 2
    assert read_notes(lake, "events")["k0000007"] == "changed"
    assert before <= set(list_data_files(root, "events"))


def test_a_replacement_gives_every_row_a_new_time(lake: Lake) -> None:
    """A full refresh says when all of it was read, and so does a table that keeps nothing."""
    merge_rows(lake, EVENTS, [batch_of(EACH_DAY, synced=1)])
    replace_rows(lake, EVENTS, [batch_of(EACH_DAY, synced=2)])
    assert set(synced_seconds(lake).values()) == {2}
    renewed = replace(EVENTS, keeps_unchanged_rows=False)
    merge_rows(lake, renewed, [batch_of(EACH_DAY, synced=3)])
    assert set(synced_seconds(lake).values()) == {3}


def test_of_a_row_read_twice_in_one_commit_the_last_decides(lake: Lake) -> None:
    """Changed and changed back: the stored row stays. Unchanged, then changed: the new one."""
    merge_rows(lake, EVENTS, [batch_of(EACH_DAY, synced=1)])
    changed = [(key, day, "changed") for key, day, _ in EACH_DAY]
    merge_parts(lake, [batch_of(changed, synced=2), batch_of(EACH_DAY, synced=3)])
    assert read_rows(lake, "events")["k0"][1] == "note 0"
    assert set(synced_seconds(lake).values()) == {1}
    merge_parts(lake, [batch_of(EACH_DAY, synced=4), batch_of(changed, synced=5)])
    assert set(read_notes(lake, "events").values()) == {"changed"}
    assert set(synced_seconds(lake).values()) == {5}


def test_a_row_that_another_program_stored_twice_is_left_to_the_merge(
    lake: Lake, root: Path
) -> None:
    """The merge removes one of the two, and needs the row that was read for that."""
    rows = batch_of(EACH_DAY[:1], synced=1)
    merge_rows(lake, EVENTS, [rows])
    comparison = RowComparison(EVENTS, EVENTS.schema)
    (stored,) = list_data_files(root, "events")
    assert not sum(len(each) for each in comparison.drop_unchanged_rows([stored], [rows]))
    twin = stored.with_name("twin.parquet")
    twin.write_bytes(stored.read_bytes())
    assert sum(len(each) for each in comparison.drop_unchanged_rows([stored, twin], [rows])) == 1


@pytest.mark.usefixtures("road")
def test_a_damaged_file_is_replaced_as_before(lake: Lake, root: Path) -> None:
    """A page that cannot be read is in no way of new rows, as long as the keys can be."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 3, note="x" * 400, synced=1)])
    (path,) = list_data_files(root, "events")
    footer = pq.read_metadata(path)
    place = footer.schema.names.index("note")
    chunk = footer.row_group(0).column(place)
    body = bytearray(path.read_bytes())
    body[chunk.data_page_offset + chunk.total_compressed_size - 4] ^= 0xFF
    path.write_bytes(body)
    merge_rows(lake, EVENTS, [numbered_batch(0, 3, note="x" * 400, synced=2)])
    assert set(synced_seconds(lake).values()) == {2}
    lake.check_integrity()


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize(("value", "expected"), [(None, 1), ("there", 2)])
def test_a_column_that_a_file_lacks_is_null_in_it(
    lake: Lake, value: str | None, expected: float
) -> None:
    """A release that adds a column changes no row by it, until the row has a value there."""
    merge_rows(lake, EVENTS, [batch_of(EACH_DAY, synced=1)])
    schema = EVENTS.schema.append(pa.field("added", pa.string()))
    later = replace(EVENTS, schema=schema)
    rows = batch_of(EACH_DAY, synced=2)
    added = pa.array([value] * 3, pa.string())
    merge_rows(lake, later, [pa.RecordBatch.from_arrays([*rows.columns, added], schema=schema)])
    assert set(synced_seconds(lake).values()) == {expected}


VALUES: Mapping[pa.DataType, list[object]] = {
    pa.string(): [None, "", "a", "A", "ä", '{"a":1}', '{"a": 1}'],
    pa.float64(): [None, 0.0, -0.0, float("nan"), 1.5, float("inf")],
    pa.int64(): [None, 0, 2**53, 2**53 + 1],
    pa.bool_(): [None, True, False],
    pa.list_(pa.string()): [None, [], ["a"], ["a", "b"], ["b", "a"]],
    TIMESTAMP_TYPE: [None, START_TIME, START_TIME + timedelta(microseconds=1)],
}


@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_values_are_equal_to_themselves_alone(kind: pa.DataType) -> None:
    """NULL equals NULL and NaN NaN; nothing else equals anything, not 0.0 the negative zero."""
    values = VALUES[kind]
    count = len(values)
    some = pa.chunked_array([pa.array([each] * count, kind) for each in values])
    others = pa.chunked_array([pa.array(values * count, kind)])
    expected = np.eye(count, dtype=np.bool_).reshape(-1)
    assert (mask_equal_values(some, others) == expected).all()


def test_rows_are_taken_in_any_order() -> None:
    """As a slice or as a copy, and none at all."""
    rows = pa.table({"at": pa.array(range(6))})
    for wanted in ([1, 2, 3], [3, 2, 1], [0, 2, 1, 3], [5], []):
        taken = take_rows(rows, np.array(wanted, dtype=np.int64))
        assert taken["at"].to_pylist() == wanted


@dataclass(frozen=True, slots=True)
class Commit:
    """Rows in the parts in which they are staged; a replacement has one part."""

    mode: WriteMode
    parts: list[list[tuple[int, int]]]
    """Number and note of each row."""


ROWS = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, 1)), max_size=12, unique_by=lambda row: row[0]
)
COMMITS = st.lists(
    st.builds(
        Commit, st.sampled_from(["merge", "merge", "merge", "replace"]), st.lists(ROWS, max_size=3)
    ),
    max_size=6,
)


@pytest.mark.usefixtures("road")
@costly_examples(10)
@given(COMMITS)
def test_any_commits_are_those_of_a_dict(commits: list[Commit]) -> None:
    """The last row of a key counts; its time is that of the first of the same rows in a row."""
    expected: dict[str, tuple[str, float]] = {}
    with TemporaryDirectory() as root:
        lake = open_lake(Path(root))
        for at, commit in enumerate(commits, start=1):
            table: LakeTable = EVENTS
            before = expected
            brought = {
                f"k{number}": (f"{note}", float(at))
                for part in commit.parts
                for number, note in part
            }
            expected = (
                brought
                if commit.mode == "replace"
                else before
                | {
                    key: before[key] if key in before and before[key][0] == row[0] else row
                    for key, row in brought.items()
                }
            )
            with lake.open_session(
                table,
                account=ACCOUNT_ID,
                mode=commit.mode,
                with_history=False,
                started_at=utc_now(),
            ) as session:
                for part in commit.parts:
                    rows: list[SampleRow] = [
                        (f"k{number}", number / 4, f"{note}", at) for number, note in part
                    ]
                    session.add(build_batch(rows))
                    session.stage_batches()
                session.commit({"at": at})
            times = synced_seconds(lake)
            notes = read_notes(lake, "events")
            assert {key: (notes[key], times[key]) for key in notes} == expected
