"""Erasing people from a lake: whole, wherever they are, whatever happens in the midst of it."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from klaviyo_assets.errors import LakeConflictError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.maintenance.erasure import ErasureResult, erase_profiles
from klaviyo_assets.lake.maintenance.personal_data import ProfileTable
from klaviyo_assets.lake.read.views import PlainRelation
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.e2e.value_search import find_values
from klaviyo_assets_tests.integration.lake.killed_process import (
    erase_two_profiles,
    run_in_child_process,
)
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    EVENTS,
    PROFILES,
    merge_rows,
    numbered_batch,
    open_lake,
    read_notes,
    utc_now,
)

TWO = ["k0000003", "k0000040"]
"""Keys at both ends of what the log's statistics name: the later one is the last."""

PEOPLE = [ProfileTable(table=EVENTS, id_column="id"), ProfileTable(table=PROFILES, id_column="id")]

MOMENTS = {
    "before a record leaves the quarantine": KillAt("before writing the quarantine"),
    "before the first table's commit": KillAt("before a table commit"),
    "after it": KillAt("after a table commit"),
    "before the last table's commit": KillAt("before a table commit", count=3),
    "after it, before the database is built": KillAt("before building the database"),
    "as retired files are deleted": KillAt("before deleting files"),
    "as old versions are forgotten": KillAt("before removing old versions", count=2),
    "before the receipt is finished": KillAt("before finishing a receipt"),
}


@pytest.fixture(name="lake")
def lake_with_people(tmp_path: Path) -> Lake:
    """Give a lake with two tables, a history, old versions and a record that was quarantined."""
    lake = open_lake(tmp_path)
    for first, note in ((0, "old"), (20, "new")):
        rows = numbered_batch(first, 21, note=note, synced=first, days=0.5)
        merge_rows(lake, PROFILES, [rows], {"cursor": note}, with_history=True)
        merge_rows(lake, EVENTS, [rows], {"cursor": note})
    opened = lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    )
    with opened as session:
        session.quarantine_records(
            [("no id", f"see {TWO[0]}".encode()), ("no id", b"somebody else")]
        )
    lake.publish([PlainRelation(name="profiles"), PlainRelation(name="events")])
    return lake


def erase_both(lake: Lake, *, clock: Callable[[], datetime] = utc_now) -> ErasureResult:
    """Erase the two."""
    relations = [PlainRelation(name="profiles"), PlainRelation(name="events")]
    return erase_profiles(lake.root, PEOPLE, TWO, relations=relations, clock=clock)


def assert_erased(lake: Lake) -> None:
    """Fail unless the two are in no file, and everything else is as it was."""
    assert find_values(lake.root, TWO) == {}
    others = {f"k{at:07}" for at in range(41)} - set(TWO)
    for name in ("profiles", "events"):
        assert set(read_notes(lake, name)) == others
        state = lake.read_table_state(name)
        assert state is not None
        assert (state.account, state.state) == (ACCOUNT_ID, {"cursor": "new"})
    assert lake.query_relation("profiles_history").aggregate("count(*)").fetchall() == [(39,)]
    assert find_values(lake.root, ["somebody else"])
    lake.check_integrity()


def test_nothing_of_them_is_left(lake: Lake) -> None:
    """Rows, histories, quarantine, retired files and the log's statistics: all are erased."""
    assert find_values(lake.root, TWO)
    done = erase_both(lake)
    assert_erased(lake)
    assert done.receipt is not None
    content = json.loads(done.receipt.read_bytes())
    assert {name: each["rows"] for name, each in content["tables"].items()} == {
        "profiles": 2,
        "profiles_history": 2,
        "events": 2,
    }
    assert list(content["quarantine"].values()) == [1]
    assert len(content["profile_id_sha256"]) == 2
    state = lake.read_table_state("events")
    assert state is not None
    assert content["tables"]["events"]["version"] == state.version


def test_a_second_time_finds_nothing(lake: Lake) -> None:
    """Run again, it changes nothing and leaves no second receipt."""
    first = erase_both(lake)
    again = erase_both(lake)
    assert again.receipt is None
    assert "nothing of them is in the lake" in list(again.describe())
    assert list((lake.root / "lake" / "_receipts").iterdir()) == [first.receipt]


def test_the_table_goes_on_from_there(lake: Lake) -> None:
    """The next sync merges onto what is left, and brings back only whom it reads."""
    erase_both(lake)
    merge_rows(lake, PROFILES, [numbered_batch(3, 1, note="back", synced=99)], {"cursor": "later"})
    assert read_notes(lake, "profiles")[TWO[0]] == "back"
    assert TWO[1] not in read_notes(lake, "profiles")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_in_the_midst_is_made_good_by_the_next(lake: Lake, moment: str) -> None:
    """Killed anywhere, the same command ends it, with one receipt that counts every row."""
    assert run_in_child_process(erase_two_profiles, lake.root, MOMENTS[moment]) == -9
    done = erase_both(lake)
    assert_erased(lake)
    assert {each["rows"] for each in done.erased.tables.values()} == {2}
    assert set(done.erased.tables) == {"profiles", "profiles_history", "events"}
    assert list(done.erased.quarantine.values()) == [1]
    assert [path.suffix for path in (lake.root / "lake" / "_receipts").iterdir()] == [".json"]


def test_while_a_run_writes_nothing_is_touched(lake: Lake) -> None:
    """Rows that a run holds would come back with its commit: it is refused until that ends."""
    before = read_notes(lake, "events")
    writing = lake.open_session(
        EVENTS, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    )
    with writing, pytest.raises(LakeConflictError, match="events: a run is writing this table"):
        erase_both(lake)
    assert read_notes(lake, "events") == before
    assert not (lake.root / "lake" / "_receipts").exists()
    erase_both(lake)
    assert_erased(lake)


def test_a_commit_that_comes_between_is_built_upon(lake: Lake) -> None:
    """A run that commits while rows are rewritten wins, and the erasure starts over from it."""
    calls = 0

    def clock() -> datetime:
        nonlocal calls
        calls += 1
        if calls == 3:
            merge_rows(
                lake,
                EVENTS,
                [numbered_batch(39, 2, note="new", synced=99, days=0.5)],
                {"cursor": "new"},
            )
        return utc_now()

    assert erase_both(lake, clock=clock).receipt is not None
    assert calls > 3
    assert_erased(lake)


def test_a_table_that_was_set_aside_is_named(lake: Lake) -> None:
    """What cannot be rewritten is not passed over in silence: its folder has to be deleted."""
    aside = lake.root / "lake" / "_damaged" / "profiles-20260101T000000.000000Z"
    aside.mkdir(parents=True)
    (aside / "part-0.parquet").write_bytes(b"PAR1, and no more")
    done = erase_both(lake)
    assert not done.is_complete
    assert any(line.startswith(f"{aside}: a damaged table") for line in done.describe())
