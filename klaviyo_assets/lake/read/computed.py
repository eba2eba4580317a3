"""The SQL of what is computed when a relation is read, and of declared views.

Columns of a row, rows from arrays in JSON, and columns from the rows of another table. The other
table may have been written by an earlier release, or not be stored yet: what it lacks is NULL.

The rates of a report over longer periods than its days. A rate of a week is no mean of the rates of
its days: it is made anew, from the sums of what it divides. People who are counted on several days
are in such a sum several times; of whole months the reports by month know better.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pyarrow as pa

from klaviyo_assets.lake.layout import DELETED_AT_COLUMN, SYNC_STARTED_AT_COLUMN, SYNCED_AT_COLUMN
from klaviyo_assets.lake.read.duckdb import (
    TableFiles,
    quote_identifier,
    quote_literal,
    select_columns,
    select_table_files,
)
from klaviyo_assets.model.column import Column, ColumnType, FieldPath
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import (
    KEY_COLUMN,
    POSITION_COLUMN,
    VALID_FROM_COLUMN,
    VALID_TO_COLUMN,
    RelationDescription,
    Rollup,
    Stream,
    Unnest,
    ViewColumn,
    base_stream_name,
    relation_columns,
)
from klaviyo_assets.model.view import View

SQL_TYPES: Mapping[ColumnType, str] = {
    "string": "VARCHAR",
    "json": "VARCHAR",
    "ids": "VARCHAR[]",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "date": "DATE",
}


@dataclass(frozen=True, slots=True)
class ComputedColumn:
    """A column by its SQL; without `table`, which the SQL names as `{table}`, it is NULL.

    With `joined_on`, a column with ids of rows of `table` or of `other_table`, `sql` is the name of
    a column of these rows; without that column it is NULL too.
    """

    name: str
    type: ColumnType
    sql: str
    table: str = ""
    joined_on: str = ""
    other_table: str = ""

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the other tables that it is computed from."""
        return tuple(filter(None, (self.table, self.other_table)))

    def expression(self, tables: Mapping[str, TableFiles]) -> str:
        """Return the SQL of the column, of its type."""
        sql = self.sql
        if self.joined_on:
            sql = f"{self.join_alias}.value" if self._joined_tables(tables) else "NULL"
        elif self.table:
            found = tables.get(self.table)
            sql = "NULL" if found is None else sql.format(table=f"({select_table_files(found)})")
        return f"CAST({sql} AS {SQL_TYPES[self.type]}) AS {quote_identifier(self.name)}"

    def join(self, tables: Mapping[str, TableFiles]) -> str:
        """Return the SQL of the join that the column needs; empty without one.

        Grouped by id, although an id is there once: DuckDB leaves out a join whose columns nobody
        names only where it sees that the join adds no row. Of two tables with rows of one id, the
        first that has a value counts.
        """
        joined = self._joined_tables(tables) if self.joined_on else []
        if not joined:
            return ""
        value = quote_identifier(self.sql)
        rows = " UNION ALL ".join(
            f"SELECT id, {value} AS value, {rank} AS rank FROM ({select_table_files(each)})"
            for rank, each in enumerate(joined)
        )
        return (
            f" LEFT JOIN (SELECT id, arg_min(value, rank) AS value "
            f"FROM ({rows}) GROUP BY id) AS {self.join_alias} "
            f"ON {self.join_alias}.id = computed_from.{quote_identifier(self.joined_on)}"
        )

    @property
    def join_alias(self) -> str:
        """Return the alias of the joined rows."""
        return quote_identifier(f"of_{self.name}")

    def _joined_tables(self, tables: Mapping[str, TableFiles]) -> list[TableFiles]:
        """Return those of its tables that are stored with the column."""
        stored = [tables[name] for name in self.tables if name in tables]
        return [each for each in stored if {"id", self.sql} <= set(each.schema.names)]


def computed_columns(stream: Stream) -> tuple[ComputedColumn, ...]:
    """Return the columns that the relation of a stream computes."""
    return tuple(
        ComputedColumn(
            each.column.name,
            each.column.type,
            each.sql,
            each.table,
            each.joined_on,
            each.other_table,
        )
        for each in stream.view_columns
    )


