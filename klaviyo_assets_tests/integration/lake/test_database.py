"""klaviyo.duckdb: made from the lake alone, whenever and wherever that lies."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from klaviyo_assets.errors import (
    CorruptFileError,
    LakeError,
    MissingTableError,
    QueryError,
    StorageError,
)
from klaviyo_assets.lake.disk import hold_lock
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.read import database
from klaviyo_assets.lake.read.computed import ViewRelation
from klaviyo_assets.lake.read.database import PUBLISHED_FILE, read_published
from klaviyo_assets.lake.read.views import DetailRelation, JoinRelation, PlainRelation, Relation
from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.model.stream import RelationDescription
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    PROFILES,
    SCHEMA,
    START_TIME,
    TAGS,
    TIMESTAMP_TYPE,
    build_batch,
    merge_rows,
    numbered_batch,
    open_lake,
    query_database,
    replace_rows,
)

LISTS = LakeTable(name="lists", schema=SCHEMA, key=("id",), cursor="updated")
COUNTS = LakeTable(
    name="lists_detailed",
    schema=pa.schema(
        [
            ("id", pa.string()),
            ("parent_version", TIMESTAMP_TYPE),
            ("profile_count", pa.int64()),
            ("extra", pa.string()),
            ("synced_at", TIMESTAMP_TYPE),
        ]
    ),
    key=("id",),
)
DETAILED = DetailRelation(
    name="lists_detailed", parent="lists", key=("id",), columns=("profile_count",)
)
JOINED = JoinRelation(
    name="profiles_joined",
    left="profiles",
    right="tags",
    on="note",
    columns=(("tag_note", "note"),),
)
RELATIONS: list[Relation] = [
    PlainRelation(name="profiles"),
    PlainRelation(name="lists"),
    DETAILED,
    JOINED,
]


def counts(*pairs: tuple[str, int]) -> pa.RecordBatch:
    """Return profile counts by list."""
    rows = [
        {"id": key, "parent_version": START_TIME, "profile_count": count, "synced_at": START_TIME}
        for key, count in pairs
    ]
    return pa.RecordBatch.from_pylist(rows, schema=COUNTS.schema)


def names(root: Path) -> set[str]:
    """Return the names of all relations."""
    sql = "SELECT view_name FROM duckdb_views() WHERE database_name = 'k' AND NOT internal"
    return {str(name) for (name,) in query_database(root, sql)}


def test_every_table_has_a_view(lake: Lake, root: Path) -> None:
    """Tables, histories and empty tables are shown, with their columns and types."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)], with_history=True)
    merge_rows(lake, TAGS, [])
    lake.publish(RELATIONS)
    assert names(root) == {"profiles", "profiles_history", "tags", "profiles_joined"}
    assert query_database(root, "SELECT count(*) FROM k.profiles") == [(5,)]
    described = query_database(root, "SELECT column_name, column_type FROM (DESCRIBE k.tags)")
    assert described == [
        ("id", "VARCHAR"),
        ("updated", "TIMESTAMP WITH TIME ZONE"),
        ("note", "VARCHAR"),
        ("synced_at", "TIMESTAMP WITH TIME ZONE"),
    ]


