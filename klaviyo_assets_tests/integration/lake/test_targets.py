"""Views in a user's own database: what they never destroy, how long they hold, what they lack."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from klaviyo_assets.errors import MissingTableError, SettingError, StorageError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.streams.fivetran_views import FIVETRAN_SOURCES
from klaviyo_assets_tests.held_connections import hold_connection
from klaviyo_assets_tests.integration.lake.lake_fixtures import open_lake
from klaviyo_assets_tests.integration.lake.stream_rows import RELATIONS, write_stream

START = datetime(2026, 9, 1, 12, tzinfo=UTC)
NO_GRACE = timedelta(microseconds=1)
"""Short, but not zero, which is what an erasure has."""


def write_flows(lake: Lake, *names: str, hours: int = 0) -> None:
    """Write flows that last changed some hours after the start."""
    at = START + timedelta(hours=hours)
    rows = [
        {"id": name, "name": f"{name} {hours}", "created": START, "updated": at} for name in names
    ]
    write_stream(lake, "flows", rows, synced_at=at)


def publish(
    lake: Lake, target: Path, schema: str = "klaviyo"
) -> dict[str, tuple[int, Sequence[str]]]:
    """Publish the sources; return the rows of each view, and what it lacks."""
    written = lake.publish_to_target(target, replace(FIVETRAN_SOURCES, schema=schema), RELATIONS)
    return {each.name: (each.rows, each.missing) for each in written}


def read_flows(target: Path) -> set[str]:
    """Return the names of the flows that the database shows."""
    with duckdb.connect(target, read_only=True) as opened:
        return {name for (name,) in opened.execute("SELECT name FROM klaviyo.flow").fetchall()}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Give a lake with two flows."""
    made = open_lake(tmp_path / "data")
    write_flows(made, "a", "b")
    return made


def test_views_hold_until_they_are_written_again(lake: Lake, tmp_path: Path) -> None:
    """Vacuum spares the files that a user's database names, and no longer than it does."""
    target = tmp_path / "shop.duckdb"
    publish(lake, target)
    (old,) = (lake.root / "lake" / "flows").glob("part-*")
    write_flows(lake, "a", "b", hours=1)
    lake.vacuum("flows", grace=NO_GRACE)
    assert read_flows(target) == {"a 0", "b 0"}
    publish(lake, target)
    assert old.exists()
    lake.vacuum("flows", grace=NO_GRACE)
    assert not old.exists()
    assert read_flows(target) == {"a 1", "b 1"}


def test_a_database_that_is_gone_keeps_nothing(lake: Lake, tmp_path: Path) -> None:
    """A user who deletes the file has no files of it in the lake either."""
    target = tmp_path / "shop.duckdb"
    publish(lake, target)
    assert target in lake.exported_files()
    write_flows(lake, "a", "b", hours=1)
    target.unlink()
    lake.vacuum("flows", grace=NO_GRACE)
    assert len(list((lake.root / "lake" / "flows").glob("part-*"))) == 1
    assert target not in lake.exported_files()


def test_two_schemas_of_one_database_hold_both(lake: Lake, tmp_path: Path) -> None:
    """Writing one schema anew releases no file that the views of another name."""
    target = tmp_path / "shop.duckdb"
    publish(lake, target)
    write_flows(lake, "a", "b", hours=1)
    publish(lake, target, schema="other")
    lake.vacuum("flows", grace=NO_GRACE)
    assert read_flows(target) == {"a 0", "b 0"}


def test_what_was_never_synced_is_named(lake: Lake, tmp_path: Path) -> None:
    """A stream that is not stored gives a view without rows, and is told."""
    found = publish(lake, tmp_path / "shop.duckdb")
    assert found["flow"] == (2, ())
    assert found["event"] == (0, ("events", "metrics", "campaigns", "profile_merges"))
    assert found["person"] == (0, ("profiles",))
    with pytest.raises(MissingTableError, match="nothing was synced yet"):
        publish(open_lake(tmp_path / "empty"), tmp_path / "empty.duckdb")
    assert not (tmp_path / "empty.duckdb").exists()


def test_a_column_that_is_left_out_is_null(tmp_path: Path) -> None:
    """What a privacy setting keeps out of the lake is NULL in the view, and nothing else is."""
    lake = open_lake(tmp_path / "private")
    row = {"id": "p1", "email": "a@example.com", "title": "Dr", "created": START, "updated": START}
    out = frozenset({"email", "properties"})
    write_stream(lake, "profiles", [row], synced_at=START, exclude=out)
    publish(lake, tmp_path / "shop.duckdb")
    with duckdb.connect(tmp_path / "shop.duckdb", read_only=True) as opened:
        shown = opened.execute("SELECT id, email, title, properties FROM klaviyo.person").fetchall()
    assert shown == [("p1", None, "Dr", None)]


def test_what_the_user_has_is_not_replaced(lake: Lake, tmp_path: Path) -> None:
    """A table or view of the user's stays, and nothing else is written then; models stay too."""
    target = tmp_path / "shop.duckdb"
    with duckdb.connect(target) as opened:
        opened.execute("CREATE SCHEMA klaviyo; CREATE TABLE klaviyo.metric AS SELECT 1 AS mine")
        opened.execute("CREATE TABLE main.model AS SELECT 2 AS mine")
    with pytest.raises(SettingError, match=r"a table klaviyo\.metric already"):
        publish(lake, target)
    with duckdb.connect(target) as opened:
        names = [
            name for (name,) in opened.execute("FROM (SHOW ALL TABLES) SELECT name").fetchall()
        ]
        assert sorted(names) == ["metric", "model"]
        opened.execute("DROP TABLE klaviyo.metric; CREATE VIEW klaviyo.metric AS SELECT 1 AS mine")
    with pytest.raises(SettingError, match=r"a view klaviyo\.metric already"):
        publish(lake, target)
    with duckdb.connect(target) as opened:
        opened.execute("DROP VIEW klaviyo.metric")
    publish(lake, target)
    publish(lake, target)
    assert read_flows(target) == {"a 0", "b 0"}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("klaviyo.duckdb", "give the file another name"),
        ("Klaviyo.db", "give the file another name"),
        ("data/klaviyo.duckdb", "the lake's own"),
        ("data/lake/x.duckdb", "the lake's own"),
        ("no folder/x.duckdb", "is no folder"),
        ("folder", "is a folder"),
        ("text.duckdb", "is no DuckDB database"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused(
    lake: Lake, tmp_path: Path, place: str, message: str
) -> None:
    """The message says why, and what is there stays."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.duckdb").write_text("a diary", encoding="utf-8")
    with pytest.raises(SettingError, match=message):
        publish(lake, tmp_path / place)
    assert (tmp_path / "text.duckdb").read_text(encoding="utf-8") == "a diary"


def test_a_database_that_another_program_writes_is_left(lake: Lake, tmp_path: Path) -> None:
    """While dbt has it open, publishing fails, and says that that program must end first."""
    target = tmp_path / "shop.duckdb"
    publish(lake, target)
    with (
        hold_connection(target, duckdb.__version__),
        pytest.raises(StorageError, match="another program, such as dbt"),
    ):
        publish(lake, target)
    publish(lake, target)
