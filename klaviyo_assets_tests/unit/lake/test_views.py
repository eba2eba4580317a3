"""Relations: quoted names, types, joins, and nothing shown of what was never read."""

from pathlib import Path
from typing import cast

import duckdb
import pyarrow as pa
import pytest

from klaviyo_assets.errors import LakeError, LakeVersionError
from klaviyo_assets.lake.read.duckdb import (
    TableFiles,
    create_paths_macro,
    duckdb_type,
    quote_identifier,
    quote_literal,
    select_paths,
    select_table_files,
)
from klaviyo_assets.lake.read.views import (
    DetailRelation,
    JoinRelation,
    PlainRelation,
    Relation,
    build_relation,
    build_select,
    relation_from_json,
    relation_to_json,
)
from klaviyo_assets.model.stream import Collection, Detail, Join, Stream, StreamSource

NASTY = "x\"; DROP TABLE profiles; --'"


def empty_table(*names: str) -> TableFiles:
    """Return an empty table of text columns."""
    return TableFiles(schema=pa.schema([(name, pa.string()) for name in names]), paths=())


def columns(sql: str | None) -> list[str]:
    """Return the columns that DuckDB finds in a query."""
    assert sql is not None
    return result(sql).columns


def result(sql: str) -> duckdb.DuckDBPyRelation:
    """Return the relation of a query."""
    return duckdb.connect().sql(sql)


def stream(name: str, source: StreamSource) -> Stream:
    """Return a stream with nothing but a source."""
    return Stream(
        name=name,
        description="One row per thing.",
        section="Things",
        source=source,
        columns=(),
        tier=None,
        scopes=(),
    )


@pytest.mark.parametrize("name", [NASTY, 'a"b', "a b", "ä", "$", "SELECT", "x'y", "a\nb"])
def test_any_name_is_only_a_name(name: str) -> None:
    """Whatever a column is called, it becomes a column and no statement."""
    assert columns(select_table_files(empty_table("id", name))) == ["id", name]
    assert result(f"SELECT {quote_literal(name)}").fetchall() == [(name,)]
    assert quote_identifier(name).count('"') % 2 == 0


def test_an_empty_table_has_its_columns_and_types() -> None:
    """A table without files shows every column with its type, and no row."""
    types = {
        "id": (pa.string(), "VARCHAR"),
        "count": (pa.int64(), "BIGINT"),
        "rate": (pa.float64(), "DOUBLE"),
        "is_on": (pa.bool_(), "BOOLEAN"),
        "at": (pa.timestamp("us", tz="UTC"), "TIMESTAMP WITH TIME ZONE"),
        "date": (pa.date32(), "DATE"),
        "tag_ids": (pa.list_(pa.string()), "VARCHAR[]"),
    }
    schema = pa.schema([(name, kind) for name, (kind, _) in types.items()])
    relation = result(select_table_files(TableFiles(schema=schema, paths=())))
    assert relation.columns == list(types)
    assert [str(kind) for kind in relation.types] == [kind for _, kind in types.values()]
    assert relation.fetchall() == []


def test_a_foreign_type_is_refused_in_words() -> None:
    """A column that another program added, of a type we do not know, is named."""
    with pytest.raises(LakeVersionError, match="struct"):
        duckdb_type(pa.struct([("a", pa.string())]))


def test_a_detail_adds_only_what_its_parent_lacks() -> None:
    """The parent's columns come first, and no column is there twice."""
    tables = {
        "campaigns": empty_table("id", "name", "extra", "synced_at"),
        "campaigns_detailed": empty_table("id", "parent_version", "count", "extra", "synced_at"),
    }
    relation = DetailRelation(
        name="campaigns_detailed", parent="campaigns", key=("id",), columns=("count", "name")
    )
    assert columns(build_select(relation, tables)) == ["id", "name", "extra", "synced_at", "count"]


def test_a_join_names_its_columns_anew() -> None:
    """All of the left, then the right's columns under the names of the declaration."""
    tables = {"events": empty_table("id", "metric_id"), "metrics": empty_table("id", "name")}
    relation = JoinRelation(
        name="events_detailed",
        left="events",
        right="metrics",
        on="metric_id",
        columns=(("metric_name", "name"),),
    )
    assert columns(build_select(relation, tables)) == ["id", "metric_id", "metric_name"]


@pytest.mark.parametrize("missing", ["events", "metrics"])
def test_nothing_is_shown_of_what_was_never_read(missing: str) -> None:
    """A relation needs every table that it is made of."""
    tables = {"events": empty_table("id", "metric_id"), "metrics": empty_table("id", "name")}
    del tables[missing]
    relation = JoinRelation(
        name="events_detailed", left="events", right="metrics", on="metric_id", columns=()
    )
    assert build_select(relation, tables) is None


RELATIONS: tuple[Relation, ...] = (
    PlainRelation(name="events"),
    DetailRelation(name="lists_detailed", parent="lists", key=("id",), columns=("profile_count",)),
    JoinRelation(name="e", left="events", right="metrics", on="metric_id", columns=(("a", "b"),)),
)


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_a_relation_survives_json(relation: Relation) -> None:
    """What one process published another one reads back the same."""
    assert relation_from_json(relation_to_json(relation)) == relation


def test_a_relation_follows_its_stream() -> None:
    """Each source becomes its relation, and a parent that is no stream is refused."""
    source = Collection(path="/api/lists", page_size=10)
    streams = {
        "lists": stream("lists", source),
        "lists_detailed": stream("lists_detailed", Detail(parent="lists", path="/api/lists/{id}")),
        "joined": stream(
            "joined", Join(left="lists", right="lists", join_column="x", columns={"a": "b"})
        ),
    }
    made = [build_relation(each, streams) for each in streams.values()]
    assert [type(each) for each in made] == [PlainRelation, DetailRelation, JoinRelation]
    assert cast("JoinRelation", made[2]).columns == (("a", "b"),)
    with pytest.raises(LakeError, match="lists"):
        build_relation(streams["lists_detailed"], {})


def test_paths_are_literals() -> None:
    """A data folder may be called anything."""
    path = Path("/tmp") / "it's" / NASTY.replace("/", "")  # noqa: S108 - never touched
    sql = select_table_files(
        TableFiles(schema=pa.schema([("id", pa.string())]), paths=(str(path),))
    )
    assert quote_literal(str(path)) in sql


@pytest.mark.parametrize("folder", ["/data/lake", "/it's mounted/lake", "/per%25cent/§"])
def test_all_files_of_a_table_are_one_literal(folder: str) -> None:
    """DuckDB splits it: a list of literals takes 10 kB of memory for each file of the lake."""
    paths = [f"{folder}/events/day=2026-11-0{at}/part-'x'.parquet" for at in (1, 2)]
    expression = select_paths(paths)
    assert expression.count("part-") == len(paths)
    assert expression.replace("''", "").count("'") == 2
    with duckdb.connect() as connection:
        assert connection.execute(f"SELECT {expression}").fetchall() == [(paths,)]
        for stored in ([], paths):
            connection.execute(create_paths_macro("files of 'x'", stored, catalog="memory"))
        assert connection.execute("SELECT \"files of 'x'\"()").fetchall() == [(paths,)]
