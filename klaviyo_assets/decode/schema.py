"""Derives from a stream the Arrow schema of its table, its field tree, and its page layout."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import pyarrow as pa
from msgspec import json

from klaviyo_assets.arrow_buffers import TIMESTAMP_UTC
from klaviyo_assets.model.column import (
    EXTRA_FIELD,
    Column,
    ColumnSource,
    ColumnType,
    FieldPath,
    FirstIncludedId,
    Included,
    JsonPath,
    LatestOf,
    RecordId,
    RelatedId,
    RelatedIds,
    SliceConstant,
    column_fields,
    split_path,
)
from klaviyo_assets.model.stream import Detail, Stream, ViewSource

ID_FIELD = "id"
PARENT_VERSION_FIELD = "parent_version"
"""The parent's cursor when a detail was requested; the sync fills it in."""
SYNCED_AT_FIELD = "synced_at"
DELETED_AT_FIELD = "deleted_at"
"""When a complete read first missed the record; NULL in pages, the lake fills it in."""
RESERVED_FIELDS = frozenset(
    {ID_FIELD, PARENT_VERSION_FIELD, EXTRA_FIELD, SYNCED_AT_FIELD, DELETED_AT_FIELD}
)

ARROW_TYPES: Mapping[ColumnType, pa.DataType] = MappingProxyType(
    {
        "string": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "timestamp": TIMESTAMP_UTC,
        "date": pa.date32(),
        # Text, not a struct: accounts put any type under any key, and all records share a file.
        "json": pa.string(),
        "ids": pa.list_(pa.string()),
    }
)


def arrow_schema(stream: Stream, *, exclude: frozenset[str] = frozenset()) -> pa.Schema:
    """Return the schema: key, the stream's columns in order, `extra`, `synced_at`, `deleted_at`.

    Only streams with soft deletes have the last one, under the name that the stream gives it, and
    only those whose key is the id have the first; the others have their key among the columns. A
    detail whose parent has a version column has `parent_version` after its key. `exclude`: names of
    columns to leave out. All fields are nullable, even the key and `synced_at`, which are never
    NULL: the lake's tables have nullable fields only, and a batch is written without a cast only if
    its schema equals the table's.

    Raises:
        TypeError: the stream is a view, which has no table of its own.
        ValueError: a column has a name that is reserved in every table.
    """
    if isinstance(stream.source, ViewSource):
        raise TypeError(f"{stream.name} is a view of other tables and has none of its own")
    is_versioned = isinstance(stream.source, Detail) and stream.source.version_column is not None
    columns = [column for column in stream.columns if column.name not in exclude]
    names = [column.name for column in columns]
    if RESERVED_FIELDS.intersection(names):
        raise ValueError(f"{stream.name}: a column is named as one that every table has")
    return pa.schema(
        [
            *([pa.field(ID_FIELD, pa.string())] if ID_FIELD in stream.key else []),
            *([pa.field(PARENT_VERSION_FIELD, TIMESTAMP_UTC)] if is_versioned else []),
            *(pa.field(column.name, ARROW_TYPES[column.type]) for column in columns),
            pa.field(EXTRA_FIELD, pa.string()),
            pa.field(SYNCED_AT_FIELD, TIMESTAMP_UTC),
            *(
                [pa.field(stream.deletion_column.name, TIMESTAMP_UTC)]
                if stream.has_soft_deletes
                else []
            ),
        ]
    )


FieldPurpose = Literal["column", "extra", "ignored"]
"""What a field is read for; `extra`: it has no column; `ignored`: it is known, but excluded."""

RESERVED_EXTRA_PREFIXES = frozenset({"record", "relationships"})
"""First parts of the keys in `extra` of values from outside `attributes`."""


@dataclass(frozen=True, slots=True)
class FieldNode:
    """A field of the tree that is read as one value.

    A field without a column has the type `json`. `is_loosely_typed`: values of another type than
    the declared one were received, so each one is coerced.
    """

    path: JsonPath
    type: ColumnType
    purpose: FieldPurpose = "column"
    is_loosely_typed: bool = False


