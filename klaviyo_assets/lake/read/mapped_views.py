"""The SQL of views that show our relations under another tool's names.

Each relation that a view reads becomes a WITH clause of exactly the columns that the view may name,
NULL where the lake does not have one, so that the view's own SQL is always valid:

    WITH "events" AS (SELECT "id", NULL AS "uuid" FROM (...)), steps ... SELECT columns FROM source
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from klaviyo_assets.lake.read.computed import SQL_TYPES
from klaviyo_assets.lake.read.duckdb import TableFiles, quote_identifier, quote_literal
from klaviyo_assets.lake.read.views import (
    Relation,
    build_select,
    optional_tables,
    relation_column_names,
)
from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.model.mapped_view import MappedView

OWN_COMMENT = "Written by klaviyo-assets publish"
"""How the comment of a view ends that we wrote, and may replace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedViewSql:
    """A view's SELECT, the tables whose files it names, and the relations it does without."""

    view: MappedView
    select: str
    tables: frozenset[str]
    missing: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Return whether the view has no rows, because its main relation is not stored."""
        return self.view.main_relation in self.missing


def build_mapped_view(
    view: MappedView, relations: Mapping[str, Relation], tables: Mapping[str, TableFiles]
) -> MappedViewSql:
    """Return the SQL of a view over the relations that can be built of the stored tables."""
    clauses: list[str] = []
    missing: list[str] = []
    used: set[str] = set()
    for name, columns in view.inputs.items():
        relation = relations.get(name)
        select = None if relation is None else build_select(relation, tables)
        known: list[str] = []
        if relation is None or select is None:
            missing.append(name)
        else:
            known = relation_column_names(relation, tables)
            used |= {*relation.required_tables, *optional_tables(relation)}
        clauses.append(_build_input(name, columns, select, known))
    clauses += [f"{quote_identifier(name)} AS ({sql})" for name, sql in view.steps.items()]
    shown = ", ".join(
        f"CAST({each.sql} AS {each.type}) AS {quote_identifier(each.name)}" for each in view.columns
    )
    return MappedViewSql(
        view=view,
        select=f"WITH RECURSIVE {', '.join(clauses)} SELECT {shown} FROM {view.source}",
        tables=frozenset(used & set(tables)),
        missing=tuple(missing),
    )


def _build_input(
    name: str, columns: Mapping[str, ColumnType], select: str | None, known: Sequence[str]
) -> str:
    shown = ", ".join(
        quote_identifier(column)
        if column in known
        else f"CAST(NULL AS {SQL_TYPES[kind]}) AS {quote_identifier(column)}"
        for column, kind in columns.items()
    )
    rows = f"FROM ({select})" if select is not None else "WHERE false"
    # Else DuckDB 1.4 and later compute every column of it once, and keep all rows in memory.
    return f"{quote_identifier(name)} AS NOT MATERIALIZED (SELECT {shown} {rows})"


def build_mapped_statements(built: MappedViewSql, *, catalog: str, schema: str) -> tuple[str, ...]:
    """Return the statements that create or replace a view, and comment on it and its columns."""
    view = built.view
    name = ".".join(map(quote_identifier, (catalog, schema, view.name)))
    about = quote_literal(f"{view.description} {OWN_COMMENT}")
    columns = (
        f"COMMENT ON COLUMN {name}.{quote_identifier(each.name)} "
        f"IS {quote_literal(each.description)}"
        for each in view.columns
    )
    return (
        f"CREATE OR REPLACE VIEW {name} AS {built.select}",
        f"COMMENT ON VIEW {name} IS {about}",
        *columns,
    )
