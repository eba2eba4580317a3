"""Relations: what a reader sees of the tables, and the SQL that shows it.

What belongs here: which tables a relation joins and how, as text. What does not: the SQL of one
table (`sql`), and running it (`database`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, cast

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.layout import HISTORY
from klaviyo_assets.lake.merges import MERGES_DESCRIPTION, merges
from klaviyo_assets.lake.sql import Shown, literal, quoted, select
from klaviyo_assets.model.descriptions import Description, history_description, stream_description
from klaviyo_assets.model.stream import Detail, Join, Merges, Stream

SCHEMA = "main"
"""The schema of all relations. One called like the file could not be told from it: `FROM
klaviyo.events` is ambiguous in every DuckDB where both the file and a schema are called klaviyo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A table as it is stored."""

    name: str
    description: Description = field(default=Description(), compare=False)

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
    description: Description = field(default=Description(), compare=False)

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
    description: Description = field(default=Description(), compare=False)

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
    return replace(relation, description=stream_description(stream, streams))


def relations_of(streams: Mapping[str, Stream], known: Sequence[Merges]) -> list[Relation]:
    """Return the relations of all streams, and those of what is known of merges.

    Raises:
        LakeError: one is made of a stream that is not there.
    """
    return [*(relation_of(each, streams) for each in streams.values()), *known]


def all_relations(names: Mapping[str, object], relations: Sequence[Relation]) -> list[Relation]:
    """Return the given relations, and a plain one for every table that none of them is named as.

    A history is described by the words for its stream.
    """
    named = {relation.name: relation for relation in relations}
    others = [
        Plain(name=name, description=table_description(name, named))
        for name in names
        if name not in named
    ]
    return [*relations, *others]


def table_description(name: str, named: Mapping[str, Relation]) -> Description:
    """Return the description of a table that no relation is named as: a history, or another's."""
    stream = name.removesuffix(HISTORY)
    newest = named.get(stream)
    if stream == name or newest is None or isinstance(newest, Merges):
        return Description()
    return history_description(stream, newest.description)


def query(relation: Relation, tables: Mapping[str, Shown]) -> str | None:
    """Return the SELECT of a relation; None where a table it is made of was never read."""
    if any(table not in tables for table in relation.tables):
        return None
    match relation:
        case Plain(name=name):
            return select(tables[name])
        case Merges():
            return merges(relation, tables)
        case Detailed(name=name, parent=parent, key=key):
            added = [f"r.{quoted(column)}" for column in added_columns(relation, tables)]
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


def added_columns(relation: Detailed | Joined, tables: Mapping[str, Shown]) -> list[str]:
    """Return the names of the columns that a relation adds to those of its first table."""
    if isinstance(relation, Joined):
        return [here for here, _ in relation.columns]
    have = tables[relation.parent].schema.names
    there = tables[relation.name].schema.names
    return [column for column in relation.columns if column in there and column not in have]


def column_names(relation: Relation, tables: Mapping[str, Shown]) -> list[str]:
    """Return the names of a relation's columns; the tables it is made of are there."""
    match relation:
        case Plain(name=name):
            return tables[name].schema.names
        case Merges():
            return list(MERGES_DESCRIPTION.columns)
        case Detailed() | Joined():
            return [*tables[relation.tables[0]].schema.names, *added_columns(relation, tables)]


def of_right(path: str) -> str:
    """Return the expression of a column of the right table, or of a text inside a JSON column.

    `name` is a column; `integration.name` the text `name` in the JSON column `integration`.
    """
    column, *keys = path.split(".")
    inside = "".join('."' + key.replace('"', '\\"') + '"' for key in keys)
    value = f"r.{quoted(column)}"
    return f"json_extract_string({value}, {literal('$' + inside)})" if keys else value


def create_relation(
    relation: Relation, tables: Mapping[str, Shown], *, catalog: str, kind: Literal["VIEW", "TABLE"]
) -> tuple[str, ...] | None:
    """Return the statements that create a view or table, and say what it and its columns hold.

    None where a table it is made of was never read. The catalog is that of the database that is
    written; a view does not know it.
    """
    select_sql = query(relation, tables)
    if select_sql is None:
        return None
    full = name_in(catalog, relation.name)
    known = MERGES_DESCRIPTION if isinstance(relation, Merges) else relation.description
    about = [f"COMMENT ON {kind} {full} IS {literal(known.about)}"] if known.about else []
    columns = (
        f"COMMENT ON COLUMN {full}.{quoted(name)} IS {literal(known.columns[name])}"
        for name in column_names(relation, tables)
        if name in known.columns
    )
    return (f"CREATE {kind} {full} AS {select_sql}", *about, *columns)


def drop_view(name: str, *, catalog: str) -> str:
    """Return the statement that removes a view."""
    return f"DROP VIEW {name_in(catalog, name)}"


def name_in(catalog: str, name: str) -> str:
    """Return the full name of a relation in a database."""
    return f"{quoted(catalog)}.{quoted(SCHEMA)}.{quoted(name)}"


def to_json(relation: Relation) -> dict[str, object]:
    """Return the relation as a JSON object, for a later process to read; its description apart."""
    names = [each.name for each in fields(relation) if each.name != "description"]
    return {name: getattr(relation, name) for name in names}


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
