"""F67: a lake that an older release left, and one that a newer release has been at."""

import json
from pathlib import Path

import pytest
from deltalake import DeltaTable

from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.errors import StorageError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable, build_table
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.crash_hooks import run_at_crash_point
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.faults.assertions import assert_complete

NEW = {"profiles": ("last_name", "properties"), "events": ("attributions",)}
"""Columns that the older release did not know yet."""


def age(home: Home, stream: str) -> None:
    """Let a table be what a release without the new columns would have left: its rows and mark."""
    folder = home.data_dir / "lake" / stream
    rows = DeltaTable(str(folder)).to_pyarrow_table()
    lake = Lake(home.data_dir, clock=lambda: home.account.now)
    known = lake.read_table_state(stream)
    assert known is not None
    now = build_table(STREAMS[stream], arrow_schema(STREAMS[stream]))
    schema = now.schema
    for column in NEW[stream]:
        schema = schema.remove(schema.get_field_index(column))
    folder.rename(home.root / f"{stream}-before")
    old = LakeTable(
        name=stream,
        schema=schema,
        key=now.key,
        cursor=now.cursor,
        newest_by_cursor=now.newest_by_cursor,
        partitioning=now.partitioning,
    )
    with lake.open_session(
        old, account=known.account, mode="merge", with_history=False, started_at=home.account.now
    ) as session:
        for batch in rows.select(schema.names).cast(schema).to_batches():
            session.add(batch)
        session.commit(known.state)


def widenings(home: Home, stream: str) -> list[int]:
    """Return the versions that changed the columns of a table, but for the one that made it."""
    log = home.data_dir / "lake" / stream / "_delta_log"
    return [
        int(path.stem)
        for path in sorted(log.glob("*.json"))
        if int(path.stem) and '{"metaData":' in path.read_text()
    ]


def restamp(folder: Path, version: int) -> None:
    """Let the newest commit of a table say that it was written in another layout."""
    path = max((folder / "_delta_log").glob("*.json"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if "klaviyo_assets" in line.get("commitInfo", {}):
            line["commitInfo"]["klaviyo_assets"]["lake_version"] = version
    path.write_text("\n".join(json.dumps(each, separators=(",", ":")) for each in lines))


@pytest.mark.parametrize("stream", NEW)
def test_f67_the_columns_of_a_new_release_are_added_once(home: Home, stream: str) -> None:
    """The first sync widens an old table in one commit and goes on from its mark; the next none."""
    home.sync(stream)
    before = home.query(f"DESCRIBE klaviyo.{stream}")
    age(home, stream)
    rows = len(home.lake_ids(stream))
    for _ in range(2):
        home.account.advance_clock(hours=3)
        run = home.sync(stream)
        assert run.success
        assert run.warnings == ""
        assert run.attempts == {stream: 1}
        assert run.metadata_number(stream, "records_read") < rows / 2
        assert_complete(home, stream)
        assert widenings(home, stream) == [1]
    assert sorted(home.query(f"DESCRIBE klaviyo.{stream}")) == sorted(before)
    column = NEW[stream][0]
    (filled,) = home.query(f"SELECT count({column}), count(*) FROM klaviyo.{stream}")
    assert 0 < filled[0] < filled[1]
    assert home.sync(stream, config={"sync_mode": "full_refresh_overwrite"}).success
    assert_complete(home, stream)
    assert widenings(home, stream) == [1]


def test_f67_a_crash_after_the_columns_leaves_the_cursor(home: Home) -> None:
    """A crash between new columns and their rows loses no cursor; the next run continues."""
    home.sync("profiles")
    age(home, "profiles")
    home.account.advance_clock(hours=3)

    def crash() -> None:
        raise StorageError("the machine went dark")

    with run_at_crash_point("before a table commit", crash):
        broken = home.sync("profiles")
    assert "the machine went dark" in broken.failures["profiles"]
    assert widenings(home, "profiles") == [1]
    run = home.sync("profiles")
    assert run.success
    assert (
        run.metadata_number("profiles", "records_read") < len(home.account.true_ids("profiles")) / 2
    )
    assert_complete(home, "profiles")
    assert widenings(home, "profiles") == [1]


@pytest.mark.parametrize(
    ("version", "words"),
    [(99, "written by a later version of klaviyo_assets (layout 99"), (0, "an earlier version")],
    ids=["newer", "older"],
)
def test_f67_another_layout_is_refused_untouched(home: Home, version: int, words: str) -> None:
    """No stream reads or writes such a lake, whole refreshes included; the text has the way out."""
    home.sync("profiles", "lists")
    restamp(home.data_dir / "lake" / "profiles", version)
    before, request_count = home.data_files(), home.account.request_counts().total()
    for config in ({}, {"sync_mode": "full_refresh_overwrite"}):
        run = home.sync("profiles", "lists", "metrics", config=config)
        assert set(run.failures) == {"profiles", "lists", "metrics"}
        for text in run.failures.values():
            assert words in text
            assert "another KLAVIYO_DATA_DIR" in text
        assert {*run.attempts.values()} == {1}
    assert home.data_files() == before
    assert home.account.request_counts().total() == request_count
    restamp(home.data_dir / "lake" / "profiles", 1)
    home.account.advance_clock(hours=3)
    assert home.sync("profiles", "lists", "metrics").success
    assert_complete(home, "profiles", "lists", "metrics")
