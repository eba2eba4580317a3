"""The SQL of declared views: the tables that they read, whole, and their own SELECT after them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from klaviyo_assets.lake.read.computed import SQL_TYPES
from klaviyo_assets.lake.read.duckdb import TableFiles, quote_identifier, select_table_files
from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.model.stream import RelationDescription
from klaviyo_assets.model.view import View


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