def validity_columns(stream: Stream, streams: Mapping[str, Stream]) -> tuple[ComputedColumn, ...]:
    """Return the columns of a history that say from when until when a version was the newest.

    The newest version of a row that is marked as deleted ends then; a detail's row is its parent's.
    """
    key = [quote_identifier(name) for name in stream.key]
    order = f"{SYNCED_AT_COLUMN}, {SYNC_STARTED_AT_COLUMN}"
    ends = f"lead({SYNCED_AT_COLUMN}) OVER (PARTITION BY {', '.join(key)} ORDER BY {order})"
    owner = streams[base_stream_name(stream) or stream.name]
    if owner.has_soft_deletes:
        same = " AND ".join(f"owner.{name} = computed_from.{name}" for name in key)
        gone = quote_identifier(owner.deletion_column.name)
        ends = f"coalesce({ends}, (SELECT any_value({gone}) FROM {{table}} AS owner WHERE {same}))"
    table = owner.name if owner.has_soft_deletes else ""
    return (
        ComputedColumn(VALID_FROM_COLUMN.name, "timestamp", SYNCED_AT_COLUMN),
        ComputedColumn(VALID_TO_COLUMN.name, "timestamp", ends, table),
    )


def select_with_computed(
    select_sql: str, columns: Sequence[ComputedColumn], tables: Mapping[str, TableFiles]
) -> str:
    """Return a SELECT of all columns of another one, and the computed ones after them."""
    if not columns:
        return select_sql
    added = ", ".join(each.expression(tables) for each in columns)
    joins = "".join(each.join(tables) for each in columns)
    return f"SELECT computed_from.*, {added} FROM ({select_sql}) AS computed_from{joins}"


ColumnOrigin = Literal["parent", "position", "element", "referred"]
"""Where a column comes from: the row with the array, the place in it, the element, another row."""


@dataclass(frozen=True, slots=True)
class UnnestedColumn:
    """A column: `place` is a column of the parent, or a dotted path below the element."""

    name: str
    origin: ColumnOrigin
    place: str
    type: ColumnType = "string"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnnestRelation:
    """One row for each element of `array`, a column of `parent` or `column.key` inside one.

    A column with an array holds it as JSON, or is a list.

    `reference` is the column with the id of the row that is referred to, "" without one.
    """

    name: str
    parent: str
    array: str
    unnested_columns: tuple[UnnestedColumn, ...]
    reference: str
    description: RelationDescription = field(default=RelationDescription(), compare=False)

    @property
    def required_tables(self) -> tuple[str, ...]:
        """Return the names of the tables that it needs."""
        return (self.parent,)

    def column_names(self, tables: Mapping[str, TableFiles]) -> list[str]:
        """Return the names of its columns in their order; its parent's table must exist."""
        return [*(each.name for each in self.unnested_columns), *self.row_columns(tables)]

    def row_columns(self, tables: Mapping[str, TableFiles]) -> list[str]:
        """Return the last columns: when the parent's row was read, and when it was missed."""
        stored = tables[self.parent].schema.names
        return [name for name in (SYNCED_AT_COLUMN, DELETED_AT_COLUMN) if name in stored]


def build_unnest_relation(stream: Stream, source: Unnest) -> UnnestRelation:
    """Return the relation of a stream that unnests an array."""
    referred: Mapping[str, str] = source.reference.columns if source.reference is not None else {}

    def unnested_column(name: str, kind: ColumnType, path: str) -> UnnestedColumn:
        if name == POSITION_COLUMN:
            return UnnestedColumn(name, "position", "", kind)
        if name in source.parent_columns:
            return UnnestedColumn(name, "parent", source.parent_columns[name], kind)
        if name in referred:
            return UnnestedColumn(name, "referred", referred[name], kind)
        return UnnestedColumn(name, "element", path, kind)

    return UnnestRelation(
        name=stream.name,
        parent=source.parent,
        array=source.array,
        unnested_columns=tuple(
            unnested_column(
                each.name, each.type, each.source.path if isinstance(each.source, FieldPath) else ""
            )
            for each in (*([KEY_COLUMN] if KEY_COLUMN.name in stream.key else []), *stream.columns)
        ),
        reference=source.reference.column if source.reference is not None else "",
    )