@dataclass(frozen=True, slots=True)
class ObjectNode:
    """An object of the tree whose members are read one by one; any not in `children` is new."""

    path: JsonPath
    children: "Mapping[str, FieldNode | ObjectNode]"


_NO_CHILDREN: Mapping[str, FieldNode | ObjectNode] = {}


def build_field_tree(stream: Stream, *, exclude: frozenset[str]) -> ObjectNode:
    """Return the tree of the fields that the stream's columns read.

    Args:
        stream: whose columns.
        exclude: names of columns, or dotted paths below `attributes`, to ignore.

    Raises:
        ValueError: a path is read as two types, or both as one value and by its members.
    """
    fields: dict[JsonPath, FieldNode] = {}
    for column in stream.columns:
        if not is_column_excluded(column, exclude):
            for path, kind in column_fields(column):
                other = fields.setdefault(path, FieldNode(path, kind)).type
                if other != kind:
                    raise ValueError(f"{stream.name}: {'.'.join(path)} is both {kind} and {other}")
    known = {path for column in stream.columns for path, _ in column_fields(column)}
    for path in (*known, *map(split_path, sorted(exclude))):
        if path not in fields and not any(is_path_within(each, path) for each in fields):
            fields[path] = FieldNode(path, "json", "ignored")
    return _build_object_node(stream, (), fields)


def is_path_within(path: JsonPath, top: JsonPath) -> bool:
    """Return whether `path` is `top` or below it."""
    return path[: len(top)] == top


def is_column_excluded(column: Column, exclude: frozenset[str]) -> bool:
    """Return whether a column is excluded by name, or by paths at or above all those it reads."""
    if column.name in exclude:
        return True
    paths = [path for path, _ in column_fields(column)]
    return bool(paths) and all(
        any(".".join(path[:depth]) in exclude for depth in range(1, len(path) + 1))
        for path in paths
    )


def _build_object_node(
    stream: Stream, at: JsonPath, fields: Mapping[JsonPath, FieldNode]
) -> ObjectNode:
    below: dict[str, dict[JsonPath, FieldNode]] = {}
    for path, field in fields.items():
        below.setdefault(path[len(at)], {})[path] = field
    return ObjectNode(
        at, {name: _build_child_node(stream, (*at, name), each) for name, each in below.items()}
    )


def _build_child_node(
    stream: Stream, at: JsonPath, below: Mapping[JsonPath, FieldNode]
) -> FieldNode | ObjectNode:
    if all(field.purpose == "ignored" for field in below.values()):
        # Ignored as one value, whatever other members it has.
        return FieldNode(at, "json", "ignored")
    if at in below and len(below) > 1:
        raise ValueError(f"{stream.name}: {'.'.join(at)} is read whole and by its members")
    return below[at] if at in below else _build_object_node(stream, at, below)


def apply_schema_drift(
    node: ObjectNode, *, new_fields: frozenset[JsonPath], loose_fields: frozenset[JsonPath]
) -> ObjectNode:
    """Return the tree with undeclared fields added, and with `loose_fields` loosely typed."""
    children: dict[str, FieldNode | ObjectNode] = {}
    for name, child in node.children.items():
        if isinstance(child, ObjectNode):
            children[name] = apply_schema_drift(
                child, new_fields=new_fields, loose_fields=loose_fields
            )
        else:
            children[name] = replace(child, is_loosely_typed=child.path in loose_fields)
    depth = len(node.path)
    for path in sorted(new_fields):
        if path[:-1] == node.path and path[depth] not in children:
            children[path[depth]] = FieldNode(path, "json", "extra")
    return ObjectNode(node.path, children)


def extra_key(root: ObjectNode, path: JsonPath) -> str:
    """Return the key in `extra` of the value at `path`: its names joined by dots.

    A name is quoted, as JSON text, if its own dots could make the key equal that of another path.
    """
    parts: list[str] = []
    here: FieldNode | ObjectNode | None = root
    for name in path:
        children = here.children if isinstance(here, ObjectNode) else _NO_CHILDREN
        head = name.partition(".")[0]
        is_ambiguous = head != name and (
            isinstance(children.get(head), ObjectNode)
            or (not parts and head in RESERVED_EXTRA_PREFIXES)
        )
        is_quoted = is_ambiguous or name.startswith('"')
        parts.append(json.encode(name).decode() if is_quoted else name)
        here = children.get(name)
    return ".".join(parts)


