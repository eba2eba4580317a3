"""What `klaviyo.duckdb` shows, and queries over it that somebody else wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from klaviyo_assets.errors import MissingTableError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import DATABASE_FILE
from klaviyo_assets.lake.read.database import read_published
from klaviyo_assets.lake.read.query_process import (
    QueryJob,
    QueryLimits,
    QueryResult,
    find_relations,
    run_query_process,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedColumn:
    """A column of a published relation: its name, its type in DuckDB, and what it means."""

    name: str
    type: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRelation:
    """A relation as `klaviyo.duckdb` shows it."""

    name: str
    description: str
    columns: tuple[PublishedColumn, ...]


def read_published_relations(lake: Lake) -> dict[str, PublishedRelation]:
    """Return the relations of `klaviyo.duckdb` by name, in order; reads none of their rows.

    Raises:
        MissingTableError: there is no database yet.
        StorageError: it cannot be opened.
    """
    views = "SELECT view_name, coalesce(comment, '') FROM duckdb_views() WHERE NOT internal"
    columns = (
        "SELECT table_name, column_name, data_type, coalesce(comment, '') FROM duckdb_columns() "
        "WHERE NOT internal ORDER BY table_name, column_index"
    )
    with lake.open_published_views() as opened:
        descriptions = dict(opened.execute(views).fetchall())
        rows = opened.execute(columns).fetchall()
    found: dict[str, list[PublishedColumn]] = {}
    for relation, name, kind, about in rows:
        column = PublishedColumn(name=name, type=kind, description=about)
        found.setdefault(relation, []).append(column)
    return {
        name: PublishedRelation(
            name=name, description=descriptions.get(name, ""), columns=tuple(each)
        )
        for name, each in sorted(found.items())
    }


def query_published(
    lake: Lake, sql: str, *, columns: Mapping[str, Sequence[str]], limits: QueryLimits
) -> QueryResult:
    """Run a query that somebody else wrote over `klaviyo.duckdb`, in a process of its own.

    It sees the given `columns` of the given relations and nothing else.

    Raises:
        SettingError: it is refused, fails, or reaches a limit.
        MissingTableError: there is no database yet.
    """
    path = lake.root / DATABASE_FILE
    if not path.is_file():
        raise MissingTableError(f"there is no {path}: nothing was synced yet")
    job = QueryJob(
        sql=sql,
        database=str(path),
        lake_folder=read_published(lake.root).lake_root or str(lake.root / "lake"),
        columns={name: columns[name] for name in sorted(find_relations(sql, columns))},
        limits=limits,
    )
    return run_query_process(job)