def select_unnested(relation: UnnestRelation, tables: Mapping[str, TableFiles]) -> str:
    """Return the SELECT of the relation; its parent's table must exist."""
    parent = select_table_files(tables[relation.parent])
    column, *keys = relation.array.split(".")
    array = quote_identifier(column)
    if keys:
        array = f"json_extract({array}, {json_path(keys)})"
    elif pa.list_(pa.string()) in select_columns(tables[relation.parent].schema, (column,)).types:
        array = f"to_json({array})"
    places = [each.place for each in relation.unnested_columns if each.origin == "parent"]
    kept = dict.fromkeys(map(quote_identifier, [*places, *relation.row_columns(tables)]))
    elements = (
        f"SELECT {', '.join(kept)}, unnest(json_extract({array}, '$[*]')) AS element, "
        f"unnest(range(1, CAST(json_array_length({array}) AS BIGINT) + 1)) AS element_position "
        f"FROM ({parent}) WHERE json_array_length({array}) > 0"
    )
    shown = [
        f"{_column_expression(each)} AS {quote_identifier(each.name)}"
        for each in relation.unnested_columns
    ]
    shown += [f"e.{name}" for name in relation.row_columns(tables)]
    selected = f"SELECT {', '.join(shown)} FROM ({elements}) AS e"
    reference = next(
        (each for each in relation.unnested_columns if each.name == relation.reference), None
    )
    if reference is None:
        return selected
    return f"{selected} LEFT JOIN ({parent}) AS r ON r.id = {_column_expression(reference)}"


def json_path(keys: list[str]) -> str:
    """Return the SQL literal of the path to a member of a JSON value; without keys, to itself."""
    return quote_literal("$" + "".join('."' + key.replace('"', '\\"') + '"' for key in keys))


def _column_expression(column: UnnestedColumn) -> str:
    match column.origin:
        case "parent":
            return f"e.{quote_identifier(column.place)}"
        case "referred":
            return f"r.{quote_identifier(column.place)}"
        case "position":
            return "e.element_position"
        case "element":
            return _element_expression(column)


def _element_expression(column: UnnestedColumn) -> str:
    """Return the SQL of a value inside the element; NULL where it is of another type."""
    path = json_path(column.place.split(".") if column.place else [])
    match column.type:
        case "string":
            return f"json_extract_string(e.element, {path})"
        case "json":
            return f"CAST(nullif(json_extract(e.element, {path}), 'null') AS VARCHAR)"
        case "ids":
            return f"json_extract_string(json_extract(e.element, {path}), '$[*]')"
        case _:
            kind = SQL_TYPES[column.type]
            return f"TRY_CAST(json_extract_string(e.element, {path}) AS {kind})"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRelation:
    """A relation by its SQL over `sources`: the columns that it reads of each table, by name."""

    name: str
    sources: dict[str, dict[str, ColumnType]]
    required_sources: tuple[str, ...]
    sql: str
    description: RelationDescription = field(default=RelationDescription(), compare=False)

    @property
    def required_tables(self) -> tuple[str, ...]:
        """Return the names of the tables that it needs."""
        return self.required_sources

    @property
    def optional_sources(self) -> tuple[str, ...]:
        """Return the names of the tables that it can do without."""
        return tuple(name for name in self.sources if name not in self.required_sources)


def build_view_relation(view: View) -> ViewRelation:
    """Return the relation of a declared view."""
    return ViewRelation(
        name=view.name,
        sources={each.name: dict(each.columns) for each in view.tables},
        required_sources=tuple(each.name for each in view.tables if each.is_required),
        sql=view.sql,
        description=RelationDescription(
            summary=view.description,
            columns={each.name: each.description for each in view.columns},
        ),
    )


def select_view(relation: ViewRelation, tables: Mapping[str, TableFiles]) -> str:
    """Return the SELECT of the relation; the tables that it needs must exist.

    Each table is named once, however often the view's SQL reads it: its paths are most of the text.
    """
    members = ", ".join(
        f"{quote_identifier(name)} AS ({_select_source(tables.get(name), columns)})"
        for name, columns in relation.sources.items()
    )
    return f"WITH {members} {relation.sql}"


def _select_source(table: TableFiles | None, columns: Mapping[str, ColumnType]) -> str:
    """Return a SELECT of some columns of a table, those that it lacks as NULL."""
    stored = table.schema.names if table is not None else []
    shown = ", ".join(
        quote_identifier(name)
        if name in stored
        else f"CAST(NULL AS {SQL_TYPES[kind]}) AS {quote_identifier(name)}"
        for name, kind in columns.items()
    )
    if table is None:
        return f"SELECT {shown} WHERE false"
    return f"SELECT {shown} FROM ({select_table_files(table)})"


PERIODS = ("day", "week", "month", "quarter", "year")
"""As DuckDB's date_trunc knows them; weeks begin on Monday."""

