"""Relations: what a reader sees of the tables, and the SQL that shows it.

What belongs here: which tables a relation joins and how, as text. What does not: the SQL of one
table (`sql`), and running it (`database`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.merges import merges
from klaviyo_assets.lake.sql import Shown, literal, quoted, select
from klaviyo_assets.model.stream import Detail, Join, Merges, Stream

SCHEMA = "klaviyo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A table as it is stored."""

    name: str

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the tables it is made of."""
        return (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detailed:
    """All of `parent`, and `columns` of the stored table of the same name, by key."""

    name: str
    parent: str
    key: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the tables it is made of."""
        return (self.parent, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """All of `left`, and columns of `right` (name here to name there) where `on` is its id."""

    name: str
    left: str
    right: str
    on: str
    columns: tuple[tuple[str, str], ...]

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the tables it is made of."""
        return (self.left, self.right)


Relation = Plain | Detailed | Joined | Merges
"""Every way a relation is made; the set is closed."""


def relation_of(stream: Stream, streams: Mapping[str, Stream]) -> Relation:
    """Return the relation of a stream; `streams` by name must hold the ones it is made of.

    Raises:
        LakeError: it is made of a stream that is not there.
    """
    match stream.source:
        case Detail(parent=parent):
            columns = tuple(column.name for column in stream.columns)
            relation: Relation = Detailed(
                name=stream.name, parent=parent, key=stream.key, columns=columns
            )
        case Join(left=left, right=right, on=on, columns=columns):
            relation = Joined(
                name=stream.name, left=left, right=right, on=on, columns=tuple(columns.items())
            )
        case _:
            relation = Plain(name=stream.name)
    for table in relation.tables:
        if table not in streams:
            raise LakeError(f"made of {table}, which is no stream", stream=stream.name)
    return relation


def relations_of(streams: Mapping[str, Stream], known: Sequence[Merges]) -> list[Relation]:
    """Return the relations of all streams, and those of what is known of merges.

    Raises:
        LakeError: one is made of a stream that is not there.
    """
    return [*(relation_of(each, streams) for each in streams.values()), *known]


def query(relation: Relation, tables: Mapping[str, Shown]) -> str | None:
    """Return the SELECT of a relation; None where a table it is made of was never read."""
    if any(table not in tables for table in relation.tables):
        return None
    match relation:
        case Plain(name=name):
            return select(tables[name])
        case Merges():
            return merges(relation, tables)
        case Detailed(name=name, parent=parent, key=key, columns=columns):
            have = tables[parent].schema.names
            there = tables[name].schema.names
            wanted = [column for column in columns if column in there and column not in have]
            added = [f"r.{quoted(column)}" for column in wanted]
            on = " AND ".join(f"l.{quoted(column)} = r.{quoted(column)}" for column in key)
            right = select(tables[name])
            left = select(tables[parent])
        case Joined(left=first, right=second, on=column, columns=pairs):
            added = [f"{of_right(there)} AS {quoted(here)}" for here, there in pairs]
            on = f"l.{quoted(column)} = r.{quoted('id')}"
            right = select(tables[second])
            left = select(tables[first])
    shown = ", ".join(["l.*", *added])
    return f"SELECT {shown} FROM ({left}) AS l LEFT JOIN ({right}) AS r ON {on}"


def of_right(path: str) -> str:
    """Return the expression of a column of the right table, or of a text inside a JSON column.

    `name` is a column; `integration.name` the text `name` in the JSON column `integration`.
    """
    column, *keys = path.split(".")
    inside = "".join('."' + key.replace('"', '\\"') + '"' for key in keys)
    value = f"r.{quoted(column)}"
    return f"json_extract_string({value}, {literal('$' + inside)})" if keys else value


def create_view(relation: Relation, select_sql: str, *, catalog: str) -> str:
    """Return the statement that creates a view; the catalog tells it from the schema's name.

    The schema `klaviyo` has streams and their histories alone; what else is known is in `main`.
    """
    schema = "main" if isinstance(relation, Merges) else SCHEMA
    return f"CREATE VIEW {quoted(catalog)}.{quoted(schema)}.{quoted(relation.name)} AS {select_sql}"


def to_json(relation: Relation) -> dict[str, object]:
    """Return the relation as a JSON object, for a later process to read."""
    return asdict(relation)


def from_json(known: Mapping[str, object]) -> Relation:
    """Return the relation that `to_json` described.

    Raises:
        KeyError: another version wrote it.
    """
    texts = {name: str(value) for name, value in known.items()}
    if "parent" in known:
        return Detailed(
            name=texts["name"],
            parent=texts["parent"],
            key=tuple(cast("list[str]", known["key"])),
            columns=tuple(cast("list[str]", known["columns"])),
        )
    if "people" in known:
        return Merges(
            name=texts["name"],
            people=texts["people"],
            identifiers=tuple(cast("list[str]", known["identifiers"])),
            events=texts["events"],
            owner=texts["owner"],
        )
    if "left" in known:
        pairs = cast("list[tuple[str, str]]", known["columns"])
        return Joined(
            name=texts["name"],
            left=texts["left"],
            right=texts["right"],
            on=texts["on"],
            columns=tuple((here, there) for here, there in pairs),
        )
    return Plain(name=texts["name"])