def test_the_database_can_be_opened_by_itself(lake: Lake, root: Path) -> None:
    """A user who opens the file directly finds every relation by its name, bare or in `klaviyo`."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    lake.publish([])
    with duckdb.connect(root / "klaviyo.duckdb", read_only=True) as connection:
        assert connection.execute("SHOW TABLES").fetchall() == [("profiles",)]
        for name in ("profiles", "klaviyo.profiles", "main.profiles", "klaviyo.main.profiles"):
            assert connection.execute(f"SELECT count(*) FROM {name}").fetchall() == [(5,)]


def test_a_detail_is_its_parent_and_what_was_asked(lake: Lake, root: Path) -> None:
    """A detail has every parent, with NULL where none was fetched, and no deleted parent."""
    merge_rows(lake, LISTS, [build_batch([("a", 1, "x", 0), ("b", 1, "y", 0)])])
    merge_rows(lake, COUNTS, [counts(("a", 7), ("gone", 9))])
    lake.publish(RELATIONS)
    sql = "SELECT id, note, profile_count FROM k.lists_detailed ORDER BY id"
    assert query_database(root, sql) == [("a", "x", 7), ("b", "y", None)]
    columns = query_database(root, "SELECT column_name FROM (DESCRIBE k.lists_detailed)")
    assert [name for (name,) in columns] == [*SCHEMA.names, "profile_count"]


def test_a_join_shows_what_the_other_table_has_now(lake: Lake, root: Path) -> None:
    """A name that changed in the right table changes in the join without another word."""
    merge_rows(lake, PROFILES, [build_batch([("a", 1, "t1", 0), ("b", 1, "t2", 0)])])
    for name in ("old", "new"):
        replace_rows(lake, TAGS, [build_batch([("t1", 1, name, 0)])])
        lake.publish(RELATIONS)
        sql = "SELECT id, tag_note FROM k.profiles_joined ORDER BY id"
        assert query_database(root, sql) == [("a", name), ("b", None)]


def test_a_relation_without_its_parent_is_missing_in_words(lake: Lake, root: Path) -> None:
    """What a relation lacks is named; the others are shown."""
    merge_rows(lake, COUNTS, [counts(("a", 7))])
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    lake.publish(RELATIONS)
    assert names(root) == {"profiles"}
    with pytest.raises(MissingTableError, match="lists was never read; materialize klaviyo/lists"):
        lake.query_relation("lists_detailed")
    with pytest.raises(MissingTableError, match="tags"):
        lake.query_relation("profiles_joined")


def test_a_lake_of_another_process_knows_the_relations(lake: Lake, root: Path) -> None:
    """What was published once can be read through the lake without describing it again."""
    merge_rows(lake, LISTS, [build_batch([("a", 1, "x", 0)])])
    merge_rows(lake, COUNTS, [counts(("a", 7))])
    assert lake.query_relation("lists_detailed", RELATIONS).columns[-1] == "profile_count"
    lake.publish(RELATIONS)
    assert open_lake(root).query_relation("lists_detailed").columns[-1] == "profile_count"


def test_a_deleted_database_comes_back(lake: Lake, root: Path) -> None:
    """The next publisher needs neither the old database nor its own notes."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    lake.publish(RELATIONS)
    (root / "klaviyo.duckdb").unlink()
    (root / "lake" / PUBLISHED_FILE).unlink()
    lake.publish(RELATIONS)
    assert query_database(root, "SELECT count(*) FROM k.profiles") == [(5,)]


def test_a_broken_database_is_replaced(lake: Lake, root: Path) -> None:
    """Garbage instead of the database, or of its notes, is replaced."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    (root / "klaviyo.duckdb").write_bytes(b"garbage")
    (root / "lake" / PUBLISHED_FILE).write_text(json.dumps(["nonsense"]))
    (root / database.NEW_DATABASE_FILE).write_bytes(b"left by a killed publisher")
    lake.publish(RELATIONS)
    assert query_database(root, "SELECT count(*) FROM k.profiles") == [(5,)]


def number_of(root: Path) -> int:
    """Return the number of the file that is the database: another one whenever it is replaced."""
    return (root / "klaviyo.duckdb").stat().st_ino


def test_a_new_cursor_alone_leaves_the_database_as_it_is(lake: Lake, root: Path) -> None:
    """Nothing is built where nothing new is to be seen; what upkeep goes by is noted all the same.

    Rows, or another relation, make it new.
    """
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)], {"n": 1})
    lake.publish([])
    before = number_of(root)
    merge_rows(lake, PROFILES, [], {"n": 2})
    lake.publish([])
    assert number_of(root) == before
    assert read_published(root).versions == {"profiles": 1}
    merge_rows(lake, PROFILES, [numbered_batch(5, 5)], {"n": 2})
    lake.publish([])
    assert query_database(root, "SELECT count(*) FROM k.profiles") == [(10,)]
    between = number_of(root)
    assert between != before
    merge_rows(lake, TAGS, [])
    lake.publish([JOINED])
    assert number_of(root) != between
    assert "profiles_joined" in names(root)


EVERYTHING = (
    "SELECT view_name, sql, comment FROM duckdb_views() WHERE NOT internal ORDER BY ALL",
    "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal ORDER BY ALL",
)


def test_only_what_is_new_is_built(lake: Lake, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit builds no view again, a new table its own; the result is as if all were rebuilt.

    Neither does the file grow from one publisher to the next.
    """
    rebuilt: list[set[str]] = []

    def spy(
        connection: duckdb.DuckDBPyConnection, views: Mapping[str, Sequence[str]]
    ) -> dict[str, Exception]:
        rebuilt.append(set(views))
        return create(connection, views)

    create = database.create_views
    monkeypatch.setattr(database, "create_views", spy)
    described = RelationDescription(
        summary="One row per tag; it's one.", columns={"note": "'; DROP --"}
    )
    relations = [*RELATIONS, PlainRelation(name="tags", description=described)]
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    merge_rows(lake, LISTS, [numbered_batch(0, 5)])
    lake.publish(relations)
    sizes = set[int]()
    for number in range(10):
        merge_rows(lake, TAGS, [numbered_batch(number, 5)])
        lake.publish(relations)
        sizes.add((root / "klaviyo.duckdb").stat().st_size)
    first, *others = rebuilt
    assert first == {"profiles", "lists"}
    assert others == [{"tags", "profiles_joined"}, *[set[str]()] * 9]
    assert query_database(root, "SELECT count(*) FROM k.tags") == [(14,)]
    shutil.rmtree(root / "lake/lists")
    lake.publish(relations)
    assert rebuilt.pop() == set()
    stored = [query_database(root, sql) for sql in EVERYTHING]
    (root / "klaviyo.duckdb").unlink()
    lake.publish(relations)
    assert rebuilt.pop() == {"profiles", "tags", "profiles_joined"}
    assert [query_database(root, sql) for sql in EVERYTHING] == stored
    assert ("tags", "note", "'; DROP --") in stored[1]
    assert "One row per tag; it's one." in {comment for _, _, comment in stored[0]}
    assert len(sizes) <= 2


