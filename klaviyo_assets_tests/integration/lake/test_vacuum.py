"""Vacuum: unneeded files are removed, files that a reader may have open stay."""

import json
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

from klaviyo_assets.lake.delta.log import DELTA_LOG_FOLDER, list_commit_versions
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import COMMITS_PER_CHECKPOINT
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    PROFILES,
    list_data_files,
    merge_rows,
    numbered_batch,
    query_database,
    read_notes,
    replace_rows,
    utc_now,
)

HOUR = timedelta(hours=1)


class Clock:
    """The real time, moved forward at will."""

    def __init__(self) -> None:
        """Start at the present."""
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        """Return the time in UTC."""
        return utc_now() + self.ahead


@pytest.fixture
def clock() -> Clock:
    """Return a clock that the test moves."""
    return Clock()


@pytest.fixture
def lake(root: Path, clock: Clock) -> Lake:
    """Return a lake on that clock, with a grace of an hour."""
    return Lake(root, clock=clock, grace=HOUR)


def generations(lake: Lake, count: int) -> None:
    """Replace every row of events some times, publishing each."""
    for number in range(count):
        merge_rows(
            lake, EVENTS, [numbered_batch(0, 20, note=str(number), synced=number)], {"n": number}
        )
        lake.publish([])


def test_retired_files_stay_for_the_grace(lake: Lake, root: Path, clock: Clock) -> None:
    """A file that a commit dropped is there until the grace has passed, and not after."""
    generations(lake, 3)
    clock.ahead = HOUR - timedelta(minutes=1)
    assert lake.vacuum("events").files_removed == 0
    assert len(list_data_files(root, "events")) == 3
    clock.ahead = HOUR + timedelta(minutes=1)
    done = lake.vacuum("events")
    assert done.files_removed == 2
    assert done.bytes_freed > 0
    assert len(list_data_files(root, "events")) == 1
    assert lake.vacuum("events").files_removed == 0
    assert set(read_notes(lake, "events").values()) == {"2"}


def test_what_the_database_names_stays(lake: Lake, root: Path, clock: Clock) -> None:
    """A commit that was never published, by a run that died, does not cost readers their files.

    Their grace begins when a later run publishes.
    """
    generations(lake, 1)
    merge_rows(lake, EVENTS, [numbered_batch(0, 20, note="unseen", synced=5)])
    clock.ahead = 5 * HOUR
    assert lake.vacuum("events").files_removed == 0
    assert query_database(root, "SELECT any_value(note) FROM k.events") == [("0",)]
    lake.publish([])
    clock.ahead += 2 * HOUR
    assert lake.vacuum("events").files_removed == 1
    assert query_database(root, "SELECT any_value(note) FROM k.events") == [("unseen",)]


def test_the_grace_counts_from_the_publishing(lake: Lake, root: Path) -> None:
    """A file replaced long ago but published until now stays: a reader may just have opened it."""
    generations(lake, 1)
    merge_rows(lake, EVENTS, [numbered_batch(0, 20, note="unseen", synced=5)])
    old = (utc_now() - 5 * HOUR).timestamp()
    for path in list_data_files(root, "events"):
        set_times(path, old)
    backdate_log(root, "events", 5 * HOUR)
    lake.publish([])
    assert lake.vacuum("events").files_removed == 0
    assert len(list_data_files(root, "events")) == 2


def test_erasing_is_at_once(lake: Lake, root: Path) -> None:
    """With a grace of zero nothing of what was deleted is left on disk."""
    generations(lake, 2)
    replace_rows(lake, EVENTS, [])
    lake.publish([])
    lake.vacuum("events", grace=timedelta())
    assert list_data_files(root, "events") == []


def test_orphans_go_after_the_grace(lake: Lake, root: Path, clock: Clock) -> None:
    """A file that was placed and never committed goes; before the grace, or of others, it stays."""
    generations(lake, 1)
    orphan = root / "lake/events/day=2024-01-01" / f"part-{'0' * 32}.parquet"
    stray = orphan.with_name("mine.parquet")
    for path in (orphan, stray):
        path.write_bytes(b"x")
    lake.vacuum("events")
    assert orphan.exists()
    clock.ahead = 2 * HOUR
    with lake.open_session(
        EVENTS, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    ):
        lake.vacuum("events")
        assert orphan.exists(), "a session that is alive could be about to commit it"
    assert lake.vacuum("events").files_removed == 1
    assert not orphan.exists()
    assert stray.exists()