TOTAL_LEVEL = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatesRelation:
    """Sums and rates of a report's rows by period, for each level of its groupings.

    `rates`: name, part and whole. `levels`: the groupings by name of level, the finest first.
    """

    name: str
    report: str
    metric_column: str
    levels: tuple[tuple[str, tuple[str, ...]], ...]
    counts: tuple[str, ...]
    rates: tuple[tuple[str, str, str], ...]
    description: RelationDescription = field(default=RelationDescription(), compare=False)

    @property
    def required_tables(self) -> tuple[str, ...]:
        """Return the names of the tables that it needs."""
        return (self.report,)

    def column_names(self) -> list[str]:
        """Return the names of its columns in their order."""
        metric = [self.metric_column] if self.metric_column else []
        rates = [name for name, _, _ in self.rates]
        return ["period", "date", "level", *metric, *self.levels[0][1], *self.counts, *rates]


def build_rates_relation(stream: Stream) -> RatesRelation | None:
    """Return the relation with the rates of a report by day; None where it has none."""
    report = stream.source
    if not isinstance(report, ReportEndpoint) or not report.rates or report.period != "day":
        return None
    finest = "message" if report.has_metric else "version"
    relation = RatesRelation(
        name=f"{report.subject}_rates",
        report=stream.name,
        metric_column=report.metric_column if report.has_metric else "",
        levels=(
            (finest, report.key_groupings),
            (report.subject, (f"{report.subject}_id",)),
            (TOTAL_LEVEL, ()),
        ),
        counts=tuple(name for name in report.statistics if name not in report.rates),
        rates=tuple((name, rate.part, rate.whole) for name, rate in report.rates.items()),
    )
    return replace(relation, description=_describe(relation, stream))


def _describe(relation: RatesRelation, stream: Stream) -> RelationDescription:
    by_name = {column.name: column.description for column in stream.columns}
    levels = [name for name, _ in relation.levels]
    made = {name: f"{part} of the period by its {whole}." for name, part, whole in relation.rates}
    sums = {name: f"Sum of {name} over the days of the period." for name in relation.counts}
    return RelationDescription(
        summary=f"One row per period, level and what it groups: the rates of {relation.report}, "
        "made of sums.",
        columns={
            "period": f"How long the period is: {', '.join(PERIODS)}.",
            "date": "The first day of the period, in the account's time zone.",
            "level": f"What the row adds up, {levels[0]}s by channel first: {', '.join(levels)}.",
            **{
                name: by_name[name]
                for name in (relation.metric_column, *relation.levels[0][1])
                if name
            },
            **sums,
            **made,
        },
    )


def select_rates(relation: RatesRelation, tables: Mapping[str, TableFiles]) -> str:
    """Return the SELECT of the relation; the report's table must exist."""
    first_day = "CAST(date_trunc(period, date) AS DATE)"
    metric = [quote_identifier(relation.metric_column)] if relation.metric_column else []
    always = ["period", first_day, *metric]
    groupings = [quote_identifier(name) for name in relation.levels[0][1]]
    sets = ", ".join(
        f"({', '.join([*always, *map(quote_identifier, names)])})" for _, names in relation.levels
    )
    counts = [f"sum({name}) AS {name}" for name in map(quote_identifier, relation.counts)]
    rates = [
        f"sum({quote_identifier(part)}) / nullif(sum({quote_identifier(whole)}), 0) "
        f"AS {quote_identifier(name)}"
        for name, part, whole in relation.rates
    ]
    shown = [
        "period",
        f"{first_day} AS date",
        f"{_level_expression(relation)} AS level",
        *metric,
        *groupings,
        *counts,
        *rates,
    ]
    periods = ", ".join(f"({quote_literal(name)})" for name in PERIODS)
    return (
        f"SELECT {', '.join(shown)} FROM ({select_table_files(tables[relation.report])}), "
        f"(VALUES {periods}) AS periods(period) GROUP BY GROUPING SETS ({sets})"
    )


def _level_expression(relation: RatesRelation) -> str:
    """Return the SQL of the name of a row's level: by the first grouping that it does not have."""
    finest, *coarser = relation.levels
    cases = [
        f"WHEN grouping({quote_identifier(finest[1][len(names)])}) = 1 THEN {quote_literal(name)}"
        for name, names in reversed(coarser)
    ]
    return f"CASE {' '.join(cases)} ELSE {quote_literal(finest[0])} END"
