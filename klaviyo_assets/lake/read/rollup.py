"""The SQL of columns that are computed from the rows of another table, beside those of a table.

Both tables may have been written by an earlier release, and the other one may not be stored yet:
what they lack is NULL.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from klaviyo_assets.lake.read.computed import SQL_TYPES
from klaviyo_assets.lake.read.duckdb import TableFiles, quote_identifier, select_table_files
from klaviyo_assets.model.column import Column, ColumnType
from klaviyo_assets.model.stream import Rollup, Stream, ViewColumn, relation_columns


@dataclass(frozen=True, slots=True)
class TypedColumn:
    """A column, its type, and the SQL that computes it; "" for one that is stored."""

    name: str
    type: ColumnType
    sql: str = ""

    @property
    def null(self) -> str:
        """Return the SQL of the column where it has no value."""
        return f"CAST(NULL AS {SQL_TYPES[self.type]}) AS {quote_identifier(self.name)}"

    @property
    def expression(self) -> str:
        """Return the SQL of the column, of its type."""
        return f"CAST({self.sql} AS {SQL_TYPES[self.type]}) AS {quote_identifier(self.name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupSql:
    """A `Rollup` with the columns that its SQL may name, of its own table and of the other one."""

    table: str
    condition: str
    totals: tuple[TypedColumn, ...]
    columns: tuple[TypedColumn, ...]
    own_columns: tuple[TypedColumn, ...]
    part_columns: tuple[TypedColumn, ...]

    def added_columns(self, stored: Iterable[str]) -> list[str]:
        """Return the names of the columns that follow those of the stored table."""
        names = set(stored) | {each.name for each in self.own_columns}
        return [each.name for each in self.columns if each.name not in names]


def build_rollup(stream: Stream, streams: Mapping[str, Stream]) -> RollupSql | None:
    """Return the rollup of a stream; None for one without, or where the other stream is missing."""
    rollup = stream.rollup
    if rollup is None or rollup.table not in streams:
        return None

    def computed(columns: tuple[ViewColumn, ...]) -> tuple[TypedColumn, ...]:
        return tuple(TypedColumn(each.column.name, each.column.type, each.sql) for each in columns)

    other = streams[rollup.table]
    return RollupSql(
        table=rollup.table,
        condition=rollup.condition,
        totals=computed(rollup.totals),
        columns=computed(rollup.columns),
        own_columns=_stored_columns(relation_columns(stream, streams), rollup),
        part_columns=_stored_columns(relation_columns(other, streams), None),
    )


def _stored_columns(columns: Iterable[Column], rollup: Rollup | None) -> tuple[TypedColumn, ...]:
    added = {each.column.name for each in rollup.columns} if rollup is not None else set[str]()
    return tuple(TypedColumn(each.name, each.type) for each in columns if each.name not in added)


def select_rolled_up(
    stored: TableFiles, rollup: RollupSql | None, tables: Mapping[str, TableFiles]
) -> str:
    """Return a SELECT of all columns of a stored table, those of the rollup computed."""
    if rollup is None:
        return select_table_files(stored)
    own = _select_whole(stored, rollup.own_columns)
    computed = {each.name: each for each in rollup.columns}
    shown = [
        computed[name].expression if name in computed else f"own.{quote_identifier(name)}"
        for name in stored.schema.names
    ]
    shown += [computed[name].expression for name in rollup.added_columns(stored.schema.names)]
    return (
        f"SELECT {', '.join(shown)} FROM ({own}) AS own "
        f"LEFT JOIN ({_select_totals(own, rollup, tables)}) AS total ON total.own_id = own.id"
    )


def _select_totals(own: str, rollup: RollupSql, tables: Mapping[str, TableFiles]) -> str:
    found = tables.get(rollup.table)
    if found is None:
        nulls = ", ".join(each.null for each in rollup.totals)
        return f"SELECT CAST(NULL AS VARCHAR) AS own_id, {nulls} WHERE false"
    parts = _select_whole(found, rollup.part_columns)
    totals = ", ".join(each.expression for each in rollup.totals)
    return (
        f"SELECT own.id AS own_id, {totals} FROM ({own}) AS own JOIN ({parts}) AS part "
        f"ON {rollup.condition} GROUP BY own.id"
    )


def _select_whole(stored: TableFiles, columns: tuple[TypedColumn, ...]) -> str:
    """Return a SELECT in which columns that an earlier release did not store are NULL."""
    missing = [each.null for each in columns if each.name not in stored.schema.names]
    return f"SELECT {', '.join(['*', *missing])} FROM ({select_table_files(stored)})"
