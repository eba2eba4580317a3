"""Defines views: ours over several tables, and those that show our relations under other names.

A view is no stream and no asset: it makes no request, stores nothing, and is there wherever the
tables that it needs are stored. A view under another tool's table and column names is a value:
which relations it reads, with which of their columns, and the SQL of each of its own columns over
them. What a lake does not have, because a stream is off or a privacy setting leaves a column out,
is NULL there. What is compared with another tool's own tables is here as well.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedStream:
    """A stream, and where other tools have it.

    `time` is our column that dates a row; `their_tables` and `their_times` are the names that other
    tools use, the likeliest first. A time with a dot is a member of a JSON column or a struct.
    """

    stream: str
    time: str
    their_tables: tuple[str, ...]
    their_times: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthComparison:
    """The ids of one UTC month, `YYYY-MM`, or "unknown": here, there, and on one side alone."""

    month: str
    here: int
    there: int
    only_here: int
    only_there: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamComparison:
    """A stream beside a table of another tool, by month in order.

    `examples` are some of the ids that are only there.
    """

    stream: str
    table: str
    months: tuple[MonthComparison, ...]
    examples: tuple[str, ...]

    @property
    def total(self) -> MonthComparison:
        """Return the sums of all months."""
        return MonthComparison(
            month="all",
            here=sum(each.here for each in self.months),
            there=sum(each.there for each in self.months),
            only_here=sum(each.only_here for each in self.months),
            only_there=sum(each.only_there for each in self.months),
        )


@dataclass(frozen=True, slots=True)
class MappedColumn:
    """A column: its name and DuckDB type in the other tool, its SQL, and what it means."""

    name: str
    type: str
    sql: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedView:
    """One table of another tool.

    `inputs` are the relations that its SQL may name, each with the columns that it may name;
    without the first of them the view has no rows. `steps` are further WITH clauses, name to SQL,
    over the inputs and the steps before; `source` is what follows FROM.
    """

    name: str
    description: str
    inputs: Mapping[str, Mapping[str, ColumnType]]
    steps: Mapping[str, str]
    source: str
    columns: tuple[MappedColumn, ...]

    @property
    def main_relation(self) -> str:
        """Return the relation whose rows are shown."""
        return next(iter(self.inputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedSchema:
    """All views of one tool, and the schema that they lie in where nobody asks for another."""

    tool: str
    schema: str
    views: tuple[MappedView, ...]