@pytest.mark.parametrize("by", ["garbage", "another", "nothing"])
def test_what_a_user_did_to_the_database_is_undone(lake: Lake, root: Path, by: str) -> None:
    """Whatever lies under its name and is not what was published is replaced by what there is."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    lake.publish([])
    path = root / "klaviyo.duckdb"
    match by:
        case "garbage":
            path.write_bytes(b"garbage")
        case "another":
            with duckdb.connect(path) as connection:
                connection.execute("DROP VIEW klaviyo.profiles")
        case _:
            path.unlink()
    lake.publish([])
    assert query_database(root, "SELECT count(*) FROM k.profiles") == [(5,)]


def test_views_find_the_macros_of_their_own_database(lake: Lake, root: Path) -> None:
    """Whatever a reader has of the same name, and through a view of the reader's own."""
    merge_rows(lake, TAGS, [numbered_batch(0, 5)])
    lake.publish([])
    path = str(root / "klaviyo.duckdb").replace("'", "''")
    with duckdb.connect() as reader:
        reader.execute("CREATE MACRO files_of_tags() AS ['no such file']")
        reader.execute(f"ATTACH '{path}' AS other_name (READ_ONLY)")
        reader.execute("CREATE VIEW mine AS FROM other_name.tags")
        for relation in ("other_name.tags", "other_name.main.tags", "mine"):
            assert reader.execute(f"SELECT count(*) FROM {relation}").fetchone() == (5,)


def test_a_lake_without_tables_has_a_database(lake: Lake, root: Path) -> None:
    """Who opens it before the first sync finds no relations, and no missing file."""
    for _ in range(2):
        assert lake.publish(RELATIONS) == ()
        assert names(root) == set()


def test_a_view_that_failed_is_tried_again(lake: Lake, root: Path) -> None:
    """A database that lacks a view is built anew by the next publisher, changed or not."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    twice = JoinRelation(
        name="wrong", left="profiles", right="profiles", on="no such column", columns=(("a", "id"),)
    )
    for _ in range(2):
        (problem,) = lake.publish([twice])
        assert problem.stream == "wrong"
    lake.publish([])
    assert names(root) == {"profiles"}


def test_a_missing_file_is_reported_though_nothing_is_new(lake: Lake, root: Path) -> None:
    """What was shown before and cannot be read any more is named by every publisher."""
    merge_rows(lake, TAGS, [numbered_batch(0, 5)])
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    assert lake.publish([]) == ()
    (file,) = (root / "lake/tags").glob("*.parquet")
    file.unlink()
    for _ in range(2):
        (problem,) = lake.publish([])
        assert (type(problem), problem.stream) == (CorruptFileError, "tags")
    assert names(root) == {"profiles"}


def test_a_view_that_does_not_bind_is_no_damaged_file(lake: Lake, root: Path) -> None:
    """The error has the view, DuckDB's words and what to do; a damaged file is named as ever."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    merge_rows(lake, TAGS, [numbered_batch(0, 5)])
    (file,) = (root / "lake/tags").glob("*.parquet")
    file.unlink()
    source: dict[str, dict[str, ColumnType]] = {"profiles": {"id": "string"}}
    bad, good = (
        ViewRelation(name=name, sources=source, required_sources=("profiles",), sql=sql)
        for name, sql in (("bad", "SELECT nothing FROM profiles"), ("good", "FROM profiles"))
    )
    for _ in range(2):
        published = lake.publish([bad, good])
        assert {each.stream: type(each) for each in published} == {
            "tags": CorruptFileError,
            "bad": QueryError,
        }
    (text,) = (str(each) for each in lake.publish([bad, good]) if each.stream == "bad")
    assert 'refuses the SQL of bad: Binder Error: Referenced column "nothing" not found' in text
    assert "No file is damaged" in text
    assert "LINE" not in text
    assert names(root) == {"profiles", "good"}
    shutil.rmtree(root / "lake/tags")
    lake.publish([bad, good])
    with pytest.raises(LakeError, match=r"bad: .* lacks this view") as caught:
        lake.check_integrity()
    assert not isinstance(caught.value, CorruptFileError)
    with pytest.raises(QueryError, match="refuses the SQL of bad"):
        lake.count_relation_rows("bad")


