"""Views that show our relations under another tool's table and column names.

Such a view is a value: which relations it reads, with which of their columns, and the SQL of each
of its own columns over them. What a lake does not have, because a stream is off or a privacy
setting leaves a column out, is NULL there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from klaviyo_assets.model.column import ColumnType


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
