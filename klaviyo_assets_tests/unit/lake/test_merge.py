"""Newest wins, compared with the plainest possible model: a dict."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.lake.write.merge import (
    ROW_COLUMN,
    SOURCE_COLUMN,
    add_row_positions,
    find_superseded_rows,
    mask_remaining_rows,
    select_matching_rows,
)

MOMENT = pa.timestamp("us", tz="UTC")
START = datetime(2024, 1, 1, tzinfo=UTC)

Row = tuple[str, int, int | None, int]
"""Two parts of a key, cursor and `synced_at`, both in seconds since START."""

ROWS = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.integers(0, 2),
        st.one_of(st.none(), st.integers(0, 3)),
        st.integers(0, 3),
    ),
    max_size=25,
)


def table_of(rows: list[Row]) -> pa.Table:
    """Return the rows as Arrow."""

    def moments(values: list[int | None]) -> "pa.Array[Any]":
        seen = [None if value is None else START + timedelta(seconds=value) for value in values]
        return pa.array(seen, MOMENT)

    return pa.table(
        {
            "id": pa.array([row[0] for row in rows], pa.string()),
            "part": pa.array([row[1] for row in rows], pa.int64()),
            "updated": moments([row[2] for row in rows]),
            "synced_at": moments([row[3] for row in rows]),
        }
    )


def superseded_rows(
    sources: list[list[Row]], key: tuple[str, ...], versions: tuple[str, ...]
) -> set[tuple[int, int]]:
    """Return the losers as (source, row), by the code under test."""
    tables = [add_row_positions(table_of(rows), at) for at, rows in enumerate(sources)]
    lost = find_superseded_rows(pa.concat_tables(tables), key, versions)
    pairs: Any = zip(lost[SOURCE_COLUMN].to_pylist(), lost[ROW_COLUMN].to_pylist(), strict=True)
    return set(pairs)


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_the_later_cursor_wins_then_the_later_read_then_the_later_arrival(
    sources: list[list[Row]],
) -> None:
    """Every key keeps one row: the greatest by cursor, `synced_at`, source and row."""
    best: dict[tuple[str, int], tuple[int, int, int, int]] = {}
    every: set[tuple[int, int]] = set()
    for source, rows in enumerate(sources):
        for at, (first, second, cursor, synced) in enumerate(rows):
            every.add((source, at))
            rank = (-1 if cursor is None else cursor, synced, source, at)
            key = (first, second)
            best[key] = max(best.get(key, rank), rank)
    stay = {(source, at) for _, _, source, at in best.values()}
    assert superseded_rows(sources, ("id", "part"), ("updated", "synced_at")) == every - stay


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_where_the_cursor_is_no_version_the_later_read_wins_alone(
    sources: list[list[Row]],
) -> None:
    """An event's `datetime` says when it happened and decides nothing."""
    best: dict[str, tuple[int, int, int]] = {}
    every: set[tuple[int, int]] = set()
    for source, rows in enumerate(sources):
        for at, (first, _, _, synced) in enumerate(rows):
            every.add((source, at))
            best[first] = max(best.get(first, (synced, source, at)), (synced, source, at))
    stay = {(source, at) for _, source, at in best.values()}
    assert superseded_rows(sources, ("id",), ("synced_at",)) == every - stay


def test_different_keys_beat_nobody() -> None:
    """Without a repeated key there is no loser, and so no file to rewrite."""
    assert superseded_rows([[("a", 0, 0, 0), ("b", 0, 0, 0)]], ("id",), ("synced_at",)) == set()


def test_what_stays_is_a_mask_in_the_order_of_the_rows() -> None:
    """A source without a loser has no mask; another one's mask is false where a row lost."""
    sources: list[list[Row]] = [[("a", 0, 0, 0), ("b", 0, 0, 0)], [("a", 0, 1, 0)]]
    tables = [add_row_positions(table_of(rows), at) for at, rows in enumerate(sources)]
    lost = find_superseded_rows(pa.concat_tables(tables), ("id",), ("updated", "synced_at"))
    first = mask_remaining_rows(lost, 0, 2)
    assert first is not None
    assert first.to_pylist() == [False, True]
    assert mask_remaining_rows(lost, 1, 1) is None


def test_rows_match_by_their_whole_key() -> None:
    """One equal part of a key is no match."""
    rows = add_row_positions(table_of([("a", 0, 0, 0), ("a", 1, 0, 0)]), 0)
    keys = table_of([("a", 1, 0, 0), ("b", 0, 0, 0)])
    assert select_matching_rows(rows, keys, ("id", "part"))[ROW_COLUMN].to_pylist() == [1]
