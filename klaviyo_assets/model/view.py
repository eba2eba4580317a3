"""Defines a view: a relation of klaviyo.duckdb that answers a question from several tables.

A view is no stream and no asset: it makes no request, stores nothing, and is there wherever the
tables that it needs are stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from klaviyo_assets.model.column import Column, ColumnType


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewTable:
    """A table that a view reads, and the columns that it reads, each with its type.

    A column that is not stored is NULL. Without a table that `is_required` there is no view; any
    other one that is not stored has no rows.
    """

    name: str
    columns: Mapping[str, ColumnType]
    is_required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A relation by its SQL.

    `sql` follows a WITH clause that has each of `tables` under its own name: it is a SELECT, or
    further members of that clause and a SELECT after a comma. `columns` are the result's, in order.
    `description` starts with "One row per": the grain.
    """

    name: str
    description: str
    tables: tuple[ViewTable, ...]
    columns: tuple[Column, ...]
    sql: str

    def __post_init__(self) -> None:
        """Check that the declaration is consistent.

        Raises:
            ValueError: the description does not say the grain, or a name is there twice.
        """
        if not self.description.startswith("One row per "):
            raise ValueError(
                f"{self.name}: `description` must start with the grain, 'One row per ...'"
            )
        for names in (
            [each.name for each in self.columns],
            [each.name for each in self.tables],
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{self.name}: a column or table is declared twice")