def test_a_table_begun_anew_is_not_taken_for_the_old_one(lake: Lake, root: Path) -> None:
    """After a table was put away, one of the same name and version shows its own rows."""
    for count in (5, 7):
        merge_rows(lake, PROFILES, [numbered_batch(0, count)])
        lake.publish([])
        assert query_database(root, "SELECT count(*) FROM k.profiles") == [(count,)]
        shutil.move(root / "lake/profiles", root / f"put-away-{count}")


AFTER_A_FORK = """
import os, sys
from pathlib import Path
from klaviyo_assets.lake.read.duckdb import load_duckdb
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    PROFILES, merge_rows, numbered_batch, open_lake
)

load_duckdb()
if not (child := os.fork()):
    lake = open_lake(Path(sys.argv[1]))
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    lake.publish([])
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_starts_a_duckdb_of_its_own(root: Path) -> None:
    """A process that was forked from one with DuckDB in memory publishes like any other."""
    subprocess.run([sys.executable, "-c", AFTER_A_FORK, str(root)], check=True, timeout=300)
    assert query_database(root, "SELECT count(*) FROM k.profiles") == [(5,)]


def test_a_moved_folder_works_on(lake: Lake, root: Path, tmp_path: Path) -> None:
    """After a move the lake is read and written in its new place, and the views follow."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)], {"n": 1})
    lake.publish(RELATIONS)
    there = tmp_path / "else where" / "data"
    there.parent.mkdir()
    shutil.move(root, there)
    moved = open_lake(there)
    state = moved.read_table_state("profiles")
    assert state is not None
    assert state.state == {"n": 1}
    merge_rows(moved, PROFILES, [numbered_batch(3, 5)], {"n": 2})
    moved.publish(RELATIONS)
    assert query_database(there, "SELECT count(*) FROM k.profiles") == [(8,)]


def test_one_damaged_table_does_not_hide_the_others(lake: Lake, root: Path) -> None:
    """A table whose log cannot be read is named, and every other one is shown."""
    merge_rows(lake, TAGS, [numbered_batch(0, 5)])
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    log = root / "lake/tags/_delta_log/00000000000000000000.json"
    log.write_text("{garbage")
    (problem,) = lake.publish(RELATIONS)
    assert isinstance(problem, CorruptFileError)
    assert "tags/_delta_log" in str(problem)
    assert "full_refresh" in str(problem)
    assert names(root) == {"profiles"}


def test_a_publisher_that_does_not_end_is_not_waited_for_for_ever(
    lake: Lake, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for another publisher is bounded, and the error says what held it up."""
    monkeypatch.setattr(database, "PUBLISH_LOCK_TIMEOUT_SECONDS", 0.05)
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    with (
        hold_lock(root / database.DATABASE_LOCK_FILE, timeout_seconds=1),
        pytest.raises(StorageError, match="held by another process"),
    ):
        lake.publish(RELATIONS)


def test_a_stray_folder_is_no_table(lake: Lake, root: Path) -> None:
    """Folders of others in the lake, with names that no table can have, are left alone."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    (root / "lake" / "My Files" / "_delta_log").mkdir(parents=True)
    (root / "lake" / "empty" / "_delta_log").mkdir(parents=True)
    lake.publish(RELATIONS)
    assert names(root) == {"profiles"}
