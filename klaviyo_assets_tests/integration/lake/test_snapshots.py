"""A snapshot of a table is read once and handed on; whatever others commit makes it stale."""

from pathlib import Path

import pytest
from deltalake import DeltaTable, Schema

from klaviyo_assets.lake.delta.log import (
    MAX_FILES_OF_CHECKPOINT_HERE,
    MAX_HANDED_ON_SNAPSHOTS,
    create_checkpoint,
    hand_on_snapshot,
    handed_on_snapshots,
    read_snapshot,
    take_snapshot,
)
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.queries import ArrivalQuery
from klaviyo_assets.lake.read.views import TABLE_CACHE_FILE, cached_tables
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    PROFILES,
    START_TIME,
    TAGS,
    merge_rows,
    numbered_batch,
    utc_now,
)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that gets the folder of each Delta log that is opened from now on."""
    folders: list[str] = []
    original = DeltaTable.__init__

    def spy(table: DeltaTable, folder: Path, *, version: int | None = None) -> None:
        folders.append(folder.name)
        original(table, folder, version=version)

    monkeypatch.setattr(DeltaTable, "__init__", spy)
    forget_tables()
    return folders


def forget_tables() -> None:
    """Forget what this process has read, as a new one has read nothing."""
    handed_on_snapshots.clear()
    cached_tables.clear()


def test_a_run_opens_the_log_of_its_table_once(lake: Lake, opened: list[str]) -> None:
    """Plan, two commits, publication and vacuum share one open, or none in a later run."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)], {"n": 1})
    handed_on_snapshots.clear()
    opened.clear()
    for number in (2, 3):
        known = lake.check_table_state("profiles")
        assert known is not None
        assert known.state == {"n": number - 1}
        merge_rows(lake, PROFILES, [numbered_batch(number * 10, 5)], {"n": number})
        lake.publish([])
        lake.vacuum("profiles")
    assert opened == ["profiles"]
    assert lake.read_columns("profiles", ["id"]).num_rows == 15


def test_commits_keep_no_second_list_of_files(lake: Lake, opened: list[str]) -> None:
    """A first sync opens no log, which takes memory for each file: not even to check its rows."""
    with lake.open_session(
        EVENTS, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    ) as session:
        for number in range(3):
            session.add(numbered_batch(number * 10, 10, days=1))
            session.commit({"n": number}, is_last=number == 2)
            lake.publish([])
    lake.vacuum("events")
    assert lake.read_null_counts("events") == {}
    assert lake.count_duplicate_keys("events") == 0
    assert opened == []
    assert lake.read_columns("events", ["id"]).num_rows == 30


def test_a_checkpoint_of_many_files_takes_no_memory_here(
    lake: Lake, root: Path, opened: list[str]
) -> None:
    """A process of its own writes it, and the table can be read from it alone."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 5, days=1)])
    opened.clear()
    create_checkpoint(root / "lake/events", MAX_FILES_OF_CHECKPOINT_HERE + 1)
    assert opened == []
    (root / "lake/events/_delta_log/00000000000000000000.json").unlink()
    assert len(DeltaTable(root / "lake/events").file_uris()) == 5


def test_a_new_process_opens_only_logs_that_changed(lake: Lake, opened: list[str]) -> None:
    """The last publisher stored schema and files of each table, with the commit they belong to."""
    for table in (PROFILES, EVENTS, TAGS):
        merge_rows(lake, table, [numbered_batch(0, 5)])
    lake.publish([])
    merge_rows(lake, TAGS, [numbered_batch(10, 1)])
    forget_tables()
    opened.clear()
    assert lake.publish([]) == ()
    assert opened == ["tags"]
    assert lake.query_relation("tags").aggregate("count(*)").fetchall() == [(6,)]
    forget_tables()
    assert lake.read_columns("profiles", ["id"]).num_rows == 5
    assert opened == ["tags"]


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"profiles": {"stamp": [0]}}', b"\xff{"])
def test_a_damaged_cache_of_tables_is_no_hindrance(lake: Lake, damage: bytes) -> None:
    """The logs are opened instead, and the next publisher writes it anew."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    lake.publish([])
    cache = lake.root / "lake" / TABLE_CACHE_FILE
    whole = cache.read_bytes()
    cache.write_bytes(damage)
    forget_tables()
    assert lake.publish([]) == ()
    assert cache.read_bytes() == whole
    assert lake.read_columns("profiles", ["id"]).num_rows == 5


