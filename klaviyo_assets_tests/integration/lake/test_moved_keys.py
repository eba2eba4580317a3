"""A key that comes back with another day is there once: the older row leaves with the newer."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.lake.delta.log import read_newest_commit_state
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.write import merge
from klaviyo_assets.lake.write.session import WriteMode, WriteSession
from klaviyo_assets_tests.examples import costly_examples
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    START_TIME,
    SampleRow,
    build_batch,
    list_data_files,
    merge_rows,
    numbered_batch,
    open_lake,
    read_notes,
    read_rows,
    utc_now,
)


def open_write_session(lake: Lake) -> WriteSession:
    """Return a session on the table by day."""
    return lake.open_session(
        EVENTS, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    )


def one(key: str, day: float, note: str, synced: float) -> pa.RecordBatch:
    """Return one row."""
    return build_batch([(key, day, note, synced)])


@pytest.fixture(params=[merge.MAX_KEYS_TO_LOOK_UP, 0], ids=["few rows", "many rows"])
def key_lookup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the moved keys found in both ways."""
    monkeypatch.setattr(merge, "MAX_KEYS_TO_LOOK_UP", request.param)


@pytest.mark.usefixtures("key_lookup")
@pytest.mark.parametrize("day", [0.5, 8.5], ids=["an earlier day", "a later day"])
def test_the_older_row_of_another_day_leaves_in_the_same_commit(lake: Lake, day: float) -> None:
    """Whichever day it was and is; the rows beside it stay."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 60, days=0.1, synced=1), one("x", 3.5, "old", 1)])
    receipt = merge_rows(lake, EVENTS, [one("x", day, "new", 2), one("y", day, "new", 2)])
    assert read_rows(lake, "events")["x"][:2] == (START_TIME + timedelta(days=day), "new")
    assert receipt.rows_total == len(read_notes(lake, "events")) == 62
    assert receipt.version == 1


@pytest.mark.usefixtures("key_lookup")
def test_what_comes_in_later_stays_whatever_a_clock_says(lake: Lake) -> None:
    """Beside rows of either day, so that old and new ones come into files together."""
    for number in range(5):
        merge_rows(lake, EVENTS, [numbered_batch(number * 3, 3, days=0.1, synced=9)])
        merge_rows(lake, EVENTS, [numbered_batch(30 + number * 2, 2, days=0.1, synced=9)])
    merge_rows(lake, EVENTS, [one("x", 3.5, "first", 5)])
    merge_rows(lake, EVENTS, [one("x", 1.5, "second", 2), one("y", 1.5, "", 2)])
    assert read_notes(lake, "events")["x"] == "second"


@pytest.mark.usefixtures("key_lookup")
@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_two_days_in_one_commit(lake: Lake, mode: WriteMode) -> None:
    """The same key in two stages of one commit, on two days."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 20, days=0.1)])
    with lake.open_session(
        EVENTS, account=ACCOUNT_ID, mode=mode, with_history=False, started_at=utc_now()
    ) as session:
        session.add(one("x", 1.5, "first", 1))
        session.stage_batches()
        session.add(one("x", 4.5, "second", 2))
        session.commit({})
    assert read_notes(lake, "events")["x"] == "second"


def test_what_an_earlier_commit_of_the_session_brought(lake: Lake) -> None:
    """It leaves with the session's last commit, and the mark says so only then."""
    with open_write_session(lake) as session:
        session.add(one("x", 1.5, "first", 1))
        session.commit({"n": 1}, is_last=False)
        assert not is_unique(lake)
        session.add(one("x", 4.5, "second", 2))
        session.commit({"n": 2}, is_last=False)
        assert lake.query_relation("events").aggregate("count(*)").fetchall() == [(2,)]
        session.commit({"n": 2})
    assert read_notes(lake, "events") == {"x": "second"}
    assert is_unique(lake)


def is_unique(lake: Lake) -> bool:
    """Tell what the newest commit says."""
    state = lake.read_table_state("events")
    mark = read_newest_commit_state(
        lake.root / "lake/events", state.version if state else 0, "events"
    )
    assert mark is not None
    return mark.is_unique