_TYPE_BY_SOURCE: Mapping[type[ColumnSource], ColumnType] = MappingProxyType(
    {
        RecordId: "string",
        RelatedId: "string",
        FirstIncludedId: "string",
        SliceConstant: "string",
        RelatedIds: "ids",
        Included: "json",
        LatestOf: "timestamp",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLayout:
    """A stream's columns, grouped by how they are filled.

    `field_tree`: the declared attributes. `attributes`: name, type and path of the columns that are
    read from attributes; `other_columns`: name, type and source of the others.
    `epoch_seconds_paths`: columns that are filled from the seconds at a path where they are null.
    `relationships`: those with a column. `cursor`: the name of its column. `latest_of_path`: the
    array of which the cursor is the latest, else empty. `schema`: that of every batch.
    `deletion_column`: the name of the one that is NULL in every page, if the schema has it.
    """

    stream: str
    field_tree: ObjectNode
    attributes: tuple[tuple[str, ColumnType, JsonPath], ...]
    other_columns: tuple[tuple[str, ColumnType, ColumnSource], ...]
    epoch_seconds_paths: tuple[tuple[str, JsonPath], ...]
    relationships: frozenset[str]
    cursor: str | None
    latest_of_path: JsonPath
    schema: pa.Schema
    deletion_column: str


def build_page_layout(stream: Stream, *, exclude: frozenset[str]) -> PageLayout:
    """Return the layout of a stream's pages without the columns or paths in `exclude`.

    Raises:
        ValueError: the columns contradict each other, or the cursor is excluded.
    """
    kept = tuple(column for column in stream.columns if not is_column_excluded(column, exclude))
    dropped = frozenset(column.name for column in stream.columns if column not in kept)
    cursor = stream.cursor.column if stream.cursor is not None else None
    if cursor in dropped:
        raise ValueError(f"{stream.name}: the cursor {cursor} cannot be left out")
    for column in kept:
        _check_column_type(stream, column)
    read = [(column, column.source) for column in kept if isinstance(column.source, FieldPath)]
    return PageLayout(
        stream=stream.name,
        field_tree=build_field_tree(stream, exclude=exclude),
        attributes=tuple((column.name, column.type, split_path(at.path)) for column, at in read),
        other_columns=tuple(
            (column.name, column.type, column.source)
            for column in kept
            if not isinstance(column.source, FieldPath)
        ),
        epoch_seconds_paths=tuple(
            (column.name, split_path(at.epoch_seconds_path))
            for column, at in read
            if at.epoch_seconds_path
        ),
        relationships=frozenset(filter(None, map(_relationship_name, stream.columns))),
        cursor=cursor,
        latest_of_path=_latest_of_path(kept, cursor),
        schema=arrow_schema(stream, exclude=dropped),
        deletion_column=stream.deletion_column.name,
    )


def _latest_of_path(columns: tuple[Column, ...], cursor: str | None) -> JsonPath:
    """Return the path of the array of which the cursor is the latest; empty for other cursors."""
    for column in columns:
        if column.name == cursor and isinstance(column.source, LatestOf):
            return split_path(column.source.path)
    return ()


def _check_column_type(stream: Stream, column: Column) -> None:
    wanted = _TYPE_BY_SOURCE.get(type(column.source), column.type)
    if column.type != wanted:
        place = type(column.source).__name__
        raise ValueError(f"{stream.name}: {column.name} is {column.type}, but {place} is {wanted}")


def _relationship_name(column: Column) -> str | None:
    match column.source:
        case (
            RelatedId(name) | RelatedIds(name) | Included(name) | FirstIncludedId(relationship=name)
        ):
            return name
        case _:
            return None
