"""A key that comes back with another day is there once: the older row leaves with the newer."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_assets.lake import Lake, Session, moved
from klaviyo_assets.lake.log import newest_mark
from klaviyo_assets_tests.integration.lake.ground import (
    ACCOUNT,
    EVENTS,
    START,
    Row,
    batch,
    data_files,
    lake_at,
    merge,
    notes_of,
    now,
    numbered,
    replace,
    rows_of,
)


def begun(lake: Lake) -> Session:
    """Return a session on the table by day."""
    return lake.open(EVENTS, account=ACCOUNT, mode="merge", with_history=False, started_at=now())


def one(key: str, day: float, note: str, synced: float) -> pa.RecordBatch:
    """Return one row."""
    return batch([(key, day, note, synced)])


@pytest.fixture(params=[moved.FEW, 0], ids=["few rows", "many rows"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the moved keys found in both ways."""
    monkeypatch.setattr(moved, "FEW", request.param)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("day", [0.5, 8.5], ids=["an earlier day", "a later day"])
def test_the_older_row_of_another_day_leaves_in_the_same_commit(lake: Lake, day: float) -> None:
    """Whichever day it was and is; the rows beside it stay."""
    merge(lake, EVENTS, [numbered(0, 60, days=0.1, synced=1), one("x", 3.5, "old", 1)])
    receipt = merge(lake, EVENTS, [one("x", day, "new", 2), one("y", day, "new", 2)])
    assert rows_of(lake, "events")["x"][:2] == (START + timedelta(days=day), "new")
    assert receipt.rows_total == len(notes_of(lake, "events")) == 62
    assert receipt.version == 1


@pytest.mark.usefixtures("few")
def test_what_comes_in_later_stays_whatever_a_clock_says(lake: Lake) -> None:
    """Beside rows of either day, so that old and new ones come into files together."""
    for number in range(5):
        merge(lake, EVENTS, [numbered(number * 3, 3, days=0.1, synced=9)])
        merge(lake, EVENTS, [numbered(30 + number * 2, 2, days=0.1, synced=9)])
    merge(lake, EVENTS, [one("x", 3.5, "first", 5)])
    merge(lake, EVENTS, [one("x", 1.5, "second", 2), one("y", 1.5, "", 2)])
    assert notes_of(lake, "events")["x"] == "second"


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("writes", [merge, replace])
def test_two_days_in_one_commit(lake: Lake, writes: type[object]) -> None:
    """The same key in two stages of one commit, on two days."""
    merge(lake, EVENTS, [numbered(0, 20, days=0.1)])
    mode = "merge" if writes is merge else "replace"
    with lake.open(
        EVENTS, account=ACCOUNT, mode=mode, with_history=False, started_at=now()
    ) as session:
        session.add(one("x", 1.5, "first", 1))
        session.stage()
        session.add(one("x", 4.5, "second", 2))
        session.commit({})
    assert notes_of(lake, "events")["x"] == "second"


def test_what_an_earlier_commit_of_the_session_brought(lake: Lake) -> None:
    """It leaves with the session's last commit, and the mark says so only then."""
    with begun(lake) as session:
        session.add(one("x", 1.5, "first", 1))
        session.commit({"n": 1}, is_last=False)
        assert not is_unique(lake)
        session.add(one("x", 4.5, "second", 2))
        session.commit({"n": 2}, is_last=False)
        assert lake.relation("events").aggregate("count(*)").fetchall() == [(2,)]
        session.commit({"n": 2})
    assert notes_of(lake, "events") == {"x": "second"}
    assert is_unique(lake)


def is_unique(lake: Lake) -> bool:
    """Tell what the newest commit says."""
    state = lake.state("events")
    mark = newest_mark(lake.root / "lake/events", state.version if state else 0, "events")
    assert mark is not None
    return mark.is_unique