def test_late_rows_are_measured_without_opening_an_older_version(
    lake: Lake, opened: list[str]
) -> None:
    """Commits tell which files are new; a row that moved into a new file is not new."""
    merge_rows(lake, EVENTS, [numbered_batch(0, 5, days=2, synced=10**7)])
    before = lake.read_table_state("events")
    assert before is not None
    merge_rows(lake, EVENTS, [numbered_batch(4, 3, days=2, synced=10**7)])
    merge_rows(lake, EVENTS, [numbered_batch(7, 1, days=2, synced=10**7)])
    forget_tables()
    opened.clear()
    query = ArrivalQuery(
        version=before.version,
        high_water_mark=START_TIME,
        value_column="note",
        time_column="updated",
    )
    found = lake.measure_arrival_delays("events", query, steps_per_doubling=1)
    assert (sum(each.rows for each in found), opened) == (3, ["events"])
    (lake.root / "lake/events/_delta_log" / f"{before.version + 1:020}.json").unlink()
    assert lake.measure_arrival_delays("events", query, steps_per_doubling=1) == []


def test_the_state_is_read_without_opening_the_log(lake: Lake, opened: list[str]) -> None:
    """The newest commit holds state and rows, as the whole log does."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)], {"n": 1})
    merge_rows(lake, PROFILES, [numbered_batch(3, 5)], {"n": 2})
    opened.clear()
    quick = lake.read_table_state("profiles")
    assert opened == []
    assert quick == lake.check_table_state("profiles")
    assert quick is not None
    assert (quick.rows, quick.state) == (8, {"n": 2})


def test_a_commit_of_another_program_is_seen(lake: Lake, root: Path) -> None:
    """A snapshot that was handed on before it is not used again."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)], {"n": 1})
    folder = root / "lake/profiles"
    DeltaTable(folder).delete("id = 'k0000001'")
    found, state = take_snapshot(folder, "profiles"), lake.read_table_state("profiles")
    assert found is not None
    assert state is not None
    assert found.rows == state.rows == 4
    assert merge_rows(lake, PROFILES, [numbered_batch(10, 1)], {"n": 2}).rows_total == 5


def test_a_table_begun_anew_is_no_old_snapshot(lake: Lake, root: Path) -> None:
    """A recreated table, whose versions restart at zero, is not taken for the one set aside."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    stale = read_snapshot(root / "lake/profiles", "profiles")
    assert stale is not None
    hand_on_snapshot(root / "lake/profiles", stale)
    lake.set_aside_table("profiles")
    DeltaTable.create(
        root / "lake/profiles",
        schema=Schema.from_arrow(stale.schema),
        name="profiles",
        mode="error",
    )
    found = take_snapshot(root / "lake/profiles", "profiles")
    assert found is not None
    assert found is not stale
    assert found.rows == 0


def test_a_snapshot_has_one_owner(lake: Lake, root: Path) -> None:
    """A cached snapshot is handed to one caller; the next one reads the log."""
    folder = root / "lake/profiles"
    for table in (PROFILES, EVENTS, TAGS):
        merge_rows(lake, table, [numbered_batch(0, 5)])
    first, second = take_snapshot(folder, "profiles"), take_snapshot(folder, "profiles")
    assert first is not None
    assert second is not None
    assert first is not second
    assert len(handed_on_snapshots) <= MAX_HANDED_ON_SNAPSHOTS
