"""Histories: every version seen, once, whatever the order of things."""

from datetime import timedelta

from klaviyo_assets.lake.delta.log import read_snapshot
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    PROFILES,
    SCHEMA,
    START_TIME,
    TAGS,
    build_batch,
    merge_rows,
    numbered_batch,
    read_notes,
    replace_rows,
    utc_now,
)


def versions(lake: Lake, name: str) -> list[tuple[object, ...]]:
    """Return key, cursor in days and note of a history, in order."""
    found = lake.query_relation(name).select("id", "updated", "note").fetchall()
    return sorted((key, (at - START_TIME) / timedelta(days=1), note) for key, at, note in found)


def test_every_version_stays_and_the_newest_shows(lake: Lake) -> None:
    """Two versions of a key, in one sync or in two, are both in the history."""
    rows = build_batch([("a", 1, "first", 1), ("a", 2, "second", 1)])
    merge_rows(lake, PROFILES, [rows], with_history=True)
    merge_rows(lake, PROFILES, [build_batch([("a", 3, "third", 2)])], with_history=True)
    assert read_notes(lake, "profiles") == {"a": "third"}
    assert versions(lake, "profiles_history") == [
        ("a", 1.0, "first"),
        ("a", 2.0, "second"),
        ("a", 3.0, "third"),
    ]


def test_a_version_read_twice_is_there_once(lake: Lake) -> None:
    """Reading the same version again adds nothing to the history and rewrites no file of it."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 20)], with_history=True)
    before = read_snapshot(lake.root / "lake" / "profiles_history", "profiles_history")
    merge_rows(lake, PROFILES, [numbered_batch(0, 20, note="again", synced=9)], with_history=True)
    after = read_snapshot(lake.root / "lake" / "profiles_history", "profiles_history")
    assert before is not None
    assert after is not None
    assert after.files == before.files
    assert {note for _, _, note in versions(lake, "profiles_history")} == {""}
    assert set(read_notes(lake, "profiles").values()) == {"again"}


def test_an_older_version_that_comes_late_is_history(lake: Lake) -> None:
    """The table keeps the newest; the history takes the older one all the same."""
    merge_rows(lake, PROFILES, [build_batch([("a", 5, "new", 1)])], with_history=True)
    merge_rows(lake, PROFILES, [build_batch([("a", 4, "old", 2)])], with_history=True)
    assert read_notes(lake, "profiles") == {"a": "new"}
    assert [note for _, _, note in versions(lake, "profiles_history")] == ["old", "new"]


def test_without_a_cursor_each_sync_is_a_version(lake: Lake) -> None:
    """A stream without a cursor has a row for each key and sync, with the sync's start."""
    for number in range(2):
        started = START_TIME + timedelta(hours=number)
        with lake.open_session(
            TAGS, account=ACCOUNT_ID, mode="replace", with_history=True, started_at=started
        ) as session:
            session.add(build_batch([("a", 0, f"sync {number}", number)]))
            session.stage_batches()
            session.add(build_batch([("a", 0, f"sync {number} again", number + 10)]))
            session.commit({})
    found = lake.query_relation("tags_history").select("id", "note", "sync_started_at").fetchall()
    assert sorted(found) == [
        ("a", "sync 0 again", START_TIME),
        ("a", "sync 1 again", START_TIME + timedelta(hours=1)),
    ]
    assert read_notes(lake, "tags") == {"a": "sync 1 again"}


def test_a_full_refresh_adds_to_the_history(lake: Lake) -> None:
    """A replacement takes rows out of the table and none out of the history."""
    replace_rows(
        lake, PROFILES, [build_batch([("a", 1, "a1", 1), ("b", 1, "b1", 1)])], with_history=True
    )
    replace_rows(lake, PROFILES, [build_batch([("a", 2, "a2", 2)])], with_history=True)
    assert read_notes(lake, "profiles") == {"a": "a2"}
    assert versions(lake, "profiles_history") == [
        ("a", 1.0, "a1"),
        ("a", 2.0, "a2"),
        ("b", 1.0, "b1"),
    ]


def test_an_event_history_lies_by_day(lake: Lake) -> None:
    """A history is partitioned as its table, so that a sync touches its own days alone."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 30, days=0.1)], with_history=True)
    found = read_snapshot(lake.root / "lake" / "events_history", "events_history")
    assert found is not None
    assert {file.partition for file in found.files} == {
        "day=2024-01-01",
        "day=2024-01-02",
        "day=2024-01-03",
    }


def test_an_empty_history_has_a_table(lake: Lake) -> None:
    """A sync that keeps a history and finds nothing leaves an empty one, with its columns."""
    merge_rows(lake, PROFILES, [], with_history=True)
    relation = lake.query_relation("profiles_history")
    assert relation.columns == [*SCHEMA.names, "sync_started_at"]
    assert relation.fetchall() == []


def test_a_redo_after_a_lost_commit_doubles_nothing(lake: Lake) -> None:
    """The history is committed first: if the table's commit is lost, the redo finds it there."""
    with lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="merge", with_history=True, started_at=utc_now()
    ) as session:
        assert session.history_writer is not None
        session.add(numbered_batch(0, 10))
        session.stage_batches()
        session.history_writer.commit({}, replace=False)
    assert lake.read_table_state("profiles") is None
    assert len(versions(lake, "profiles_history")) == 10
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)], with_history=True)
    assert len(versions(lake, "profiles_history")) == 10
    assert len(read_notes(lake, "profiles")) == 10


def test_a_history_can_begin_later(lake: Lake) -> None:
    """A table without a history gets one from the first sync that requests it."""
    merge_rows(lake, PROFILES, [build_batch([("a", 1, "before", 1)])])
    merge_rows(lake, PROFILES, [build_batch([("a", 2, "since", 2)])], with_history=True)
    assert versions(lake, "profiles_history") == [("a", 2.0, "since")]


def test_a_key_column_that_is_the_cursor(lake: Lake) -> None:
    """A table whose key holds its cursor has a history of the same key."""
    table = LakeTable(name="readings", schema=SCHEMA, key=("id", "updated"), cursor="updated")
    rows = [build_batch([("a", 1, "x", 1), ("a", 2, "y", 1), ("a", 1, "z", 2)])]
    merge_rows(lake, table, rows, with_history=True)
    assert versions(lake, "readings") == [("a", 1.0, "z"), ("a", 2.0, "y")]
    assert len(versions(lake, "readings_history")) == 2
    assert (
        lake.query_relation("readings").types == lake.query_relation("readings_history").types[:-1]
    )