def test_a_session_that_is_killed_before_its_last_commit(lake: Lake) -> None:
    """The next one looks, though it brings nothing and says the same; then all is done."""
    with begun(lake) as session:
        session.add(one("x", 1.5, "first", 1))
        session.add(one("x", 4.5, "second", 2))
        for each in session.batches:
            session.main.stage.take([each])
        session.batches = []
        session.commit({"n": 1}, is_last=False)
    assert lake.relation("events").aggregate("count(*)").fetchall() == [(2,)]
    assert merge(lake, EVENTS, [], {"n": 1}).version == 1
    assert notes_of(lake, "events") == {"x": "second"}
    assert merge(lake, EVENTS, [], {"n": 1}).version == 1


def test_a_lake_of_an_earlier_release_is_looked_through_once(lake: Lake) -> None:
    """A key that lay there twice is mended by the first run, and the next reads no other day."""
    merge(lake, EVENTS, [numbered(0, 60, days=0.1, synced=1)])
    with begun(lake) as session:
        session.add(one("k0000003", 8.5, "again", 2))
        session.commit({}, is_last=False)
    merge(lake, EVENTS, [one("y", 8.5, "", 3)])
    assert notes_of(lake, "events")["k0000003"] == "again"
    damaged = next(lake.root.glob("lake/events/day=2024-01-03/*.parquet"))
    damaged.write_bytes(b"damaged")
    # Of a day that was read before nothing is new: no other day is looked at.
    merge(lake, EVENTS, [one("y", 8.5, "again", 4)])


def test_what_another_program_appends_is_looked_through(lake: Lake) -> None:
    """Its commit does not say that each key is there once, so the next of ours looks."""
    merge(lake, EVENTS, [one("x", 1.5, "ours", 1)])
    rows = pa.Table.from_batches([one("x", 4.5, "theirs", 2)])
    days = pc.strftime(rows["updated"], "%Y-%m-%d")
    write_deltalake(lake.root / "lake/events", rows.append_column("day", days), mode="append")
    assert lake.relation("events").aggregate("count(*)").fetchall() == [(2,)]
    merge(lake, EVENTS, [one("y", 6.5, "", 3)])
    assert notes_of(lake, "events").keys() == {"x", "y"}
    assert lake.relation("events").aggregate("count(*)").fetchall() == [(2,)]
    assert is_unique(lake)


@pytest.mark.usefixtures("few")
def test_a_damaged_day_hinders_no_other(lake: Lake) -> None:
    """What lies in it nobody can tell; a key of a sound day leaves there all the same."""
    merge(lake, EVENTS, [numbered(0, 60, days=0.1, synced=1), one("x", 3.5, "old", 1)])
    (damaged,) = lake.root.glob("lake/events/day=2024-01-02/*.parquet")
    damaged.write_bytes(b"damaged")
    merge(lake, EVENTS, [one("x", 8.5, "new", 2)])
    damaged.unlink()
    merge(lake, EVENTS, [one("x", 4.5, "newer", 3)])
    lake.maintain("events", grace=timedelta(0))
    found = [pq.read_table(path).to_pylist() for path in data_files(lake.root, "events")]
    assert [row["note"] for rows in found for row in rows if row["id"] == "x"] == ["newer"]


ROWS = st.tuples(st.sampled_from("abcde"), st.integers(0, 4))


@settings(max_examples=60, deadline=None)
@given(commits=st.lists(st.tuples(st.booleans(), st.lists(ROWS, max_size=8)), max_size=6))
def test_any_sequence_of_commits_equals_a_dict(
    tmp_path_factory: pytest.TempPathFactory, commits: list[tuple[bool, list[tuple[str, int]]]]
) -> None:
    """After the last of them each key is there once, with the row that came in last."""
    lake = lake_at(tmp_path_factory.mktemp("lake"))
    known: dict[str, Row] = {}
    with begun(lake) as session:
        for number, (is_last, drawn) in enumerate(commits):
            rows: list[Row] = [
                (key, day, "", number * 10 + at) for at, (key, day) in enumerate(drawn)
            ]
            known |= {row[0]: row for row in rows}
            if rows:
                session.add(batch(rows))
            session.commit({"n": number}, is_last=is_last)
        session.commit({"n": -1})
    found = {} if not known else rows_of(lake, "events")
    assert {key: row[2] for key, row in found.items()} == {
        key: START + timedelta(seconds=row[3]) for key, row in known.items()
    }