def test_nothing_outside_the_folder_is_deleted(
    lake: Lake, root: Path, clock: Clock, tmp_path: Path
) -> None:
    """A link in the table's folder is not followed, and what it points to stays."""
    generations(lake, 1)
    outside = tmp_path / "precious.parquet"
    outside.write_bytes(b"x")
    link = root / "lake/events" / f"part-{'1' * 32}.parquet"
    link.symlink_to(outside)
    clock.ahead = 2 * HOUR
    lake.vacuum("events")
    assert outside.exists()
    assert link.is_symlink()


def test_a_history_is_tidied_with_its_table(lake: Lake, root: Path, clock: Clock) -> None:
    """One call tidies both; a table that was never read is nothing to do."""
    for number in range(8):
        merge_rows(lake, PROFILES, [numbered_batch(number * 9, 9)], with_history=True)
    before = len(list_data_files(root, "profiles_history"))
    clock.ahead = 2 * HOUR
    assert lake.vacuum("profiles").files_removed > 0
    assert len(list_data_files(root, "profiles_history")) < before
    assert lake.vacuum("nothing").files_removed == 0


def test_a_long_log_is_shortened(lake: Lake, root: Path, clock: Clock) -> None:
    """Old commits go, state and rows stay, and other engines still read the table."""
    folder = root / "lake/profiles"
    count = 2 * COMMITS_PER_CHECKPOINT + 10
    with lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    ) as session:
        for number in range(count):
            session.commit({"n": number})
        session.add(numbered_batch(0, 10))
        session.commit({"n": count})
    lake.vacuum("profiles")
    assert len(list_commit_versions(folder)) == count + 1, "commits of today stay"
    clock.ahead = timedelta(days=2)
    lake.vacuum("profiles")
    left = list_commit_versions(folder)
    assert len(left) <= COMMITS_PER_CHECKPOINT + 1
    assert left[-1] == count
    assert len(list((folder / DELTA_LOG_FOLDER).glob("*.checkpoint.parquet"))) == 1
    state = lake.read_table_state("profiles")
    assert state is not None
    assert (state.state, state.rows) == ({"n": count}, 10)
    assert DeltaTable(folder).version() == count
    merge_rows(lake, PROFILES, [numbered_batch(5, 10)], {"n": "on"})
    assert len(read_notes(lake, "profiles")) == 15


def test_the_cursor_outlives_the_log(lake: Lake, root: Path, clock: Clock) -> None:
    """However many commits of other engines follow ours, our cursor is found."""
    folder = root / "lake/profiles"
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)], {"n": 1})
    table = DeltaTable(folder)
    for number in range(2 * COMMITS_PER_CHECKPOINT):
        table.alter.set_table_properties({"delta.appendOnly": str(number % 2 == 2).lower()})
    table.create_checkpoint()
    clock.ahead = timedelta(days=2)
    lake.vacuum("profiles")
    state = lake.read_table_state("profiles")
    assert state is not None
    assert state.state == {"n": 1}


def test_a_long_session_writes_checkpoints(lake: Lake, root: Path) -> None:
    """Commits of one long sync do not make the log slower to read without bound."""
    with lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    ) as session:
        for number in range(COMMITS_PER_CHECKPOINT + 5):
            session.commit({"n": number})
    assert list((root / "lake/profiles" / DELTA_LOG_FOLDER).glob("*.checkpoint.parquet"))


def set_times(path: Path, when: float) -> None:
    """Set when a file was touched last, in seconds since 1970."""
    os.utime(path, (when, when))


def backdate_log(root: Path, name: str, by: timedelta) -> None:
    """Make all commits of a table look older."""
    folder = root / "lake" / name
    for version in list_commit_versions(folder):
        path = folder / DELTA_LOG_FOLDER / f"{version:020d}.json"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(backdate_commit(lines, by)))


def backdate_commit(lines: Sequence[str], by: timedelta) -> list[str]:
    """Return the lines of a commit with an older timestamp."""
    parsed = [json.loads(line) for line in lines]
    for action in parsed:
        if "commitInfo" in action:
            action["commitInfo"]["timestamp"] -= int(by.total_seconds() * 1000)
    return [json.dumps(action, separators=(",", ":")) for action in parsed]