def test_a_session_that_is_killed_before_its_last_commit(lake: Lake) -> None:
    """The next one looks, though it brings nothing and says the same; then all is done."""
    with open_write_session(lake) as session:
        session.add(one("x", 1.5, "first", 1))
        session.add(one("x", 4.5, "second", 2))
        for each in session.batches:
            session.table_writer.staging_writer.write_batches([each])
        session.batches = []
        session.commit({"n": 1}, is_last=False)
    assert lake.query_relation("events").aggregate("count(*)").fetchall() == [(2,)]
    assert merge_rows(lake, EVENTS, [], {"n": 1}).version == 1
    assert read_notes(lake, "events") == {"x": "second"}
    assert merge_rows(lake, EVENTS, [], {"n": 1}).version == 1


def test_a_lake_of_an_earlier_release_is_looked_through_once(lake: Lake) -> None:
    """A key that lay there twice is mended by the first run, and the next reads no other day."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 60, days=0.1, synced=1)])
    with open_write_session(lake) as session:
        session.add(one("k0000003", 8.5, "again", 2))
        session.commit({}, is_last=False)
    merge_rows(lake, EVENTS, [one("y", 8.5, "", 3)])
    assert read_notes(lake, "events")["k0000003"] == "again"
    damaged = next(lake.root.glob("lake/events/day=2024-01-03/*.parquet"))
    damaged.write_bytes(b"damaged")
    # Of a day that was read before nothing is new: no other day is looked at.
    merge_rows(lake, EVENTS, [one("y", 8.5, "again", 4)])


def test_what_another_program_appends_is_looked_through(lake: Lake) -> None:
    """Its commit does not say that each key is there once, so the next of ours looks."""
    merge_rows(lake, EVENTS, [one("x", 1.5, "ours", 1)])
    rows = pa.Table.from_batches([one("x", 4.5, "theirs", 2)])
    days = pc.strftime(rows["updated"], "%Y-%m-%d")
    write_deltalake(lake.root / "lake/events", rows.append_column("day", days), mode="append")
    assert lake.query_relation("events").aggregate("count(*)").fetchall() == [(2,)]
    merge_rows(lake, EVENTS, [one("y", 6.5, "", 3)])
    assert read_notes(lake, "events").keys() == {"x", "y"}
    assert lake.query_relation("events").aggregate("count(*)").fetchall() == [(2,)]
    assert is_unique(lake)


@pytest.mark.usefixtures("key_lookup")
def test_a_damaged_day_hinders_no_other(lake: Lake) -> None:
    """Keys in a damaged day are unknown; a moved key of a sound day is still removed there."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 60, days=0.1, synced=1), one("x", 3.5, "old", 1)])
    (damaged,) = lake.root.glob("lake/events/day=2024-01-02/*.parquet")
    damaged.write_bytes(b"damaged")
    merge_rows(lake, EVENTS, [one("x", 8.5, "new", 2)])
    damaged.unlink()
    merge_rows(lake, EVENTS, [one("x", 4.5, "newer", 3)])
    lake.vacuum("events", grace=timedelta(0))
    found = [pq.read_table(path).to_pylist() for path in list_data_files(lake.root, "events")]
    assert [row["note"] for rows in found for row in rows if row["id"] == "x"] == ["newer"]


ROWS = st.tuples(st.sampled_from("abcde"), st.integers(0, 4))


@costly_examples(20)
@given(commits=st.lists(st.tuples(st.booleans(), st.lists(ROWS, max_size=8)), max_size=6))
def test_any_sequence_of_commits_equals_a_dict(
    tmp_path_factory: pytest.TempPathFactory, commits: list[tuple[bool, list[tuple[str, int]]]]
) -> None:
    """After the last of them each key is there once, with the row that came in last."""
    lake = open_lake(tmp_path_factory.mktemp("lake"))
    known: dict[str, SampleRow] = {}
    with open_write_session(lake) as session:
        for number, (is_last, drawn) in enumerate(commits):
            rows: list[SampleRow] = [
                (key, day, "", number * 10 + at) for at, (key, day) in enumerate(drawn)
            ]
            known |= {row[0]: row for row in rows}
            if rows:
                session.add(build_batch(rows))
            session.commit({"n": number}, is_last=is_last)
        session.commit({"n": -1})
    found = {} if not known else read_rows(lake, "events")
    assert {key: row[2] for key, row in found.items()} == {
        key: START_TIME + timedelta(seconds=row[3]) for key, row in known.items()
    }
